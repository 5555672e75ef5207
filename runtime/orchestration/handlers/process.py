"""``process.run``: programs the mission's author declared, with typed arguments (operations spec §3.2, ruling R50).

A template fixes program and argument order; an operation only fills in values of declared types, one per argument,
and a value can never become an option. Declared folders may be written below; everything in them is kept before the
run, so that a failure puts it back.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runtime.governance.environment import SEARCH_PATH, rebuilt
from runtime.kernel.errors import Refused
from runtime.kernel.ids import TREE_MARK
from runtime.kernel.model import Access, CompensationType, Effect, OperationPlan, PlannedPath
from runtime.kernel.ports import ProcessSpec
from runtime.orchestration.handlers.children import captured, forwarder, program_digest, scratch, witnessed
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.snapshots import kind

_PLACEHOLDER: Final = re.compile(r"\$\{([a-z][a-z0-9_]{0,63})\}")
_TYPES: Final = ("string", "integer", "number", "boolean", "path")
_KEYS: Final = frozenset({"argv", "args", "writes", "env", "timeout_seconds", "network", "stop_grace", "accept_exit"})
#: Bounds of one template and one value.
MAX_ARGV: Final = 256
MAX_VALUE: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One declared command. ``argv[0]`` is a program name or an absolute path; ``${name}`` marks arguments."""

    name: str
    argv: tuple[str, ...]
    args: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None
    network: bool = False
    stop_grace: float = 0.0
    accept_exit: tuple[int, ...] = (0,)


def template(name: str, raw: Mapping[str, Any]) -> Template:
    """Check a mission's ``commands:`` entry. Raises `Refused` ``PROCESS_TEMPLATE``."""

    def bad(why: str) -> Refused:
        return Refused("PROCESS_TEMPLATE", f"command {name!r} {why}", where=f"commands.{name}")

    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise bad(f"has no member {unknown[0]!r}")
    argv = raw.get("argv")
    if not isinstance(argv, list | tuple) or not argv or not all(isinstance(word, str) and word for word in argv):
        raise bad("needs argv, a list of texts")
    if len(argv) > MAX_ARGV or _PLACEHOLDER.search(argv[0]):
        raise bad("must name its program literally")
    args = {key: _argument(value, bad) for key, value in dict(raw.get("args", {})).items()}
    used = {found for word in argv for found in _PLACEHOLDER.findall(word)}
    if used != set(args):
        raise bad(f"must declare in args exactly what argv uses: {', '.join(sorted(used ^ set(args)))}")
    members = {key: raw[key] for key in ("env", "timeout_seconds", "network", "stop_grace") if key in raw}
    return Template(
        name=name,
        argv=tuple(argv),
        args=args,
        writes=tuple(raw.get("writes", ())),
        accept_exit=tuple(raw.get("accept_exit", (0,))),
        **members,
    )


def _argument(value: Any, bad: Any) -> Mapping[str, Any]:
    spec = {"type": value} if isinstance(value, str) else dict(value)
    if spec.get("type") not in _TYPES or spec.keys() - {"type", "choices", "default"}:
        raise bad(f"has an argument that is not one of {', '.join(_TYPES)}")
    return spec


class ProcessHandler:
    """Effect ``write`` when the template declares writes, else ``execute``."""

    def __init__(self, settings: HandlerSettings) -> None:
        self._settings = settings
        self._templates = {name: template(name, raw) for name, raw in settings.commands.items()}

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(keeps_time=True, confined=self._settings.confined)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("process.run", call.params)
        name = params.text("template")
        chosen = self._templates.get(name)
        if chosen is None:
            raise Refused("TOOL_UNKNOWN", f"the mission declares no command {name!r}")
        values = {key: _value(params, key, spec) for key, spec in chosen.args.items()}
        params.done()
        program = _program(chosen.argv[0])
        digest = await asyncio.to_thread(program_digest, program)
        reads = [str(values[key]) for key, spec in chosen.args.items() if spec["type"] == "path"]
        planned = [PlannedPath(path, Access.READ) for path in reads if path not in chosen.writes]
        for path in chosen.writes:
            planned += await asyncio.to_thread(self._written, path)
        words = [str(program), *(_filled(word, values) for word in chosen.argv[1:])]
        undo: dict[str, Any] = {}
        if chosen.writes:
            undo["undo"] = CompensationType.FILESYSTEM_RESTORE
            undo["undo_command"] = shlex.join([CompensationType.FILESYSTEM_RESTORE.value, *chosen.writes])
        return OperationPlan(
            Effect.WRITE if chosen.writes else Effect.EXECUTE,
            tuple(planned),
            tool="process.run",
            timeout_seconds=chosen.timeout_seconds,
            data={"template": name, "argv": words, "digest": digest},
            **undo,
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        settings, data = self._settings, call.plan.data
        chosen = self._templates[data["template"]]
        if await asyncio.to_thread(program_digest, Path(data["argv"][0])) != data["digest"]:
            raise Refused("TOOL_CONFLICT", "the program changed after it was checked")
        secrets = await asyncio.to_thread(settings.sandbox_env)
        async with scratch(settings.scratch_root) as folder:
            spec = ProcessSpec(
                argv=list(data["argv"]),
                cwd=settings.root,
                root=settings.root,
                env=rebuilt({**secrets, **chosen.env}, home=folder, temp=folder),
                writable=[folder, *(settings.root / path for path in chosen.writes)],
                scratch=[settings.root / name for name in settings.sandbox_scratch],
                hosts=settings.hosts if chosen.network else (),
                timeout=call.timeout,
                stop_grace=chosen.stop_grace,
                redactor=call.redactor,
            )
            result = await settings.runner.run(spec, forwarder(call.on_output))
        code: str | None = None
        message = ""
        if result.timed_out:
            code, message = "OP_TIMEOUT", f"{chosen.name} was stopped after {call.timeout:g} s"
        elif result.exit_code not in chosen.accept_exit:
            code, message = "PROCESS_EXIT", f"{chosen.name} ended with status {result.exit_code}"
        evidence = {**witnessed(result), "argv": list(data["argv"]), "digest": data["digest"]}
        return HandlerOutcome(
            output=captured(result, call.artifacts),
            evidence=evidence,
            code=code,
            message=message,
            denials=result.denials,
        )

    def _written(self, path: str) -> list[PlannedPath]:
        """A folder is judged as itself and as "any new file in it"; a file must exist to be a mount point."""
        found = kind(self._settings.root, path)
        if found == "dir":
            return [PlannedPath(path, Access.EXECUTE), PlannedPath(f"{path}/{TREE_MARK}", Access.WRITE)]
        if found == "missing":
            hint = "create it first, or declare its folder"
            raise Refused("PROCESS_TEMPLATE", f"the declared write {path!r} does not exist", hint=hint)
        return [PlannedPath(path, Access.MODIFY)]


def _value(params: Params, key: str, spec: Mapping[str, Any]) -> Any:
    value = params.any(key) if "default" not in spec else params.any(key, spec["default"])
    wanted = spec["type"]
    fits = {
        "string": isinstance(value, str),
        "path": isinstance(value, str) and bool(value),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
    }[wanted]
    if not fits or ("choices" in spec and value not in spec["choices"]):
        raise Refused("PROCESS_ARG", f"argument {key!r} must be a {wanted} and one of its choices")
    if isinstance(value, str) and (len(value) > MAX_VALUE or "\0" in value):
        raise Refused("PROCESS_ARG", f"argument {key!r} is too long or holds NUL")
    return value


def _filled(word: str, values: Mapping[str, Any]) -> str:
    """Insert values once; inserted text is not looked at again."""

    def text(match: re.Match[str]) -> str:
        value = values[match[1]]
        return str(value).lower() if isinstance(value, bool) else str(value)

    filled = _PLACEHOLDER.sub(text, word)
    if filled.startswith("-") and not word.startswith("-"):
        raise Refused("PROCESS_ARG", f"{filled!r} would become an option of the program")
    return filled


def _program(name: str) -> Path:
    """Where the program is, by the fixed search path of children; resolved while planning."""
    found = name if Path(name).is_absolute() else shutil.which(name, path=SEARCH_PATH)
    if found is None or not Path(found).is_file():
        raise Refused("PROCESS_TEMPLATE", f"the program {name!r} was not found", hint=f"searched {SEARCH_PATH}")
    return Path(found)
