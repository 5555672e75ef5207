"""Packs in worker processes: what crosses, what is held back, and that nothing outlives what it was for."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.blocks.block import Block
from runtime.blocks.envelope import Request, Response
from runtime.blocks.packs.folders import pack_digest
from runtime.blocks.packs.frames import PackContext, context_frame, create_frame
from runtime.blocks.packs.links import PackHost
from runtime.blocks.packs.packed import packed_class
from runtime.blocks.running import AttemptHost
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameType, encode_value, unframe
from runtime.execution.pack_process import ProcessLink
from runtime.execution.pack_worker import PackPlace
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.kernel.errors import Halted
from runtime.kernel.ports import ProcessRunner
from tests.support.packs import BROKEN, HEALTHY, HOSTILE, LATE_STREAM, InLoop, broken, manifest_of, write_pack
from tests.support.sandboxing import alive, backend, descriptors, until


@dataclass
class Host:
    """What an attempt offers, as far as packs ask for it here."""

    shown: list[str] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails_with: Exception | None = None

    async def operate(self, operation_type: str, params: dict[str, Any], **more: Any) -> Any:
        self.asked.append((operation_type, params))
        raise self.fails_with or AssertionError("nothing is answered here")

    def offer(self, value: BlockValue) -> None:
        self.shown.append(value.text())

    def log(self, level: str, event: str, value: object) -> None:
        self.shown.append(f"{level} {event} {value}")

    async def send(self, value: BlockValue) -> None: ...

    async def wait(self, prompt: str, **more: Any) -> BlockValue:
        self.asked.append((prompt, more))
        return BlockValue.of({"choice": "that"})


Open = Callable[..., ProcessLink]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Makes links to packs of `tests.support.packs`, in confined processes without another ``runner``; closed at the end."""
    links: list[ProcessLink] = []

    def open_link(
        module: str, source: str, *, code: str | None = None, runner: ProcessRunner | None = None
    ) -> ProcessLink:
        folder = tmp_path / f"{module}-pack"
        write_pack(folder, module, source, code=code)
        place = PackPlace(name=module, folder=folder, digest=pack_digest(folder))
        links.append(ProcessLink(place, runner or Sandbox(backend("B"))))
        return links[-1]

    yield open_link
    for link in links:
        await link.close()


def block(link: ProcessLink, source: str, number: int = 0, **config: Any) -> Block:
    """A block of one of the types the source declares."""
    return packed_class(manifest_of("types", source).blocks[number], link)(**config)


async def attempt(work: Block, value: object = "hello", host: Host | None = None) -> Response:
    as_host: AttemptHost | None = host  # type: ignore[assignment]
    return await work.execute(Request(BlockValue.of(value)), host=as_host)


async def test_a_block_works_in_one_process_for_all_its_attempts(opened: Open) -> None:
    runner, host = InLoop(), Host()
    link = opened("sample", HEALTHY, runner=runner)
    shout = block(link, HEALTHY, 2, mark="?")
    assert runner.started == 0, "nothing foreign runs before an attempt"
    assert (await attempt(shout, host=host)).data.to_python() == "HELLO?"
    assert host.shown[0].startswith("info shouting")
    refused = await attempt(shout, "")
    assert (refused.code, refused.metadata["phase"]) == ("sample.silence", "validate")
    for handle in range(3):
        assert (await attempt(block(link, HEALTHY, 2, mark=str(handle)))).data.to_python() == f"HELLO{handle}"
        gc.collect()  # the one before is dropped
    assert (runner.started, runner.going) == (1, 1)


async def test_blocks_that_work_at_once_have_a_process_each_until_the_run_ends(opened: Open) -> None:
    link = opened("sample", HEALTHY)
    replies = await asyncio.gather(*(attempt(block(link, HEALTHY, 2, mark=mark)) for mark in "!?"))
    assert {reply.data.to_python() for reply in replies} == {"HELLO!", "HELLO?"}
    assert len({reply.metadata["sample.process"] for reply in replies}) == 2
    assert len(alive(str(link.folder))) >= 2
    await link.close()
    assert alive(str(link.folder)) == []
    assert (await attempt(block(link, HEALTHY, 2))).code == "plugin.fault", "no other is started"


async def test_what_it_wants_from_the_world_goes_through_its_attempt(opened: Open) -> None:
    """A refusal that stops the run is no failure of the block, and ends its process."""
    runner, host = InLoop(), Host(fails_with=Halted("runtime.canceled", "fenced"))
    link = opened("sample", HEALTHY, runner=runner)
    with pytest.raises(Halted, match="fenced"):
        await attempt(block(link, HEALTHY, 1, path="a.txt"), host=host)
    assert host.asked == [("tool_invoke", {"tool": "filesystem.read_file", "path": "a.txt"})]
    assert runner.going == 0
    answered = await attempt(block(link, HEALTHY, 1, path="ask"), host=host)
    assert answered.data.to_python() == {"choice": "that"}
    assert host.asked[1][0] == "Which?"


async def test_a_stream_comes_item_by_item_and_its_process_ends_when_nobody_listens(opened: Open) -> None:
    runner = InLoop()
    link = opened("sample", HEALTHY, runner=runner)
    handle, _ = await link.create(create_frame("sample_tick", {}))
    context, host = context_frame(PackContext(block_name="tick")), cast(PackHost, None)
    frames = [unframe(item)[0] async for item in link.run(handle, encode_value(BlockValue.of(1)), context, host)]
    assert frames == [FrameType.OK, FrameType.STREAM_ITEM, FrameType.STREAM_ITEM, FrameType.STREAM_END]
    assert runner.going == 1, "it is used again"
    stream = cast("AsyncGenerator[bytes, None]", link.run(handle, encode_value(BlockValue.of(-9)), context, host))
    assert unframe(await anext(stream))[0] is FrameType.OK
    await stream.aclose()
    assert (runner.started, runner.going) == (1, 0)


async def test_what_it_prints_is_shown_and_reaches_no_terminal(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    host = Host()
    reply = await attempt(block(opened("evil", HOSTILE), HOSTILE, what="print"), host=host)
    assert reply.data.to_python() == "printed"
    assert sorted(host.shown) == ["\x1b[31m err", "\x1b]0;owned\x07 out"]
    assert capfd.readouterr() == ("", "")


async def test_it_reaches_neither_files_nor_network(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        more = {"target": str(tmp_path / "mark"), "port": server.getsockname()[1]}
        reached = await attempt(block(opened("evil", HOSTILE), HOSTILE, what="reach", **more))
    # A folder for temporary files it has to itself; what it put there nobody sees.
    assert reached.data.to_python() in ([], ["there"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil-pack", "secret"]
    assert sorted(path.name for path in (tmp_path / "evil-pack").iterdir()) == ["evil.py", "pack.bin"]


@pytest.mark.parametrize("tier", ["B", "D"])
async def test_a_deadline_ends_it_with_everything_it_started(opened: Open, tier: str) -> None:
    link = opened("evil", HOSTILE, runner=Sandbox(backend(tier), confinement="best_effort"))
    before = descriptors()
    reply = await attempt(block(link, HOSTILE, what="loop").with_timeout(2.0))
    assert reply.code == "runtime.timeout"
    assert alive(str(link.folder)) == []
    await until(lambda: descriptors() <= before)
    host = Host()
    assert (await attempt(block(link, HOSTILE, what="print"), host=host)).success
    assert any("pack_unconfined" in line for line in host.shown) == (tier == "D")


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("exit", "plugin.fault", "exit code 7: good bye"),
        ("raise", "plugin.fault", "exit code 3"),
        ("garbage", "plugin.bad_frame", "no message"),
        ("huge", "plugin.bad_frame", "no message"),
        ("stray", "plugin.bad_frame", "end inside"),
    ],
)
async def test_whatever_it_does_instead_of_answering_ends_it(opened: Open, what: str, code: str, told: str) -> None:
    link = opened("evil", HOSTILE)
    failed = await attempt(block(link, HOSTILE, what=what))
    assert failed.code == code
    assert told in (failed.message or "")
    assert alive(str(link.folder)) == []


@pytest.mark.parametrize(("doing", "code"), BROKEN.items())
async def test_a_pack_that_keeps_no_promise_fails_its_attempt_only(opened: Open, doing: str, code: str) -> None:
    runner = InLoop()
    shout = block(opened("sample", broken(doing), runner=runner), HEALTHY, 2)
    assert (await attempt(shout)).code == code
    assert runner.going == 0
    assert (await attempt(shout, "")).code == "sample.silence", "built again in a fresh worker"


async def test_a_pack_cannot_become_a_stream_after_the_graph_was_planned(opened: Open) -> None:
    """In the middle of a graph it would be taken for an empty value, and stay open."""
    runner = InLoop()
    shout = block(opened("sample", HEALTHY, code=LATE_STREAM, runner=runner), HEALTHY, 2)
    for _ in range(2):
        failed = await attempt(shout)
        assert (failed.code, "recurring" in (failed.message or "")) == ("plugin.manifest_mismatch", True)


async def test_a_pack_that_ends_while_it_is_imported_has_failed(opened: Open) -> None:
    link = opened("evil", HOSTILE, code="import os; os._exit(9)")
    failed = await attempt(block(link, HOSTILE, what="print"))
    assert (failed.code, "exit code 9" in (failed.message or "")) == ("plugin.fault", True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(0)", "plugin.import_failed"),
        (HEALTHY.replace("louder", "softer"), "plugin.manifest_mismatch"),
    ],
)
async def test_a_pack_that_cannot_be_imported_says_why(opened: Open, code: str, expected: str) -> None:
    reply = await attempt(block(opened("sample", HEALTHY, code=code, runner=InLoop()), HEALTHY, 2))
    assert reply.code == expected


async def test_a_changed_folder_is_not_imported(opened: Open) -> None:
    link = opened("sample", HEALTHY, runner=InLoop())
    (link.folder / "more.py").write_text("")
    reply = await attempt(block(link, HEALTHY, 2))
    assert reply.code == "plugin.untrusted"


async def test_without_namespaces_it_runs_only_where_that_is_allowed(opened: Open) -> None:
    link = opened("sample", HEALTHY, runner=Sandbox(Unconfined()))
    reply = await attempt(block(link, HEALTHY, 2))
    assert reply.code == "op.sandbox_unavailable"
    assert "best_effort" in (reply.message or "")
