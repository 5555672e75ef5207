"""What ``ctx.services`` gives one attempt: the scope's own services, else faces over ``ctx.operate`` (ruling R42).

A face builds the parameters of one governed operation, reads its output and renames its failures; it decides nothing.
Without a host they fail with ``runtime.no_operations``, because the operation does.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from runtime.blocks.errors import BlockRuntimeError, BlockValidationError, OperationFailed
from runtime.blocks.faults import AI_CODES, FILE_CODES, HTTP_CODES, MAIL_CODES, translated
from runtime.blocks.services import (
    Ai,
    AiAnswer,
    AiRequest,
    BlockingAi,
    BlockingClock,
    BlockingFiles,
    BlockingHttp,
    BlockingMailer,
    Files,
    Http,
    HttpAnswer,
    Mail,
    Mailer,
    Operate,
    Services,
)
from runtime.kernel.clock import Clock
from runtime.kernel.ids import IdSource

_NO_ENV: Final[Mapping[str, str]] = {}
TOOL: Final = "tool_invoke"


@dataclass(frozen=True, slots=True)
class OperationFiles:
    """Files of the work tree."""

    operate: Operate

    async def read(self, path: str) -> bytes:
        return (await self._read(path))[0]

    async def write(self, path: str, content: bytes, *, append: bool = False) -> None:
        """Appending writes the whole file anew, and only onto the content that was read: nothing is lost in between."""
        expected: dict[str, Any] = {}
        if append:
            content, expected = await self._appended(path, content)
        params = {"tool": "filesystem.write_file", "path": path, "create_parents": True, **_encoded(content)}
        await self._call({**params, **expected})

    async def list(self, path: str) -> list[str]:
        output = await self._call({"tool": "filesystem.list_dir", "path": path})
        if output["truncated"]:
            raise BlockRuntimeError("file.io", f"{path} holds more than {len(output['entries'])} names", effects="none")
        return sorted(_below(path, entry["path"]) for entry in output["entries"])

    async def _read(self, path: str) -> tuple[bytes, str]:
        output = await self._call({"tool": "filesystem.read_file", "path": path})
        if output["truncated"]:
            text = f"{path} has {output['size']} bytes, more than can be read at once"
            raise BlockRuntimeError("file.io", text, effects="none")
        content = str(output["content"])
        data = base64.b64decode(content) if output["encoding"] == "base64" else content.encode()
        return data, str(output["sha256"])

    async def _appended(self, path: str, content: bytes) -> tuple[bytes, dict[str, Any]]:
        try:
            before, digest = await self._read(path)
        except BlockRuntimeError as error:
            if error.code != "file.not_found":
                raise
            return content, {"expect_sha256": None}
        return before + content, {"expect_sha256": digest}

    async def _call(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return await _output(self.operate, TOOL, params, FILE_CODES)


@dataclass(frozen=True, slots=True)
class OperationHttp:
    """The tool ``http.request``."""

    operate: Operate

    async def get(self, url: str, *, user_agent: str | None = None) -> HttpAnswer:
        params = {"tool": "http.request", "url": url, **({} if user_agent is None else {"user_agent": user_agent})}
        try:
            output = await _output(self.operate, TOOL, params, HTTP_CODES)
        except OperationFailed as failure:
            if failure.code == "op.http_status" and failure.provider_status is not None:
                return HttpAnswer(int(failure.provider_status), "")
            raise
        text = output.get("text")
        if not isinstance(text, str):
            raise BlockRuntimeError("http.invalid_request", "the answer is not text", provider_status="200")
        return HttpAnswer(int(output["status"]), text)


@dataclass(frozen=True, slots=True)
class OperationMailer:
    """The tool ``mail.send``."""

    operate: Operate

    async def send(self, mail: Mail) -> None:
        named = {} if mail.name is None else {"name": mail.name}
        params = {"tool": "mail.send", "to": mail.to, "subject": mail.subject, "body": mail.body, **named}
        await _output(self.operate, TOOL, params, MAIL_CODES)


@dataclass(frozen=True, slots=True)
class OperationAi:
    """The operation ``llm_call``: which provider answers, and with which key, is the mission's to say."""

    operate: Operate

    async def generate(self, request: AiRequest) -> AiAnswer:
        if request.key_name is not None:
            raise BlockValidationError(
                "validation.bad_config",
                "in a run the key is the mission's: name it under provider: and leave api_key_env out",
                effects="none",
            )
        asked = {"model": request.model, "provider": request.provider}
        params = {
            "prompt": request.prompt,
            "packet": dict(request.data),
            **{name: value for name, value in asked.items() if value is not None},
        }
        output = await _output(self.operate, "llm_call", params, AI_CODES)
        return AiAnswer(text=str(output["text"]), model=request.model)


async def _output(
    operate: Operate, operation_type: str, params: Mapping[str, Any], codes: Mapping[str, str]
) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", (await operate(operation_type, params)).to_python())
    except OperationFailed as failure:
        error = translated(failure, codes)
        if error is failure:
            raise
        raise error from failure


def _encoded(content: bytes) -> dict[str, str]:
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        return {"content": base64.b64encode(content).decode("ascii"), "encoding": "base64"}


def _below(folder: str, name: str) -> str:
    return name if folder in ("", ".") else f"{folder}/{name}"


class Offered:
    """``ctx.services`` of an ``async`` run."""

    __slots__ = ("_operate", "_random", "_seed", "_services")

    def __init__(self, services: Services, operate: Operate, seed: Callable[[], str]) -> None:
        self._services = services
        self._operate = operate
        self._seed = seed
        self._random = services.random

    @property
    def clock(self) -> Clock:
        return self._services.clock

    @property
    def ids(self) -> IdSource:
        return self._services.ids

    @property
    def files(self) -> Files:
        return self._services.files or OperationFiles(self._operate)

    @property
    def http(self) -> Http:
        return self._services.http or OperationHttp(self._operate)

    @property
    def mailer(self) -> Mailer:
        return self._services.mailer or OperationMailer(self._operate)

    @property
    def ai(self) -> Ai:
        return self._services.ai or OperationAi(self._operate)

    @property
    def env(self) -> Mapping[str, str]:
        return _NO_ENV if self._services.env is None else self._services.env

    @property
    def random(self) -> random.Random:
        """Reproducible: two runs draw the same numbers at the same place, unless the scope says otherwise."""
        if self._random is None:
            self._random = random.Random(self._seed())
        return self._random


#: Runs a coroutine on the loop and waits for it in the worker thread.
Bridge = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


class _Blocking:
    """A service whose coroutine methods block."""

    __slots__ = ("_bridge", "_methods", "_service")

    def __init__(self, service: object, bridge: Bridge, *methods: str) -> None:
        self._service = service
        self._bridge = bridge
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._service, name)
        if name not in self._methods:
            return method
        return lambda *args, **named: self._bridge(lambda: method(*args, **named))


class OfferedBlocking:
    """``ctx.services`` of a threaded run."""

    __slots__ = ("_bridge", "_offered")

    def __init__(self, offered: Offered, bridge: Bridge) -> None:
        self._offered = offered
        self._bridge = bridge

    @property
    def clock(self) -> BlockingClock:
        return cast(BlockingClock, _Blocking(self._offered.clock, self._bridge, "sleep"))

    @property
    def ids(self) -> IdSource:
        return self._offered.ids

    @property
    def files(self) -> BlockingFiles:
        return cast(BlockingFiles, _Blocking(self._offered.files, self._bridge, "read", "write", "list"))

    @property
    def http(self) -> BlockingHttp:
        return cast(BlockingHttp, _Blocking(self._offered.http, self._bridge, "get"))

    @property
    def mailer(self) -> BlockingMailer:
        return cast(BlockingMailer, _Blocking(self._offered.mailer, self._bridge, "send"))

    @property
    def ai(self) -> BlockingAi:
        return cast(BlockingAi, _Blocking(self._offered.ai, self._bridge, "generate"))

    @property
    def env(self) -> Mapping[str, str]:
        return self._offered.env

    @property
    def random(self) -> random.Random:
        return self._offered.random
