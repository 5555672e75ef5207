"""Git under our rules: parsing, sanitising, limits, refusals (operations spec §3.2, rulings R49, relaxation 4)."""

from __future__ import annotations

import asyncio
import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessResult, ProcessSpec
from runtime.orchestration import git as git_module
from runtime.orchestration.git import Git, find_toplevel, git_folders, read_operator_settings
from runtime.orchestration.git_config import GitSettings, operator_files, parse_config, report, settings_from
from runtime.orchestration.git_parse import parse_index, parse_log, parse_numstat, parse_status
from runtime.orchestration.state_hash import workspace_fingerprint
from runtime.orchestration.tree_probe import workspace_state
from tests.support.plain_runner import PlainRunner
from tests.support.repositories import Commit, imported, repository, sh

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_one_call_answers_for_head_branch_and_changes(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"kept": "1", "edited": "1", "gone": "1", "staged": "1", "both": "1", "a b": "1"})
    (git.root / "edited").write_text("2")
    (git.root / "gone").unlink()
    for name in ("staged", "both"):
        (git.root / name).write_text("2")
    sh(git.root, "add", "staged", "both")
    (git.root / "both").write_text("3")
    (git.root / "new dir").mkdir()
    (git.root / "new dir/tab\tand\nfeed").write_text("x")
    snapshot = await git.snapshot()
    assert snapshot.head == sh(git.root, "rev-parse", "HEAD")
    assert snapshot.ref == "refs/heads/main"
    assert {line.path: line.index + line.worktree for line in snapshot.lines} == {
        "edited": " M",
        "gone": " D",
        "staged": "M ",
        "both": "MM",
        "new dir/tab\tand\nfeed": "??",
    }
    assert snapshot.staged == ("both", "staged")
    assert [line.path for line in await git.status()] == [line.path for line in snapshot.lines]
    assert await git.head() == snapshot.head


async def test_detached_and_unborn_heads(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    sh(git.root, "checkout", "-q", "--detach")
    assert (await git.snapshot()).ref is None
    (tmp_path / "new").mkdir()
    sh(tmp_path / "new", "init", "-q")
    assert await Git(tmp_path / "new", PlainRunner()).head() is None


async def test_the_kill_switch_and_our_own_folder_are_not_part_of_the_work(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    (git.root / "STOP_AUTONOMY").write_text("")
    (git.root / "state").mkdir()
    (git.root / "state/db").write_text("")
    (git.root / "stated").write_text("")
    git = Git(git.root, PlainRunner(), hidden=["state"])
    assert [line.path for line in await git.status()] == ["stated"]


async def test_add_commit_and_the_resets(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1", "b": "1", "gone": "1"})
    first = await git.resolve("HEAD")
    (git.root / "a").write_text("2")
    (git.root / "gone").unlink()
    (git.root / "b").write_text("2")
    (git.root / ":(glob)*").write_text("a name, not a pattern")
    await git.add(["a", "gone", ":(glob)*"])
    assert (await git.snapshot()).staged == (":(glob)*", "a", "gone")
    second = await git.commit("subject\n\nbody # kept\n", when=WHEN)
    assert await git.parents(second) == (first,)
    assert await git.message(second) == "subject\n\nbody # kept"
    assert (
        sh(git.root, "log", "-1", "--format=%an|%ae|%at|%cn")
        == f"Quarterdeck|quarterdeck@localhost|{int(WHEN.timestamp())}|Quarterdeck"
    )
    await git.reset_soft(first)
    assert (await git.head(), (await git.snapshot()).staged) == (first, (":(glob)*", "a", "gone"))
    await git.reset_paths(first, [":(glob)*", "a", "gone"])
    assert (await git.snapshot()).staged == ()
    await git.checkout(["a", "gone"])
    assert (git.root / "a").read_text() == "1"
    assert (git.root / "gone").exists()
    await git.reset_hard(first)
    assert (git.root / "b").read_text() == "1"


async def test_looking_at_differences_and_history(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1\n", "b": "1\n"})
    (git.root / "a").write_text("1\n2\n")
    (git.root / "b").write_bytes(b"\0\1")
    sh(git.root, "add", "b")
    assert b"+2" in await git.diff()
    assert await git.diff(["b"]) == b""
    assert await git.diff_stat() == ({"path": "a", "added": 1, "deleted": 0},)
    assert await git.diff_stat(staged=True) == ({"path": "b", "added": None, "deleted": None},)
    sh(git.root, "commit", "-q", "-m", "second: über")
    log = await git.log(limit=5)
    assert [entry["subject"] for entry in log] == ["second: über", "first"]
    assert log[0]["parents"] == [log[1]["commit"]]
    assert [entry["subject"] for entry in await git.log(paths=["a"])] == ["first"]
    assert await git.tracked(["a", "none", "."]) == {"a"}


async def test_history_of_a_range_with_everything_a_commit_may_hold(tmp_path: Path) -> None:
    odd = [
        Commit(message=b"first", tag=b"v1"),
        Commit(message=b"", author=b"Zo\xeb <zoe@example.org>"),
        Commit(message=b"caf\xe9 \xff", author=b"a\x1fb\x1fc <x\x1fy>"),
        Commit(message=b"s" * 2000 + b"\n\nbody\x00not read"),
        Commit(message=b"Merge it", merges=3, author=b"<none>"),
        Commit(message=b"last", tag=b"v2"),
    ]
    git = Git(imported(tmp_path / "r", odd), PlainRunner())
    log = await git.log(limit=100)
    assert [entry["subject"] for entry in log] == ["last", "Merge it", "s" * 499 + "…", "caf\ufffd \ufffd", "", "first"]
    assert [entry["author"] for entry in log] == ["Ada", "", "Ada", "a\x1fb\x1fc", "Zo\ufffd", "Ada"]
    assert log[1]["parents"] == [log[2]["commit"], log[4]["commit"]]
    assert [entry["at"] for entry in log] == [1_700_000_000 + 60 * number for number in range(6, 0, -1)]
    assert [
        len(await git.log(limit=100, **asked)) for asked in ({"since": "v1"}, {"since": "v1", "until": "v2~1"})
    ] == [5, 4]
    assert await git.log(limit=100, since="v2") == ()
    sh(tmp_path, "clone", "-q", "--depth", "2", f"file://{git.root}", "shallow")
    shallow = Git(tmp_path / "shallow", PlainRunner())
    # The parents of the merge the clone ends with are cut off, and so is its mark of being one.
    assert [entry["subject"] for entry in await shallow.log(limit=100)] == ["last", "Merge it"]
    for revision in ("v1", "nope", "v1..v2", "--all", "HEAD --all", "", "v2\nv1"):
        with pytest.raises(Refused, match="GIT_REVISION"):
            await shallow.log(since=revision)


async def test_hidden_bits_and_the_staged_listing(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1", "b": "1", "c": "1"})
    plain = await git.ls_files()
    sh(git.root, "update-index", "--assume-unchanged", "a")
    sh(git.root, "update-index", "--skip-worktree", "b")
    index = await git.ls_files()
    assert (index.assumed, index.skipped, index.flags) == (("a",), ("b",), ("a", "b"))
    assert (index.sha256, index.paths) == (plain.sha256, ("a", "b", "c"))
    (git.root / "c").write_text("2")
    sh(git.root, "add", "c")
    assert (await git.ls_files()).sha256 != plain.sha256


async def test_the_fingerprint_of_a_repository(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"a": "1", "b": "1"})
    clean = await workspace_fingerprint(git.root, git)
    assert clean.clean
    assert clean.head == await git.head()
    (git.root / "a").write_text("2")
    edited = await workspace_fingerprint(git.root, git)
    await git.add(["a"])
    staged = await workspace_fingerprint(git.root, git)
    await git.commit("x")
    committed = await workspace_fingerprint(git.root, git)
    assert len({clean.digest, edited.digest, staged.digest, committed.digest}) == 4
    looks = [workspace_state(look) for look in (clean, edited, staged, committed)]
    assert [first.changed(second) for first, second in itertools.pairwise(looks)] == [("a",)] * 3
    assert (await workspace_fingerprint(git.root, git)).digest == committed.digest


async def test_a_repository_inside_the_repository_is_one_folder_entry(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    repository(git.root / "inner", {"x": "1"})
    print_ = await workspace_fingerprint(git.root, git)
    assert set(print_.worktree) == {"inner", "inner/x"}


async def test_nothing_is_inherited_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git, other = repository(tmp_path / "r"), repository(tmp_path / "other", {"z": "1"})
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    assert (await git.ls_files()).paths == ("a.txt",)
    runner = PlainRunner()
    await Git(git.root, runner).status()
    for spec in runner.specs:
        assert not [name for name in spec.env if name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")]
        assert spec.timeout == 30
        assert not spec.hosts


@pytest.mark.parametrize(
    "key",
    [
        "core.fsmonitor",
        "filter.x.clean",
        "filter.x.process",
        "diff.external",
        "diff.x.textconv",
        "merge.x.driver",
        "core.sshCommand",
    ],
)
async def test_a_configuration_that_runs_programs_is_refused_and_not_run(tmp_path: Path, key: str) -> None:
    git = repository(tmp_path / "r")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o755)
    sh(git.root, "config", key, str(script))
    with pytest.raises(Refused, match="GIT_UNSAFE_CONFIG"):
        await git.status()
    assert not (tmp_path / "ran").exists()
    digest = (await git.local_config()).digest
    accepting = Git(git.root, PlainRunner(), accepted=[digest])
    await accepting.status()
    sh(git.root, "config", "diff.y.command", "also")
    with pytest.raises(Refused, match="GIT_UNSAFE_CONFIG"):
        await accepting.status()


async def test_hooks_and_editors_are_neutralised_and_noted(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    names = ("pre-commit", "post-commit", "post-checkout", "reference-transaction")
    for hook in (git.root / folder / name for folder in (".git/hooks", "hooks") for name in names):
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        hook.chmod(0o755)
    await git.add(["hooks/pre-commit"])
    await git.commit("x")
    sh(git.root, "config", "core.hooksPath", "hooks")
    sh(git.root, "config", "core.editor", "false")
    await git.add(["hooks/post-commit"])
    await git.commit("y")
    assert not (tmp_path / "ran").exists()
    assert (await git.local_config()).notes == ("core.editor", "core.hookspath")


async def test_an_included_configuration_is_judged_every_time(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    sh(git.root, "config", "include.path", "../shared.config")
    (git.root / "shared.config").write_text("[color]\n ui = false\n")
    await git.status()
    (git.root / "shared.config").write_text("[diff]\n external = evil\n")
    with pytest.raises(Refused, match="GIT_UNSAFE_CONFIG"):
        await git.status()


async def test_missing_git_and_failing_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = repository(tmp_path / "r")
    with pytest.raises(Refused) as caught:
        await git.add(["none"])
    assert caught.value.code == "GIT_FAILED"
    assert "none" in caught.value.message
    with pytest.raises(Refused, match="GIT_FAILED"):
        await git.commit("nothing staged")
    with pytest.raises(Refused, match="GIT_MESSAGE"):
        await git.commit("bell \a")
    with pytest.raises(Refused, match="GIT_FAILED"):
        await git.reset_hard("HEAD~1")
    gone = Git(git.root, PlainRunner(), git_path="/nonexistent/git")
    assert not await gone.available()
    with pytest.raises(Refused, match="GIT_MISSING"):
        await gone.tree_facts()
    with pytest.raises(Refused, match="GIT_MISSING"):
        await gone.status()
    monkeypatch.setattr(git_module, "find_git", lambda: None)
    with pytest.raises(Refused, match="GIT_MISSING"):
        await Git(git.root, PlainRunner()).status()
    assert await git.available()


class _Killed(PlainRunner):
    """A runner whose writes leave the index lock behind, as a killed git does."""

    cancel = False

    async def run(self, spec: ProcessSpec, on_output: object = None) -> ProcessResult:
        result = await super().run(spec)
        if "add" not in spec.argv:
            return result
        (spec.root / ".git/index.lock").write_text("")
        if self.cancel:
            raise asyncio.CancelledError
        return ProcessResult(
            exit_code=-9,
            stdout=b"",
            stderr=b"",
            stdout_bytes=0,
            stderr_bytes=0,
            stdout_sha256="",
            stderr_sha256="",
            timed_out=True,
            duration=30,
            tier="D",
        )


async def test_a_killed_write_leaves_no_lock_of_ours_and_spares_foreign_ones(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    runner = _Killed()
    stopped = Git(git.root, runner)
    with pytest.raises(Refused, match="30 seconds"):
        await stopped.add(["a.txt"])
    assert not (git.root / ".git/index.lock").exists()
    runner.cancel = True
    with pytest.raises(asyncio.CancelledError):
        await stopped.add(["a.txt"])
    assert not (git.root / ".git/index.lock").exists()
    (git.root / ".git/index.lock").write_text("another git")
    with pytest.raises(Refused, match="GIT_FAILED"):
        await git.add(["a.txt"])
    assert (git.root / ".git/index.lock").exists()


async def test_only_writes_may_write_and_only_where_needed(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"d/a": "1"})
    runner = PlainRunner()
    watched = Git(git.root, runner)
    (git.root / "d/a").write_text("2")
    await watched.status()
    assert all(not spec.writable for spec in runner.specs)
    runner.specs.clear()
    await watched.add(["d/a"])
    await watched.checkout(["d/a"])
    assert [list(spec.writable) for spec in runner.specs] == [
        [git.root / ".git"],
        [git.root / ".git", git.root / "d"],
    ]


async def test_linked_work_trees_share_their_repository(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    await git.worktree_add(tmp_path / "wt", str(await git.head()))
    linked = Git(tmp_path / "wt", PlainRunner())
    folders = git_folders(tmp_path / "wt")
    assert folders is not None
    assert folders.common == git.root / ".git"
    (tmp_path / "wt/a.txt").write_text("changed")
    await linked.add(["a.txt"])
    await linked.commit("in the linked tree")
    assert (await linked.snapshot()).ref is None
    assert (await git.snapshot()).lines == ()
    assert await linked.toplevel() == tmp_path / "wt"


def test_the_top_level_is_found_by_looking(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"sub/deep/a": "1"})
    assert find_toplevel(git.root / "sub/deep") == git.root
    (tmp_path / "fake/.git").mkdir(parents=True)
    assert find_toplevel(tmp_path / "fake") is None
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/.git").write_text("nonsense")
    assert git_folders(tmp_path / "odd") is None


async def test_git_looks_for_no_repository_above(tmp_path: Path) -> None:
    git = repository(tmp_path / "r", {"sub/a": "1"})
    with pytest.raises(Refused, match="GIT_FAILED"):
        await Git(git.root / "sub", PlainRunner()).status()


async def test_the_operators_values_are_read_once_and_passed_on(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("*.log\n")
    (home / ".gitconfig").write_text("[user]\n name = Ada\n email = ada@example.org\n[core]\n autocrlf = input\n")
    environ = {"HOME": str(home), "GIT_DIR": "/elsewhere", "PATH": os.environ["PATH"]}
    settings = await read_operator_settings(PlainRunner(), git.root, environ)
    assert settings == GitSettings(
        name="Ada", email="ada@example.org", excludes_file=str(home / ".config/git/ignore"), autocrlf="input"
    )
    assert operator_files(environ) == (home / ".gitconfig", home / ".config/git")
    sh(git.root, "config", "user.name", "Project Ada")
    assert (await read_operator_settings(PlainRunner(), git.root, environ)).name == "Project Ada"
    (git.root / "x.log").write_text("")
    (git.root / "crlf").write_bytes(b"a\r\n")
    configured = Git(git.root, PlainRunner(), settings=settings)
    assert [line.path for line in await configured.status()] == ["crlf"]
    await configured.add(["crlf"])
    commit = await configured.commit("by the operator")
    assert sh(git.root, "show", "-s", "--format=%an %ae", commit) == "Ada ada@example.org"
    assert sh(git.root, "cat-file", "-s", "HEAD:crlf") == "2"


async def test_without_any_configuration_commits_still_have_an_author(tmp_path: Path) -> None:
    git = repository(tmp_path / "r")
    settings = await read_operator_settings(PlainRunner(), git.root, {"HOME": str(tmp_path)})
    assert settings.name
    assert settings.excludes_file is None


def test_personal_ignore_paths_are_expanded() -> None:
    triples = [("global", "core.excludesfile", "~/mine"), ("global", "user.name", "")]
    settings = settings_from(triples, {"HOME": "/home/ada"})
    assert (settings.excludes_file, settings.name) == ("/home/ada/mine", "Quarterdeck")


def test_configuration_without_value_and_boolean_monitors() -> None:
    assert parse_config(b"local\0a.b\0local\0c.d\nx\ny\0") == [("local", "a.b", "true"), ("local", "c.d", "x\ny")]
    assert report([("local", "core.fsmonitor", "true"), ("global", "diff.external", "x")]).unsafe == ()
    assert report([("worktree", "core.fsmonitor", "/bin/x")]).unsafe == ("core.fsmonitor",)


@pytest.mark.parametrize(
    ("parse", "output"),
    [
        (parse_status, b"9 what is this\0"),
        (parse_status, b"1 M. N... 100644\0"),
        (parse_index, b"H100644\0"),
        (parse_numstat, b"1 2 a\0"),
        (parse_log, b"abc\0"),
    ],
)
def test_output_that_is_not_understood_is_a_failure(parse, output: bytes) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Refused, match="GIT_FAILED"):
        parse(output)


def test_conflicts_renames_and_odd_names_are_read() -> None:
    status = parse_status(
        b"# branch.oid (initial)\0# branch.head (detached)\0"
        b"u UU N... 100644 100644 100644 100644 h1 h2 h3 a b\0"
        b"2 R. N... 100644 100644 100644 h1 h2 R100 new\0old\0? \xff\0"
    )
    assert (status.head, status.ref) == (None, None)
    assert [(line.path, line.index, line.worktree) for line in status.lines] == [
        ("a b", "U", "U"),
        ("new", "R", " "),
        ("old", "D", " "),
        (os.fsdecode(b"\xff"), "?", "?"),
    ]
    assert status.staged == ("a b", "new", "old")


async def test_output_too_long_to_keep_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = repository(tmp_path / "r", {f"f{number}": "1" for number in range(20)})
    monkeypatch.setattr(git_module, "LISTING_CAP", 100)
    with pytest.raises(Refused, match="more than can be kept"):
        await git.ls_files()
    with pytest.raises(Refused, match="more than can be kept"):
        await git.tree_facts()
