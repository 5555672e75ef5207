"""Packs in worker processes: what crosses, what is held back, and that nothing outlives what it was for."""

from __future__ import annotations

import asyncio
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
from tests.support.packs import HEALTHY, HOSTILE, manifest_of, write_pack
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
        raise AssertionError("nobody is asked here")


Open = Callable[..., ProcessLink]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Makes links to packs of `tests.support.packs`, confined if the machine can; closed at the end."""
    links: list[ProcessLink] = []

    def open_link(module: str, source: str, *, code: str | None = None, runner: Sandbox | None = None) -> ProcessLink:
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
    link, host = opened("sample", HEALTHY), Host()
    shout = block(link, HEALTHY, 2, mark="?")
    first, second = await attempt(shout, host=host), await attempt(shout, "again", host)
    assert (first.data.to_python(), second.data.to_python()) == ("HELLO?", "AGAIN?")
    assert first.metadata["sample.process"] == second.metadata["sample.process"]
    assert host.shown[0].startswith("info shouting")
    refused = await attempt(shout, "")
    assert (refused.code, refused.metadata["phase"]) == ("sample.silence", "validate")
    assert (await attempt(shout)).metadata["sample.process"] == first.metadata["sample.process"]


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
    link, host = opened("sample", HEALTHY), Host(fails_with=Halted("runtime.canceled", "fenced"))
    with pytest.raises(Halted, match="fenced"):
        await attempt(block(link, HEALTHY, 1, path="a.txt"), host=host)
    assert host.asked == [("tool_invoke", {"tool": "filesystem.read_file", "path": "a.txt"})]
    assert alive(str(link.folder)) == []


async def test_a_stream_comes_item_by_item_and_its_process_ends_when_nobody_listens(opened: Open) -> None:
    link = opened("sample", HEALTHY)
    handle, _ = await link.create(create_frame("sample_tick", {}))
    context, host = context_frame(PackContext(block_name="tick")), cast(PackHost, None)
    frames = [unframe(item)[0] async for item in link.run(handle, encode_value(BlockValue.of(1)), context, host)]
    assert frames == [FrameType.OK, FrameType.STREAM_ITEM, FrameType.STREAM_ITEM, FrameType.STREAM_END]
    assert len(alive(str(link.folder))) == 1, "it is used again"
    stream = cast("AsyncGenerator[bytes, None]", link.run(handle, encode_value(BlockValue.of(-9)), context, host))
    assert unframe(await anext(stream))[0] is FrameType.OK
    await stream.aclose()
    assert alive(str(link.folder)) == []


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


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os._exit(9)", "plugin.fault"),
        ("raise SystemExit(0)", "plugin.import_failed"),
        (HOSTILE.replace("6.6", "6.7"), "plugin.manifest_mismatch"),
    ],
)
async def test_a_pack_that_cannot_be_imported_says_why(opened: Open, code: str, expected: str) -> None:
    reply = await attempt(block(opened("evil", HOSTILE, code=code), HOSTILE, what="print"))
    assert reply.code == expected


async def test_a_changed_folder_is_not_imported(opened: Open) -> None:
    link = opened("sample", HEALTHY)
    (link.folder / "more.py").write_text("")
    reply = await attempt(block(link, HEALTHY, 2))
    assert reply.code == "plugin.untrusted"


async def test_without_namespaces_it_runs_only_where_that_is_allowed(opened: Open) -> None:
    link = opened("sample", HEALTHY, runner=Sandbox(Unconfined()))
    reply = await attempt(block(link, HEALTHY, 2))
    assert reply.code == "op.sandbox_unavailable"
    assert "best_effort" in (reply.message or "")
