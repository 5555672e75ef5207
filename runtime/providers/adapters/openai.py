"""Model calls over the chat-completions interface that most servers, hosted or local, understand.

Plain HTTP rather than an SDK: SDK retries would hide attempts from the journal, and their time-outs hold per read,
not in total (dependencies §4.2). Nothing is retried here; whoever journals attempts decides that. The key is
looked up for each call and never stored, logged or quoted, whatever a server repeats of it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from runtime.governance.secrets import Secrets, name_of
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelReply, ModelRequest

if TYPE_CHECKING:
    import httpx2

#: A server that sends nothing for so long is taken for dead, however long the whole call may last.
_IDLE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0
#: Far beyond any answer a model gives; protects the console's memory from a broken server.
_MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 4096
_MAX_ERROR_TEXT: Final = 200
_DONE: Final = "[DONE]"
_DEFAULT_MODEL: Final = ("", "auto")


@dataclass(slots=True)
class _Answer:
    """What has arrived so far."""

    parts: list[str] = field(default_factory=list)
    received: int = 0
    model: str = ""
    finish: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


class OpenAIProvider:
    """One endpoint. ``key_ref`` is a reference ``secrets`` looks up, or None for servers without keys.

    A proxy named in the console's environment is used. Cancelling `complete` closes the connection.
    """

    name = "openai"

    def __init__(self, *, base_url: str, model: str, key_ref: str | None, secrets: Secrets, clock: Clock) -> None:
        """Raises `Refused` ``SECRET_REFERENCE`` if ``key_ref`` is anything but a reference."""
        if key_ref is not None:
            name_of(key_ref)
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._key_ref = key_ref
        self._secrets = secrets
        self._clean = secrets.redactor.text
        self._clock = clock
        self._tls: ssl.SSLContext | None = None

    async def complete(self, request: ModelRequest, on_delta: Callable[[str], None] | None = None) -> ModelReply:
        """Stream one answer. Raises `Refused` with the codes of `_refused` and ``PROVIDER_TIMEOUT``, ``_INVALID``."""
        started = self._clock.monotonic()
        answer = _Answer()
        key = await asyncio.to_thread(self._key)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            async with asyncio.timeout(request.timeout):
                async with self._response(headers, self._body(request)) as (http, response):
                    await self._read(http, response, answer, on_delta)
        except TimeoutError:
            raise _timeout(f"no complete answer within {request.timeout:g} s", self._url) from None
        return self._reply(answer, (self._clock.monotonic() - started) * 1000)

    def _key(self) -> str:
        if self._key_ref is None:
            return ""
        try:
            return self._secrets.resolve(self._key_ref)
        except Refused as missing:
            raise Refused("PROVIDER_AUTH", missing.message, where=self._url, hint=missing.hint) from None

    def _body(self, request: ModelRequest) -> dict[str, object]:
        messages = [{"role": "system" if request.packet else "user", "content": request.prompt}]
        if request.packet:
            messages.append({"role": "user", "content": _packet_text(request.packet)})
        body: dict[str, object] = {
            "model": self._model if request.model in _DEFAULT_MODEL else request.model,
            "messages": messages,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.output_schema is not None:
            schema = {"name": "answer", "schema": dict(request.output_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    @asynccontextmanager
    async def _response(
        self, headers: Mapping[str, str], body: Mapping[str, object]
    ) -> AsyncIterator[tuple[Any, httpx2.Response]]:
        http, tls = await asyncio.to_thread(self._load)
        limits = http.Timeout(_IDLE_SECONDS, connect=_CONNECT_SECONDS)
        try:
            async with (
                http.AsyncClient(timeout=limits, verify=tls, follow_redirects=False) as client,
                client.stream("POST", self._url, headers=headers, json=body) as response,
            ):
                if response.status_code != http.codes.OK:
                    raise _refused(response.status_code, await self._error_text(response), self._url)
                yield http, response
        except http.TimeoutException as problem:
            raise _timeout(_name(problem), self._url) from None
        except http.SSEError as problem:
            raise _invalid(self._told(problem), self._url) from None
        except (http.HTTPError, http.StreamError, http.InvalidURL) as problem:
            raise Refused("PROVIDER_CONNECT", f"the connection failed: {_name(problem)}", where=self._url) from None

    def _load(self) -> tuple[Any, ssl.SSLContext | bool]:
        # In a thread: the import costs 40 ms and reading the certificate authorities 20 ms, once each.
        http = importlib.import_module("httpx2")
        if not self._url.startswith("https:"):
            return http, False
        if self._tls is None:
            self._tls = http.create_ssl_context()
        return http, self._tls

    def _reply(self, answer: _Answer, latency_ms: float) -> ModelReply:
        if answer.finish is None:
            raise _invalid("the answer broke off before its end", self._url)
        return ModelReply(
            text="".join(answer.parts),
            model=answer.model or self._model,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            latency_ms=latency_ms,
            provider=self.name,
            details={"finish_reason": answer.finish},
        )

    async def _read(
        self, http: Any, response: httpx2.Response, answer: _Answer, on_delta: Callable[[str], None] | None
    ) -> None:
        where = str(response.url)
        async for event in http.EventSource(response, max_event_size=_MAX_REPLY_BYTES):
            if event.data == _DONE:
                # Some compatible servers end the stream without ever naming a reason.
                answer.finish = answer.finish or ("stop" if answer.received else None)
                return
            answer.received += len(event.data)
            if answer.received > _MAX_REPLY_BYTES:
                raise _invalid(f"the answer exceeds {_MAX_REPLY_BYTES} bytes", where)
            text = self._take(answer, event.data, where)
            if text and on_delta is not None:
                on_delta(text)

    def _take(self, answer: _Answer, data: str, where: str) -> str:
        """Fold one chunk into ``answer``; the new text in it."""
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise _invalid(f"the server reports: {self._told(chunk['error'])}", where)
            answer.model = str(chunk.get("model") or answer.model)
            _take_usage(answer, chunk.get("usage"))
            choices = chunk.get("choices") or [{}]  # the last chunk, with the usage, has none
            answer.finish = choices[0].get("finish_reason") or answer.finish
            text = (choices[0].get("delta") or {}).get("content") or ""
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
            raise _invalid("a chunk of the answer is not what the interface promises", where) from None
        if not isinstance(text, str):
            raise _invalid("a chunk of the answer is not text", where)
        answer.parts.append(text)
        return text

    async def _error_text(self, response: httpx2.Response) -> str:
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_ERROR_BYTES:
                break
        try:
            return self._told(json.loads(body)["error"]["message"])
        except (ValueError, TypeError, KeyError):
            return "no explanation"

    def _told(self, said: object) -> str:
        """What a server or library says, as it may be shown: servers have been seen to quote the key they were given.

        Before it is cut: half a key would not be recognised.
        """
        return _clip(self._clean(str(said)))


def _packet_text(packet: Mapping[str, Any]) -> str:
    return json.dumps(dict(packet), ensure_ascii=False, sort_keys=True, default=dict)


def _take_usage(answer: _Answer, usage: Any) -> None:
    """Token counts as reported; anything else stays unknown rather than being guessed."""
    if isinstance(usage, dict):
        answer.tokens_in = _count(usage.get("prompt_tokens"))
        answer.tokens_out = _count(usage.get("completion_tokens"))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _refused(status: int, text: str, where: str) -> Refused:
    """The refusal for an HTTP status."""
    match status:
        case 401 | 403:
            # The server's text is withheld: several repeat part of the key in it.
            return Refused("PROVIDER_AUTH", f"the key was not accepted ({status})", where=where, hint="check the key")
        case 429:
            return Refused("PROVIDER_RATE_LIMITED", f"too many requests: {text}", where=where, hint="try again later")
        case _ if status >= 500:
            return Refused("PROVIDER_SERVER", f"the server failed ({status}): {text}", where=where)
        case _:
            return _invalid(f"the server answered {status}: {text}", where)


def _invalid(message: str, where: str) -> Refused:
    return Refused("PROVIDER_INVALID", message, where=where)


def _timeout(message: str, where: str) -> Refused:
    return Refused("PROVIDER_TIMEOUT", message, where=where, hint="raise the block's timeout or check the server")


def _name(problem: Exception) -> str:
    """What failed, without the text of lower layers, which may quote the request."""
    return type(problem).__name__


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_ERROR_TEXT else text[: _MAX_ERROR_TEXT - 1] + "…"
