"""The control socket: streams, errors as raised, and a server nobody outside can upset."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.host.control import ControlClient, ControlLimits, ControlServer
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import ContractError, QuarterdeckError, Refused, StorageError
from runtime.kernel.ids import SequenceIds
from runtime.storage.layout import StateDir
from runtime.storage.lock import StoreLock, this_process

QUICK = ControlLimits(
    request_bytes=4096,
    clients=4,
    request_seconds=0.1,
    send_seconds=0.2,
    beat_seconds=0.02,
    silence_seconds=0.2,
    connect_seconds=0.2,
)


class Host:
    """A handler with one verb per behaviour under test."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.release = asyncio.Event()

    async def __call__(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        verb = request.get("verb", "none")
        try:
            if verb == "count":
                for number in range(request["to"]):
                    yield {"n": number}
            elif verb == "refuse":
                yield {"n": 0}
                raise Refused("RUN_UNKNOWN", "no such run", where="here", hint="look again")
            elif verb == "storage":
                raise StorageError("STORE_FULL", "the disk is full")
            elif verb == "crash":
                raise TimeoutError("a fault of ours")
            elif verb == "flood":
                while True:
                    yield {"text": "x" * 65_536}
            elif verb == "wait":
                await self.release.wait()
                yield {"released": True}
        finally:
            self.closed.append(verb)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state", tmp_path)
    made.create()
    return made


@pytest.fixture
def lock(state: StateDir) -> StoreLock:
    return StoreLock(state.lock, this_process(state, ManualClock(), SequenceIds()))


@pytest.fixture
def path() -> AsyncIterator[Path]:  # short enough for a socket whatever the name of the test
    folder = Path(f"/tmp/qd-control-{os.getpid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    yield folder / "control.sock"  # type: ignore[misc]
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@pytest.fixture
async def host(path: Path, lock: StoreLock) -> AsyncIterator[Host]:
    lock.acquire()
    handler = Host()
    server = ControlServer(path, handler, limits=QUICK)
    await server.start(lock)
    yield handler
    await server.close()
    lock.release()
    assert not path.exists()


async def ask(path: Path, **request: Any) -> list[dict[str, Any]]:
    return [item async for item in ControlClient(path, limits=QUICK).call(request)]


async def failure(path: Path, **request: Any) -> QuarterdeckError:
    with pytest.raises(QuarterdeckError) as caught:
        await ask(path, **request)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


async def raw(path: Path, *chunks: bytes) -> bytes:
    """Speak to the server without manners and return everything it answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    for chunk in chunks:
        writer.write(chunk)
    answer = await reader.read()
    writer.close()
    return answer


async def alive(path: Path) -> bool:
    return await ask(path, verb="count", to=1) == [{"n": 0}]


async def test_replies_stream_in_order_to_the_end(host: Host, path: Path) -> None:
    assert await ask(path, verb="count", to=300) == [{"n": n} for n in range(300)]
    assert await ask(path, verb="count", to=0) == []
    assert host.closed == ["count", "count"]


async def test_the_socket_is_private(host: Host, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_errors_arrive_as_they_were_raised(host: Host, path: Path) -> None:
    error = await failure(path, verb="refuse")
    assert isinstance(error, Refused)
    assert (error.code, error.message, error.where, error.hint) == (
        "RUN_UNKNOWN",
        "no such run",
        "here",
        "look again",
    )
    assert isinstance(await failure(path, verb="storage"), StorageError)


async def test_a_fault_in_a_handler_costs_one_request(host: Host, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (await failure(path, verb="crash")).code == "CONTROL_FAILED"
    assert "a fault of ours" in caplog.text
    assert await alive(path)


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"hello\n", b"[1]\n", b"null\n", b"\xff\xfe\n", b"[" * 4000 + b"\n", b'{"verb": NaN\n', b"\0\n"],
)
async def test_garbage_gets_an_error_and_nothing_more(host: Host, path: Path, garbage: bytes) -> None:
    answer = json.loads(await raw(path, garbage))
    assert answer["error"]["code"] == "CONTROL_BAD_MESSAGE"
    assert host.closed == []
    assert await alive(path)


async def test_an_endless_request_is_cut_off(host: Host, path: Path) -> None:
    answer = json.loads(await raw(path, b"x" * 20_000))
    assert answer["error"]["code"] == "CONTROL_REQUEST_SIZE"
    assert (await failure(path, text="x" * 5000)).code == "CONTROL_REQUEST_SIZE"
    assert await alive(path)


async def test_a_request_that_never_ends_times_out(host: Host, path: Path) -> None:
    answer = json.loads(await raw(path, b'{"verb"'))
    assert answer["error"]["code"] == "CONTROL_REQUEST_TIMEOUT"
    assert await alive(path)


async def test_a_client_that_leaves_at_once_is_nothing(host: Host, path: Path) -> None:
    for _ in range(10):
        _, writer = await asyncio.open_unix_connection(path)
        writer.transport.abort()
    assert await alive(path)


async def test_a_client_that_leaves_ends_its_stream(host: Host, path: Path) -> None:
    stream = ControlClient(path, limits=QUICK).call({"verb": "wait"})
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.05)
    assert host.closed == []
    waiting.cancel()
    await asyncio.wait({waiting})
    await until(lambda: host.closed == ["wait"])


async def test_a_client_that_does_not_read_is_dropped(host: Host, path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b'{"verb": "flood"}\n')
    await until(lambda: host.closed == ["flood"])
    assert await alive(path)
    writer.transport.abort()


async def test_beats_bridge_a_long_silence(host: Host, path: Path) -> None:
    asking = asyncio.create_task(ask(path, verb="wait"))
    await asyncio.sleep(QUICK.silence_seconds * 1.5)
    host.release.set()
    assert await asking == [{"released": True}]


async def test_too_many_clients_are_told(host: Host, path: Path) -> None:
    waiting = [asyncio.create_task(ask(path, verb="wait")) for _ in range(QUICK.clients)]
    await asyncio.sleep(0.05)
    assert (await failure(path, verb="count", to=1)).code == "CONTROL_BUSY"
    host.release.set()
    assert await asyncio.gather(*waiting) == [[{"released": True}]] * QUICK.clients
    assert await alive(path)


async def test_another_user_is_refused_on_both_sides(host: Host, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    monkeypatch.setattr("runtime.host.control.os.geteuid", lambda: real + 1)
    assert json.loads(await raw(path, b'{"verb": "count", "to": 1}\n'))["error"]["code"] == "CONTROL_FOREIGN"
    assert (await failure(path, verb="count", to=1)).code == "CONTROL_FOREIGN"
    assert host.closed == []


async def test_nobody_there_is_unresponsive(path: Path) -> None:
    assert (await failure(path, verb="count")).code == "STORE_UNRESPONSIVE"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    error = await failure(path, verb="count")  # the file is there, the process is not
    assert (error.code, error.where) == ("STORE_UNRESPONSIVE", str(path))
    assert error.hint


@pytest.mark.parametrize("answer", [b"", b'{"item": {}}\n{"ite', b'{"beat": true}\n'])
async def test_a_holder_that_breaks_off_is_unresponsive(path: Path, answer: bytes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(break_off, path)
    assert (await failure(path, verb="count")).code == "STORE_UNRESPONSIVE"
    server.close()


async def test_a_holder_that_falls_silent_is_unresponsive(path: Path) -> None:
    release = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_unix_server(hang, path)
    error = await failure(path, verb="count")
    assert error.code == "STORE_UNRESPONSIVE"
    assert "silent" in error.message
    release.set()
    server.close()


async def test_a_stale_socket_is_replaced_only_under_the_lock(path: Path, lock: StoreLock) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = ControlServer(path, Host(), limits=QUICK)
    with pytest.raises(ContractError):
        await server.start(lock)
    assert path.exists()
    lock.acquire()
    await server.start(lock)
    assert await alive(path)
    await server.close()
    await server.close()
    lock.release()


async def test_something_else_in_the_way_is_kept(path: Path, lock: StoreLock) -> None:
    path.write_text("precious")
    lock.acquire()
    with pytest.raises(StorageError) as caught:
        await ControlServer(path, Host()).start(lock)
    assert caught.value.code == "CONTROL_PATH"
    assert path.read_text() == "precious"
    lock.release()


async def test_closing_the_server_ends_every_conversation(path: Path, lock: StoreLock) -> None:
    lock.acquire()
    handler = Host()
    server = ControlServer(path, handler, limits=QUICK)
    await server.start(lock)
    asking = asyncio.create_task(failure(path, verb="wait"))
    await asyncio.sleep(0.05)
    await server.close()
    assert handler.closed == ["wait"]
    assert (await asking).code == "STORE_UNRESPONSIVE"
    lock.release()
