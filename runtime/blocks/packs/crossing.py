"""Services whose calls cross into the runtime and back as frames: what a pack's block sees, and what answers it.

Only services the run itself brings along cross by name; without one a block's ``ctx.services`` is a face over
``ctx.operate`` on either side, and that crosses as ``operations.operate``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.services import AiAnswer, AiRequest, AttemptServices, HttpAnswer, Mail, Services
from runtime.blocks.values import BlockValue
from runtime.kernel.clock import SystemClock

#: ``ask(service, method, arguments)`` → the answer; failures are raised.
Ask = Callable[[str, str, Mapping[str, Any]], Awaitable[BlockValue]]
_CLOCK: Final = SystemClock()


def brought_along(services: Services) -> tuple[str, ...]:
    """The services of a scope that a pack must ask for by name."""
    return tuple(name for name in ("ai", "files", "http", "mailer") if getattr(services, name) is not None)


def crossing_services(ask: Ask, now: datetime, names: tuple[str, ...], env: Mapping[str, str]) -> Services:
    """What stands for the scope's `Services` on the pack's side. Ids are drawn there; ``random`` needs only a seed."""
    return Services(
        clock=CrossingClock(ask, now),
        env=env,
        files=_Files(ask) if "files" in names else None,
        http=_Http(ask) if "http" in names else None,
        mailer=_Mailer(ask) if "mailer" in names else None,
        ai=_Ai(ask) if "ai" in names else None,
    )


class CrossingClock:
    """The run's wall clock as it was last told, at the attempt's start and after each sleep: what a block sees of time
    is the run's, so that a replay shows it the same. Durations are measured with ours, and so is what a stream sees,
    which lives on between its values.
    """

    def __init__(self, ask: Ask, now: datetime) -> None:
        self._ask = ask
        self._now = now
        self._since: float | None = None

    def go_on(self) -> None:
        """From here on time passes by itself."""
        self._since = _CLOCK.monotonic()

    def now(self) -> datetime:
        if self._since is None:
            return self._now
        return self._now + timedelta(seconds=_CLOCK.monotonic() - self._since)

    def monotonic(self) -> float:
        return _CLOCK.monotonic()

    async def sleep(self, seconds: float) -> None:
        answer = await self._ask("clock", "sleep", {"seconds": float(seconds)})
        self._now = datetime.fromisoformat(answer.expect_string())
        if self._since is not None:
            self.go_on()


@dataclass(frozen=True, slots=True)
class _Files:
    ask: Ask

    async def read(self, path: str) -> bytes:
        return (await self.ask("files", "read", {"path": path})).expect_bytes()

    async def write(self, path: str, content: bytes, *, append: bool = False) -> None:
        await self.ask("files", "write", {"path": path, "content": content, "append": append})

    async def list(self, path: str) -> list[str]:
        answer = await self.ask("files", "list", {"path": path})
        return [item.expect_string() for item in answer.expect_list()]


@dataclass(frozen=True, slots=True)
class _Http:
    ask: Ask

    async def get(self, url: str, *, user_agent: str | None = None) -> HttpAnswer:
        answer = await self.ask("http", "get", {"url": url, "user_agent": user_agent})
        return HttpAnswer(**answer.to_python())


@dataclass(frozen=True, slots=True)
class _Mailer:
    ask: Ask

    async def send(self, mail: Mail) -> None:
        await self.ask("mailer", "send", asdict(mail))


@dataclass(frozen=True, slots=True)
class _Ai:
    ask: Ask

    async def generate(self, request: AiRequest) -> AiAnswer:
        asked = {name: getattr(request, name) for name in AiRequest.__slots__}
        return AiAnswer(**(await self.ask("ai", "generate", asked)).to_python())


async def serve(services: AttemptServices, name: str, method: str, args: Mapping[str, Any]) -> object:
    """Answer one call on the runtime's side.

    Raises `BlockRuntimeError` ``runtime.unknown_service``, `TypeError` for arguments a method does not take, and what
    the service raises.
    """
    match name, method:
        case "files", "read":
            return await services.files.read(**args)
        case "files", "write":
            await services.files.write(**args)
        case "files", "list":
            return await services.files.list(**args)
        case "http", "get":
            return asdict(await services.http.get(**args))
        case "mailer", "send":
            await services.mailer.send(Mail(**args))
        case "ai", "generate":
            return asdict(await services.ai.generate(AiRequest(**args)))
        case _:
            raise BlockRuntimeError("runtime.unknown_service", f"there is no service {name!r} with a method {method!r}")
    return None
