"""The endpoint adapter against a real server on the loopback interface, in all the ways servers misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from runtime.governance.secrets import Secrets
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelRequest
from runtime.providers.adapters.openai import OpenAIProvider

KEY = "sk-canary-0123456789"
REQUEST = ModelRequest(
    call_id="c1",
    role="planner",
    model="auto",
    prompt="You plan.",
    packet={"goal": "grün"},
    output_schema=None,
    temperature=0.5,
    max_tokens=99,
    timeout=5,
)
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


class Server:
    """Answers every request with one script and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.head = ""
        self.body: dict[str, Any] = {}
        self.left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in self.head.lower().splitlines() if line.startswith("content-length:"))
            self.body = json.loads(await reader.readexactly(int(length.split(":")[1])))
            await self._script(writer)
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Script, key_ref: str | None = "env://KEY") -> AsyncIterator[tuple[Server, OpenAIProvider]]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/"
    provider = OpenAIProvider(
        base_url=url, model="tiny", key_ref=key_ref, secrets=Secrets({"KEY": KEY}), clock=SystemClock()
    )
    async with listener:
        yield server, provider


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"delta": {"content": text} if text is not None else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"model": "tiny-1", "choices": [choice], **more}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}}\n\n'
DONE = b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def saying(*pieces: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return script


def status(line: str, body: object = None) -> Script:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return saying(head.encode() + data)


async def refusal(script: Script, **changes: Any) -> Refused:
    async with serving(script) as (_, provider):
        with pytest.raises(Refused) as refused:
            await provider.complete(replace(REQUEST, **changes))
    assert KEY not in str(refused.value)
    assert KEY not in repr(vars(provider).get("_key_ref"))
    return refused.value


async def test_a_stream_is_put_together_and_usage_counted() -> None:
    cut = chunk("Grüß ")
    script = saying(OK, b": hello\n\n", cut[:20], cut[20:], chunk("dich"), chunk(finish="stop"), USAGE, DONE)
    seen: list[str] = []
    async with serving(script) as (server, provider):
        reply = await provider.complete(REQUEST, seen.append)
    assert (reply.text, seen) == ("Grüß dich", ["Grüß ", "dich"])
    assert (reply.tokens_in, reply.tokens_out, reply.model) == (12, 34, "tiny-1")
    assert reply.provider == "openai"
    assert reply.latency_ms > 0
    assert reply.details == {"finish_reason": "stop"}
    assert server.head.startswith("POST /v1/chat/completions ")
    assert f"authorization: bearer {KEY}" in server.head.lower()


async def test_the_request_says_what_was_asked() -> None:
    schema = {"type": "object"}
    async with serving(saying(OK, chunk("{}", "stop"), DONE)) as (server, provider):
        await provider.complete(replace(REQUEST, output_schema=schema))
    assert server.body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "You plan."}, {"role": "user", "content": '{"goal": "grün"}'}],
        "temperature": 0.5,
        "max_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    }


async def test_a_named_model_and_no_key() -> None:
    async with serving(saying(OK, chunk("x", "stop"), DONE), key_ref=None) as (server, provider):
        await provider.complete(replace(REQUEST, model="big", packet={}))
    assert server.body["model"] == "big"
    assert server.body["messages"] == [{"role": "user", "content": "You plan."}]
    assert "authorization" not in server.head.lower()


async def test_missing_usage_stays_unknown() -> None:
    async with serving(saying(OK, chunk("x", "stop"), DONE)) as (_, provider):
        reply = await provider.complete(REQUEST)
    assert (reply.tokens_in, reply.tokens_out) == (None, None)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("401 Unauthorized", "PROVIDER_AUTH"),
        ("403 Forbidden", "PROVIDER_AUTH"),
        ("429 Too Many Requests", "PROVIDER_RATE_LIMITED"),
        ("500 Oops", "PROVIDER_SERVER"),
        ("503 Busy", "PROVIDER_SERVER"),
        ("400 Bad Request", "PROVIDER_INVALID"),
        ("302 Found", "PROVIDER_INVALID"),
    ],
)
async def test_statuses_become_codes_and_never_repeat_the_key(line: str, code: str) -> None:
    assert (await refusal(status(line, {"error": {"message": f"wrong key {KEY}"}}))).code == code


@pytest.mark.parametrize(
    "pieces",
    [
        (OK, b"data: {not json\n\n"),
        (OK, b"data: [1]\n\n"),
        (OK, b'data: {"choices": [{"delta": {"content": 5}}]}\n\n'),
        (OK, b'data: {"error": {"message": "overloaded ' + KEY.encode() + b'"}}\n\n'),
        (OK, chunk("half")),
        (OK, DONE),
        (OK.replace(b"text/event-stream", b"text/html"), b"<html>"),
        (OK, b"data: " + b"x" * (9 * 1024 * 1024) + b"\n\n"),
        (OK, *[chunk("y" * 1_000_000)] * 9),
    ],
    ids=["no json", "wrong shape", "no text", "error", "cut short", "empty", "no stream", "one giant", "many large"],
)
async def test_malformed_streams_are_invalid(pieces: tuple[bytes, ...]) -> None:
    assert (await refusal(saying(*pieces))).code == "PROVIDER_INVALID"


async def test_a_dropped_connection_is_a_connection_error() -> None:
    assert (await refusal(saying(b""))).code == "PROVIDER_CONNECT"
    promised = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n"
    assert (await refusal(saying(promised, chunk("x")))).code == "PROVIDER_CONNECT"


async def test_nobody_listening_is_a_connection_error() -> None:
    async with serving(saying()) as (_, provider):
        pass
    with pytest.raises(Refused) as refused:
        await provider.complete(REQUEST)
    assert refused.value.code == "PROVIDER_CONNECT"


async def test_a_missing_key_is_named_before_anything_is_sent() -> None:
    async with serving(saying(OK), key_ref="env://OTHER") as (server, provider):
        with pytest.raises(Refused, match=r"PROVIDER_AUTH: env://OTHER"):
            await provider.complete(REQUEST)
    assert server.head == ""


async def drip(writer: asyncio.StreamWriter) -> None:
    """A server that never ends and always has a little more to say."""
    writer.write(OK)
    while True:
        writer.write(chunk("tick "))
        await writer.drain()
        await asyncio.sleep(0.01)


async def test_the_time_limit_is_for_the_whole_answer() -> None:
    assert (await refusal(drip, timeout=0.15)).code == "PROVIDER_TIMEOUT"


async def test_cancelling_in_mid_stream_closes_the_connection() -> None:
    heard = asyncio.Event()
    async with serving(drip) as (server, provider):
        task = asyncio.ensure_future(provider.complete(REQUEST, lambda _: heard.set()))
        async with asyncio.timeout(5):
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.left.wait()
