"""What a pack says about itself, as bytes that can be read without running any of its code (blocks spec §20.4).

A manifest is one MANIFEST frame of at most 1 MiB. Its payload is a MAP; every member is always there::

    abi        2
    pack       {name, sdk, version}
    module     dotted name of the module below the pack's folder
    symbol     name of the pack object in it
    blocks     by type id: {config, display_name, free_form, input, operation, output, reads, retry, side_effects,
               summary, timeout_ms, type_id, version}
      input, output   {kinds, mode}: kinds as bit mask, mode "once", "multiple", "recurring"
      config          [{choices, default, items, kinds, name, required, secret, summary}]; items: kinds of elements
      side_effects    "none", "idempotent", "non_idempotent" or null (decided per instance, or undeclared)
      timeout_ms      whole milliseconds or null
      retry           {cap, factor, initial, jitter, max_attempts, retry_on} (seconds) or null
      free_form       name of the config field that takes undeclared parameters, or null
      operation       true for blocks that are one governed operation

``choices``, ``default``, ``items``, ``summary``, ``free_form`` and ``operation`` are what catalogues need beyond the
specification. A manifest has one spelling: decoding and encoding again gives the same bytes.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockMode, BlockValueContract, BlockValueKindSet
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockError
from runtime.blocks.packs.members import Members, PackError, invalid
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameError, FrameType, frame, pack, unframe, unpack

__all__ = ["ABI", "PackBlockInfo", "PackError", "PackManifest", "decode_manifest", "encode_manifest"]

ABI: Final = 2
#: Revision of the pack kit; it changes only when what the kit writes into manifests does.
SDK: Final = "1"
MAX_MANIFEST: Final = 1024 * 1024
MAX_BLOCKS: Final = 1000
_TYPE_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}\Z")
#: ASCII only: what looks like a name must be one.
_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,15}\Z")
_SYMBOL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
#: A config field: what a constructor can take as a keyword.
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBlockInfo:
    """One block type of a pack. ``timeout`` is seconds, kept in whole milliseconds."""

    type_id: str
    display_name: str
    summary: str
    version: str
    input: BlockValueContract
    output: BlockValueContract
    config: tuple[ConfigField, ...] = ()
    side_effects: SideEffects | None = None
    timeout: float | None = None
    retry: RetryPolicy | None = None
    reads: tuple[str, ...] = ()
    free_form: str | None = None
    operation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackManifest:
    """A whole manifest; ``blocks`` ascend by type id."""

    name: str
    version: str
    module: str
    symbol: str
    blocks: tuple[PackBlockInfo, ...]
    sdk: str = field(default=SDK)

    @property
    def type_ids(self) -> tuple[str, ...]:
        return tuple(block.type_id for block in self.blocks)


# -- to bytes --------------------------------------------------------------------------------------------------


def encode_manifest(manifest: PackManifest) -> bytes:
    """The MANIFEST frame. Raises `PackError` for what `decode_manifest` would refuse, `BlockInputError` for a default
    that is no block value."""
    data = frame(FrameType.MANIFEST, pack(BlockValue.of(_manifest_map(manifest))))
    decode_manifest(data)
    return data


def _manifest_map(manifest: PackManifest) -> dict[str, Any]:
    return {
        "abi": ABI,
        "pack": {"name": manifest.name, "version": manifest.version, "sdk": manifest.sdk},
        "module": manifest.module,
        "symbol": manifest.symbol,
        "blocks": [_block_map(block) for block in manifest.blocks],
    }


def _block_map(block: PackBlockInfo) -> dict[str, Any]:
    return {
        "type_id": block.type_id,
        "display_name": block.display_name,
        "summary": block.summary,
        "version": block.version,
        "input": contract_map(block.input),
        "output": contract_map(block.output),
        "config": [_field_map(item) for item in block.config],
        "side_effects": None if block.side_effects is None else block.side_effects.value,
        "timeout_ms": None if block.timeout is None else max(1, round(block.timeout * 1000)),
        "retry": None if block.retry is None else _retry_map(block.retry),
        "reads": list(block.reads),
        "free_form": block.free_form,
        "operation": block.operation,
    }


def contract_map(contract: BlockValueContract) -> dict[str, Any]:
    """``{mode, kinds}`` as manifests and OK frames hold it."""
    return {"mode": contract.mode.value, "kinds": contract.kinds.value}


def _field_map(item: ConfigField) -> dict[str, Any]:
    return {
        "name": item.name,
        "kinds": item.kinds.value,
        "items": item.items.value,
        "required": item.required,
        "default": None if item.required else item.default,
        "secret": item.secret,
        "choices": list(item.choices),
        "summary": item.summary,
    }


def _retry_map(retry: RetryPolicy) -> dict[str, Any]:
    return {
        "max_attempts": retry.max_attempts,
        "initial": float(retry.initial),
        "factor": float(retry.factor),
        "cap": float(retry.cap),
        "jitter": float(retry.jitter),
        "retry_on": list(retry.retry_on),
    }


# -- from bytes ------------------------------------------------------------------------------------------------


def decode_manifest(data: bytes) -> PackManifest:
    """Strict inverse of `encode_manifest`.

    Raises `FrameError` with the frame codes, `PackError` ``plugin.abi_mismatch``, ``plugin.manifest_invalid``,
    ``plugin.duplicate_type_id``.
    """
    kind, payload = unframe(data)
    if kind is not FrameType.MANIFEST or len(payload) > MAX_MANIFEST:
        raise FrameError(
            "plugin.bad_frame", f"expected a MANIFEST frame of at most {MAX_MANIFEST} bytes, got {kind.name}"
        )
    value = unpack(payload)
    abi = value.get("abi") if value.is_map else None
    if abi is None or not abi.is_int:
        raise invalid("abi", "must be an integer member of a map")
    if abi.payload != ABI:
        raise PackError("plugin.abi_mismatch", f"the pack speaks interface {abi.payload}, this program {ABI}")
    return _manifest(Members(value, "manifest"))


def _manifest(members: Members) -> PackManifest:
    members.integer("abi", ABI, ABI)
    about = Members(members.raw("pack"), "pack")
    manifest = PackManifest(
        name=about.text("name", _NAME),
        version=about.text("version", _VERSION),
        sdk=about.text("sdk", _VERSION),
        module=members.text("module", _MODULE),
        symbol=members.text("symbol", _SYMBOL),
        blocks=tuple(
            _block(Members(item, f"blocks[{index}]"))
            for index, item in enumerate(members.items("blocks", limit=MAX_BLOCKS))
        ),
    )
    about.done()
    members.done()
    ids = manifest.type_ids
    repeated = sorted({type_id for type_id in ids if ids.count(type_id) > 1})
    if repeated:
        raise PackError("plugin.duplicate_type_id", f"the pack offers {', '.join(repeated)} more than once")
    if list(ids) != sorted(ids):
        raise invalid("blocks", "must ascend by type id")
    return manifest


def _block(members: Members) -> PackBlockInfo:
    info = PackBlockInfo(
        type_id=members.text("type_id", _TYPE_ID),
        display_name=members.text("display_name", limit=200),
        summary=members.text("summary"),
        version=members.text("version", limit=64),
        input=contract(members, "input", output=False),
        output=contract(members, "output", output=True),
        config=tuple(
            _field(Members(item, f"{members.where}.config[{index}]"))
            for index, item in enumerate(members.items("config", limit=1000))
        ),
        side_effects=side_effects(members),
        timeout=members.integer("timeout_ms", 1, 2**53) / 1000 if members.optional("timeout_ms") else None,
        retry=_retry(Members(members.raw("retry"), f"{members.where}.retry")) if members.optional("retry") else None,
        reads=members.texts("reads"),
        free_form=_field_name(members, "free_form") if members.optional("free_form") else None,
        operation=members.flag("operation"),
    )
    members.done()
    names = [item.name for item in info.config]
    if len(set(names)) < len(names):
        raise invalid(f"{members.where}.config", "names a field twice")
    return info


def contract(members: Members, name: str, *, output: bool) -> BlockValueContract:
    """The contract ``name``; an input may not be recurring."""
    side = Members(members.raw(name), f"{members.where}.{name}")
    modes = {mode.value: mode for mode in BlockMode if output or mode is not BlockMode.RECURRING}
    mode = modes.get(side.text("mode"))
    if mode is None:
        raise invalid(f"{side.where}.mode", f"must be one of {', '.join(modes)}")
    kinds = _kinds(side, "kinds")
    side.done()
    return BlockValueContract(mode, kinds)


def side_effects(members: Members) -> SideEffects | None:
    """The member ``side_effects``; here an unknown word is an error, not the worst class."""
    if not members.optional("side_effects"):
        return None
    word = members.text("side_effects")
    if word not in {item.value for item in SideEffects}:
        raise invalid(f"{members.where}.side_effects", "is no side-effect class")
    return SideEffects.parse(word)


def _kinds(members: Members, name: str) -> BlockValueKindSet:
    return BlockValueKindSet(members.integer(name, 1, BlockValueKindSet.ANY.value))


def _field(members: Members) -> ConfigField:
    default = members.raw("default")
    item = ConfigField(
        name=_field_name(members, "name"),
        kinds=_kinds(members, "kinds"),
        items=_kinds(members, "items"),
        required=members.flag("required"),
        default=default.to_python(),
        secret=members.flag("secret"),
        choices=members.texts("choices"),
        summary=members.text("summary"),
    )
    if item.required and not default.is_null:
        raise invalid(f"{members.where}.default", "must be null for a required field")
    members.done()
    return item


def _field_name(members: Members, name: str) -> str:
    text = members.text(name, _FIELD)
    if keyword.iskeyword(text):
        raise invalid(f"{members.where}.{name}", "is a word of Python's own")
    return text


def _retry(members: Members) -> RetryPolicy:
    facts = {name: members.number(name) for name in ("initial", "factor", "cap", "jitter")}
    attempts, globs = members.integer("max_attempts", 1, 1000), members.texts("retry_on")
    members.done()
    try:
        return RetryPolicy(max_attempts=attempts, retry_on=globs, **facts)
    except BlockError as error:
        raise invalid(members.where, error.message) from None
