"""What blocks emit in a real run: kept, named by the step's end, verified, shown, and cut off by a stop."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.builtin.burst import Burst
from runtime.blocks.contexts import BlockContext
from runtime.blocks.values import BlockValue
from runtime.events.facts import LanesChanged, OutputDelta
from runtime.host.api import Launch, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.host.stream_items import last_texts, stream_texts
from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import Halted
from runtime.orchestration.stream_index import WIDTH, StreamIndex, read_node
from runtime.storage.artifacts import Artifacts
from tests.support.hosting import entries, hosting, live, plain, run_to_end, until
from tests.support.operation_rig import MemoryArtifacts


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as opened:
        yield opened


def bursts(folder: Path, **options: object) -> str:
    given = ", ".join(f"{name}: {value}" for name, value in options.items())
    return plain(folder, f"  a: {{type: burst, {given}}}")


async def texts(host: RuntimeHost, index: str) -> list[str]:
    return [text for chunk in [part async for part in stream_texts(host.artifact, index)] for text in chunk or ["gone"]]


async def signals(host: RuntimeHost, run_id: str) -> list[Mapping[str, Any]]:
    return [signal for item in await entries(host, run_id, "signal") for signal in item["signals"]]


async def stream_of(host: RuntimeHost, run_id: str) -> Mapping[str, Any]:
    (finished,) = await entries(host, run_id, "step_finished")
    return finished["stream"]


async def test_what_a_step_emits_is_kept_and_told_at_its_end(host: RuntimeHost, tmp_path: Path) -> None:
    feed = host.subscribe()
    done = await run_to_end(host, bursts(tmp_path / "m", items=1500, telemetry=3000, text="drop"))
    assert done.status is RunStatus.SUCCEEDED
    stream = await stream_of(host, done.run_id)
    expected = [f"drop {number}" for number in range(1500)]
    assert await texts(host, stream["index"]) == expected
    assert (await last_texts(host.artifact, stream["index"]))[-1] == expected[-1]
    assert stream["items"] == 1500
    said = [item for item in await signals(host, done.run_id) if str(item.get("edge_id")).startswith("stream/")]
    lost = sum(item["amount"] for item in said if item["signal"] == "drop_notice")
    assert {item["edge_id"] for item in said if item["signal"] == "watermark"} == {"stream/data", "stream/telemetry"}
    assert 0 < lost < 3000
    assert (await host.verify(done.run_id)).ok
    shown = feed.drain(100_000)
    data = "".join(event.text for event in shown if isinstance(event, OutputDelta) and event.stream == "data")
    assert data.splitlines() == expected
    telemetry = "".join(event.text for event in shown if isinstance(event, OutputDelta) and event.stream == "telemetry")
    assert len(telemetry.splitlines()) == 3000 - lost
    gauges = [event for event in shown if isinstance(event, LanesChanged)]
    assert [state.lane for state in gauges[-1].streams] == ["DataLane", "TelemetryLane"]


async def test_equal_items_have_equal_content_however_they_were_cut(host: RuntimeHost, tmp_path: Path) -> None:
    first = await run_to_end(host, bursts(tmp_path / "m", items=700))
    second = await run_to_end(host, bursts(tmp_path / "n", items=700, volleys=7, seconds=0.02))
    one, two = await stream_of(host, first.run_id), await stream_of(host, second.run_id)
    assert (one["items"], one["bytes"], one["content"]) == (two["items"], two["bytes"], two["content"])


async def test_a_silent_step_has_no_stream(host: RuntimeHost, tmp_path: Path) -> None:
    done = await run_to_end(host, bursts(tmp_path / "m", items=0))
    (finished,) = await entries(host, done.run_id, "step_finished")
    assert "stream" not in finished


@pytest.mark.parametrize(("damage", "code"), [("change", "J_ARTIFACT_HASH"), ("lose", "J_ARTIFACT_MISSING")])
async def test_a_chunk_that_changed_or_went_is_found(tmp_path: Path, damage: str, code: str) -> None:
    async with hosting(tmp_path / "store") as host:
        done = await run_to_end(host, bursts(tmp_path / "m", items=600))
        node = read_node(await host.artifact((await stream_of(host, done.run_id))["index"]) or b"")
        assert node.items == 600
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "quarterdeck.db")) as database:
        for trigger in ("artifacts_no_update", "artifacts_no_delete"):
            database.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        statement = "UPDATE artifacts SET body = zeroblob(bytes)" if damage == "change" else "DELETE FROM artifacts"
        database.execute(f"{statement} WHERE digest = ?", (node.parts[1],))
        database.commit()
    async with hosting(tmp_path / "store") as host:
        verdict = await host.verify(done.run_id)
        assert not verdict.ok
        assert [item.code for item in verdict.findings] == [code]


async def test_a_stop_flushes_the_edges_and_shows_nothing_more(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has stopped answering what is to be kept delays neither the fence nor what it clears."""

    async def stuck(self: Artifacts) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Artifacts, "flush", stuck)
    run_id = (await host.launch(Launch(path=bursts(tmp_path / "m", items=5000, telemetry=2000)))).run_id
    run = live(host, run_id)
    feed = host.subscribe()
    await until(lambda: run.parts.streams.states()[0].dispatched or None)
    feed.drain(100_000)
    assert (await host.cancel(run_id)).done
    depths = [state.depth for state in run.parts.streams.states()]
    assert depths == [0, 0]
    done = await host.wait(run_id)
    assert (done.status, done.exit_code) == (RunStatus.CANCELLED, 130)
    assert [event for event in feed.drain(100_000) if isinstance(event, OutputDelta)] == []
    told = await signals(host, run_id)
    names = [item["signal"] for item in told]
    flushed = [item for item in told[names.index("cancel") :] if item["signal"] == "drop_notice"]
    assert (flushed[0]["edge_id"], flushed[0]["reason"]) == ("stream/data", "cancel_flush")
    assert flushed[0]["amount"] == 1024 - 256, "the edge was full, and one batch was under way"
    (finished,) = await entries(host, run_id, "step_finished")
    assert finished["status"] == "cancelled"
    # What was on its way to the disk when the stop came is named, so that nothing stored is without an owner.
    assert await texts(host, finished["stream"]["index"]) == [f"item {number}" for number in range(256)]
    assert (await host.verify(run_id)).ok


async def test_a_step_resumed_after_the_process_left_emits_once(tmp_path: Path) -> None:
    path = bursts(tmp_path / "m", items=400, volleys=2, seconds=0.3)
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        run = live(host, run_id)
        await until(lambda: run.parts.streams.states()[0].dispatched or None)
        run.leave()
        await host.wait(run_id)
    async with hosting(tmp_path / "store") as host:
        await host.resume(run_id)
        done = await host.wait(run_id)
        assert done.status is RunStatus.SUCCEEDED
        stream = await stream_of(host, run_id)
        assert await texts(host, stream["index"]) == [f"item {number}" for number in range(400)]
        assert (await host.verify(run_id)).ok


async def test_a_store_that_fails_ends_the_run_instead_of_leaving_it_waiting(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bursts(tmp_path / "m", items=3000, volleys=100, seconds=5)
    run_id = (await host.launch(Launch(path=path))).run_id
    run = live(host, run_id)

    async def broken(self: Artifacts) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Artifacts, "flush", broken)
    await until(lambda: run.over or None)
    assert (run.summary.code, run.summary.resumable) == ("runtime_internal_error", True)


async def test_an_attempt_that_is_halted_tells_what_of_its_items_nobody_kept(
    host: RuntimeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def halted(self: Burst, input: BlockValue, ctx: BlockContext) -> None:
        for number in range(10):
            await ctx.emit("data", number)
        raise Halted("COMP_FAILED", "an effect could not be undone")

    monkeypatch.setattr(Burst, "run", halted)
    done = await run_to_end(host, bursts(tmp_path / "m", items=10))
    assert done.status is RunStatus.FAILED
    (notice,) = [item for item in await signals(host, done.run_id) if item["signal"] == "drop_notice"]
    assert (notice["reason"], notice["edge_id"], notice["amount"]) == ("cancel_flush", "stream/data", 10)


def test_an_index_of_any_size_is_a_tree_of_bounded_nodes() -> None:
    for chunks in (1, WIDTH, WIDTH + 1, WIDTH * 3 + 7, WIDTH * WIDTH + WIDTH + 1):
        store = MemoryArtifacts()
        index = StreamIndex(store.put)
        names = [f"sha256:{number:064x}" for number in range(chunks)]
        for name in names:
            index.add(name, 2)
        root = index.root()
        assert _leaves(store, root) == names
        assert read_node(store.bodies[root]).items == 2 * chunks
        assert all(len(parse_strict(body)["parts"]) <= WIDTH for body in store.bodies.values())


def _leaves(store: MemoryArtifacts, digest: str) -> list[str]:
    node = read_node(store.bodies[digest])
    return [leaf for part in node.parts for leaf in _leaves(store, part)] if node.level else list(node.parts)
