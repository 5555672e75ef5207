"""Drives the ``quarterdeck`` command the way an operator does: own processes, own store, own home.

`Deckhand.run` starts a real process (forked from one that has imported the command, unless ``installed``), `Deckhand.inline` runs the same command line in this process when a start-up
second would buy nothing. Either way nothing may look like a traceback, and no crash file may appear.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest import mock

from console.cli import main
from tests.support.prestarted import Prestarted, starter

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
SAMPLES: Final = ROOT / "sample_missions"
#: The installed command, as `pip install` made it.
COMMAND: Final = Path(sys.executable).with_name("quarterdeck")
#: Generous: two loaded cores. A healthy wait ends in a fraction of it.
PATIENCE: Final = 30.0
_LOOK: Final = 0.01


def poll(what: str, look: Callable[[], T | None], *, limit: float = PATIENCE) -> T:
    """Look until there is something to see."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit:g} s: {what}")
        time.sleep(_LOOK)


@dataclass(frozen=True, slots=True, repr=False)
class Done:
    """What one command printed and returned."""

    command: str
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def event(self, name: str) -> dict[str, Any]:
        found = [line for line in self.lines if line.get("event") == name]
        assert len(found) == 1, f"{len(found)} {name} lines: {self}"
        return found[0]

    @property
    def launch(self) -> dict[str, Any]:
        return self.event("launch")

    @property
    def done(self) -> dict[str, Any]:
        return self.event("done")

    @property
    def error(self) -> dict[str, Any]:
        return self.event("error")

    @property
    def run_id(self) -> str:
        return str(self.launch["run_id"])

    def __repr__(self) -> str:
        return f"{self.command}: exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Going:
    """A command that is still running. Its output goes to files, so nothing ever blocks on a pipe."""

    def __init__(
        self, hand: Deckhand, arguments: Sequence[str], env: Mapping[str, str], number: int, *, installed: bool
    ) -> None:
        self._hand = hand
        self.command = "quarterdeck " + " ".join(arguments)
        self._out, self._err = hand.folder / f"{number}.out", hand.folder / f"{number}.err"
        self.process: subprocess.Popen[bytes] | Prestarted
        for path in (self._out, self._err):
            path.touch()
        if not installed:
            self.process = starter().start(arguments, env, ROOT, self._out, self._err)
            return
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [str(COMMAND), *arguments],
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def so_far(self) -> Done:
        code = self.process.returncode
        return Done(self.command, -1000 if code is None else code, self._out.read_text(), self._err.read_text())

    def line(self, event: str, *, limit: float = PATIENCE) -> dict[str, Any]:
        """The JSON line of ``event``, waited for."""

        def look() -> dict[str, Any] | None:
            whole = self._out.read_text().rpartition("\n")[0]
            found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
            match = next((item for item in found if item.get("event") == event), None)
            if match is None and self.process.poll() is not None:
                raise AssertionError(f"ended without a {event} line: {self.so_far()}")
            return match

        return poll(f"a {event} line of {self.command}", look, limit=limit)

    def run_id(self) -> str:
        return str(self.line("launch")["run_id"])

    def kill(self) -> None:
        """``kill -9``: no goodbye."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self, *, limit: float = PATIENCE) -> Done:
        """Wait for the end and check what every ending must keep to."""
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit:g} s: {self.so_far()}") from None
        return self._hand.checked(self.so_far())


class Deckhand:
    """One store, one home, and the commands given to it. Close it to end what still runs."""

    def __init__(self, folder: Path, *, store: Path | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.store = store or folder / "store"
        self._temp = folder / "tmp"
        for part in (self.home, self._temp):
            part.mkdir(parents=True, exist_ok=True)
        self._started: list[Going] = []

    @property
    def env(self) -> dict[str, str]:
        """What a command sees of this machine: a private home, this store, and no terminal."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self._temp),
            "LANG": "C.UTF-8",
            "QUARTERDECK_HOME": str(self.store),
        }

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, installed: bool = False) -> Going:
        """Begin a command in its own process; ``installed``: by the installed command, from an interpreter's start."""
        going = Going(self, arguments, {**self.env, **(env or {})}, len(self._started), installed=installed)
        self._started.append(going)
        return going

    def run(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        limit: float = PATIENCE,
        installed: bool = False,
    ) -> Done:
        """A command in its own process, to its end."""
        return self.start(*arguments, env=env, installed=installed).finish(limit=limit)

    def inline(self, *arguments: str, env: Mapping[str, str] | None = None) -> Done:
        """The same command line in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {**self.env, **(env or {})}, clear=True),
            mock.patch.object(tempfile, "tempdir", str(self._temp)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = main(arguments)
            except SystemExit as leaving:  # argparse ends the process itself
                code = leaving.code if isinstance(leaving.code, int) else 1
        return self.checked(Done("quarterdeck " + " ".join(arguments), int(code), out.getvalue(), err.getvalue()))

    def checked(self, done: Done) -> Done:
        """No operator ever sees a traceback, nor is sent to look for one."""
        crashes = [path.read_text() for path in self._temp.glob("quarterdeck-crash-*")]
        assert not crashes, f"{done}\n--- crash file\n{crashes[0]}"
        for text in (done.out, done.err):
            assert "Traceback (most recent call last)" not in text, str(done)
            assert "internal error" not in text, str(done)
        return done

    def close(self) -> None:
        for going in self._started:
            if going.process.poll() is None:
                going.kill()

    # -- looking into the store, from outside ---------------------------------------------------------------------

    @property
    def database(self) -> Path:
        return self.store / "quarterdeck.db"

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """A read-only look; an empty list while there is no database yet."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            return []

    def entries(self, run_id: str, *kinds: str) -> list[dict[str, Any]]:
        """The journal of a run as it is on disk."""
        found = self.rows("SELECT body FROM journal_entries WHERE journal_id = ? ORDER BY seq", run_id)
        entries = [json.loads(body) for (body,) in found]
        return [entry for entry in entries if not kinds or entry["kind"] in kinds]

    def receipts(self, run_id: str) -> list[dict[str, Any]]:
        return [entry["receipt"] for entry in self.entries(run_id, "receipt")]

    def status(self, run_id: str) -> str | None:
        found = self.rows("SELECT status FROM runs WHERE run_id = ?", run_id)
        return str(found[0][0]) if found else None

    def until(self, run_id: str, *statuses: str) -> str:
        """Wait until the run has one of ``statuses``."""
        return poll(f"run {run_id} to be {' or '.join(statuses)}", lambda: self._in(run_id, statuses))

    def _in(self, run_id: str, statuses: Sequence[str]) -> str | None:
        status = self.status(run_id)
        return status if status in statuses else None

    def assert_verifies(self, run_id: str) -> dict[str, Any]:
        """`quarterdeck verify` finds nothing wrong; a run that has not ended may have entries no checkpoint covers yet."""
        done = self.inline("verify", run_id, "--json")
        verdict = done.lines[0]
        assert done.code == 0, str(done)
        assert verdict["ok"] is True, verdict
        expected = set() if verdict["closed"] else {"J_UNANCHORED_TAIL"}
        assert {item["code"] for item in verdict["findings"]} <= expected, verdict
        assert verdict["trusted_prefix"] == verdict["entries"] > 0, verdict
        return verdict


@contextlib.contextmanager
def deckhand(folder: Path) -> Iterator[Deckhand]:
    """A `Deckhand` whose processes do not outlive the body."""
    hand = Deckhand(folder)
    try:
        yield hand
    finally:
        hand.close()


def mission(folder: Path, text: str, files: Mapping[str, str] | None = None) -> str:
    """Write a mission and the files it needs; returns its path for the command line."""
    for name, content in {"mission.yaml": text, **(files or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return str(folder)


def sample(folder: Path, name: str) -> Path:
    """A private copy of a sample mission, to be changed."""
    return Path(shutil.copytree(SAMPLES / name, folder / name, symlinks=True, dirs_exist_ok=True))


Tree = dict[str, tuple[str, int, bytes]]


def tree(root: Path, *, skip: Sequence[str] = (".git",)) -> Tree:
    """Every path below ``root`` with its kind, mode and content."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(name == item or name.startswith(f"{item}/") for item in skip):
            continue
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            found[name] = ("link", mode, os.fsencode(path.readlink()))
        elif path.is_dir():
            found[name] = ("dir", mode, b"")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


@dataclass(frozen=True, slots=True)
class GitState:
    """All a failed run must give back of a repository."""

    head: str
    branch: str
    refs: str
    index: str
    status: str
    files: Tree


def git(root: Path, *arguments: str) -> str:
    """What git prints in ``root``, untouched by anybody's settings."""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def git_state(root: Path) -> GitState:
    return GitState(
        head=git(root, "rev-parse", "HEAD"),
        branch=git(root, "symbolic-ref", "HEAD"),
        refs=git(root, "for-each-ref"),
        index=git(root, "ls-files", "--stage"),
        status=git(root, "status", "--porcelain=v2", "--untracked-files=all", "--ignored"),
        files=tree(root),
    )


def processes_with(marker: str) -> list[int]:
    """Every process on this machine whose command line or environment names ``marker``."""
    wanted = marker.encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found
