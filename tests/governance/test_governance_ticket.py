"""A ticket touches exactly what was checked, once, atomically, or nothing (operations spec §8.5)."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.governance import path_io, path_ticket
from runtime.governance.envelope_enforcer import EnvelopeEnforcer
from runtime.governance.path_io import TEMPORARY_PREFIX
from runtime.governance.path_ticket import MAX_WRITE_BYTES, MISSING, ListEntry, PathTicket
from runtime.kernel.errors import ContractError, QuarterdeckError, Refused
from runtime.kernel.model import Access, Envelope, EnvelopeViolation

DOCS = Envelope(allowed_paths=["docs/"], denied_paths=["docs/secret/**", "docs/secret"])


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Scene:
    """A small tree, its enforcer, and a place outside that must stay as it is."""

    def __init__(self, top: Path) -> None:
        self.root, self.outside = top / "repo", top / "outside"
        (self.root / "docs/sub").mkdir(parents=True)
        (self.root / "docs/a.md").write_bytes(b"old")
        (self.root / "docs/a.md").chmod(0o640)
        self.outside.mkdir()
        self.enforcer = EnvelopeEnforcer(self.root)

    def ticket(self, path: str, access: Access, **options: Any) -> PathTicket:
        return self.enforcer.authorize(path, access, [DOCS], **options)

    def leftovers(self) -> list[str]:
        return [path.name for path in self.root.rglob(f"{TEMPORARY_PREFIX}*")]

    def swap(self, name: str, *, link: bool) -> None:
        """Put a link to the outside, or another directory, where a directory was."""
        (self.root / name).rename(self.root / "docs/moved")
        if link:
            (self.root / name).symlink_to(self.outside)
        else:
            (self.root / name).mkdir()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.enforcer.close()
    assert made.leftovers() == []


def code(use: Callable[..., object], *args: object) -> str:
    with pytest.raises(QuarterdeckError) as caught:
        use(*args)
    assert str(caught.value).find("/tmp") < 0
    return caught.value.code


# Reading and listing


def test_read(scene: Scene) -> None:
    (scene.root / "docs/big").write_bytes(b"0123456789")
    with scene.ticket("docs/big", Access.READ) as ticket:
        data, info = ticket.read(4)
    assert data == b"0123"
    assert (info.size, info.sha256, info.truncated, info.nlink) == (10, sha(b"0123456789"), True, 1)
    with scene.ticket("docs/big", Access.READ) as ticket:
        assert ticket.read(10) == (b"0123456789", ticket_stat(info))


def ticket_stat(info: path_ticket.FileStat) -> path_ticket.FileStat:
    return path_ticket.FileStat(size=info.size, mode=info.mode, nlink=1, sha256=info.sha256, truncated=False)


def test_no_digest_of_what_is_too_large(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_io, "MAX_DIGEST_BYTES", 2)
    with scene.ticket("docs/a.md", Access.READ) as ticket:
        data, info = ticket.read(100)
    assert (data, info.sha256, info.truncated) == (b"old", None, False)


def test_list(scene: Scene) -> None:
    (scene.root / "docs/sub/deep").mkdir()
    (scene.root / "docs/sub/deep/f").write_text("")
    (scene.root / "docs/secret").mkdir()
    (scene.root / "docs/secret/key").write_text("")
    (scene.root / "docs/module/.git").mkdir(parents=True)
    (scene.root / "docs/module/inner").write_text("")
    (scene.root / "docs/l").symlink_to(scene.outside)
    (scene.outside / "x").write_text("")
    os.mkfifo(scene.root / "docs/p")
    flat = [("a.md", "file"), ("l", "symlink"), ("module", "directory"), ("p", "other"), ("secret", "directory")]
    with scene.ticket("docs", Access.LIST) as ticket:
        listing = ticket.list()
    assert list(listing.entries) == [ListEntry(*pair) for pair in [*flat, ("sub", "directory")]]
    with scene.ticket("docs", Access.LIST) as ticket:
        names = [entry.path for entry in ticket.list(recursive=True).entries]
    assert names == ["a.md", "l", "module", "p", "secret", "sub", "sub/deep", "sub/deep/f"]


def test_list_is_bounded(scene: Scene) -> None:
    for number in range(5):
        (scene.root / f"docs/sub/{number}").write_text("")
    for limit, truncated in ((4, True), (5, False)):
        with scene.ticket("docs/sub", Access.LIST) as ticket:
            listing = ticket.list(recursive=True, max_entries=limit)
        assert (len(listing.entries), listing.truncated) == (limit, truncated)


# Writing


def test_create(scene: Scene) -> None:
    with scene.ticket("docs/new.md", Access.CREATE) as ticket:
        written = ticket.write(b"hello", expect_sha256=None)
    made = scene.root / "docs/new.md"
    assert made.read_bytes() == b"hello"
    assert stat.S_IMODE(made.stat().st_mode) == 0o644
    assert (written.size, written.sha256, written.created, written.mode) == (5, sha(b"hello"), True, 0o644)


def test_replace_keeps_the_mode_and_makes_a_new_object(scene: Scene) -> None:
    path = scene.root / "docs/a.md"
    before = path.stat()
    with scene.ticket("docs/a.md", Access.MODIFY) as ticket:
        written = ticket.write(b"new", expect_sha256=sha(b"old"))
    assert path.read_bytes() == b"new"
    assert not written.created
    assert path.stat().st_ino != before.st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with scene.ticket("docs/a.md", Access.WRITE) as ticket:
        ticket.write(b"newer", 0o755, MISSING)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_the_umask_does_not_matter(scene: Scene) -> None:
    old = os.umask(0o077)
    try:
        with scene.ticket("docs/new.md", Access.CREATE) as ticket:
            ticket.write(b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((scene.root / "docs/new.md").stat().st_mode) == 0o644


def test_conflicts_leave_the_file_unchanged(scene: Scene) -> None:
    path = scene.root / "docs/a.md"
    before = path.stat()
    for expected in (None, sha(b"stale"), "nonsense"):
        ticket = scene.ticket("docs/a.md", Access.WRITE)
        assert code(ticket.write, b"new", None, expected) == "TOOL_CONFLICT"
        ticket.close()
    for access in (Access.CREATE, Access.WRITE):
        ticket = scene.ticket("docs/none", access)
        assert code(ticket.write, b"new", None, sha(b"old")) == "TOOL_CONFLICT"
        ticket.close()
    deleting = scene.ticket("docs/a.md", Access.DELETE)
    assert code(deleting.delete, sha(b"stale")) == "TOOL_CONFLICT"
    deleting.close()
    assert path.read_bytes() == b"old"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not (scene.root / "docs/none").exists()


def test_created_parents(scene: Scene) -> None:
    with scene.ticket("docs/x/y/z.md", Access.CREATE, create_parents=True) as ticket:
        ticket.write(b"deep")
    assert (scene.root / "docs/x/y/z.md").read_bytes() == b"deep"
    with scene.ticket("docs/p/q", Access.CREATE, create_parents=True) as ticket:
        ticket.mkdir()
    assert (scene.root / "docs/p/q").is_dir()


def test_created_parents_go_again_when_writing_fails(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(path_ticket, "fill", full)
    ticket = scene.ticket("docs/x/y/z.md", Access.CREATE, create_parents=True)
    with pytest.raises(Refused) as caught:
        ticket.write(b"deep")
    ticket.close()
    assert caught.value.code == "OP_FAILED"
    assert "ENOSPC" in caught.value.message
    assert not (scene.root / "docs/x").exists()


def test_a_failed_replacement_leaves_the_old_content(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(path_ticket, "rename_within", failing)
    ticket = scene.ticket("docs/a.md", Access.MODIFY)
    assert code(ticket.write, b"new") == "OP_FAILED"
    ticket.close()
    assert (scene.root / "docs/a.md").read_bytes() == b"old"


def test_leftover_temporaries_do_not_block(scene: Scene) -> None:
    stem = TEMPORARY_PREFIX + hashlib.sha256(b"a.md").hexdigest()[:16]
    stale = scene.root / f"docs/{stem}-0.tmp"
    stale.symlink_to(scene.outside / "target")
    with scene.ticket("docs/a.md", Access.MODIFY) as ticket:
        ticket.write(b"new")
    assert (scene.root / "docs/a.md").read_bytes() == b"new"
    assert not (scene.outside / "target").exists()
    stale.unlink()


def test_size_limit(scene: Scene) -> None:
    ticket = scene.ticket("docs/a.md", Access.MODIFY)
    assert code(ticket.write, b"x" * (MAX_WRITE_BYTES + 1)) == "ENV_LIMIT"
    ticket.close()
    with scene.ticket("docs/a.md", Access.MODIFY) as ticket:
        assert ticket.write(b"x" * MAX_WRITE_BYTES).size == MAX_WRITE_BYTES


def test_works_where_exclusive_rename_does_not_exist(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_io, "_exclusive_rename", lambda *_: False)
    with scene.ticket("docs/new", Access.CREATE) as ticket:
        ticket.write(b"1")
    ticket = scene.ticket("docs/new2", Access.CREATE)
    monkeypatch.setattr(PathTicket, "_unchanged", lambda *_: (scene.root / "docs/new2").write_bytes(b"theirs"))
    assert code(ticket.write, b"mine") == "PATH_RACE"
    ticket.close()
    assert (scene.root / "docs/new2").read_bytes() == b"theirs"


# Deleting and making


def test_delete(scene: Scene) -> None:
    with scene.ticket("docs/a.md", Access.DELETE) as ticket:
        ticket.delete(sha(b"old"))
    assert not (scene.root / "docs/a.md").exists()
    with scene.ticket("docs/sub", Access.DELETE, directory=True) as ticket:
        ticket.delete()
    assert not (scene.root / "docs/sub").exists()


def test_delete_beside_another_spelling(scene: Scene) -> None:
    (scene.root / "docs/A.md").write_text("other")
    with scene.ticket("docs/a.md", Access.DELETE) as ticket:
        ticket.delete()
    assert [path.name for path in (scene.root / "docs").glob("*.md")] == ["A.md"]


def test_a_directory_that_is_not_empty_stays(scene: Scene) -> None:
    (scene.root / "docs/sub/f").write_text("")
    ticket = scene.ticket("docs/sub", Access.DELETE, directory=True)
    assert code(ticket.delete) == "OP_FAILED"
    ticket.close()
    assert (scene.root / "docs/sub/f").exists()


def test_mkdir(scene: Scene) -> None:
    with scene.ticket("docs/d", Access.CREATE) as ticket:
        ticket.mkdir()
    assert (scene.root / "docs/d").is_dir()


# Links themselves, for an undo


def test_a_link_is_deleted_and_made_without_being_followed(scene: Scene) -> None:
    (scene.outside / "kept").write_text("kept")
    for target in (os.fsencode(scene.outside / "kept"), os.fsencode(scene.outside), b"no/\xff", b"l"):
        with scene.ticket("docs/l", Access.CREATE, link=True) as ticket:
            ticket.symlink(target)
        assert os.fsencode((scene.root / "docs/l").readlink()) == target
        with scene.ticket("docs/l", Access.DELETE, link=True) as ticket:
            ticket.delete()
        assert not os.path.lexists(scene.root / "docs/l")
    with scene.ticket("docs/n/m/l", Access.CREATE, link=True, create_parents=True) as ticket:
        ticket.symlink(b"x")
    assert (scene.root / "docs/n/m/l").is_symlink()
    assert [(path.name, path.read_text()) for path in scene.outside.iterdir()] == [("kept", "kept")]


@pytest.mark.parametrize(
    ("path", "access", "options", "expected"),
    [
        ("docs/l", Access.DELETE, {}, "PATH_SYMLINK"),
        ("docs/l", Access.DELETE, {"directory": True}, "PATH_SYMLINK"),
        *(("docs/l", access, {"link": True}, "PATH_SYMLINK") for access in (Access.READ, Access.MODIFY, Access.WRITE)),
        ("docs/l", Access.CREATE, {"link": True}, "PATH_EXISTS"),
        ("docs/a.md", Access.DELETE, {"link": True}, "PATH_NOT_LINK"),
        ("docs/sub", Access.DELETE, {"link": True, "directory": True}, "PATH_NOT_LINK"),
        ("docs/gone", Access.DELETE, {"link": True}, "PATH_MISSING"),
        ("docs/l/x", Access.DELETE, {"link": True}, "PATH_SYMLINK"),
        ("docs/l/n/x", Access.CREATE, {"link": True, "create_parents": True}, "PATH_SYMLINK"),
        ("docs/secret/l", Access.CREATE, {"link": True, "create_parents": True}, "POLICY_DENIED"),
        ("src/l", Access.CREATE, {"link": True}, "POLICY_NOT_ALLOWED"),
        ("docs/CLAUDE.md", Access.CREATE, {"link": True}, "SELFMOD_PROTECTED"),
    ],
)
@pytest.mark.parametrize("reject", [True, False])
def test_links_are_touched_only_by_who_says_so(
    scene: Scene, path: str, access: Access, options: dict[str, Any], expected: str, reject: bool
) -> None:
    (scene.root / "docs/l").symlink_to("sub")
    envelope = Envelope(allowed_paths=DOCS.allowed_paths, denied_paths=DOCS.denied_paths, reject_symlinks=reject)
    if not reject and "link" not in options:
        expected = "PATH_SYMLINK_WRITE"
    assert code(lambda: scene.enforcer.authorize(path, access, [envelope], **options)) == expected
    assert (scene.root / "docs/l").readlink() == Path("sub")


@pytest.mark.parametrize("change", ["target", "file", "gone", "parent"])
def test_a_link_changed_before_use(scene: Scene, change: str) -> None:
    link = scene.root / "docs/sub/l"
    link.symlink_to(scene.outside)
    ticket = scene.ticket("docs/sub/l", Access.DELETE, link=True)
    made = scene.ticket("docs/sub/n", Access.CREATE, link=True)
    if change == "parent":
        scene.swap("docs/sub", link=True)
        race(made.symlink, b"x")
    else:
        link.unlink()
    if change == "target":
        link.symlink_to(scene.root)
    elif change == "file":
        link.write_text("theirs")
    race(ticket.delete)
    assert os.path.lexists(link) is (change in ("target", "file"))
    assert list(scene.outside.iterdir()) == []
    for each in (ticket, made):
        each.close()


def test_the_name_of_a_new_link_was_taken(scene: Scene) -> None:
    with scene.ticket("docs/l", Access.CREATE, link=True) as ticket:
        (scene.root / "docs/l").symlink_to("theirs")
        race(ticket.symlink, b"mine")
    assert (scene.root / "docs/l").readlink() == Path("theirs")


def test_a_link_made_in_a_parent_that_was_swapped_goes_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.symlink

    def swapped(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        monkeypatch.setattr(os, "symlink", original)
        scene.swap("docs/sub", link=True)

    monkeypatch.setattr(os, "symlink", swapped)
    with scene.ticket("docs/sub/l", Access.CREATE, link=True) as ticket:
        race(ticket.symlink, b"x")
    assert list((scene.root / "docs/moved").iterdir()) == list(scene.outside.iterdir()) == []


# Single use


def test_tickets_are_used_once_and_for_what_they_were_granted(scene: Scene) -> None:
    ticket = scene.ticket("docs/a.md", Access.READ)
    ticket.read(1)
    assert code(ticket.read, 1) == "TICKET_MISUSE"
    ticket.close()
    ticket.close()
    closed = scene.ticket("docs/a.md", Access.READ)
    closed.close()
    assert code(closed.read, 1) == "TICKET_MISUSE"
    with scene.ticket("docs/l", Access.CREATE, link=True) as link:
        link.symlink(b"a.md")
    misused: list[tuple[str, Access, Callable[[PathTicket], object]]] = [
        ("docs/n", Access.CREATE, lambda ticket: ticket.write(b"")),
        ("docs/n", Access.CREATE, lambda ticket: ticket.mkdir()),
        ("docs/n", Access.WRITE, lambda ticket: ticket.symlink(b"x")),
        ("docs/n", Access.CREATE, lambda ticket: ticket.symlink(b"")),
        ("docs/n", Access.CREATE, lambda ticket: ticket.symlink(b"a\0b")),
        ("docs/l", Access.DELETE, lambda ticket: ticket.delete(sha(b"a.md"))),
    ]
    for path, access, use in misused:
        with scene.ticket(path, access, link=True) as ticket:
            assert code(use, ticket) == "TICKET_MISUSE"
    uses: list[tuple[Access, str, Callable[[PathTicket], object]]] = [
        (Access.CREATE, "docs/n", lambda ticket: ticket.symlink(b"x")),
        (Access.READ, "docs/a.md", lambda ticket: ticket.write(b"")),
        (Access.READ, "docs/a.md", lambda ticket: ticket.delete()),
        (Access.READ, "docs/a.md", lambda ticket: ticket.list()),
        (Access.MODIFY, "docs/a.md", lambda ticket: ticket.delete()),
        (Access.MODIFY, "docs/a.md", lambda ticket: ticket.read(1)),
        (Access.DELETE, "docs/a.md", lambda ticket: ticket.write(b"")),
        (Access.LIST, "docs", lambda ticket: ticket.read(1)),
        (Access.EXECUTE, "docs/a.md", lambda ticket: ticket.write(b"")),
        (Access.MODIFY, "docs/a.md", lambda ticket: ticket.write(b"", 0o4755)),
    ]
    for access, path, use in uses:
        with scene.ticket(path, access) as ticket:
            with pytest.raises(ContractError) as caught:
                use(ticket)
            assert caught.value.code == "TICKET_MISUSE"
    assert (scene.root / "docs/a.md").read_bytes() == b"old"


# Races between ticket and use


def race(use: Callable[..., object], *args: object) -> dict[str, Any]:
    with pytest.raises(EnvelopeViolation) as caught:
        use(*args)
    assert caught.value.code == "PATH_RACE"
    return dict(caught.value.result.evidence)


@pytest.mark.parametrize("target", ["directory", "gone", "file"])
def test_parent_swapped_before_use(scene: Scene, target: str) -> None:
    """Swapped for a link: see Tests 8."""
    (scene.root / "docs/sub/f").write_bytes(b"old")
    uses: list[tuple[str, Access, Callable[[PathTicket], object]]] = [
        ("docs/sub/new", Access.CREATE, lambda ticket: ticket.write(b"x")),
        ("docs/sub/f", Access.MODIFY, lambda ticket: ticket.write(b"x")),
        ("docs/sub/f", Access.READ, lambda ticket: ticket.read(10)),
        ("docs/sub/f", Access.DELETE, lambda ticket: ticket.delete()),
        ("docs/sub/d", Access.CREATE, lambda ticket: ticket.mkdir()),
    ]
    tickets = [(scene.ticket(path, access), use) for path, access, use in uses]
    (scene.root / "docs/sub").rename(scene.root / "docs/moved")
    if target == "directory":
        (scene.root / "docs/sub").mkdir()
        (scene.root / "docs/sub/f").write_bytes(b"old")
    elif target == "file":
        (scene.root / "docs/sub").write_text("")
    for ticket, use in tickets:
        race(use, ticket)
        ticket.close()
    assert list(scene.outside.iterdir()) == []
    assert [(path.name, path.read_bytes()) for path in (scene.root / "docs/moved").iterdir()] == [("f", b"old")]


@pytest.mark.parametrize("change", ["content", "replaced", "link", "gone", "hard link", "mode"])
def test_object_changed_before_use(scene: Scene, change: str) -> None:
    path = scene.root / "docs/a.md"
    accesses = {
        Access.READ: lambda ticket: ticket.read(10),
        Access.MODIFY: lambda ticket: ticket.write(b"mine"),
        Access.DELETE: lambda ticket: ticket.delete(),
    }
    tickets = [(scene.ticket("docs/a.md", access), use) for access, use in accesses.items()]
    if change == "content":
        path.write_bytes(b"theirs")
    elif change == "replaced":
        (scene.root / "docs/b").write_bytes(b"old")
        (scene.root / "docs/b").rename(path)
    elif change == "link":
        path.unlink()
        path.symlink_to(scene.outside / "x")
    elif change == "gone":
        path.unlink()
    elif change == "hard link":
        os.link(path, scene.outside / "other")
    elif change == "mode":
        path.chmod(0o4755)
    before = path.read_bytes() if path.exists() else None
    for ticket, use in tickets:
        race(use, ticket)
        ticket.close()
    assert (path.read_bytes() if path.exists() else None) == before


def test_absence_ended_before_use(scene: Scene) -> None:
    first, second = scene.ticket("docs/n", Access.CREATE), scene.ticket("docs/n", Access.CREATE)
    first.write(b"first")
    race(second.write, b"second")
    first.close()
    second.close()
    assert (scene.root / "docs/n").read_bytes() == b"first"


# Races during use: the swap happens inside the ticket's own steps


def swapping(scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str, *, after: bool, link: bool) -> None:
    """Let ``docs/sub`` be swapped right before or after ``path_ticket.<name>``."""
    original = getattr(path_ticket, name)

    def step(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(path_ticket, name, original)
        if not after:
            scene.swap("docs/sub", link=link)
        result = original(*args, **kwargs)
        if after:
            scene.swap("docs/sub", link=link)
        return result

    monkeypatch.setattr(path_ticket, name, step)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["fill", "rename_within"])
def test_parent_swapped_while_writing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: str, after: bool, link: bool
) -> None:
    ticket = scene.ticket("docs/sub/n", Access.CREATE)
    swapping(scene, monkeypatch, step, after=after, link=link)
    race(ticket.write, b"mine")
    ticket.close()
    assert list(scene.outside.iterdir()) == []
    assert list((scene.root / "docs/moved").iterdir()) == []
    assert link or list((scene.root / "docs/sub").iterdir()) == []


@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_object_replaced_right_after_writing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, theirs: bytes | None
) -> None:
    """Somebody else's object is reported, never removed."""
    original = path_ticket.rename_within

    def overtaken(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        (scene.root / "docs/n").unlink()
        if theirs is not None:
            (scene.root / "docs/n").write_bytes(theirs)

    monkeypatch.setattr(path_ticket, "rename_within", overtaken)
    ticket = scene.ticket("docs/n", Access.CREATE)
    race(ticket.write, b"mine")
    ticket.close()
    assert (scene.root / "docs/n").exists() is (theirs is not None)


def test_name_taken_while_writing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = path_ticket.rename_within

    def taken(parent: int, source: str, target: str, *, replace: bool) -> None:
        (scene.root / "docs/n").write_bytes(b"theirs")
        original(parent, source, target, replace=replace)

    monkeypatch.setattr(path_ticket, "rename_within", taken)
    ticket = scene.ticket("docs/n", Access.CREATE)
    race(ticket.write, b"mine")
    ticket.close()
    assert (scene.root / "docs/n").read_bytes() == b"theirs"


def test_object_changed_while_writing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = path_ticket.fill

    def edited(*args: Any) -> None:
        (scene.root / "docs/a.md").write_bytes(b"theirs")
        original(*args)

    monkeypatch.setattr(path_ticket, "fill", edited)
    ticket = scene.ticket("docs/a.md", Access.MODIFY)
    race(ticket.write, b"mine")
    ticket.close()
    assert (scene.root / "docs/a.md").read_bytes() == b"theirs"


def test_replaced_while_reading(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    original = path_ticket.slurp

    def growing(*args: Any) -> Any:
        result = original(*args)
        with (scene.root / "docs/a.md").open("ab") as file:
            file.write(b"more")
        return result

    monkeypatch.setattr(path_ticket, "slurp", growing)
    ticket = scene.ticket("docs/a.md", Access.READ)
    race(ticket.read, 10)
    ticket.close()
