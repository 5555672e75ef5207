"""What the frames between a pack and the runtime hold (blocks spec §20.3, §20.5). Every payload is one block value.

::

    CREATE       {type_id, config: MAP as a mission would write it, defaults left out}
    VALUE        any value: an input, the arguments or the answer of a service
    CONTEXT      where an attempt stands, see `PackContext`
    OK           of create: the effective contracts, see `Effective`; of validate and run: null
    ERROR        {class, code, message, details, domain, provider_status, retry_disposition, severity, effects,
                  reason, phase, output}
    ONCE         the value
    MULTIPLE     LIST of the values
    STREAM_ITEM  the value
    STREAM_END   null

``class`` is ``input``, ``validation``, ``runtime`` or ``skip``. ``reason`` (the engine's label), ``phase`` (``validate``,
``run`` or ``result``: where the block failed) and ``output`` (what a failed operation gave all the same) are more than the
specification asks for. A frame holds at most 16 MiB, and what travels inside a map (ledger values, arguments, details) may
be nested 62 deep. Undecodable bytes raise `FrameError`, in a reply always as ``plugin.bad_frame``, never to be
tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.blocks.contracts import BlockValueContract
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import (
    BlockError,
    BlockInputError,
    BlockInternalError,
    BlockRuntimeError,
    BlockSkip,
    BlockTimeout,
    BlockValidationError,
    OperationFailed,
)
from runtime.blocks.packs.manifest import contract, contract_map, side_effects
from runtime.blocks.packs.members import Members, PackError
from runtime.blocks.values import NULL, BlockValue
from runtime.blocks.wire import FrameError, FrameType, frame, pack, unframe, unpack

OK: Final = frame(FrameType.OK, pack(NULL))
STREAM_END: Final = frame(FrameType.STREAM_END, pack(NULL))
PHASES: Final = ("validate", "run", "result")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackContext:
    """The CONTEXT frame: what ``ctx`` tells the author about the attempt. Times: ``remaining`` seconds to the deadline,
    ``now`` RFC 3339. ``tick`` 0: not part of a recurring run."""

    block_name: str
    node_name: str = ""
    node_path: str = ""
    workflow_id: str = ""
    run_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    attempt: int = 1
    visit: int = 1
    tick: int = 0
    sources: tuple[str, ...] = ()
    #: True when the block runs as a failure handler; the input is the envelope then.
    handling: bool = False
    #: The declared part of the ledger.
    state: Mapping[str, BlockValue] = field(default_factory=dict)
    remaining: float | None = None
    now: str = ""
    #: Services the run brings along, which a pack reaches with `PackHost.service`.
    services: tuple[str, ...] = ()
    #: The environment the run gives to its blocks; in a governed run none.
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What the OK frame of create says: the contracts and the class of this very instance."""

    input: BlockValueContract
    output: BlockValueContract
    output_count: int | None = None
    side_effects: SideEffects | None = None


def payload_of(data: bytes, *kinds: FrameType) -> tuple[FrameType, BlockValue]:
    """Type and value of a frame. Raises `FrameError`, also for a type that is not among ``kinds``."""
    kind, payload = unframe(data)
    if kinds and kind not in kinds:
        raise FrameError("plugin.bad_frame", f"expected {' or '.join(item.name for item in kinds)}, got {kind.name}")
    return kind, unpack(payload)


def value_frame(kind: FrameType, value: object) -> bytes:
    """A frame around any value."""
    return frame(kind, pack(BlockValue.of(value)))


def create_frame(type_id: str, config: Mapping[str, Any]) -> bytes:
    """Raises `BlockInputError` for config that is no block value."""
    return value_frame(FrameType.CREATE, {"type_id": type_id, "config": config})


def read_create(data: bytes) -> tuple[str, dict[str, Any]]:
    members = Members(payload_of(data, FrameType.CREATE)[1], "create")
    type_id, config = members.text("type_id", limit=64), members.raw("config")
    members.done()
    if not config.is_map:
        raise PackError("plugin.bad_frame", "the config of a CREATE frame must be a map")
    return type_id, {name: item.to_python() for name, item in config.expect_map().items()}


def context_frame(context: PackContext) -> bytes:
    told: dict[str, Any] = {name: getattr(context, name) for name in PackContext.__slots__}
    return value_frame(FrameType.CONTEXT, told)


def read_context(data: bytes) -> PackContext:
    members = Members(payload_of(data, FrameType.CONTEXT)[1], "context")
    plain: dict[str, Any] = {name: members.text(name, limit=10_000) for name in _CONTEXT_TEXTS}
    state, env = members.raw("state"), members.raw("env")
    told = PackContext(
        **plain,
        attempt=members.integer("attempt", 0, 2**63 - 1),
        visit=members.integer("visit", 0, 2**63 - 1),
        tick=members.integer("tick", 0, 2**63 - 1),
        sources=members.texts("sources", limit=100_000),
        handling=members.flag("handling"),
        state=state.as_map or {},
        remaining=members.number("remaining") if members.optional("remaining") else None,
        services=members.texts("services"),
        env={name: item.expect_string() for name, item in (env.as_map or {}).items()},
    )
    members.done()
    return told


_CONTEXT_TEXTS: Final = (
    "block_name",
    "node_name",
    "node_path",
    "workflow_id",
    "run_id",
    "trace_id",
    "span_id",
    "now",
)


def effective_frame(effective: Effective) -> bytes:
    return value_frame(
        FrameType.OK,
        {
            "input": contract_map(effective.input),
            "output": contract_map(effective.output),
            "output_count": effective.output_count,
            "side_effects": None if effective.side_effects is None else effective.side_effects.value,
        },
    )


def read_effective(value: BlockValue) -> Effective:
    """The payload of create's OK frame."""
    members = Members(value, "create's answer")
    told = Effective(
        input=contract(members, "input", output=False),
        output=contract(members, "output", output=True),
        output_count=members.integer("output_count", 0, 2**31) if members.optional("output_count") else None,
        side_effects=side_effects(members),
    )
    members.done()
    return told


# -- errors ----------------------------------------------------------------------------------------------------


def error_frame(error: BlockError | BlockSkip, phase: str = "run") -> bytes:
    """The ERROR frame of what a block raised. Details and output that do not fit a frame travel as text, cut short."""
    output = error.output if isinstance(error, OperationFailed) else None
    try:
        return value_frame(FrameType.ERROR, _error_map(error, phase, error.message, dict(error.details), output))
    except BlockInputError:
        details = {_text(key): _text(item) for key, item in list(error.details.items())[:_MANY]}
        told = None if output is None else _text(output)
        return value_frame(FrameType.ERROR, _error_map(error, phase, _text(error.message), details, told))


def _error_map(
    error: BlockError | BlockSkip, phase: str, message: str, details: Mapping[str, Any], output: object
) -> dict[str, Any]:
    return {
        "class": _class_of(error),
        "code": error.code,
        "message": message,
        "details": details,
        "domain": error.domain,
        "provider_status": error.provider_status,
        "retry_disposition": error.retry_disposition,
        "severity": error.severity,
        "effects": error.effects,
        "reason": error.reason,
        "phase": phase,
        "output": output,
    }


def _class_of(error: BlockError | BlockSkip) -> str:
    if isinstance(error, BlockSkip):
        return "skip"
    if isinstance(error, BlockInputError):
        return "input"
    return "validation" if isinstance(error, BlockValidationError) else "runtime"


def _text(value: object) -> str:
    return str(value)[:_LONG].encode(errors="replace").decode()


def read_error(value: BlockValue) -> tuple[BlockError | BlockSkip, str]:
    """What an ERROR frame says happened, and in which phase. Raises `PackError`, `ValueError` for a bad payload."""
    members = Members(value, "error")
    kind, code, message = members.text("class"), members.text("code"), members.raw("message").expect_string()
    details, output, phase = members.raw("details").to_python(), members.raw("output"), members.text("phase")
    words: dict[str, Any] = {
        name: members.text(name) if members.optional(name) else None
        for name in ("domain", "provider_status", "retry_disposition", "severity", "effects", "reason")
    }
    members.done()
    if phase not in PHASES or not isinstance(details, dict):
        raise ValueError(f"phase {phase!r} or details are malformed")
    if kind == "skip":
        return BlockSkip(message, code=code, details=details), phase
    if kind == "runtime" and code.startswith("op."):
        return _operation(code, message, details, output, words), phase
    return _kind_of(kind, code)(code, message, details=details, **words), phase


def _operation(
    code: str, message: str, details: dict[str, Any], output: BlockValue, words: Mapping[str, Any]
) -> OperationFailed:
    return OperationFailed(
        code,
        message,
        output=None if output.is_null else output,
        retry_disposition=words["retry_disposition"],
        details=details,
        provider_status=words["provider_status"],
        effects=words["effects"],
    )


def _kind_of(kind: str, code: str) -> type[BlockError]:
    if kind == "runtime" and code in _EXACT:
        return _EXACT[code]
    if kind not in _CLASSES:
        raise ValueError(f"{kind!r} is no class of errors")
    return _CLASSES[kind]


_CLASSES: Final = {"input": BlockInputError, "validation": BlockValidationError, "runtime": BlockRuntimeError}
#: Engine errors whose class the code tells; authors' own classes do not cross.
_EXACT: Final[Mapping[str, type[BlockError]]] = {
    "runtime.internal": BlockInternalError,
    "plugin.fault": BlockInternalError,
    "runtime.timeout": BlockTimeout,
}
_MANY: Final = 100
_LONG: Final = 10_000
