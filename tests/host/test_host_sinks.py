"""Where copies of checkpoints go: append-only, forward only, and never believed beyond what they hold."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime.host.api import Health, RunStatus
from runtime.host.evidence_file import load_evidence
from runtime.host.evidence_report import evidence_checks
from runtime.host.programs import supervised
from runtime.host.sinks.anchor_log import AnchorLogSink
from runtime.host.sinks.command import CommandSink
from runtime.host.sinks.files import FileSink
from runtime.host.sinks.git import GitSink
from runtime.host.sinks.port import Offer, Sink, load_sinks
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import Refused
from runtime.kernel.model import Effect, OperationPlan
from runtime.orchestration.anchors import Witness, read_anchors, with_trailer
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey, read_note, signed_note
from runtime.orchestration.handlers.git_tools import GitCommit
from runtime.orchestration.merkle import leaf_hash, root_of
from runtime.storage.layout import StateDir
from tests.support.hosting import hosting, plain, run_to_end, write_mission
from tests.support.journals import RECIPE
from tests.support.repositories import repository
from tests.support.signers import notes_of

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey("quarterdeck", SECRET.public_key().public_bytes_raw())
JOURNAL = "00000000-0000-4000-8000-000000000001"
LEAVES = [leaf_hash(bytes([number])) for number in range(9)]
OTHERS = [leaf_hash(bytes([number, 0])) for number in range(9)]
AT = "2026-01-01T00:00:00.000000Z"
GIT = shutil.which("git") or "git"


def offer(size: int, leaves: list[bytes] = LEAVES, *, generation: int = 1) -> Offer:
    checkpoint = Checkpoint(JOURNAL, size, root_of(leaves[:size]), generation)
    head = f"sha256:{leaves[size - 1].hex()}"
    return Offer(note=read_note(signed_note(checkpoint, KEY, SECRET.sign)), head=head, recipe=RECIPE, at=AT)


async def continues(size: int) -> bytes | None:
    return root_of(LEAVES[:size]) if size <= len(LEAVES) else None


async def other_history(size: int) -> bytes | None:
    return root_of(OTHERS[:size])


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([GIT, "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


def a_file(folder: Path) -> Sink:
    return FileSink(folder)


def a_repository(folder: Path) -> Sink:
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet")
    return GitSink(folder, "refs/notes/quarterdeck", supervised(SystemClock()))


def a_program(folder: Path) -> Sink:
    """Keeps the newest note in a file named like its origin."""
    keep, tell = folder / "keep.sh", folder / "tell.sh"
    keep.write_text(f"#!/bin/sh\ncat > {folder}/new\nmv {folder}/new {folder}/$(head -n1 {folder}/new | tr / _)\n")
    tell.write_text(f'#!/bin/sh\nname=$(echo "$1" | tr / _)\nif [ -f {folder}/$name ]; then cat {folder}/$name; fi\n')
    for script in (keep, tell):
        script.chmod(0o700)
    return CommandSink((str(keep),), (str(tell),), supervised(SystemClock()), folder)


Build = Callable[[Path], Sink]
NOTED = [a_file, a_repository, a_program]


@pytest.mark.parametrize("build", NOTED)
async def test_a_sink_goes_forward_and_never_back(build: Build, tmp_path: Path) -> None:
    sink = build(tmp_path)
    origin = offer(3).note.checkpoint.origin
    assert await sink.newest(origin) is None
    await sink.offer(offer(3), continues)
    await sink.offer(offer(3), continues)  # the same again is no news, and no trouble
    await sink.offer(offer(5), continues)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await sink.offer(offer(4), continues)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await sink.offer(offer(5, OTHERS), other_history)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await sink.offer(offer(7, OTHERS), other_history)
    assert await build(tmp_path).newest(origin) == offer(5).note


@pytest.mark.parametrize("build", NOTED)
async def test_a_later_generation_begins_again_and_an_earlier_one_never_does(build: Build, tmp_path: Path) -> None:
    sink = build(tmp_path)
    await sink.offer(offer(5), continues)
    later = offer(2, OTHERS, generation=2)
    await sink.offer(later, other_history)
    assert await sink.newest(later.note.checkpoint.origin) == later.note
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await build(tmp_path).offer(offer(7), continues)


async def test_a_file_keeps_every_note_and_sets_a_torn_one_aside(tmp_path: Path) -> None:
    sink = FileSink(tmp_path)
    await sink.offer(offer(3), continues)
    path = tmp_path / f"{JOURNAL}.checkpoints"
    whole = path.read_bytes()
    path.write_bytes(whole + offer(4).note.data[:-9])
    assert await sink.newest(offer(3).note.checkpoint.origin) == offer(3).note
    await sink.offer(offer(5), continues)
    assert path.read_bytes() == whole + offer(5).note.data + b"\n"
    (side,) = tmp_path.glob("*.torn-*")
    assert side.read_bytes() == offer(4).note.data[:-9]


@pytest.mark.parametrize("content", [b"garbage\n\nmore\n\n", b"quarterdeck/x\n1\nAA==\n\n\xe2\x80\x94 a b\n\n"])
async def test_a_file_with_other_content_is_trouble_not_evidence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{JOURNAL}.checkpoints").write_bytes(content)
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await FileSink(tmp_path).offer(offer(3), continues)
    assert (tmp_path / f"{JOURNAL}.checkpoints").read_bytes() == content


async def test_what_is_no_file_neither_hangs_nor_is_written_through(tmp_path: Path) -> None:
    path = tmp_path / f"{JOURNAL}.checkpoints"
    os.mkfifo(path)
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await FileSink(tmp_path).offer(offer(3), continues)
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await FileSink(tmp_path).offer(offer(3), continues)
    assert not (tmp_path / "mine").exists()


async def test_who_comes_while_a_sink_is_asked_waits_for_it(tmp_path: Path) -> None:
    sink, begun, go = FileSink(tmp_path), threading.Event(), threading.Event()
    first = asyncio.ensure_future(sink._hand.do(lambda: (begun.set(), go.wait(5))))
    await asyncio.to_thread(begun.wait, 5)
    second = asyncio.ensure_future(sink.newest(offer(3).note.checkpoint.origin))
    await asyncio.sleep(0)
    go.set()
    await first
    assert await second is None


async def test_a_folder_that_is_not_mounted_is_trouble(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await FileSink(tmp_path / "gone").offer(offer(3), continues)
    assert not (tmp_path / "gone").exists()


async def test_git_keeps_a_chain_and_touches_neither_tree_nor_index(tmp_path: Path) -> None:
    sink = a_repository(tmp_path)
    (tmp_path / "work").write_text("mine")
    git(tmp_path, "config", "core.hooksPath", str(tmp_path / "hooks"))
    for size in (3, 5, 9):
        await sink.offer(offer(size), continues)
    commits = git(tmp_path, "rev-list", "refs/notes/quarterdeck").split()
    notes = [git(tmp_path, "cat-file", "blob", f"{commit}:{JOURNAL}") for commit in reversed(commits)]
    assert [note.encode() for note in notes] == [offer(size).note.data for size in (3, 5, 9)]
    assert git(tmp_path, "status", "--porcelain") == "?? work\n"


async def test_git_takes_the_repository_named_and_no_other(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "-b", "main")
    (tmp_path / "sub").mkdir()
    below = GitSink(tmp_path / "sub", "refs/notes/quarterdeck", supervised(SystemClock()))
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await below.offer(offer(3), continues)
    assert git(tmp_path, "for-each-ref") == ""


async def test_git_follows_no_ref_to_a_branch(tmp_path: Path) -> None:
    sink = a_repository(tmp_path)
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "start")
    before = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "symbolic-ref", "refs/notes/quarterdeck", "HEAD")
    await sink.offer(offer(3), continues)
    assert git(tmp_path, "rev-parse", "HEAD") == before


async def test_git_with_other_hashes_and_without_a_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "--object-format=sha256")
    sink = GitSink(tmp_path, "refs/notes/quarterdeck", supervised(SystemClock()))
    for size in (3, 5):
        await sink.offer(offer(size), continues)
    assert await sink.newest(offer(5).note.checkpoint.origin) == offer(5).note


async def test_programs_that_fail_or_lie_are_trouble(tmp_path: Path) -> None:
    runner = supervised(SystemClock())
    fails = CommandSink(("/bin/false",), (), runner, tmp_path)
    with pytest.raises(Refused, match="SINK_FAILED"):
        await fails.offer(offer(3), continues)
    lies = CommandSink(("/bin/true",), ("/bin/echo", "no note"), runner, tmp_path)
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await lies.offer(offer(3), continues)


def anchors(folder: Path) -> AnchorLogSink:
    key = folder / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return AnchorLogSink(folder / "anchors.jsonl", key)


def anchored(folder: Path) -> list[int]:
    read = read_anchors((folder / "anchors.jsonl").read_bytes(), bytes(range(32)))
    assert not read.problems
    return [record["seq"] for record in read.records]


async def test_an_anchor_log_sets_a_torn_record_aside(tmp_path: Path) -> None:
    await anchors(tmp_path).offer(offer(3), continues)
    with (tmp_path / "anchors.jsonl").open("ab") as file:
        file.write(b'{"schema":"anch')
    assert await anchors(tmp_path).anchored(JOURNAL) == 3
    await anchors(tmp_path).offer(offer(5), continues)
    assert anchored(tmp_path) == [2, 4]
    (side,) = tmp_path.glob("*.torn-*")
    assert side.read_bytes() == b'{"schema":"anch'


async def test_an_anchor_log_begins_again_once_for_a_later_generation(tmp_path: Path) -> None:
    await anchors(tmp_path).offer(offer(5), continues)
    for _ in range(2):
        await anchors(tmp_path).offer(offer(4, OTHERS, generation=2), other_history)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await anchors(tmp_path).offer(offer(2, OTHERS, generation=2), other_history)
    assert anchored(tmp_path) == [4, 3]


async def test_an_anchor_log_refuses_a_fork_of_what_it_was_told(tmp_path: Path) -> None:
    sink = anchors(tmp_path)
    await sink.offer(offer(5), continues)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await sink.offer(offer(7, OTHERS), other_history)


async def test_an_anchor_log_is_a_chain_by_its_key(tmp_path: Path) -> None:
    sink, key, log = anchors(tmp_path), tmp_path / "key", tmp_path / "anchors.jsonl"
    for size in (3, 5, 5):
        await sink.offer(offer(size), continues)
    with pytest.raises(Refused, match="SINK_BACKWARDS"):
        await sink.offer(offer(4), continues)
    read = read_anchors(log.read_bytes(), bytes(range(32)))
    assert (read.problems, [record["seq"] for record in read.records]) == ((), [2, 4])
    log.write_bytes(log.read_bytes().replace(b'"seq":2', b'"seq":1'))
    with pytest.raises(Refused, match="SINK_TROUBLE"):
        await sink.offer(offer(7), continues)
    key.chmod(0o644)
    with pytest.raises(Refused, match="KEY_PERMISSIONS"):
        await sink.offer(offer(7), continues)


# -- the file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("sinks:\n  - {file: here}\n", "2:5"),
        ("sinks:\n  - {file: /a, git: /b}\n", "2:5"),
        ("sinks:\n  - {anchors: /a}\n", "2:5"),
        ("sinks:\n  - {git: /a, ref: refs/heads/main}\n", "2:"),
        ("signer: {command: [/bin/true], key: nonsense}\n", "1:"),
        ("sink: []\n", "1:1"),
        ("sinks: [\n", "2:1"),
        ("sinks: []\n---\nsinks: []\n", "2:1"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str) -> None:
    state = StateDir(tmp_path)
    state.evidence.write_text(text)
    with pytest.raises(Refused, match="EVIDENCE_INVALID") as caught:
        load_evidence(state)
    assert f"evidence.yaml:{place}" in (caught.value.where or "")


def test_a_file_others_may_write_names_no_programs(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.evidence.write_text("trailer: true\n")
    state.evidence.chmod(0o620)
    with pytest.raises(Refused, match="EVIDENCE_INVALID") as caught:
        load_evidence(state)
    assert "chmod 600" in (caught.value.hint or "")


async def test_sinks_named_while_the_store_is_held_are_not_ignored(tmp_path: Path) -> None:
    mission = plain(tmp_path / "m", "  said: {type: template, template: done}")
    state, folder = StateDir(tmp_path / "store"), tmp_path / "witness"
    folder.mkdir()
    async with hosting(state.root) as host:
        state.evidence.write_text("trailer: true\n")
        assert (await run_to_end(host, mission)).status is RunStatus.SUCCEEDED
        state.evidence.write_text(f"sinks:\n  - {{file: {folder}}}\n")
        refused = await run_to_end(host, mission)
        assert (refused.status, refused.code) == (RunStatus.REFUSED, "EVIDENCE_CHANGED")
    async with hosting(state.root) as host:
        run = await run_to_end(host, mission)
    assert (folder / f"{run.run_id}.checkpoints").exists()


async def test_doctor_looks_before_there_is_a_store(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "store")
    state.create()
    state.evidence.write_text("sinks:\n  - {file: /nowhere}\n  - {anchors: /nowhere/log, key: /nowhere/key}\n")
    checks = await evidence_checks(state)
    assert [check.name for check in checks] == ["signing key", "evidence file", "sink", "sink"]
    assert [check.status for check in checks] == [Health.OK, Health.OK, Health.FAIL, Health.FAIL]


def test_without_a_file_there_is_nothing(tmp_path: Path) -> None:
    assert load_sinks(StateDir(tmp_path)) == ()
    assert not load_evidence(StateDir(tmp_path)).trailer


async def test_a_wrong_file_refuses_launches_until_it_is_right(tmp_path: Path) -> None:
    mission = plain(tmp_path / "m", "  said: {type: template, template: done}")
    async with hosting(tmp_path / "store") as host:
        (tmp_path / "store" / "evidence.yaml").write_text("sinks: 7\n")
        refused = await run_to_end(host, mission)
        assert (refused.status, refused.code) == (RunStatus.REFUSED, "EVIDENCE_INVALID")
        (tmp_path / "store" / "evidence.yaml").unlink()
        assert (await run_to_end(host, mission)).status is RunStatus.SUCCEEDED


# -- together -----------------------------------------------------------------------------------------------------------


async def test_a_run_leaves_its_end_in_every_sink(tmp_path: Path) -> None:
    folder, repository = tmp_path / "witness", tmp_path / "repository"
    for place in (folder, repository):
        place.mkdir()
    git(repository, "init", "--quiet")
    key = tmp_path / "anchor.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    state = StateDir(tmp_path / "store")
    state.create()
    anchors = folder / "anchors.jsonl"
    state.evidence.write_text(
        f"sinks:\n  - {{file: {folder}}}\n  - {{git: {repository}}}\n  - {{anchors: {anchors}, key: {key}}}\n"
    )
    async with hosting(state.root) as host:
        run = await run_to_end(host, plain(tmp_path / "m", "  said: {type: template, template: done}"))
        (*_, newest) = await notes_of(host, run.run_id)
    for sink in load_sinks(state)[:2]:
        assert await sink.newest(newest.checkpoint.origin) == newest
    (*_, last) = read_anchors(anchors.read_bytes(), key.read_bytes()).of(run.run_id)
    assert (last["seq"], last["entry_hash"], last["final"]) == (run.entries - 1, run.head_hash, True)
    checks = await evidence_checks(state)
    assert [check.name for check in checks] == ["signing key", "evidence file", "sink", "sink", "sink"]
    assert {check.status for check in checks[2:]} == {Health.WARN}  # all on one disk here


COMMITS = """\
mission: commits
version: "1"
workspace: {root: "${inputs.root}"}
inputs: {root: {type: string}}
envelope: {allowed_paths: ["notes.txt"], allowed_tools: [filesystem.write_file, git.add, git.commit]}
sandbox: {confinement: best_effort}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: notes.txt, content: "x"}
  stage: {type: tool_invoke, tool: git.add, paths: [notes.txt]}
  commit: {type: tool_invoke, tool: git.commit, message: "Note"}
links: [write -> stage -> commit]
outputs: {commit: "${outputs.commit.commit}"}
"""


async def test_commits_name_their_journal_where_the_operator_wants_it(tmp_path: Path) -> None:
    from runtime.host.api import Launch, Replay

    root = tmp_path / "tree"
    root.mkdir()
    git(root, "init", "--quiet")
    git(root, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "start")
    git(root, "config", "user.name", "A")
    git(root, "config", "user.email", "a@b")
    state = StateDir(tmp_path / "store")
    state.create()
    state.evidence.write_text("trailer: true\n")
    path = write_mission(tmp_path / "m", COMMITS)
    async with hosting(state.root) as host:
        run = await host.launch(Launch(path=path, inputs={"root": str(root)}, unattended=True))
        done = await host.wait(run.run_id)
        assert done.status is RunStatus.SUCCEEDED, done
        trailer = git(root, "log", "-1", "--format=%(trailers:key=Mission-Journal,valueonly)").strip()
        seen = Witness.parse(trailer)
        (entry,) = await host.entries(run.run_id, after=seen.seq - 1, limit=1)
        assert (seen.journal_id, seen.entry_hash) == (run.run_id, entry.entry_hash)
        report = await host.replay(Replay(run_id=run.run_id))
        assert report.comparison.equivalent, report


@pytest.mark.parametrize("message", ["Note", "Note\n\nSigned-off-by: A", "x" * 8192])
async def test_a_commit_with_its_trailer_is_found_again_after_a_crash(tmp_path: Path, message: str) -> None:
    repo = repository(tmp_path)
    parent = await repo.head()
    witness = Witness(JOURNAL, 7, f"sha256:{'0' * 64}").text
    commit = await repo.commit(with_trailer(message, witness), allow_empty=True)
    data = {"message": message, "staged": ["a.txt"], "parent": parent}
    handler = GitCommit(tmp_path, repo)
    found = await handler.recovered(OperationPlan(Effect.WRITE, (), tool="git.commit", data=data))
    assert found is not None
    assert found.output == {"commit": commit, "paths": ["a.txt"], "witness": witness}
    other = OperationPlan(Effect.WRITE, (), tool="git.commit", data={**data, "message": "Another"})
    assert await handler.recovered(other) is None
