"""Which hosts a confined process may reach, and the proxy that holds it to them. The wall itself: see the sandbox's tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from runtime.governance.environment import PROXY_PORT, proxied
from runtime.governance.network_proxy import MAX_KEPT, Bounds, HostProxy
from runtime.governance.network_rules import Target, is_listed, is_reachable, parse_request, parse_target

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], "asyncio.Future[Stream]"]

# --- decisions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "listed", "answer"),
    [
        ("a.example:443", "a.example", True),
        ("a.example:80", "a.example", True),
        ("A.Example.:443", "a.example", True),
        ("a.example:443", "A.EXAMPLE", True),
        ("a.example:8080", "a.example", False),
        ("a.example:8080", "a.example:8080", True),
        ("a.example:443", "a.example:8080", False),
        ("b.a.example:443", "a.example", False),
        ("a.example.evil:443", "a.example", False),
        ("evila.example:443", "a.example", False),
        ("192.0.2.7:443", "192.0.2.7", True),
        ("127.0.0.1:80", "localhost", False),
        ("localhost:80", "127.0.0.1", False),
        ("127.1:80", "127.0.0.1", False),
        ("[::1]:80", "localhost", False),
        ("2130706433:80", "127.0.0.1", False),
    ],
)
def test_a_host_is_listed_exactly_as_written(asked: str, listed: str, answer: bool) -> None:
    target = parse_target(asked)
    assert target is not None
    assert is_listed(target, ["other.example", listed]) is answer
    assert not is_listed(target, [])


@pytest.mark.parametrize("text", ["", ":80", "a.example", "a b:80", "a.example:0", "a.example:65536", "u@a:80", "ä:80"])
def test_what_is_no_target(text: str) -> None:
    assert parse_target(text) is None


@pytest.mark.parametrize(
    ("host", "address", "answer"),
    [
        ("a.example", "93.184.216.34", True),
        ("a.example", "2606:2800:220:1::1", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "10.0.0.1", False),
        ("10.0.0.5", "10.0.0.5", True),
        ("a.example", "10.0.0.5", True),  # listed itself
        ("a.example", "::ffff:10.0.0.5", True),
        *(
            ("a.example", address, False)
            for address in [
                *("127.0.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"),
                *("224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%2", "fc00::1"),
                *("fec0::1", "ff02::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1"),
                "2001:0:7f00:1::1",
            ]
        ),
    ],
)
def test_only_public_addresses_are_behind_a_name(host: str, address: str, answer: bool) -> None:
    assert is_reachable(Target(host, 443), address, ["a.example", "localhost", "10.0.0.5"]) is answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1",
        b"GET https://a.example/ HTTP/1.1",
        b"GET http://u:p@a.example/ HTTP/1.1",
        b"CONNECT a.example HTTP/1.1",
        b"CONNECT a.example:443 HTTP/2",
        b"get http://a.example/ HTTP/1.1",
        b"GET http://a.example/ x HTTP/1.1",
        b"\x16\x03\x01",
    ],
)
def test_what_is_no_request_to_a_proxy(head: bytes) -> None:
    with pytest.raises(ValueError, match=r"proxy|host:port|HTTP/1"):
        parse_request(head + b"\r\n\r\n")


def test_a_forwarded_request_names_only_the_host_that_was_judged() -> None:
    fields = b"Host: evil.example\r\nconnection: keep-alive\r\nProxy-Authorization: x\r\nX-Own: 1"
    request = parse_request(b"GET http://a.example:8080/p?q HTTP/1.0\r\n" + fields + b"\r\n\r\n")
    assert request.target == Target("a.example", 8080)
    assert request.opening == (b"GET /p?q HTTP/1.0\r\nHost: a.example:8080\r\nX-Own: 1\r\nConnection: close\r\n\r\n")


def test_the_proxy_wins_over_a_declared_one_and_a_process_still_reaches_itself() -> None:
    env = proxied({"http_proxy": "http://elsewhere:1", "OWN": "1"}, ["a.example", "127.0.0.1:8080"])
    assert {env[name] for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY")} == {f"http://127.0.0.1:{PROXY_PORT}"}
    assert (env["OWN"], env["no_proxy"], env["NO_PROXY"]) == ("1", "localhost,::1", "localhost,::1")


# --- the proxy --------------------------------------------------------------------------------------------------------


async def answer_in_capitals(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that answers once its client has finished: half-closed connections are needed to talk to it."""
    with suppress(ConnectionError):  # a connection that was cut is reset
        writer.write((await reader.read()).upper())
        await writer.drain()
    await ended(writer)


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def serving(answer: Callable[..., object] = answer_in_capitals) -> AsyncIterator[int]:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def proxying(
    hosts: Sequence[str], address: str = "", bounds: Bounds | None = None
) -> AsyncIterator[tuple[HostProxy, Open]]:
    """A proxy whose names all lead to ``address``, and a way to connect to it. Nothing may be left open."""

    async def resolve(name: str) -> Sequence[str]:
        return [address] if address else []

    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    proxy = HostProxy(hosts, resolver=resolve if address else None, bounds=bounds)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    proxy.start(listener)
    made: list[Stream] = []

    async def connect() -> Stream:
        made.append(await asyncio.open_connection("127.0.0.1", port))
        return made[-1]

    try:
        yield proxy, lambda: asyncio.ensure_future(connect())
    finally:
        await proxy.close()
        for _, writer in made:
            await ended(writer)
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


async def asked(connect: Open, text: str) -> bytes:
    reader, writer = await connect()
    writer.write(text.encode() + b"\r\n\r\n")
    writer.write_eof()
    return await reader.read()


async def tunnel(connect: Open, target: str) -> Stream:
    reader, writer = await connect()
    writer.write(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    return reader, writer


async def test_both_halves_of_a_tunnel_end_by_themselves_and_are_counted() -> None:
    async with serving() as port, proxying([f"localhost:{port}"]) as (proxy, connect):
        reader, writer = await tunnel(connect, f"localhost:{port}")
        body = b"a" * 300_000
        writer.write(body)
        writer.write_eof()
        assert await reader.read() == body.upper()
        await proxy.close(drain=5)
        assert proxy.notes == (f"NET_REACHED: localhost:{port}, 1 connections, 300000 bytes sent, 300000 received",)
        assert proxy.denials == ()


async def test_an_unlisted_host_is_refused_and_kept_once() -> None:
    async with proxying(["a.example"], "127.0.0.1") as (proxy, connect):
        for _ in range(2):
            answer = await asked(connect, "CONNECT evil.example:8443 HTTP/1.1")
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"NET_HOST_DENIED: evil.example:8443 is not listed" in answer
        [denial] = proxy.denials
        assert (denial.code, denial.attempted) == ("NET_HOST_DENIED", "evil.example:8443")
        assert denial.needed == "sandbox.hosts: [evil.example:8443]"


async def test_a_listed_name_that_leads_inside_is_refused() -> None:
    async with serving() as port, proxying([f"a.example:{port}"], "127.0.0.1") as (proxy, connect):
        assert (await asked(connect, f"GET http://a.example:{port}/ HTTP/1.1")).startswith(b"HTTP/1.1 403 ")
        [denial] = proxy.denials
        assert denial.attempted == f"a.example:{port}"
        assert denial.message == f"a.example:{port} leads to 127.0.0.1, which is not a public address"
        assert denial.needed == f"sandbox.hosts: [127.0.0.1:{port}]"
        assert proxy.notes == ()
    async with serving() as port, proxying([f"a.example:{port}", f"127.0.0.1:{port}"], "127.0.0.1") as (_, connect):
        assert b"HOST: A.EXAMPLE" in await asked(connect, f"GET http://a.example:{port}/ HTTP/1.1")


async def test_refusals_are_bounded() -> None:
    async with proxying([]) as (proxy, connect):
        await asyncio.gather(*(asked(connect, f"CONNECT h{n}.example:1 HTTP/1.1") for n in range(MAX_KEPT + 3)))
        assert len(proxy.denials) == MAX_KEPT
        assert proxy.notes == ("NET_UNCOUNTED: 3 further connections or refusals",)


async def test_what_cannot_be_served_is_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with proxying([f"localhost:{port}"], bounds=Bounds(head=0.05)) as (_, connect):
        assert (await asked(connect, f"CONNECT localhost:{port} HTTP/1.1")).startswith(b"HTTP/1.1 502 ")
        assert (await asked(connect, "GET / HTTP/1.1")).startswith(b"HTTP/1.1 400 ")
        assert (await asked(connect, "GET / HTTP/1.1\r\nX: " + "x" * 40_000)).startswith(b"HTTP/1.1 431 ")
        silent, _ = await connect()
        assert (await silent.read()).startswith(b"HTTP/1.1 408 ")


async def test_connections_beyond_the_limit_wait_and_silent_ones_are_ended() -> None:
    async with serving() as port, proxying([f"localhost:{port}"], bounds=Bounds(connections=1)) as (_, connect):
        _, first = await tunnel(connect, f"localhost:{port}")
        second = asyncio.ensure_future(tunnel(connect, f"localhost:{port}"))
        assert not (await asyncio.wait([second], timeout=0.05))[0]
        first.close()
        await second
    async with serving() as port, proxying([f"localhost:{port}"], bounds=Bounds(idle=0.05)) as (_, connect):
        reader, _ = await tunnel(connect, f"localhost:{port}")
        with pytest.raises(ConnectionError):
            await reader.read()
