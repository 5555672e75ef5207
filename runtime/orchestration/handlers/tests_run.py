"""``run_tests`` and ``pytest.run``: run the project's tests and believe only a machine-readable report.

Runs code, so it must leave the work tree as it was; the executor proves that. A green exit code alone is not a
pass: enough tests must have been executed, without failures and errors (operations spec §3.5). The interpreter is the
project's own (ruling R50), never taken from params or PATH.
"""

from __future__ import annotations

import asyncio
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from runtime.governance.environment import rebuilt
from runtime.kernel.errors import Refused
from runtime.kernel.model import Access, Effect, OperationPlan, PlannedPath
from runtime.kernel.ports import ProcessSpec
from runtime.orchestration.handlers.children import captured, forwarder, program_digest, scratch, witnessed
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.snapshots import kind

#: Operations spec §15 (paths per operation), §3.5.
MAX_TEST_PATHS: Final = 256
MAX_EXPRESSION: Final = 200
MAX_FAILED_NAMES: Final = 100
MAX_REPORT_BYTES: Final = 8 * 1024 * 1024
#: Polite phase before the group is killed (operations spec §3.5).
STOP_GRACE: Final = 2.0
_FLAGS: Final = frozenset({"-q", "-v", "-x"})
_COUNTED: Final = re.compile(r"--(?:maxfail|durations)=[0-9]{1,6}\Z")
_PYTEST: Final = ("-m", "pytest", "-p", "no:cacheprovider")
#: pytest's exit status for "no tests collected".
_NONE_COLLECTED: Final = 5


@dataclass(slots=True)
class Report:
    """Counts of one junit file."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    failed_tests: list[str] = field(default_factory=list)

    @property
    def executed(self) -> int:
        return self.tests - self.skipped


class TestsHandler:
    """Effect ``execute``."""

    __test__ = False  # not a test class, whatever its name says to pytest

    def __init__(self, settings: HandlerSettings, *, tool: str | None = None) -> None:
        self._settings = settings
        self._tool = tool

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(keeps_time=True, confined=self._settings.confined)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params(self._tool or "run_tests", call.params)
        targets = params.texts("test_paths", limit=MAX_TEST_PATHS)
        args = params.texts("pytest_args", [], limit=16)
        min_tests = params.integer("min_tests", 1, low=1, high=1_000_000)
        params.done()
        if not targets:
            raise Refused("TEST_ARG", "test_paths must name at least one path")
        for target in targets:
            _check_target(target)
        _check_args(args)
        root = self._settings.root
        paths = await asyncio.to_thread(_files, root, [target.partition("::")[0] for target in targets])
        python = interpreter(self._settings)
        digest = await asyncio.to_thread(program_digest, python)
        return OperationPlan(
            Effect.EXECUTE,
            tuple(PlannedPath(path, Access.EXECUTE) for path in paths),
            tool=self._tool,
            data={"targets": targets, "args": args, "min_tests": min_tests, "python": str(python), "digest": digest},
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        settings, data = self._settings, call.plan.data
        python = Path(data["python"])
        if await asyncio.to_thread(program_digest, python) != data["digest"]:
            raise Refused("TOOL_CONFLICT", "the interpreter changed after it was checked")
        secrets = await asyncio.to_thread(settings.sandbox_env)
        async with scratch(settings.scratch_root) as folder:
            for name in ("home", "tmp"):
                (folder / name).mkdir()
            argv = [str(python), *_PYTEST, f"--basetemp={folder / 'base'}", f"--junitxml={folder / 'junit.xml'}"]
            spec = ProcessSpec(
                argv=[*argv, *data["args"], "--", *data["targets"]],
                cwd=settings.root,
                root=settings.root,
                env=_environment(secrets, folder, python),
                writable=[folder],
                scratch=[settings.root / name for name in settings.sandbox_scratch],
                hosts=settings.hosts,
                timeout=call.timeout,
                stop_grace=STOP_GRACE,
                redactor=call.redactor,
            )
            result = await settings.runner.run(spec, forwarder(call.on_output))
            report = await asyncio.to_thread(read_report, folder / "junit.xml", call.redactor.text)
        output = {**captured(result, call.artifacts), **_counts(report)}
        code, message = _judge(result.exit_code, report, data["min_tests"])
        if result.timed_out:
            code, message = "OP_TIMEOUT", f"the tests were stopped after {call.timeout:g} s"
        output["passed"] = code is None
        evidence = {**witnessed(result), "python": data["python"], "digest": data["digest"]}
        return HandlerOutcome(output=output, evidence=evidence, code=code, message=message, denials=result.denials)


def interpreter(settings: HandlerSettings) -> Path:
    """Mission ``commands.python``, else ``.venv/bin/python`` in the work tree, else ours (ruling R50)."""
    named = settings.python
    own = settings.root / ".venv" / "bin" / "python"
    if named is not None:
        chosen = Path(named) if Path(named).is_absolute() else settings.root / named
    else:
        chosen = own if own.is_file() else Path(sys.executable)
    if not chosen.is_file():
        raise Refused("TEST_ARG", f"there is no interpreter at {named or chosen}", hint="set commands.python")
    return chosen


def read_report(path: Path, clean: Callable[[str], str] = str) -> Report | None:
    """The junit file a run left, or None when there is none that can be believed; names pass ``clean``. Blocking.

    The file was written by the code under test: size is bounded and document types are refused, so that no entity
    can grow.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_REPORT_BYTES:
        return None
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        return None
    try:
        suites = ET.fromstring(text)
    except ET.ParseError:
        return None
    report = Report()
    for case in suites.iter("testcase"):
        report.tests += 1
        marks = {child.tag for child in case}
        report.failures += "failure" in marks
        report.errors += "error" in marks
        report.skipped += "skipped" in marks
        if marks & {"failure", "error"} and len(report.failed_tests) < MAX_FAILED_NAMES:
            # Cleaned before it is cut: half a secret would not be recognised.
            report.failed_tests.append(clean(f"{case.get('classname', '')}::{case.get('name', '')}")[:MAX_EXPRESSION])
    return report


def _judge(exit_code: int, report: Report | None, min_tests: int) -> tuple[str | None, str]:
    if report is None:
        nothing = exit_code == _NONE_COLLECTED
        return ("TEST_NONE_RUN", "no tests were collected") if nothing else ("TEST_FAILED", "there is no test report")
    if report.failures or report.errors:
        return "TEST_FAILED", f"{report.failures} failed, {report.errors} errors, {report.executed} executed"
    if report.executed < min_tests:
        return "TEST_NONE_RUN", f"{report.executed} tests were executed, at least {min_tests} must be"
    return (None, "") if exit_code == 0 else ("TEST_FAILED", f"the test run ended with status {exit_code}")


def _counts(report: Report | None) -> dict[str, Any]:
    shown = report or Report()
    return {
        "executed": shown.executed,
        "failures": shown.failures,
        "errors": shown.errors,
        "skipped": shown.skipped,
        "failed_tests": shown.failed_tests,
    }


def _check_target(target: str) -> None:
    if not target or target.startswith("-") or not target.partition("::")[0]:
        raise Refused("TEST_ARG", f"{target!r} is not a test path", hint="write a path or path::test_name")


def _check_args(args: list[str]) -> None:
    words = iter(args)
    for word in words:
        if word == "-k":
            expression = next(words, "")
            if not 0 < len(expression) <= MAX_EXPRESSION:
                raise Refused("TEST_ARG", f"-k needs an expression of 1 to {MAX_EXPRESSION} characters")
        elif word not in _FLAGS and not _COUNTED.match(word):
            raise Refused(
                "TEST_ARG",
                f"pytest argument {word!r} is not allowed",
                hint="allowed: -q -v -x -k --maxfail=N --durations=N",
            )


def _files(root: Path, targets: list[str]) -> list[str]:
    """Each target, a folder as the Python files in it: the envelope's patterns name files, not folders.

    A folder with more files than one operation may name, or with none, stands for itself.
    """
    paths: dict[str, None] = {}
    for target in targets:
        inside = _python_files(root, target) if kind(root, target) == "dir" else []
        room = MAX_TEST_PATHS - len(paths)
        paths.update(dict.fromkeys(inside if 0 < len(inside) <= room else [target]))
    return list(paths)


def _python_files(root: Path, folder: str) -> list[str]:
    found = (path for path in (root / folder).rglob("*.py") if not path.is_symlink() and path.is_file())
    return sorted(path.relative_to(root).as_posix() for path in found)


def _environment(extra: Mapping[str, str], folder: Path, python: Path) -> dict[str, str]:
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1", "NO_COLOR": "1"}
    if python == Path(sys.executable):
        # Plugins beside our own interpreter are ours; they must neither slow nor change the project's tests.
        own["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return rebuilt({**extra, **own}, home=folder / "home", temp=folder / "tmp")
