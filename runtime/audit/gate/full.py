"""All thirteen gates over the bytes of one archive: what can be seen, then, only if nothing is wrong, what can be run."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from runtime.audit.gate.extraction import differences, extract
from runtime.audit.gate.report import Fault, Gate, Report, Status, judged, not_run
from runtime.audit.gate.running import RunLimits, Runner
from runtime.audit.gate.static import DYNAMIC, STATIC, static_report
from runtime.kernel.errors import Refused

_OLDEST_PYTHON: Final = (3, 11)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to judge. ``extract_dir`` (absent or empty) keeps the workspace, ``report_dir`` the output of what ran;
    without them both are temporary. ``python`` runs bundled code."""

    extract_dir: Path | None = None
    report_dir: Path | None = None
    static_only: bool = False
    python: str = sys.executable
    version: tuple[int, int] = sys.version_info[:2]
    limits: RunLimits = field(default_factory=RunLimits)


def full_report(data: bytes | None, *, expect_sha256: str | None = None, settings: Settings | None = None) -> Report:
    """Judge an archive's bytes, or None when they could not be had. Blocking, up to six minutes for hostile content.

    Executes the bundle's modules and tests if G1 to G8 passed. Leaves nothing behind but ``extract_dir`` and
    ``report_dir``. Raises nothing about content or system: both are in the report.
    """
    settings = settings or Settings()
    if settings.static_only:
        return _report(data, expect_sha256, judged("G0", _given_faults(data, settings), wrong=Status.BLOCKED))
    try:
        base = Path(tempfile.mkdtemp(prefix="audit-gate-"))
    except OSError as error:
        fault = Fault("ENV_TEMPORARY", text=f"no temporary folder can be made: {os.strerror(error.errno or 0)}")
        gate = judged("G0", [*_given_faults(data, settings), fault], wrong=Status.BLOCKED)
        return _report(data, expect_sha256, gate)
    try:
        report = _judged_in(base, data, expect_sha256, settings)
    finally:
        left = _removed(base)
    return report if left is None else _blocked(report, left)


def _judged_in(base: Path, data: bytes | None, expect_sha256: str | None, settings: Settings) -> Report:
    scratch = base / "scratch"
    scratch.mkdir(mode=0o700)
    runner = Runner(settings.python, scratch, settings.limits)
    faults = [*_given_faults(data, settings), *_runner_faults(runner)]
    report = _report(data, expect_sha256, judged("G0", faults, wrong=Status.BLOCKED))
    sound = all(report[gate].status is Status.PASS for gate in STATIC)
    # Without a test runner all but the tests can still be checked; any other trouble is in the way of everything.
    if not sound or {fault.code for fault in faults} - {"ENV_PYTEST"}:
        return report
    trial = _Trial(report.files, runner, base, settings, tests=not faults)
    return replace(report, gates=(*report.gates[: -len(DYNAMIC)], *trial.gates()))


def _report(data: bytes | None, expect_sha256: str | None, environment: Gate) -> Report:
    if data is None:
        return Report((environment, *not_run(*STATIC, *DYNAMIC)))
    return static_report(data, expect_sha256=expect_sha256, environment=environment)


def _given_faults(data: bytes | None, settings: Settings) -> Iterator[Fault]:
    """G0: what does not depend on starting anything."""
    if data is None:
        yield Fault("ENV_ZIP_MISSING", text="there is no such file, or it cannot be read, or it is no ordinary file")
    if settings.version < _OLDEST_PYTHON:
        yield Fault("ENV_PYTHON", text="Python 3.11 or later is needed")
    folder = settings.extract_dir
    if folder is not None and not _usable(folder):
        yield Fault("ENV_EXTRACT_DIR", text="the extract directory must be absent or empty, and no link")
    if settings.report_dir is not None and not _made(settings.report_dir, folder):
        yield Fault("ENV_REPORT_DIR", text="the report directory cannot be made, or lies in the extract directory")


def _usable(folder: Path) -> bool:
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError:
        return folder.parent.is_dir()
    except OSError:
        return False
    try:
        return stat.S_ISDIR(mode) and not any(folder.iterdir())
    except OSError:
        return False


def _made(folder: Path, extract_dir: Path | None) -> bool:
    if extract_dir is not None and folder.resolve().is_relative_to(extract_dir.resolve()):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def _runner_faults(runner: Runner) -> Iterator[Fault]:
    try:
        if not runner.finds_pytest():
            yield Fault("ENV_PYTEST", text="pytest is not installed for this interpreter")
    except Refused as error:
        yield Fault(error.code, text=error.message)


@dataclass(frozen=True, slots=True)
class _Trial:
    """G9 to G12 for the content of a bundle that passed everything before."""

    files: Mapping[str, bytes]
    runner: Runner
    base: Path
    settings: Settings
    tests: bool

    @property
    def workspace(self) -> Path:
        return (self.settings.extract_dir or self.base / "workspace").absolute()

    @property
    def copy(self) -> Path:
        return self.base / "copy"

    @property
    def logs(self) -> Path:
        return (self.settings.report_dir or self.runner.scratch).absolute()

    def gates(self) -> Iterator[Gate]:
        extraction = _tried("G9", self._extract)
        yield extraction
        if extraction.status is not Status.PASS:
            yield from not_run("G10", "G11", "G12")
            return
        yield _tried("G10", lambda: self.runner.import_faults(self.workspace, self.logs / "imports.log"))
        tests = _tried("G11", self._test) if self.tests else _NO_RUNNER
        yield tests
        yield judged("G12", self._dirt(), complete=tests.status is not Status.BLOCKED)

    def _extract(self) -> Iterable[Fault]:
        with contextlib.suppress(FileExistsError):  # then it was seen to be empty, and files are only made new
            self.workspace.mkdir(mode=0o700)
        return extract(self.files, self.workspace)

    def _test(self) -> Iterator[Fault]:
        self.copy.mkdir(mode=0o700)
        yield from extract(self.files, self.copy)
        junit = self.logs / "junit.xml"
        junit.unlink(missing_ok=True)
        yield from self.runner.test_faults(self.copy, self.logs / "tests.log", junit, self.files)

    def _dirt(self) -> Iterator[Fault]:
        for root in (self.workspace, self.copy):
            if root.exists():
                yield from (Fault("WORKSPACE_DIRTY", where, text) for where, text in differences(root, self.files))


_NO_RUNNER: Final = judged("G11", [Fault("ENV_PYTEST", text="pytest is not installed")], wrong=Status.BLOCKED)


def _tried(gate: str, judge: Callable[[], Iterable[Fault]]) -> Gate:
    """A gate that meets the system's refusal is blocked."""
    try:
        return judged(gate, judge())
    except Refused as error:
        fault = Fault(error.code, error.where or "", error.message)
    except OSError as error:
        fault = Fault("ENV_TEMPORARY", text=os.strerror(error.errno or 0))
    return judged(gate, [fault], wrong=Status.BLOCKED)


def _removed(base: Path) -> Fault | None:
    """Remove a temporary folder, whatever modes bundled code gave to what is in it."""
    try:
        for folder, names, _ in os.walk(base):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(base)
    except OSError as error:
        return Fault("ENV_TEMPORARY", text=f"a temporary folder cannot be removed: {os.strerror(error.errno or 0)}")
    return None


def _blocked(report: Report, fault: Fault) -> Report:
    first = report["G0"]
    faults = [*first.details, fault]
    return replace(report, gates=(judged("G0", faults, wrong=Status.BLOCKED), *report.gates[1:]))
