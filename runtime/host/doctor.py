"""What this machine offers, and what to do about the rest: the checks behind ``quarterdeck doctor``.

Works with a store and without one, held or not, and never writes to it. Needs no deck.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from runtime.governance.environment import rebuilt
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_advice import repairs
from runtime.governance.sandbox_counting import Counting
from runtime.host.api import Check, Examination, Health, ProbeOutcome
from runtime.host.evidence_report import evidence_checks
from runtime.host.opening import state_dir
from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.errors import QuarterdeckError, StorageError
from runtime.kernel.ports import ProcessSpec
from runtime.orchestration.git import find_git
from runtime.storage.layout import MIN_FREE_BYTES, StateDir
from runtime.storage.lock import is_held, read_holder

_DISTRIBUTION: Final = "quarterdeck"
#: Versions with the race of write-ahead logs (reliability §3.1): from the first with such logs to the last without the fix.
_RACE: Final = ((3, 7, 0), (3, 51, 2))
_MIB: Final = 1024 * 1024
_GIT_SECONDS: Final = 10.0


async def examine(store: str | None = None, *, clock: Clock | None = None) -> Examination:
    """Look at everything. Does not raise for what is wrong: that is what the checks say."""
    sandbox = await Sandbox.detect("best_effort", clock=clock or SystemClock())
    checks = (
        confinement(sandbox),
        walls(sandbox),
        Check(
            name="python", status=Health.OK, detail=f"{platform.python_version()} on {platform.platform(terse=True)}"
        ),
        sqlite(sqlite3.sqlite_version),
        await _git(sandbox),
        *await asyncio.to_thread(lambda: (*state_checks(state_dir(store)), extras())),
        *await evidence_checks(state_dir(store)),
    )
    probes = tuple(
        ProbeOutcome(tier=test.tier, name=probe.name, blocked=probe.blocked, ok=probe.ok, detail=probe.detail)
        for test in sandbox.self_tests
        for probe in test.probes
    )
    return Examination(checks=checks, tier=sandbox.tier, probes=probes)


def confinement(sandbox: Sandbox) -> Check:
    """The tier in force, and why there is no better one."""
    tests = sandbox.self_tests
    told = [f"tier {sandbox.tier}, {sandbox.badge}"]
    told += [f"tier {test.tier}: {test.summary}" for test in tests if not test.ok]
    told += [f"{test.summary} in {test.milliseconds} ms" for test in tests if test.ok]
    who = tests[-1].identity if tests else None
    if who is not None and sandbox.confined:
        told.append(f"processes are user {who.user} inside and {who.outside} outside")
    health = {"A": Health.OK, "B": Health.WARN}.get(sandbox.tier, Health.FAIL)
    return Check(name="confinement", status=health, detail="; ".join(told), fix="; ".join(repairs(tests)))


def walls(sandbox: Sandbox) -> Check:
    """What holds besides the namespaces, and whether a fork bomb can be held."""
    found = sandbox.record()
    told = [f"identity {found['identity']}"]
    told += [f"{name} {'on' if found[name] else 'off'}" for name in ("seccomp", "landlock")]
    told.append(f"processes held by {found['processes_held_by']}")
    counted = found["processes_held_by"] != Counting.NONE.value
    return Check(
        name="walls",
        status=Health.OK if counted else Health.WARN,
        detail=", ".join(told),
        fix="" if counted else "allow confinement; as root use Linux 6.14, as an ordinary user 5.14 or newer",
    )


def sqlite(version: str) -> Check:
    """The version, and whether it has the known race; the store's one writing connection leaves that no opening."""
    lowest, highest = _RACE
    affected = lowest <= tuple(int(part) for part in version.split(".")) <= highest
    note = "; has the WAL-reset race (fixed in 3.51.3), which needs two writers: the store has one" if affected else ""
    return Check(name="sqlite", status=Health.OK, detail=version + note)


async def _git(sandbox: Sandbox) -> Check:
    program = find_git()
    if program is None:
        return Check(
            name="git",
            status=Health.WARN,
            detail="not found; missions that use a repository are refused",
            fix="install git",
        )
    place = Path(program).parent
    spec = ProcessSpec(argv=(program, "--version"), cwd=place, root=place, env=rebuilt(), timeout=_GIT_SECONDS)
    try:
        result = await sandbox.run(spec)
    except QuarterdeckError as error:
        return Check(name="git", status=Health.FAIL, detail=error.message, fix=error.hint or "")
    said = result.stdout.decode("utf-8", "replace").strip()
    if result.exit_code != 0:
        text = result.stderr.decode("utf-8", "replace").strip()
        return Check(name="git", status=Health.FAIL, detail=f"{program} does not start: {text}", fix="reinstall git")
    return Check(name="git", status=Health.OK, detail=f"{said.removeprefix('git version ')} at {program}")


def state_checks(state: StateDir) -> Iterator[Check]:
    """Folder, free space and holder of the store."""
    place = _nearest(state.root)
    yield _folder(state, place)
    free = shutil.disk_usage(place).free
    full = free < MIN_FREE_BYTES
    yield Check(
        name="disk",
        status=Health.FAIL if full else Health.OK,
        detail=f"{free // _MIB:,} MiB free at {place}",
        fix=f"free at least {MIN_FREE_BYTES // _MIB} MiB, or choose another folder with --store" if full else "",
    )
    yield _holder(state)


def _nearest(folder: Path) -> Path:
    """``folder``, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _folder(state: StateDir, place: Path) -> Check:
    name, root = "state folder", state.root
    if not os.path.lexists(root):
        if os.access(place, os.W_OK | os.X_OK):
            return Check(name=name, status=Health.OK, detail=f"{root} does not exist yet; the first run creates it")
        detail = f"{root} does not exist, and {place} may not be written"
        return Check(name=name, status=Health.FAIL, detail=detail, fix="choose another folder with --store")
    try:
        state.check()
    except StorageError as error:
        return Check(name=name, status=Health.FAIL, detail=f"{root}: {error.message}", fix=error.hint or "")
    if not os.access(root, os.W_OK | os.X_OK):
        return Check(name=name, status=Health.FAIL, detail=f"{root} may not be written", fix=f"chmod 700 {root}")
    return Check(name=name, status=Health.OK, detail=f"{root}, mode {stat.S_IMODE(root.stat().st_mode):04o}")


def _holder(state: StateDir) -> Check:
    try:
        held = is_held(state.lock)
    except StorageError as error:
        return Check(name="holder", status=Health.FAIL, detail=error.message, fix=error.hint or "see the state folder")
    if not held:
        return Check(name="holder", status=Health.OK, detail="nobody holds the store")
    found = read_holder(state.lock)
    who = (
        f"process {found.pid} on {found.host} since {found.started_at}" if found else "a process that is just starting"
    )
    return Check(name="holder", status=Health.OK, detail=f"held by {who}")


def extras() -> Check:
    """Optional parts; none of them is needed."""
    absent: set[str] = set()
    known: set[str] = set()
    for requirement in importlib.metadata.requires(_DISTRIBUTION) or ():
        found = re.search(r"""extra == ['"]([^'"]+)['"]""", requirement)
        if found is None or found[1] == "dev":
            continue
        known.add(found[1])
        if not _installed(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]):
            absent.add(found[1])
    told = [
        f"{word} {', '.join(sorted(names))}" for word, names in (("with", known - absent), ("without", absent)) if names
    ]
    fix = f"pip install '{_DISTRIBUTION}[{','.join(sorted(absent))}]', where wanted" if absent else ""
    return Check(name="extras", status=Health.OK, detail="; ".join(told) or "none are known", fix=fix)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
