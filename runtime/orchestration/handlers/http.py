"""``http.request``: one request to a host the mission lists, and its whole answer (ruling R42).

The console itself asks, so its rules are those of confined processes: the host is listed under ``sandbox.hosts``, the
address behind it is public or listed too, and the connection goes to the address that was judged, while TLS and the
``Host`` header keep the name. Each redirect is judged anew. No proxy of the console's environment is used, and no
cookie is kept. A header may refer to a secret of ``sandbox.secrets``; it is looked up when the request is made and
goes to the origin it was written for only.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.governance.network_names import (
    HostDenied,
    Resolver,
    SystemResolver,
    certificate_problem,
    check_listed,
    judged_addresses,
)
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import Effect, EnvelopeViolation, OperationPlan, ValidationResult
from runtime.kernel.ports import Denial
from runtime.orchestration.handlers.http_params import TOOL, Asked, read_params
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.web import (
    Address,
    as_text,
    redirect_of,
    secret_in,
    shown_headers,
)

#: Longest answer taken, in bytes; what an error says is for reading and needs less.
MAX_ANSWER: Final = 4 * 1024 * 1024
MAX_ERROR: Final = 64 * 1024
MAX_REDIRECTS: Final = 5
#: Seconds to connect to one address.
_CONNECT_SECONDS: Final = 10.0
_ERRORS: Final = 400
#: Outcomes with an answer to show.
_ANSWERED: Final = (None, "HTTP_STATUS")


@dataclass(slots=True)
class _Exchange:
    """What became of it so far. ``sent`` is whether a server may have seen the request."""

    hops: list[str] = field(default_factory=list)
    sent: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Failed(Exception):
    """The request has ended without an answer to hand on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


def actions(settings: HandlerSettings) -> dict[str, Handler]:
    """The tool action of this module."""
    return {TOOL: HttpRequest(settings.hosts, settings.secret)}


class HttpRequest:
    """Effect ``external``. ``secret`` looks up a declared secret (blocking; raises `Refused`)."""

    def __init__(
        self,
        hosts: Sequence[str],
        secret: Callable[[str], str],
        *,
        resolver: Resolver | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._hosts = tuple(hosts)
        self._secret = secret
        self._resolver = resolver
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(keeps_time=True, confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params(TOOL, call.params)
        asked = read_params(params)
        params.done()
        try:
            check_listed(asked.address.target, self._hosts)
        except HostDenied as denied:
            raise _violation(denied.denial) from None
        data = {
            "method": asked.method,
            "origin": f"{asked.address.scheme}://{asked.address.authority}",
            "body_sha256": None if asked.body is None else digest_bytes(asked.body),
        }
        return OperationPlan(Effect.EXTERNAL, tool=TOOL, timeout_seconds=asked.seconds, data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        asked, done = read_params(Params(TOOL, call.params)), _Exchange()
        own = await asyncio.to_thread(self._headers, asked)
        code: str | None = None
        message, denials = "", list[Denial]()
        try:
            async with asyncio.timeout(call.timeout):
                await self._follow(asked, own, done)
        except TimeoutError:
            code, message = "HTTP_TIMEOUT", f"no complete answer within {call.timeout:g} s"
        except HostDenied as denied:
            code, message, denials = denied.denial.code, denied.denial.message, [denied.denial]
        except _Failed as failed:
            code, message = failed.code, failed.message
        except Refused as refused:
            code, message = refused.code, refused.message
        evidence = {
            "method": asked.method,
            "hops": done.hops,
            "status": done.status or None,
            "bytes": len(done.body),
            "sha256": digest_bytes(done.body),
            "effects": "unknown" if done.sent else "none",
        }
        return HandlerOutcome(
            output=_output(done) if code in _ANSWERED else {},
            evidence=evidence,
            code=code,
            message=message,
            denials=tuple(denials),
        )

    def _headers(self, asked: Asked) -> dict[str, str]:
        """What the first origin is told, secrets looked up."""
        lines = {}
        for name, value in asked.headers.items():
            secret = secret_in(value)
            lines[name] = value if secret is None else secret[0] + self._one_line(name, secret[1])
        return lines

    def _one_line(self, name: str, reference: str) -> str:
        found = self._secret(reference)
        if not found.isprintable() or not found.isascii():
            raise Refused("SECRET_FILE", f"{reference} is not one line of ASCII text, as the header {name} needs")
        return found

    async def _follow(self, asked: Asked, own: Mapping[str, str], done: _Exchange) -> None:
        """Ask, and go where the answers lead."""
        resolver = SystemResolver()
        try:
            here, headers = asked.address, dict(own)
            while True:
                done.hops.append(str(here))
                place = await self._ask(asked, here, headers, self._resolver or resolver, done)
                if place is None:
                    return
                if len(done.hops) > MAX_REDIRECTS:
                    raise _Failed("HTTP_STATUS", f"more than {MAX_REDIRECTS} redirects, the last with {done.status}")
                # What a mission tells one origin is not for another: a redirect is the server's word, not the mission's.
                headers = headers if place.origin == here.origin else {}
                here = place
        finally:
            resolver.close()

    async def _ask(
        self, asked: Asked, here: Address, headers: Mapping[str, str], resolver: Resolver, done: _Exchange
    ) -> Address | None:
        """One request; where its answer leads, None at the end."""
        try:
            addresses = await judged_addresses(here.target, self._hosts, resolver)
        except OSError:
            raise _Failed("HTTP_CONNECT", f"the name {here.target.host} cannot be resolved") from None
        async with self._answer(asked, here, headers, addresses, done) as answer:
            done.status = answer.status_code
            done.headers = shown_headers(answer.headers.multi_items())
            place = redirect_of(done.status, asked.method, here, answer.headers.get("location"))
            if place is None:
                await _receive(answer, done)
        return place

    @asynccontextmanager
    async def _answer(
        self,
        asked: Asked,
        here: Address,
        headers: Mapping[str, str],
        addresses: Sequence[str],
        done: _Exchange,
    ) -> AsyncIterator[Any]:
        """An open answer from the first of ``addresses`` that can be connected to."""
        http, tls = await asyncio.to_thread(self._load, here.scheme)
        ours = {"accept": "*/*", "accept-encoding": "identity", "user-agent": asked.agent}
        told = {**ours, **headers, "host": here.authority}
        limits = http.Timeout(None, connect=_CONNECT_SECONDS)
        async with http.AsyncClient(timeout=limits, verify=tls, follow_redirects=False, trust_env=False) as client:
            answer, failure = None, "its name has no address"
            try:
                for address in addresses:
                    request = client.build_request(
                        asked.method, here.at(address), headers=told, content=asked.body,
                        extensions={"sni_hostname": here.target.host},
                    )  # fmt: skip
                    before, done.sent = done.sent, True
                    try:
                        answer = await client.send(request, stream=True)
                        break
                    except (http.ConnectError, http.ConnectTimeout) as problem:
                        failure, done.sent = _why(problem), before
                if answer is None:
                    raise _Failed("HTTP_CONNECT", f"{here.target} cannot be reached: {failure}")
                yield answer
            except (http.HTTPError, http.StreamError) as problem:
                raise _Failed("HTTP_CONNECT", f"the connection to {here.target} failed: {_why(problem)}") from None
            finally:
                if answer is not None:
                    await answer.aclose()

    def _load(self, scheme: str) -> tuple[Any, ssl.SSLContext | bool]:
        # In a thread: the import costs 40 ms and reading the certificate authorities 20 ms, once each.
        http = importlib.import_module("httpx2")
        if scheme != "https":
            return http, False
        if self._tls is None:
            self._tls = (self._make_tls or http.create_ssl_context)()
        return http, self._tls


async def _receive(answer: Any, done: _Exchange) -> None:
    """The body, bounded. What an error says is cut; a real answer is never handed on in part."""
    limit, body = (MAX_ERROR if done.status >= _ERRORS else MAX_ANSWER), bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > limit:
            break
    done.body = bytes(body[:limit])
    if done.status >= _ERRORS:
        raise _Failed("HTTP_STATUS", f"the server answered {done.status} {answer.reason_phrase}".rstrip())
    if len(body) > limit:
        done.body = b""
        raise _Failed("HTTP_TOO_LARGE", f"the answer exceeds {limit} bytes")


def _output(done: _Exchange) -> dict[str, Any]:
    text = as_text(done.body, done.headers.get("content-type", ""))
    said = {"bytes": base64.b64encode(done.body).decode("ascii")} if text is None else {"text": text}
    return {"status": done.status, "url": done.hops[-1], "headers": done.headers, **said}


def _violation(denial: Denial) -> EnvelopeViolation:
    return EnvelopeViolation(
        ValidationResult.deny(
            denial.code,
            denial.message,
            check="hosts",
            operation="tool_invoke",
            attempted=denial.attempted,
            needed=denial.needed,
        )
    )


def _why(problem: BaseException) -> str:
    """What failed: the name of the error, never what was sent."""
    invalid = certificate_problem(problem)
    return type(problem).__name__ if invalid is None else f"its certificate is not valid: {invalid}"
