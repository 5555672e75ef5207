"""Files move, missions rerun: once for what changed, never for what did not, and never for what a run did itself.

Real files and real notices. That nothing more happens is proven without waiting: a touch afterwards is heard after
everything before it, and shows among the ignored changes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.events.facts import RunSummary, WatchesChanged, WatchState
from runtime.host import watch_files, watches
from runtime.host.api import Answer, Launch, Refused, RunStatus, Watch
from runtime.host.opening import open_console_deck, open_deck
from runtime.host.runtime_host import RuntimeHost
from runtime.host.watch_aim import Aim
from runtime.host.watch_lookout import Lookout
from runtime.kernel.canonical import parse_strict
from runtime.missions.inputs import InputsInvalid
from runtime.missions.problems import MissionInvalid
from tests.support.deckhand import git
from tests.support.hosting import (
    PATIENCE,
    entries,
    hosting,
    live,
    open_host,
    plain,
    question,
    until,
    write_mission,
    writing,
)

HEAD = """\
mission: watched
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope:
  allowed_paths: ["src/**", out, "out/**"]
  allowed_tools: [filesystem.read_file, filesystem.write_file, process.run]
sandbox: {confinement: best_effort}
"""
READ = "  read: {type: tool_invoke, tool: filesystem.read_file, path: src/a}\n"
ASK = "  ask: {type: approval, message: Go on?}\n"


def write(path: str, content: str) -> str:
    return f'{{type: tool_invoke, tool: filesystem.write_file, path: {path}, content: "{content}"}}'


def repository(tree: Path) -> None:
    git(tree, "init", "-q", "-b", "main")
    commit(tree)


def commit(tree: Path) -> None:
    git(tree, "add", "-A")
    git(tree, "-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "-m", "all")


class Bridge:
    """One watched tree, its mission, and the host."""

    def __init__(self, host: RuntimeHost, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.tree = folder / "tree"
        self.put("src/a", "1")

    def put(self, name: str, content: str) -> Path:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def mission(
        self,
        blocks: str = READ,
        *,
        links: str = "[]",
        watch: str = 'paths: ["src/**"]',
        more: str = "",
        kind: str = "folder",
    ) -> str:
        head = HEAD.replace("kind: folder", f"kind: {kind}")
        text = f"{head}{more}blocks:\n{blocks}links: {links}\nwatch: {{{watch}, debounce_ms: 40}}\n"
        return write_mission(self.folder / "m", text)

    async def arm(self, blocks: str = READ, **members: Any) -> WatchState:
        intent = {name: members.pop(name) for name in ("overlap", "run_now", "debounce_ms") if name in members}
        path = self.mission(blocks, **members)
        return await self.host.watch(Watch(path=path, inputs={"root": str(self.tree)}, **intent))

    @property
    def state(self) -> WatchState:
        return self.host._watches.states[0]

    async def seen(self, **wanted: Any) -> WatchState:
        """The watch, once it shows these values."""

        def look() -> WatchState | None:
            state = self.state
            return state if all(getattr(state, name) == value for name, value in wanted.items()) else None

        try:
            return await until(look)
        except TimeoutError:
            raise AssertionError(f"never {wanted}: {self.state}") from None

    async def rerun(self, count: int) -> RunSummary:
        """The watch's run number ``count``, ended."""
        state = await self.seen(runs=count, status="armed")
        return await self.host.find(str(state.last_run_id))

    async def more(self, before: int) -> WatchState:
        """The watch after more than ``before`` runs, armed again; a late notice may have made two of one change."""
        return await until(lambda: self.state if self.state.runs > before and self.state.status == "armed" else None)

    async def rerun_for(self, cause: str) -> RunSummary:
        """A run started by ``cause``, after any that late notices started."""
        ran = self.state.runs - 1
        while True:
            state = await self.more(ran)
            run = await self.host.find(str(state.last_run_id))
            if run.cause == cause:
                return run
            ran = state.runs

    async def quiet(self, name: str = "src/a") -> WatchState:
        """Everything heard so far has been judged: a touch now is judged after it."""
        before = self._same(name)
        os.utime(self.tree / name, ns=(1, self.state.ignored + 1))
        await until(lambda: self._same(name) > before)
        return await self.seen(status="armed")

    def _same(self, name: str) -> int:
        return self.ignored().count((name, "same_content"))

    def ignored(self) -> list[tuple[str, str]]:
        return [(item.path, item.why) for item in self.state.recent_ignored]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with hosting(tmp_path / "store") as host:
        yield Bridge(host, tmp_path)


async def told(host: RuntimeHost) -> list[dict[str, Any]]:
    """What the store's journal says operators and watches did, oldest first."""
    await host._store.flush()
    rows = await host._store.journals.by_kind("operator_action", "store", 100)
    return [parse_strict(row.body) for row in reversed(rows)]


# -- what counts as a change --------------------------------------------------------------------------------------


async def test_every_way_of_saving_is_one_rerun_and_a_touch_is_none(bridge: Bridge) -> None:
    tree = bridge.tree
    for name, content in (("b", "1"), ("c", "1"), ("keep", "k")):
        bridge.put(f"src/{name}", content)
    repository(tree)
    git(tree, "checkout", "-q", "-b", "other")
    bridge.put("src/a", "other"), bridge.put("src/b", "other"), (tree / "src" / "c").unlink()
    commit(tree)
    git(tree, "checkout", "-q", "main")

    await bridge.arm()
    bridge.put("src/a", "plain")
    first = await bridge.rerun(1)
    assert (first.status, first.trigger, first.cause) == (RunStatus.SUCCEEDED, "watch", "src/a changed")

    saved = bridge.put("src/.a.swp", "atomic")  # a name like editors give; another would be a change of its own
    saved.replace(tree / "src" / "a")
    assert (await bridge.rerun(2)).session_id == first.session_id == bridge.state.session_id

    git(tree, "checkout", "-q", "-f", "other")
    third = await bridge.rerun(3)
    assert third.cause == "src/a and 2 more changed"
    opened = (await entries(bridge.host, third.run_id, "journal_opened"))[0]
    assert [item["path"] for item in opened["because"]] == ["src/a", "src/b", "src/c"]
    assert opened["because"][2]["after"] is None
    assert (opened["trigger"], opened["cause"]) == ("watch", third.cause)

    (tree / "src" / "a").chmod(0o600)
    bridge.put("src/a", "other")
    state = await bridge.quiet()
    assert state.runs == 3, "touch, chmod and the same bytes again start nothing"
    assert {why for _, why in bridge.ignored()} == {"same_content"}
    assert [item["action"] for item in await told(bridge.host)] == ["watch"]


async def test_what_git_is_still_changing_is_one_change(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long git takes between two files."""
    asked, rewritten = [], Aim.rewritten
    monkeypatch.setattr(Aim, "rewritten", lambda aim, now: asked.append(now) or rewritten(aim, now))
    repository(bridge.tree)
    await bridge.arm()
    lock = bridge.put(".git/index.lock", "")
    bridge.put("src/a", "2")
    await until(lambda: len(asked) > 2)
    bridge.put("src/b", "2")
    lock.unlink()
    assert (await bridge.rerun(1)).cause == "src/a and 1 more changed"


async def test_excluded_and_hidden_files_start_nothing(bridge: Bridge) -> None:
    await bridge.arm(watch='paths: ["**"], exclude: ["**/*.log", "gen/**"]')
    bridge.put("src/x.log", "1"), bridge.put("gen/deep/y", "1")
    bridge.put("src/__pycache__/a.pyc", "1"), bridge.put("src/.a.swp", "1"), bridge.put(".git/index", "1")
    await until(lambda: ("src/x.log", "excluded") in bridge.ignored())
    state = await bridge.quiet()
    assert (state.runs, state.files) == (0, 1)
    assert {item for item in bridge.ignored() if item[1] == "excluded"} <= {
        ("src/x.log", "excluded"),
        ("gen/deep/y", "excluded"),
        ("gen/deep", "excluded"),
    }


async def test_a_folder_may_appear_vanish_and_be_replaced(bridge: Bridge) -> None:
    # Long enough for both renames on a slow machine: between them there is no folder.
    await bridge.arm(watch='paths: ["lib/**", notes.md]', debounce_ms=500)
    bridge.put("lib/deep/one", "1")
    assert (await bridge.rerun(1)).cause == "lib/deep/one changed"
    (bridge.tree / "lib2" / "deep").mkdir(parents=True)
    (bridge.tree / "lib2" / "deep" / "one").write_text("2")
    (bridge.tree / "lib").rename(bridge.tree / "old")
    (bridge.tree / "lib2").rename(bridge.tree / "lib")
    replaced = await bridge.more(1)
    bridge.put("lib/deep/one", "3")  # heard in the folder that took its place
    await bridge.more(replaced.runs)
    bridge.put("notes.md", "new")
    await bridge.rerun_for("notes.md changed")


async def test_the_folder_a_private_copy_is_made_of_is_watched(bridge: Bridge) -> None:
    """Each run copies it anew and writes into its own copy: nothing of that is a change."""
    text = f"""\
mission: copies
version: "1"
workspace: {{from: project}}
envelope: {{allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}}
blocks: {{one: {write("src/made", "made")}}}
links: []
watch: {{paths: ["src/**"], debounce_ms: 40}}
"""
    path = write_mission(bridge.folder / "copies", text, {"project/src/a": "1"})
    state = await bridge.host.watch(Watch(path=path))
    source = bridge.folder / "copies" / "project"
    assert state.root == str(source)
    (source / "src" / "a").write_text("2")
    run = await bridge.rerun(1)
    copy = Path(str(run.work_tree)) / "src"
    assert ((copy / "a").read_text(), (copy / "made").read_text()) == ("2", "made")
    assert not (source / "src" / "made").exists()


# -- own writes and loops -----------------------------------------------------------------------------------------


async def test_what_a_run_wrote_itself_starts_nothing_and_names_the_entry(bridge: Bridge) -> None:
    blocks = f"{READ}  one: {write('src/made', '${outputs.read.content}!')}\n"
    await bridge.arm(blocks, links="[read -> one]")
    bridge.put("src/a", "2")
    run = await bridge.rerun(1)
    state = await bridge.quiet()
    assert state.runs == 1
    own = next(item for item in state.recent_ignored if item.why == "own_write")
    assert (own.path, own.run_id) == ("src/made", run.run_id)
    receipts = await entries(bridge.host, run.run_id, "receipt")
    assert own.seq == next(item["seq"] for item in receipts if item["receipt"]["effect"] == "write")
    bridge.put("src/made", "by somebody else")
    assert (await bridge.rerun(2)).cause == "src/made changed"


async def test_undone_and_overlapping_writes_of_a_run_are_its_own(bridge: Bridge) -> None:
    """A command that writes a folder, then a file in that folder; and a run that fails and takes all back."""
    bridge.put("out/index", "0")
    more = "commands:\n  make: {argv: [sh, -c, 'echo made > out/part'], writes: [out]}\n"
    blocks = (
        "  make: {type: tool_invoke, tool: process.run, template: make}\n"
        f"  index: {write('out/index', 'part')}\n"
        "  last: {type: gate_check, check: non_empty, condition: {proof: PROOF}}\n"
    )
    members = {"links": "[make -> index -> last]", "watch": 'paths: ["**"]', "more": more, "kind": "git"}
    repository(bridge.tree)
    await bridge.arm(blocks.replace("PROOF", "x"), **members)
    bridge.put("src/a", "2")
    first = await bridge.rerun(1)
    assert first.status is RunStatus.SUCCEEDED, first
    state = await bridge.quiet()
    assert state.runs == 1
    own = {item.path: item.seq for item in state.recent_ignored if item.why == "own_write"}
    assert own.keys() == {"out/index", "out/part"}
    assert own["out/index"] != own["out/part"], "each names the entry that made it"

    bridge.mission(blocks.replace("PROOF", '""'), **members)
    failed = await bridge.rerun(2)
    assert (failed.status, failed.cause) == (RunStatus.FAILED, "mission.yaml changed")
    assert (await bridge.quiet()).runs == 2


async def test_a_mission_that_changes_its_own_input_is_suspended_until_rearmed(bridge: Bridge) -> None:
    blocks = f"{READ}  grow: {write('src/a', '${outputs.read.content}+')}\n"
    await bridge.arm(blocks, links="[read -> grow]")
    bridge.put("src/a", "x")
    state = await bridge.seen(status="suspended")
    reads, grows = (item["seq"] for item in await entries(bridge.host, str(state.last_run_id), "receipt"))
    assert (state.code, state.runs) == ("WATCH_LOOP", 1)
    assert state.reason == (
        f"run {str(state.last_run_id)[:8]} wrote src/a (entry {grows}), "
        f"which it also reads (entry {reads}); it would rerun for ever"
    )
    bridge.put("src/a", "while suspended")
    ack = await bridge.host.rearm(state.watch_id)
    assert ack.done
    state = await bridge.seen(status="armed")
    assert (state.runs, state.code) == (1, None)
    assert not (await bridge.host.rearm(state.watch_id)).done
    bridge.put("src/a", "after")
    state = await bridge.seen(status="suspended", runs=2)
    assert [item["action"] for item in await told(bridge.host)] == [
        "watch",
        "watch_suspended",
        "rearm",
        "watch_suspended",
    ]


async def test_writes_nobody_accounts_for_end_as_a_loop_too(bridge: Bridge) -> None:
    """An unconfined command that writes where it did not say it would: no journal entry tells."""
    more = "commands:\n  tick: {argv: [sh, -c, 'date +%N > src/tick']}\n"
    block = "  tick: {type: tool_invoke, tool: process.run, template: tick, accept: [op.tool_conflict]}\n"
    await bridge.arm(block, watch='paths: ["src/**"]', more=more)
    bridge.put("src/a", "go")
    state = await bridge.seen(status="suspended")
    # A notice that comes only after its run has ended begins the row anew: a slow machine may need more runs.
    assert state.code == "WATCH_LOOP"
    assert state.runs >= 5
    assert "5 reruns in a row: src/tick changed each time while a run was at work" in str(state.reason)


# -- overlap ------------------------------------------------------------------------------------------------------


async def answered(bridge: Bridge, run_id: str) -> RunSummary:
    asked = await question(bridge.host, run_id)
    await bridge.host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    return await bridge.host.wait(run_id)


async def at_work(bridge: Bridge, count: int) -> str:
    """The watch's run number ``count``, waiting for its answer."""
    state = await bridge.seen(runs=count, status="running")
    run_id = str(state.active_run_id)
    await until(lambda: run_id in bridge.host._runs)
    await question(bridge.host, run_id)
    return run_id


async def test_queue_runs_once_more_for_all_that_changed_meanwhile(bridge: Bridge) -> None:
    await bridge.arm(ASK)
    bridge.put("src/a", "2")
    first = await at_work(bridge, 1)
    bridge.put("src/a", "3")
    await bridge.seen(pending=1)
    bridge.put("src/b", "1")
    await until(lambda: bridge.state.events >= 3)
    assert (await answered(bridge, first)).status is RunStatus.SUCCEEDED
    second = await at_work(bridge, 2)
    assert (await answered(bridge, second)).cause == "src/a and 1 more changed"
    assert (await bridge.quiet()).runs == 2


async def test_preempt_cancels_the_run_and_takes_its_place(bridge: Bridge) -> None:
    await bridge.arm(f"  one: {write('src/own', '1')}\n{ASK}", links="[one -> ask]", overlap="preempt")
    bridge.put("src/a", "2")
    first = await at_work(bridge, 1)
    os.utime(bridge.tree / "src" / "own")  # its own write is no reason
    bridge.put("src/a", "3")
    second = await at_work(bridge, 2)
    stopped = await bridge.host.find(first)
    assert (stopped.status, stopped.reason) == (RunStatus.CANCELLED, "cancelled")
    signals = [item for entry in await entries(bridge.host, first, "signal") for item in entry["signals"]]
    assert "preempted" in [item.get("reason") for item in signals if item["signal"] == "cancel"]
    assert (await answered(bridge, second)).cause == "src/a changed"
    assert (await bridge.quiet()).runs == 2


async def test_skip_leaves_out_what_changed_meanwhile_and_says_so(bridge: Bridge) -> None:
    await bridge.arm(ASK, watch='paths: ["src/**"], overlap: skip')
    bridge.put("src/a", "2")
    first = await at_work(bridge, 1)
    bridge.put("src/b", "1")
    await bridge.seen(pending=1)
    await answered(bridge, first)
    state = await bridge.seen(skipped=1, status="armed")
    assert ("src/b", "busy") in bridge.ignored()
    state = await bridge.quiet()
    assert state.runs == 1
    bridge.put("src/b", "2")
    await answered(bridge, await at_work(bridge, 2))


async def test_a_rerun_waits_for_a_busy_work_tree_and_disarming_gives_it_up(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.host.watching._WAITS_AFTER", 0.05)
    host = bridge.host
    other = await host.launch(Launch(path=writing(bridge.folder / "w"), inputs={"root": str(bridge.tree)}))
    await question(host, other.run_id)
    state = await bridge.arm(f"  one: {write('out', '1')}\n")
    bridge.put("src/a", "2")
    assert "waits" in str((await bridge.seen(code="LOCK_HELD")).reason)
    assert len(host._opening) == 1
    await host.unwatch(state.watch_id)
    await until(lambda: not host._opening)
    await answered(bridge, other.run_id)
    assert [run.run_id for run in await host.runs()] == [other.run_id], "a launch given up leaves no trace"


# -- trouble ------------------------------------------------------------------------------------------------------


async def test_a_broken_mission_stays_armed_and_reruns_when_it_loads_again(bridge: Bridge) -> None:
    await bridge.arm()
    file = bridge.folder / "m" / "mission.yaml"
    good = file.read_text()
    file.write_text(good.replace("blocks:", "blocs:"))
    state = await bridge.seen(code="MISSION_INVALID")
    assert "mission.yaml:1:1" in str(state.reason)
    bridge.put("src/a", "2")
    await until(lambda: bridge.state.events)
    await bridge.seen(status="armed")
    assert bridge.state.runs == 0
    file.write_text(good.replace('"src/**"', 'src/a, "lib/**"'))
    run = await bridge.rerun(1)
    assert run.cause == "mission.yaml changed"
    assert (bridge.state.code, bridge.state.paths) == (None, ("src/a", "lib/**"))
    bridge.put("lib/new", "1")
    await bridge.rerun(2)
    file.write_text(good.partition("watch:")[0])
    assert (await bridge.seen(code="WATCH_NOT_DECLARED")).status == "armed"


async def test_a_vanished_root_is_shown_and_rearming_goes_on(bridge: Bridge) -> None:
    state = await bridge.arm()
    shutil.rmtree(bridge.tree)
    state = await bridge.seen(status="failed")
    assert (state.code, "is not there" in str(state.reason)) == ("WATCH_ROOT", True)
    assert (await bridge.host.rearm(state.watch_id)).done
    await until(lambda: bridge.state.code == "ROOT_MISSING")
    bridge.put("src/a", "1")
    await bridge.host.rearm(state.watch_id)
    await bridge.seen(status="armed", code=None)
    bridge.put("src/a", "2")
    await bridge.rerun(1)


async def test_more_files_than_can_be_watched_are_refused_and_later_shown(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_files, "MAX_FILES", 3)
    for name in "bcd":
        bridge.put(f"src/{name}", "1")
    with pytest.raises(Refused, match="more than 3 files") as caught:
        await bridge.arm()
    assert (caught.value.code, "watch.exclude" in str(caught.value.hint)) == ("WATCH_TOO_MANY", True)
    assert bridge.host._watches.states == ()
    await bridge.arm(watch='paths: ["src/**"], exclude: [src/d]')
    bridge.put("src/e", "1")
    assert (await bridge.seen(status="failed")).code == "WATCH_TOO_MANY"


async def test_what_cannot_be_watched_is_refused_with_what_to_do(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, path = bridge.host, bridge.mission()

    async def refused(code: str, **members: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            await host.watch(Watch(**{"path": path, "inputs": {"root": str(bridge.tree)}, **members}))
        assert caught.value.code == code
        return caught.value

    no_watch = plain(bridge.folder / "plain", "  a: {type: echo}")
    assert "watch: {paths:" in str((await refused("WATCH_NOT_DECLARED", path=no_watch, inputs={})).hint)
    await refused("WATCH_OPTION", overlap="sometimes")
    await refused("WATCH_OPTION", debounce_ms=-1)
    await refused("ROOT_MISSING", inputs={"root": "nowhere"})
    with pytest.raises(InputsInvalid):
        await host.watch(Watch(path=path))
    with pytest.raises(MissionInvalid):
        await host.watch(Watch(path=write_mission(bridge.folder / "bad", "mission: x\n")))
    await bridge.arm()
    await refused("WATCH_ARMED")
    monkeypatch.setattr(watches, "MAX_WATCHES", 1)
    await refused("WATCH_LIMIT")
    for verb in (host.unwatch, host.rearm):
        with pytest.raises(Refused, match="there is no watch"):
            await verb("nobody")


# -- the host -----------------------------------------------------------------------------------------------------


def ears() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "quarterdeck-watch"]


async def test_closing_the_host_ends_its_watches_and_leaves_the_run_resumable(tmp_path: Path) -> None:
    host = await open_host(tmp_path / "store")
    bridge = Bridge(host, tmp_path)
    await bridge.arm(ASK, run_now=True)
    run_id = await at_work(bridge, 1)
    assert (await host.find(run_id)).cause == "the watch began"
    assert ears()
    waiting = asyncio.create_task(host.drained())
    bridge.put("src/a", "2")
    async with asyncio.timeout(PATIENCE):
        await host.close()
        await waiting
    assert ears() == []
    with pytest.raises(Refused, match="closing"):
        await bridge.arm()
    async with hosting(tmp_path / "store") as again:
        left = await again.find(run_id)
        assert (left.resumable, left.status) == (True, RunStatus.WAITING)
        assert await again.watches() == ()


async def test_a_watch_that_is_being_armed_does_not_outlive_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await open_host(tmp_path / "store")
    bridge, begin, begun, go = Bridge(host, tmp_path), Lookout.begin, asyncio.Event(), asyncio.Event()

    async def slowly(lookout: Lookout, aim: Aim) -> None:
        await begin(lookout, aim)
        begun.set()
        await go.wait()

    monkeypatch.setattr(Lookout, "begin", slowly)
    arming = asyncio.create_task(bridge.arm())
    await begun.wait()
    await host.close()
    go.set()
    with pytest.raises(Refused, match="while the watch was being armed"):
        await arming
    assert ears() == []


async def test_disarming_lets_a_run_go_on_and_others_see_and_steer_the_watch(bridge: Bridge, tmp_path: Path) -> None:
    """Through the holder's socket, as another process does."""
    remote, observer = (
        await open_deck(str(tmp_path / "store"), writing=True),
        await open_console_deck(str(tmp_path / "store")),
    )
    try:
        feed, seen = observer.subscribe(), []
        path = bridge.mission(ASK)
        state = await remote.watch(Watch(path=path, inputs={"root": str(bridge.tree)}))
        bridge.put("src/a", "2")
        run_id = await at_work(bridge, 1)
        assert await remote.watches() == await observer.watches() == await bridge.host.watches()

        def look() -> bool:
            seen.extend(event for event in feed.drain() if isinstance(event, WatchesChanged))
            return any(item.active_run_id == run_id for event in seen for item in event.watches)

        await until(look)
        with pytest.raises(Refused, match="held by pid"):
            await observer.watch(Watch(path=path))
        with pytest.raises(Refused, match="held by pid"):
            await observer.unwatch(state.watch_id)
        assert (await remote.rearm(state.watch_id)).message == "it is running"
        ack = await remote.unwatch(state.watch_id)
        assert (ack.done, ack.run_id) == (True, run_id)
        assert await remote.watches() == ()
        assert not live(bridge.host, run_id).stopping
        assert (await answered(bridge, run_id)).status is RunStatus.SUCCEEDED
        with pytest.raises(MissionInvalid):
            await remote.watch(Watch(path=write_mission(tmp_path / "bad", "mission: x\n")))
        feed.close()
    finally:
        await remote.close()
        await observer.close()
