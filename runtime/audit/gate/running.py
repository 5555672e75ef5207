"""G10 and G11: bundled code, run by the running interpreter in an environment of its own (operations spec §13.2).

With the user's rights: this keeps an honest bundle's tests apart from the machine, it does not hold a hostile one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.audit.gate import counting
from runtime.audit.gate.layout import MODULES
from runtime.audit.gate.report import Fault
from runtime.kernel.errors import Refused

_SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
#: No site packages, nothing from the environment, no bytecode.
_BARE: Final = ("-I", "-S", "-B")
#: The same with site packages, among them the test runner.
_WITH_PYTEST: Final = ("-I", "-B")
#: Seconds the supervisor gets beyond its program's own limit.
_GRACE: Final = 30.0
#: Seconds for finding the test runner.
_PROBE_SECONDS: Final = 30.0
_IMPORT_PROGRAM: Final = """\
import importlib, json, os, sys
root, answer, *names = sys.argv[1:]
sys.path.insert(0, root)
origins = {name: os.path.realpath(importlib.import_module(name).__file__ or "") for name in names}
with open(answer, "x", encoding="utf-8") as file:
    json.dump(origins, file)
"""
_NO_TESTS: Final = 5


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Seconds and bytes granted to bundled code (operations spec §13.2, §15)."""

    import_seconds: float = 30.0
    test_seconds: float = 300.0
    memory: int = 2 * 1024**3
    file: int = 256 * 1024**2


@dataclass(frozen=True, slots=True)
class Runner:
    """Starts programs: ``python`` is the interpreter, ``scratch`` a private folder outside of what is judged."""

    python: str
    scratch: Path
    limits: RunLimits

    def import_faults(self, root: Path, log: Path) -> Iterator[Fault]:
        """G10: do the four modules import alone, and from ``root``?"""
        answer = self.scratch / "origins.json"
        command = [self.python, *_BARE, "-c", _IMPORT_PROGRAM, str(root), str(answer), *MODULES]
        how, status = self._supervised(command, root, log, self.limits.import_seconds)
        if how == "timeout":
            yield Fault("IMPORT_TIMEOUT", text=f"the modules took longer than {self.limits.import_seconds:g} s")
        elif how == "left" or status or not answer.is_file():
            yield Fault("IMPORT_FAILED", text="a required module does not import alone")
        else:
            origins = _parsed(answer)
            for name in MODULES:
                if origins.get(name) != str(root.resolve() / f"{name.replace('.', '/')}.py"):
                    yield Fault("IMPORT_ORIGIN", name, "was imported from somewhere else")

    def test_faults(self, root: Path, log: Path, junit: Path, files: Mapping[str, bytes]) -> Iterator[Fault]:
        """G11: do the bundled tests run and pass in ``root``?"""
        command = [
            self.python, *_WITH_PYTEST, "-m", "pytest", "-q", "-c", str(root / "pytest.ini"), "--rootdir", str(root),
            "-p", "no:cacheprovider", "-o", "addopts=", "-o", "junit_family=xunit1", f"--junitxml={junit}",
        ]  # fmt: skip
        how, status = self._supervised(command, root, log, self.limits.test_seconds)
        if how == "timeout":
            yield Fault("TESTS_TIMEOUT", text=f"the tests took longer than {self.limits.test_seconds:g} s")
            return
        result = counting.outcome(junit.read_bytes()) if junit.is_file() else None
        if how == "left" or result is None or status not in (0, _NO_TESTS):
            yield Fault("TESTS_FAILED", text="the test runner reports failure")
        if result is not None:
            yield from counting.faults(result, files)

    def finds_pytest(self) -> bool:
        """Is there a test runner, asked the way it will be started? Raises as `_supervised`."""
        command = [self.python, *_WITH_PYTEST, "-m", "pytest", "--version"]
        how, status = self._supervised(command, self.scratch, self.scratch / "probe.log", _PROBE_SECONDS)
        return how == "ended" and status == 0

    def _supervised(self, command: list[str], folder: Path, log: Path, seconds: float) -> tuple[str, int]:
        """How ``command`` ended, and its exit status. ``subprocess.run`` is not enough: when we are interrupted the
        supervisor must hear of it, so that it ends what it started, before anything else happens.

        Raises `Refused` ``ENV_SPAWN`` when it could not be started or watched, which says nothing about the bundle."""
        watched = [self.python, *_BARE, str(_SUPERVISOR), str(seconds), str(self.limits.memory), str(self.limits.file)]
        try:
            process = subprocess.Popen(
                [*watched, str(log), *command], cwd=folder, env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Refused("ENV_SPAWN", os.strerror(error.errno or 0)) from error
        try:
            told = process.communicate(timeout=seconds + _GRACE)[0]
        except subprocess.TimeoutExpired:
            told = b""
        finally:
            _ended(process)
        return _answer(told)

    def _environment(self) -> dict[str, str]:
        """Built anew: nothing of the operator's reaches bundled code."""
        home = self.scratch / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        return {
            "PATH": os.defpath,
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
            "PYTHONHASHSEED": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }


def _ended(process: subprocess.Popen[bytes]) -> None:
    """The supervisor has ended, politely if it still ran: it then ends what it started."""
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _answer(told: bytes) -> tuple[str, int]:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(told)
        how, status = str(said["how"]), int(said["status"])
        if how != "spawn":
            return how, status
        raise Refused("ENV_SPAWN", os.strerror(status))
    raise Refused("ENV_SPAWN", "the supervisor was lost")


def _parsed(answer: Path) -> dict[str, str]:
    try:
        origins = json.loads(answer.read_text("utf-8"))
    except ValueError:
        return {}
    return origins if isinstance(origins, dict) else {}
