"""`quarterdeck doctor`: it looks, says what to do, and leaves everything as it was."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from console.verbs.doctor import terminal_checks
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_advice import repairs
from runtime.governance.sandbox_backends import OwnLauncher, Unconfined
from runtime.governance.sandbox_selftest import Probe, SelfTest
from runtime.host.api import Check, Exit, Health
from runtime.host.doctor import confinement, sqlite, state_checks, walls
from runtime.storage.layout import StateDir
from tests.support.deckhand import deckhand
from tests.support.hosting import hosting


def verdict(tier: str, *possible: str, failure: str | None = None) -> SelfTest:
    names = ("bpf", "io_uring", "read_outside")
    probes = tuple(Probe(name=name, blocked=name not in possible, pinned=True, detail="") for name in names)
    return SelfTest(tier=tier, probes=() if failure else probes, failure=failure, milliseconds=1)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in [folder, *folder.rglob("*")]}


async def test_a_held_store_is_named_and_not_touched(tmp_path: Path) -> None:
    root = tmp_path / "store"
    async with hosting(root):
        before = contents(root)
        folder, disk, holder = state_checks(StateDir(root))
        assert contents(root) == before
    assert (folder.status, disk.status, holder.status) == (Health.OK,) * 3
    assert f"process {os.getpid()} on" in holder.detail
    assert "mode 0700" in folder.detail


def test_the_verb_makes_no_store_and_its_exit_code_is_its_worst_check(tmp_path: Path) -> None:
    with deckhand(tmp_path / "deck") as hand:
        before = contents(hand.folder).keys()
        done = hand.inline("doctor", "--json")
        assert contents(hand.folder).keys() == before
        (report,) = done.lines
        worst = [check["name"] for check in report["checks"] if check["status"] == "fail"]
        assert (done.code, report["ok"]) == ((Exit.FAILED, False) if worst else (Exit.OK, True)), done
        assert {
            "confinement",
            "walls",
            "python",
            "sqlite",
            "git",
            "state folder",
            "disk",
            "holder",
            "extras",
            "terminal",
        } <= {check["name"] for check in report["checks"]}
        assert all(check["fix"] for check in report["checks"] if check["status"] != "ok")
        assert report["tier"] in ("A", "B", "D")
        names = [probe["name"] for probe in report["probes"] if probe["tier"] == report["tier"]]
        assert len(names) == (0 if report["tier"] == "D" else 28)


@pytest.mark.parametrize(
    ("mode", "word", "fix"),
    [(0o755, "other users can reach", "chmod 700"), (None, "does not exist yet", ""), (0o700, "mode 0700", "")],
)
def test_the_state_folder(tmp_path: Path, mode: int | None, word: str, fix: str) -> None:
    root = tmp_path / "store"
    if mode is not None:
        root.mkdir(mode=mode)
    found, *_ = state_checks(StateDir(root))
    assert word in found.detail
    assert (found.status, found.fix[:9]) == (Health.FAIL if fix else Health.OK, fix)


@pytest.mark.parametrize(
    ("backend", "tests", "status", "words"),
    [
        (
            OwnLauncher(),
            (verdict("A", failure="no"), verdict("B")),
            Health.WARN,
            ("tier B, CONFINED (fallback)", "tier A: no"),
        ),
        (Unconfined(), (verdict("B", "io_uring"),), Health.FAIL, ("UNCONFINED", "tier B: io_uring was possible")),
    ],
)
def test_a_missing_tier_is_explained(
    backend: OwnLauncher | Unconfined, tests: tuple[SelfTest, ...], status: Health, words: tuple[str, ...]
) -> None:
    found = confinement(Sandbox(backend, self_tests=tests))
    assert found.status is status
    assert found.fix
    assert all(word in found.detail for word in words), found


def test_a_fork_bomb_that_nothing_holds_is_told() -> None:
    found = walls(Sandbox(Unconfined()))
    assert (found.status, "processes held by nothing" in found.detail) == (Health.WARN, True)
    assert found.fix


@pytest.mark.parametrize(
    ("tests", "settings", "bwrap", "words"),
    [
        ((verdict("A"),), {}, "/usr/bin/bwrap", ()),
        ((verdict("B"),), {"user.max_user_namespaces": "0"}, None, ("install bubblewrap",)),
        ((verdict("A", failure="denied"),), {}, "/usr/bin/bwrap", ("allow user namespaces",)),
        (
            (verdict("B", failure="denied"),),
            {"kernel.unprivileged_userns_clone": "0", "kernel.apparmor_restrict_unprivileged_userns": "1"},
            None,
            ("install bubblewrap", "sysctl -w kernel.unprivileged", "sysctl -w kernel.apparmor"),
        ),
        ((verdict("A", "bpf"),), {}, "/usr/bin/bwrap", ("use a kernel with seccomp",)),
        ((verdict("A", "read_outside"),), {}, "/usr/bin/bwrap", ("see `quarterdeck doctor`",)),
    ],
)
def test_advice_fits_what_is_missing(
    tests: tuple[SelfTest, ...], settings: Mapping[str, str], bwrap: str | None, words: tuple[str, ...]
) -> None:
    found = repairs(tests, read=settings.get, bwrap=lambda: bwrap)
    assert len(found) == len(words)
    assert all(advice.startswith(word) for advice, word in zip(found, words, strict=True)), found


@pytest.mark.parametrize(("version", "noted"), [("3.51.2", True), ("3.51.3", False), ("3.7.0", True), ("4.0", False)])
def test_the_known_race_of_sqlite_is_noted(version: str, noted: bool) -> None:
    assert ("WAL-reset" in sqlite(version).detail) is noted


@pytest.mark.parametrize(
    ("environ", "encoding", "size", "off"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "utf-8", (80, 24), []),
        ({"TERM": "dumb"}, "UTF-8", (200, 50), ["terminal"]),
        ({}, "ascii", (79, 24), ["terminal", "locale", "size"]),
    ],
)
def test_a_terminal_that_cannot_show_the_console_is_told(
    environ: Mapping[str, str], encoding: str, size: tuple[int, int], off: list[str]
) -> None:
    found: list[Check] = list(terminal_checks(environ, encoding, True, os.terminal_size(size)))
    assert [check.name for check in found if check.status is Health.WARN] == off
    assert all(bool(check.fix) is (check.name in off) for check in found)
