"""Capabilities a block may be given. Small protocols, all replaceable in tests (blocks spec §6.4).

A block reaches the outside world through ``ctx.services`` only. What the scope's `Services` leave out is a thin face
over ``ctx.operate`` (`runtime.blocks.faces`), so that inside a run every service call is a governed operation (ruling
R42). Building a container performs no I/O. Feeds, Markdown, templates and schedules are pure functions, hence no services.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from runtime.blocks.values import BlockValue
from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.ids import IdSource, SystemIds

_NOTHING: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server said: its status, and the body as text."""

    status: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One message to one recipient; ``name`` is how the recipient is called."""

    to: str
    subject: str = ""
    body: str = ""
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AiRequest:
    """One question to a model. What is None is left to the service: in a run, to the mission's ``provider:``.

    ``key_name`` is the variable that holds the key, never the key.
    """

    prompt: str
    data: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    provider: str | None = None
    model: str | None = None
    key_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AiAnswer:
    """What a model said. Token counts are None where they are accounted elsewhere: in a run, in the receipt."""

    text: str
    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    calls: int = 1


class Files(Protocol):
    """Files below one root; paths are relative to it, with forward slashes.

    Every method raises `BlockRuntimeError` ``file.not_found``, ``file.permission_denied``, ``file.not_a_directory``,
    ``file.path_outside_root`` or ``file.io``.
    """

    async def read(self, path: str) -> bytes:
        """The whole file."""
        ...

    async def write(self, path: str, content: bytes, *, append: bool = False) -> None:
        """Replace the file in one step, or add to its end; missing folders are made."""
        ...

    async def list(self, path: str) -> list[str]:
        """The paths of what stands in a folder, not below it, in ascending order."""
        ...


class Http(Protocol):
    """Reading what a server offers."""

    async def get(self, url: str, *, user_agent: str | None = None) -> HttpAnswer:
        """The answer, whatever its status.

        Raises `BlockRuntimeError` ``http.timeout``, ``http.connect_failed``, ``http.invalid_request``. A service that
        does not hand out answers of a failing status raises what `runtime.blocks.faults.http_status` makes of it.
        """
        ...


class Mailer(Protocol):
    """Sending mail."""

    async def send(self, mail: Mail) -> None:
        """Hand the message to the mail server.

        Raises `BlockRuntimeError` ``email.config``, ``email.smtp.auth_failed``, ``email.smtp.timeout``,
        ``email.smtp.transient``, ``email.smtp.permanent``; ``effects="none"`` when the server accepted nothing.
        """
        ...


class Ai(Protocol):
    """Asking a model."""

    async def generate(self, request: AiRequest) -> AiAnswer:
        """The model's answer.

        Raises `BlockRuntimeError` ``ai.auth``, ``ai.rate_limited``, ``ai.timeout``, ``ai.provider_5xx``,
        ``ai.invalid_response``, ``ai.unsupported_provider``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a scope gives its blocks. None: whatever ``ctx.services`` falls back to.

    ``env`` is empty by default: in a run, secrets and settings reach operations, not blocks. ``random`` falls back to a
    source seeded by the attempt's place in the run.
    """

    clock: Clock = field(default_factory=SystemClock)
    ids: IdSource = field(default_factory=SystemIds)
    files: Files | None = None
    http: Http | None = None
    mailer: Mailer | None = None
    ai: Ai | None = None
    env: Mapping[str, str] | None = None
    random: random.Random | None = None


class AttemptServices(Protocol):
    """What ``ctx.services`` offers an ``async`` run."""

    @property
    def clock(self) -> Clock: ...
    @property
    def ids(self) -> IdSource: ...
    @property
    def files(self) -> Files: ...
    @property
    def http(self) -> Http: ...
    @property
    def mailer(self) -> Mailer: ...
    @property
    def ai(self) -> Ai: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def random(self) -> random.Random: ...


# -- the same for threaded runs, where every call blocks the worker thread ---------------------------------------


class BlockingClock(Protocol):
    """See `Clock`."""

    def now(self) -> Any: ...
    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class BlockingFiles(Protocol):
    """See `Files`."""

    def read(self, path: str) -> bytes: ...
    def write(self, path: str, content: bytes, *, append: bool = False) -> None: ...
    def list(self, path: str) -> list[str]: ...


class BlockingHttp(Protocol):
    """See `Http`."""

    def get(self, url: str, *, user_agent: str | None = None) -> HttpAnswer: ...


class BlockingMailer(Protocol):
    """See `Mailer`."""

    def send(self, mail: Mail) -> None: ...


class BlockingAi(Protocol):
    """See `Ai`."""

    def generate(self, request: AiRequest) -> AiAnswer: ...


class BlockingServices(Protocol):
    """What ``ctx.services`` offers a threaded run."""

    @property
    def clock(self) -> BlockingClock: ...
    @property
    def ids(self) -> IdSource: ...
    @property
    def files(self) -> BlockingFiles: ...
    @property
    def http(self) -> BlockingHttp: ...
    @property
    def mailer(self) -> BlockingMailer: ...
    @property
    def ai(self) -> BlockingAi: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def random(self) -> random.Random: ...


class Operate(Protocol):
    """``ctx.operate`` as the faces need it."""

    async def __call__(self, operation_type: str, params: Mapping[str, Any]) -> BlockValue: ...
