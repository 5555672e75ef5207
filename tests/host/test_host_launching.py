"""From an intent to a run: what is refused, what a refusal leaves behind, and what a caller who leaves changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.host import launching
from runtime.host.api import Launch, Refused, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import parse_strict
from runtime.missions.inputs import InputsInvalid
from runtime.missions.problems import MissionInvalid
from runtime.orchestration.run_controller import HaltLatch
from tests.support.hosting import (
    asking,
    entries,
    hosting,
    live,
    open_host,
    plain,
    question,
    run_to_end,
    until,
    write_mission,
    writing,
)

COPY = """\
mission: copy
version: "1"
workspace: {from: files}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
PROVIDER
blocks:
  two: {type: tool_invoke, tool: filesystem.write_file, path: two, content: "2"}
links: []
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


async def told(host: RuntimeHost, kind: str) -> list[dict[str, Any]]:
    """Entries of one kind in the store's own journal, oldest first."""
    await host._store.flush()
    return [parse_strict(row.body) for row in reversed(await host._store.journals.by_kind(kind, "store", 100))]


def assert_nothing_held(host: RuntimeHost, folder: Path) -> None:
    assert len(host._shared.scopes) == 1, "only the session's own scope"
    assert host._shared.pool._listeners == []
    for name in ("locks", "work"):
        assert list((folder / name).iterdir()) == []


async def test_a_mission_with_problems_is_the_callers_mistake_and_leaves_no_row(
    host: RuntimeHost, tmp_path: Path
) -> None:
    with pytest.raises(MissionInvalid):
        await host.launch(Launch(path=write_mission(tmp_path / "m", "mission: x\n")))
    with pytest.raises(InputsInvalid):
        await host.launch(Launch(path=asking(tmp_path / "n"), inputs={"no": "such"}))
    with pytest.raises(Refused, match="no valid text"):
        await host.launch(Launch(path="\udcff"))
    assert await host.runs() == ()
    assert_nothing_held(host, tmp_path / "store")


async def test_a_busy_tree_refuses_and_names_the_holder(host: RuntimeHost, tmp_path: Path) -> None:
    path, root = writing(tmp_path / "m"), tmp_path / "tree"
    root.mkdir()
    intent = Launch(path=path, inputs={"root": str(root)})
    first = await host.launch(intent)
    await question(host, first.run_id)
    refused = await host.launch(intent)
    assert (refused.status, refused.code, refused.exit_code) == (RunStatus.REFUSED, "LOCK_HELD", 8)
    assert first.run_id in str(refused.message)
    assert [item["run_id"] for item in await told(host, "refusal")] == [refused.run_id]
    waiting = asyncio.create_task(host.launch(Launch(path=path, inputs={"root": str(root)}, wait=True)))
    await until(lambda: host._opening)
    await host.cancel(first.run_id)
    await host.wait(first.run_id)
    second = await waiting
    assert second.status is RunStatus.RUNNING


async def test_a_refused_launch_takes_its_private_copy_away(host: RuntimeHost, tmp_path: Path) -> None:
    (tmp_path / "store" / "STOP_AUTONOMY").touch()
    path = write_mission(tmp_path / "m", COPY.replace("PROVIDER", ""), {"files/deep/one": "1"})
    (tmp_path / "m" / "files" / "deep").chmod(0o500)
    refused = await host.launch(Launch(path=path))
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "KILL_SWITCH")
    assert_nothing_held(host, tmp_path / "store")
    (tmp_path / "m" / "files" / "deep").chmod(0o700)
    row = await host.find(refused.run_id)
    assert (row.status, row.code, row.resumable) == (RunStatus.REFUSED, "KILL_SWITCH", False)


async def test_a_launch_that_fails_while_wiring_leaves_nothing_open(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Refused("PROVIDER_CONFIG", "no such model")

    monkeypatch.setattr("runtime.host.assembly.build_workflow", broken)
    root = tmp_path / "tree"
    root.mkdir()
    for _ in range(3):
        refused = await host.launch(Launch(path=writing(tmp_path / "m"), inputs={"root": str(root)}))
        assert (refused.status, refused.code) == (RunStatus.REFUSED, "PROVIDER_CONFIG")
    assert_nothing_held(host, tmp_path / "store")


async def test_a_caller_who_leaves_does_not_tear_a_launch_apart(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = asyncio.Event(), asyncio.Event()
    assemble = launching.assemble

    async def slowly(*arguments: Any) -> Any:
        reached.set()
        await go.wait()
        return await assemble(*arguments)

    monkeypatch.setattr(launching, "assemble", slowly)
    caller = asyncio.create_task(host.launch(Launch(path=asking(tmp_path / "m"))))
    await reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    (run_id,) = host._opening
    with pytest.raises(Refused):
        await host.cancel(run_id)  # nobody can know the id of a run that has no row yet
    go.set()
    await until(lambda: run_id in host._runs)
    await question(host, run_id)
    assert (await host.cancel(run_id)).done
    assert (await host.wait(run_id)).status is RunStatus.CANCELLED


async def test_closing_while_a_launch_waits_or_wires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await open_host(tmp_path / "store")
    reached = asyncio.Event()

    async def never(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(launching, "assemble", never)
    path = write_mission(tmp_path / "m", COPY.replace("PROVIDER", ""), {"files/one": "1"})
    caller = asyncio.create_task(host.launch(Launch(path=path)))
    await reached.wait()
    await asyncio.gather(host.close(), host.close())
    with pytest.raises(Refused) as caught:
        await caller
    assert caught.value.code == "runtime_shutdown"
    for name in ("locks", "work"):
        assert list((tmp_path / "store" / name).iterdir()) == []
    with pytest.raises(Refused):
        await host.launch(Launch(path=path))


async def test_no_more_runs_than_the_limit(host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.host.runtime_host.MAX_LIVE_RUNS", 1)
    run_id = (await host.launch(Launch(path=asking(tmp_path / "m")))).run_id
    with pytest.raises(Refused) as caught:
        await host.launch(Launch(path=asking(tmp_path / "m")))
    assert caught.value.code == "admission_capacity_reject"
    await host.cancel(run_id)
    await host.wait(run_id)
    assert (await host.launch(Launch(path=asking(tmp_path / "m")))).status is RunStatus.RUNNING


async def last_note_before(host: RuntimeHost, run_id: str) -> str:
    """The digest of the newest checkpoint before the first one of a run."""
    rows = await host._store.checkpoints._reader.fetch(
        "SELECT note_hash FROM checkpoints WHERE rowid < (SELECT min(rowid) FROM checkpoints WHERE journal_id = ?)"
        " ORDER BY rowid DESC LIMIT 1",
        (run_id,),
    )
    return str(rows[0][0])


async def test_the_store_journal_chains_epochs_heads_and_refusals(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    async with hosting(tmp_path / "store") as host:
        first = await run_to_end(host, path)
        second = await run_to_end(host, path)
        opened = [(await entries(host, run.run_id, "journal_opened"))[0] for run in (first, second)]
        assert None not in [item["prev_journal_head"] for item in opened], "opening the store signs the turn"
        assert opened[1]["prev_journal_head"] == await last_note_before(host, second.run_id)
    async with hosting(tmp_path / "store") as host:
        third = await run_to_end(host, path)
        opened = await entries(host, third.run_id, "journal_opened")
        assert opened[0]["prev_journal_head"] == await last_note_before(host, third.run_id)
        assert [item["head"] for item in await told(host, "run_head")] == [
            first.head_hash,
            second.head_hash,
            third.head_hash,
        ]
        assert [item["epoch"] for item in await told(host, "epoch")] == [1, 2]
        assert (await host.verify("store")).ok


async def test_clearing_a_latch_needs_a_reason_and_is_recorded(host: RuntimeHost, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    latch = HaltLatch(tmp_path / "store" / "latches", root, clock=host._clock)
    latch.set("COMP_FAILED", run_id="r", message="an undo could not be verified")
    intent = Launch(path=writing(tmp_path / "m"), inputs={"root": str(root)})
    assert (await host.launch(intent)).code == "HALT_LATCHED"
    with pytest.raises(Refused) as caught:
        await host.unlatch(str(root), " ")
    assert caught.value.code == "LATCH_REASON"
    assert (await host.unlatch(str(root), "restored by hand")).done
    assert not (await host.unlatch(str(root), "again")).done
    assert [(item["action"], item["reason"]) for item in await told(host, "latch")] == [("cleared", "restored by hand")]
    run_id = (await host.launch(intent)).run_id
    assert live(host, run_id).run_id == run_id


async def test_the_journal_says_what_held_the_processes(tmp_path: Path) -> None:
    limits = "sandbox: {limits: {cpu_seconds: 7, processes: 9, memory_mb: 100}}\n"
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}", more=limits)
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, path)
        held = (await entries(host, done.run_id, "journal_opened"))[0]["sandbox"]
    assert (held["tier"], held["identity"], held["seccomp"], held["landlock"]) == ("D", "own", False, False)
    assert (held["limits"]["cpu_seconds"], held["limits"]["memory_bytes"]) == (7, 100 << 20)
    # Unconfined, only an ordinary user's processes are counted.
    assert held["limits"]["processes"] == (None if os.geteuid() == 0 else 9)
