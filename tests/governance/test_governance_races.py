"""No accepted path leaves the root: over random trees with links, and under a live attacker."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.kernel.errors import QuarterdeckError
from runtime.kernel.model import Access, Envelope

NAMES = ["a", "b", "c", "A"]
SECRET = b"outside secret"
#: `make torture` asks for a long form of the live attack: so many rounds of each kind of access, whatever was seen.
ROUNDS = int(os.environ.get("QUARTERDECK_RACE_ROUNDS", "0"))

places = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)
link_targets = st.one_of(
    st.lists(st.sampled_from([*NAMES, "..", "..", ".", "outside", "treasure"]), min_size=1, max_size=5).map("/".join),
    st.sampled_from(["{outside}", "{outside}/treasure", "{root}/a", "{root}", "/"]),
)
nodes = st.tuples(places, st.sampled_from(["file", "dir", "link", "link"]), link_targets)
requests = st.lists(st.sampled_from([*NAMES, *NAMES, "..", ".", "", "new", "outside"]), min_size=1, max_size=5).map(
    "/".join
)


def build(top: Path, tree: list[tuple[tuple[str, ...], str, str]]) -> Path:
    root, outside = top / "root", top / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "treasure").write_bytes(SECRET)
    for parts, kind, target in tree:
        place = root.joinpath(*parts)
        if any(step.is_symlink() for step in (place, *place.parents)):
            continue  # building must not write through the drawn links itself
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                place.symlink_to(target.format(root=root, outside=outside))
            elif kind == "dir":
                place.mkdir()
            else:
                place.write_bytes(b"inside")
        except OSError:
            continue  # the drawn tree contradicts itself here; what stands is a tree, too
    return root


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(nodes, max_size=8), st.lists(requests, min_size=1, max_size=6), st.booleans())
def test_no_accepted_path_leaves_the_root(
    tree: list[tuple[tuple[str, ...], str, str]], asked: list[str], reject: bool
) -> None:
    envelope = Envelope(allowed_paths=["**"], reject_symlinks=reject)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # nothing here survives a power cut anyway
        top = Path(folder).resolve()
        root = build(top, tree)
        # Every name that exists, links included, and a few that were made up.
        existing = [path.relative_to(root).as_posix() for path in root.rglob("*")]
        with EnvelopeEnforcer(root) as enforcer:
            for path in [*asked, *existing]:
                check_request(enforcer, envelope, root, path)
        assert (top / "outside/treasure").read_bytes() == SECRET
        assert [path.name for path in (top / "outside").iterdir()] == ["treasure"]
        assert sorted(path.name for path in top.iterdir()) == ["outside", "root"]


def check_request(enforcer: EnvelopeEnforcer, envelope: Envelope, root: Path, path: str) -> None:
    for access in (Access.READ, Access.LIST, Access.WRITE, Access.DELETE):
        try:
            ticket = enforcer.authorize(path, access, envelope, create_parents=True)
        except QuarterdeckError:
            continue
        with ticket:
            real = Path(os.path.realpath(root / path))
            assert real.is_relative_to(root)
            assert real != root
            assert ticket.path == real.relative_to(root).as_posix()
            if access is Access.READ:
                assert ticket.read(100)[0] != SECRET
            elif access is Access.LIST:
                assert "treasure" not in {entry.path for entry in ticket.list(recursive=True).entries}
            elif access is Access.WRITE:
                ticket.write(b"written")
            else:
                ticket.delete()


@contextmanager
def attacker(root: Path, outside: Path) -> Iterator[None]:
    """Swaps ``docs`` for a link to the outside and back, as fast as it can."""
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (root / "docs").rename(root / "kept")
            (root / "docs").symlink_to(outside)
            (root / "docs").unlink()
            (root / "kept").rename(root / "docs")

    thread = threading.Thread(target=swap)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()


@pytest.mark.parametrize("access", [Access.WRITE, Access.DELETE, Access.READ])
def test_a_live_attacker_gets_nothing_outside(tmp_path: Path, access: Access) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "docs").mkdir(parents=True)
    outside.mkdir()
    (outside / "f").write_bytes(SECRET)
    (root / "docs/f").write_bytes(b"inside")
    envelope = Envelope(allowed_paths=["docs/**"])
    outcomes: Counter[str] = Counter()
    with EnvelopeEnforcer(root) as enforcer, attacker(root, outside):
        for turn in range(ROUNDS or 2000):
            outcomes[attempt(enforcer, access, envelope)] += 1
            if not ROUNDS and turn >= 150 and outcomes["OK"] and len(outcomes) > 1:
                break  # both the quiet and the disturbed case were seen
    print(f"\n{access.value}: {outcomes.total()} racing opens, none outside: {dict(outcomes)}")
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("f", SECRET)]
    assert outcomes.keys() <= {
        "OK",
        "PATH_RACE",
        "PATH_SYMLINK",
        "PATH_PARENT_MISSING",
        "PATH_MISSING",
        "PATH_IO",
        "PATH_NOT_DIRECTORY",
    }


def attempt(enforcer: EnvelopeEnforcer, access: Access, envelope: Envelope) -> str:
    try:
        with enforcer.authorize("docs/f", access, envelope) as ticket:
            if access is Access.WRITE:
                ticket.write(b"mine")
            elif access is Access.DELETE:
                ticket.delete()
            else:
                assert ticket.read(100)[0] != SECRET
    except QuarterdeckError as error:
        return error.code
    return "OK"
