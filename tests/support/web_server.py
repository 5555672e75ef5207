"""Servers of a test's own on loopback: one that speaks HTTP and one that speaks SMTP, both saying what they are told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on 127.0.0.1 where ``talk`` answers each connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass
class Site:
    """Answers by path; remembers each request's head and body. ``ended`` is set when a waiting client goes away."""

    answers: Mapping[str, bytes]
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0)
        self.seen.append((head, await reader.readexactly(length)))
        self.asked.set()
        answer = self.answers.get(head.split(" ")[1])
        if answer is None:  # never; until the client has had enough
            await reader.read()
            self.ended.set()
            return
        writer.write(answer)
        await writer.drain()


def answer(body: bytes | str = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; ``content_type`` and the like become header names."""
    data = body.encode() if isinstance(body, str) else body
    lines = {"content-length": str(len(data)), "connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + data


@dataclass
class PostOffice:
    """An SMTP server. ``says`` replaces answers by command (``HELLO`` is the greeting, ``.`` the end of a message);
    None is silence, '' hangs up."""

    says: Mapping[str, str | None] = field(default_factory=dict)
    offers: tuple[str, ...] = ("AUTH PLAIN",)
    said: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    silent: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    tls: ssl.SSLContext | None = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        usual = {"HELLO": "220 ready", "DATA": "354 go on", "QUIT": "221 bye", "AUTH": "235 welcome", ".": "250 kept"}
        usual["EHLO"] = "\r\n".join(["250-here", *(f"250-{item}" for item in self.offers), "250 HELP"])
        usual["STARTTLS"] = "220 begin"

        async def reply(command: str) -> bool:
            text = self.says.get(command, usual.get(command, "250 fine"))
            if text is None:
                self.silent.set()
                await reader.read()
                self.hung_up.set()
            if not text:
                return False
            writer.write(f"{text}\r\n".encode())
            await writer.drain()
            return True

        going = await reply("HELLO")
        while going and (line := (await reader.readline()).decode().strip()):
            self.said.append(line)
            command = line.split(" ")[0].upper()
            going = await reply(command)
            if command == "STARTTLS" and self.tls is not None:
                await writer.start_tls(self.tls)
            if command == "DATA" and going and self.says.get("DATA") is None:
                self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                going = await reply(".")


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server named ``names``: its own context, and one of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")]), datetime.now(UTC)
    found = [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(found), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, pem = folder / "cert.pem", made.public_bytes(serialization.Encoding.PEM)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(pem + key.private_bytes(*plain))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=pem.decode())
