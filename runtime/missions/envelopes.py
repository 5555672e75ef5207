"""From what a mission writes to the envelopes that are enforced, and what they certainly forbid.

Absent ``allowed_roles`` and ``allow_ops`` are derived from the blocks, paths and tools never are (ruling §9.3). A
block's envelope starts from the mission's and is stacked on it, so it can only narrow. A block that could only ever
be refused is a load error, unless it says by ``accept`` that a refusal is what it expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from runtime.governance.network_rules import is_listed, parse_target
from runtime.kernel import globs
from runtime.kernel.model import MICROS, Envelope
from runtime.missions.model import BESIDE_THE_ENVELOPE, DEFAULT_TIMEOUT_SECONDS, BlockSpec, EnvelopeSpec, MissionSpec
from runtime.missions.parameters import ASKING, READING, operation_type, tool_actions
from runtime.missions.problems import did_you_mean
from runtime.missions.references import has_reference
from runtime.missions.rules import RUNNER
from runtime.missions.yaml_reader import Document, Where

_LISTS: Final = ("allowed_paths", "denied_paths", "allowed_tools", "allowed_roles", "allow_ops")
_PLAIN: Final = ("reject_symlinks", "timeout_seconds")
#: Pattern characters times path characters compared before the search for refusals gives up: matching costs about
#: that much, and a file made to be slow must not hold up a list of missions. Ordinary missions stay far below.
_MAX_COMPARED: Final = 20_000_000
#: Where in a block, what is wrong, what to do.
_Refusal = tuple[tuple[str | int, ...], str, str]


def acting_role(block: BlockSpec) -> str:
    """The role a block acts as."""
    return block.acting_role or RUNNER


def called_role(block: BlockSpec) -> str | None:
    """The role a model call asks, None for other blocks."""
    role = block.params.get("role", acting_role(block)) if block.type in ASKING else None
    return role if isinstance(role, str) else None


def mission_envelope(spec: MissionSpec, blocks: Iterable[BlockSpec] | None = None) -> Envelope:
    """The mission's envelope with roles and operations derived where the author was silent, from all ``blocks`` of the
    run: those for each item and those of child missions included (default: a mission without children)."""
    blocks = (block for _, block in written_blocks(spec)) if blocks is None else blocks
    working = [block for block in blocks if operation_type(block.type)]
    roles = {acting_role(block) for block in working} | {role for block in working if (role := called_role(block))}
    base: dict[str, Any] = {
        "allowed_roles": sorted(roles),
        "allow_ops": sorted({operation for block in working if (operation := operation_type(block.type))}),
        "timeout_seconds": DEFAULT_TIMEOUT_SECONDS,
    }
    return Envelope(**base | _written(spec.envelope))


def narrowed(written: EnvelopeSpec, outer: Envelope) -> Envelope:
    """A further envelope to stack on ``outer``: what it does not name stays as there."""
    base: dict[str, Any] = {name: getattr(outer, name) for name in (*_LISTS, *_PLAIN)}
    base["max_budget_usd"] = outer.max_budget_micros / MICROS
    return Envelope(**base | _written(written))


def block_envelopes(spec: MissionSpec, outer: Envelope) -> dict[str, Envelope]:
    """The further envelopes of the blocks that have one, ``<name>/each`` for what a block does for each item."""
    return {
        where: narrowed(block.envelope, outer) for where, block in written_blocks(spec) if block.envelope is not None
    }


def written_blocks(spec: MissionSpec) -> Iterator[tuple[str, BlockSpec]]:
    """The blocks of a file by their place, ``name`` or ``name/each``, in file order."""
    for name, block in spec.blocks.items():
        yield name, block
        if block.each is not None:
            yield f"{name}/each", block.each


def _written(envelope: EnvelopeSpec) -> dict[str, Any]:
    return envelope.model_dump(exclude_none=True, exclude=set(BESIDE_THE_ENVELOPE))


class Feasibility:
    """Warns of every block of one run that could only ever be refused. ``run`` is the outermost mission.

    A warning, because the envelope is what refuses: the run is allowed to try, and ends with the violation on record.
    """

    def __init__(self, run: MissionSpec) -> None:
        self._run = run
        self._left = _MAX_COMPARED

    def check(
        self, document: Document, spec: MissionSpec, outer: tuple[Envelope, ...], inner: Mapping[str, Envelope]
    ) -> None:
        """Check one file's blocks under the envelopes ``outer`` and each block's own."""
        for place, block in written_blocks(spec):
            where: Where = ("blocks", *place.split("/"))
            if block.type in ASKING and self._run.provider is None:
                document.problem(
                    "MISSION_PROVIDER",
                    "the mission has no provider for model calls",
                    (*where, "type"),
                    hint="add 'provider'",
                )
            if operation_type(block.type) is None or block.accept or document.report.full:
                continue
            stack = (*outer, *own_envelopes(place, inner))
            self._left -= _comparisons(block, stack)
            if self._left < 0:
                break
            for key, message, hint in _refusals(self._run, block, stack):
                document.problem(
                    "MISSION_ENVELOPE_FORBIDS",
                    f"{where[1]!r} would always be refused: {message}",
                    (*where, *key),
                    hint=hint,
                    severity="warning",
                )
        if spec is self._run:
            _check_sections(document, spec)


def own_envelopes(place: str, inner: Mapping[str, Envelope]) -> tuple[Envelope, ...]:
    """The envelopes that hold at a place of a file beside the mission's: the block's, and that for each item."""
    parts = place.split("/")
    names = ("/".join(parts[: size + 1]) for size in range(len(parts)))
    return tuple(inner[name] for name in names if name in inner)


def _comparisons(block: BlockSpec, stack: Sequence[Envelope]) -> int:
    patterns = sum(len(pattern) for envelope in stack for pattern in (*envelope.allowed_paths, *envelope.denied_paths))
    return patterns * sum(len(path) for _, path in _literal_paths(block.params))


def _refusals(run: MissionSpec, block: BlockSpec, stack: Sequence[Envelope]) -> Iterator[_Refusal]:
    operation = operation_type(block.type)
    if operation != "escalate" and not all(operation in (envelope.allow_ops or ()) for envelope in stack):
        yield ("type",), f"allow_ops does not list {operation}", "add it to the envelope"
    for key, role in (("acting_role", acting_role(block)), ("role", called_role(block))):
        if role and not all(role in envelope.allowed_roles for envelope in stack):
            written = block.acting_role if key == "acting_role" else block.params.get(key)
            yield (key,) if written else ("type",), f"allowed_roles does not list {role!r}", "add it to the envelope"
    yield from _tool_refusals(block, stack)
    yield from _host_refusals(run, block)
    yield from _path_refusals(run, block, stack)


def _tool_refusals(block: BlockSpec, stack: Sequence[Envelope]) -> Iterator[_Refusal]:
    for action in tool_actions(block.type, block.params):
        tool = action.partition(".")[0]
        for envelope in stack:
            if action not in envelope.allowed_tools and tool not in envelope.allowed_tools:
                hint = did_you_mean(action, envelope.allowed_tools) or "add it to the envelope"
                key = "tool" if block.type == "tool_invoke" else "type"
                yield (key,), f"allowed_tools does not list {action}", hint
                return


def _host_refusals(spec: MissionSpec, block: BlockSpec) -> Iterator[_Refusal]:
    """A URL that is written out, and whose host the mission does not list."""
    url = block.params.get("url")
    if tool_actions(block.type, block.params) != ("http.request",) or not isinstance(url, str) or has_reference(url):
        return
    scheme, _, rest = url.partition("://")
    target = parse_target(re.split(r"[/?#]", rest)[0], 443 if scheme == "https" else 80)
    if target is None:
        yield ("url",), "its URL names no host", "write it as https://host/path"
    elif not is_listed(target, spec.sandbox.hosts):
        yield ("url",), f"sandbox.hosts does not list {target}", f"add {target.rule} to it"


def _path_refusals(run: MissionSpec, block: BlockSpec, stack: Sequence[Envelope]) -> Iterator[_Refusal]:
    """Paths written out in parameters; those a command takes are declared elsewhere."""
    action = next(iter(tool_actions(block.type, block.params)), block.type)
    if action == "process.run":
        return
    testing = action in ("run_tests", "pytest.run")
    allowed = [envelope.allowed_paths for envelope in stack]
    if action not in READING and run.envelope.write_paths is not None:
        allowed.append(run.envelope.write_paths)
    denied = [pattern for envelope in stack for pattern in envelope.denied_paths]
    for key, path in _literal_paths(block.params):
        target = path.partition("::")[0] if testing else path
        if target.startswith("/") or ".." in target.split("/"):
            yield key, f"{path!r} does not stay in the work tree", "write the path relative to it"
        elif any(globs.matches(pattern, target, fold=True) for pattern in denied):
            yield key, f"a denied path matches {path!r}", "change the path or the envelope"
        elif not all(_covered(target, patterns, below=testing) for patterns in allowed):
            yield key, f"no allowed path matches {path!r}", "widen the envelope or change the path"


def _literal_paths(params: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    single = params.get("path")
    if isinstance(single, str) and not has_reference(single):
        yield ("path",), single
    for name in ("paths", "test_paths"):
        several = params.get(name)
        for index, item in enumerate(several if isinstance(several, list) else ()):
            if isinstance(item, str) and not has_reference(item):
                yield (name, index), item


def _covered(path: str, patterns: Sequence[str], *, below: bool) -> bool:
    """Does a pattern match? With ``below`` a folder passes when something in it may: tests are judged file by file."""
    if any(globs.matches(pattern, path) for pattern in patterns):
        return True
    prefixes = [globs.literal_prefix(pattern) for pattern in patterns] if below else []
    return any(prefix == path or prefix.startswith(path + "/") for prefix in prefixes)


def _check_sections(document: Document, spec: MissionSpec) -> None:
    if spec.workspace is not None and spec.workspace.kind == "none" and spec.envelope.allowed_paths:
        message = "a mission without a workspace cannot allow paths"
        document.problem("MISSION_WORKSPACE", message, ("envelope", "allowed_paths"), hint="remove them, or the kind")
    paid = spec.provider is not None and spec.provider.openai is not None
    if paid and not spec.envelope.max_budget_usd and spec.budgets.unpriced == "refuse":
        message = "the envelope allows no paid call, so only a model priced at 0 can answer"
        hint = "set envelope.max_budget_usd"
        document.problem("MISSION_NO_BUDGET", message, ("provider",), key=True, hint=hint, severity="warning")
