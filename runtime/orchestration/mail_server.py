"""The operator's mail server: which one it is, and handing it one message (blocks spec §21.3).

Host, account and sender are the operator's and come from the console's environment each time mail is sent; a mission
names recipients and text only. Every failure says whether the server may have taken the message: until it has been
told the whole of it and said yes, it has not; when the connection is lost in between, nobody knows.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from runtime.governance.network_names import certificate_problem
from runtime.kernel.errors import Refused

_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
#: Submission with STARTTLS (RFC 6409), and with TLS from the first byte (RFC 8314).
DEFAULT_PORT: Final = 587
_TLS_PORT: Final = 465
_GOODBYE_SECONDS: Final = 2.0
_MAX_SAID: Final = 200
_TEMPORARY: Final = range(400, 500)
_REFUSED: Final = range(400, 600)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mail is handed in. ``sender`` is ``Name <address>`` or an address; ``tls`` False only if asked for."""

    host: str
    port: int
    sender: str
    tls: bool = True
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class MailFailed(Exception):
    """The message was not, or perhaps not, handed in. ``taken``: might the server have it?"""

    def __init__(self, code: str, message: str, *, taken: bool = False) -> None:
        super().__init__(code, message)
        self.code, self.message, self.taken = code, message, taken


def mail_server(environ: Mapping[str, str]) -> MailServer:
    """Read the operator's settings. Raises `Refused` ``MAIL_CONFIG`` naming the variable, never its value."""

    def first(*names: str) -> str:
        return next((environ[name].strip() for name in names if environ.get(name, "").strip()), "")

    def needed(*names: str) -> str:
        value = first(*names)
        if not value:
            raise _config(f"{names[0]} is not set", f"set {' or '.join(names)} where the console runs")
        return value

    secure, port = first("SMTP_SECURE").lower() or "true", first("SMTP_PORT") or str(DEFAULT_PORT)
    if secure not in _YES + _NO:
        raise _config("SMTP_SECURE is neither true nor false", "leave it out for TLS")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise _config("SMTP_PORT is no port", f"leave it out for {DEFAULT_PORT}")
    user, password = first("SMTP_USERNAME", "SMTP_UNAME"), first("SMTP_PASSWORD", "SMTP_PASS")
    if bool(user) != bool(password):
        raise _config("only one of SMTP_USERNAME and SMTP_PASSWORD is set", "set both, or neither")
    sender, name = needed("EMAIL_FROM", "DEFAULT_SENDER"), first("EMAIL_FROM_NAME", "DEFAULT_SENDER_NAME")
    return MailServer(
        host=needed("SMTP_HOST", "SMTP"),
        port=int(port),
        sender=f"{name} <{sender}>" if name and "<" not in sender else sender,
        tls=secure in _YES,
        user=user,
        password=password,
    )


async def hand_in(
    server: MailServer,
    data: bytes,
    *,
    sender: str,
    to: Sequence[str],
    seconds: float,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> str:
    """Give ``server`` one message, for all of ``to`` or for nobody; what it said when it took it.

    Raises `MailFailed`. Cancelling closes the connection at once.
    """
    smtp = await asyncio.to_thread(importlib.import_module, "aiosmtplib")
    context = await asyncio.to_thread(tls) if server.tls else None
    implicit = server.tls and server.port == _TLS_PORT
    client = smtp.SMTP(
        hostname=server.host, port=server.port, timeout=seconds, local_hostname=socket.gethostname(),
        use_tls=implicit, start_tls=server.tls and not implicit, tls_context=context,
    )  # fmt: skip
    talk = _Talk(smtp, server)
    try:
        try:
            async with asyncio.timeout(seconds):
                return await talk.through(client, data, sender, to)
        except TimeoutError:
            raise MailFailed("MAIL_TIMEOUT", f"{server} did not answer within {seconds:g} s", taken=talk.told) from None
    finally:
        client.close()


class _Talk:
    """One conversation. ``told``: has the message itself been sent, and not been answered yet?"""

    def __init__(self, smtp: Any, server: MailServer) -> None:
        self._smtp = smtp
        self._server = server
        self.told = False

    async def through(self, client: Any, data: bytes, sender: str, to: Sequence[str]) -> str:
        await self._step(client.connect())
        if self._server.user:
            await self._step(client.login(self._server.user, self._server.password), "MAIL_AUTH")
        await self._step(client.mail(sender))
        for address in to:
            await self._step(client.rcpt(address))
        self.told = True
        answer = await self._step(client.data(data))
        self.told = False
        with suppress(self._smtp.SMTPException, OSError, TimeoutError):
            # It has the message; how it takes leave changes nothing.
            await client.quit(timeout=_GOODBYE_SECONDS)
        return _said(answer.message)

    async def _step(self, work: Awaitable[_T], refused: str = "MAIL_PERMANENT") -> _T:
        """``refused`` is the code of a final no."""
        smtp, where = self._smtp, self._server
        try:
            return await work
        except smtp.SMTPResponseException as error:
            raise self._answered(error.code, error.message, refused) from None
        except smtp.SMTPTimeoutError:
            raise MailFailed("MAIL_TIMEOUT", f"{where} did not answer in time", taken=self.told) from None
        except (smtp.SMTPServerDisconnected, smtp.SMTPConnectError, OSError) as error:
            raise self._lost(error) from None
        except smtp.SMTPException as error:
            code = "MAIL_CONFIG" if "STARTTLS" in str(error) else refused
            raise MailFailed(code, f"{where} does not offer what is needed: {_said(str(error))}") from None

    def _answered(self, code: int, message: str, refused: str) -> MailFailed:
        """The server said no, so it has taken nothing; unless what it said about the message is no no at all."""
        if refused == "MAIL_AUTH" and code not in _TEMPORARY:
            # Its text is withheld: some servers repeat what they were given.
            return MailFailed("MAIL_AUTH", f"{self._server} did not accept the login ({code})")
        return MailFailed(
            "MAIL_TRANSIENT" if code in _TEMPORARY else refused,
            f"{self._server} said {code} {_said(message)}",
            taken=self.told and code not in _REFUSED,
        )

    def _lost(self, error: BaseException) -> MailFailed:
        invalid = certificate_problem(error)
        if invalid is not None:
            return MailFailed("MAIL_CONFIG", f"the certificate of {self._server} is not valid: {invalid}")
        name = type(error.__cause__ or error).__name__
        return MailFailed("MAIL_TRANSIENT", f"the connection to {self._server} failed: {name}", taken=self.told)


def _said(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= _MAX_SAID else text[: _MAX_SAID - 1] + "…"


def _config(message: str, hint: str) -> Refused:
    return Refused("MAIL_CONFIG", message, hint=hint)
