"""Recovery policies as declarations: who retries is the enclosing workflow, never the block (blocks spec §14.1).

The randomness of a backoff is derived from the attempt's identity, so a replayed run waits the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from runtime.blocks.errors import BlockValidationError, RegistryError
from runtime.blocks.values import BlockValue, BlockValueKind

if TYPE_CHECKING:
    from runtime.blocks.debug import DebugSession
    from runtime.blocks.envelope import Request, Response

#: Spec §14.1: a cap below one millisecond would turn a backoff into a busy loop.
MIN_CAP: Final = 0.001


class Policy:
    """Base of the recovery policies; ``name`` is what events and metadata call them."""

    __slots__ = ()
    name: str = "policy"


@dataclass(frozen=True, slots=True)
class RetryPolicy(Policy):
    """The same payload and context again, until the visit's attempt index reaches ``max_attempts``.

    ``max_attempts`` counts every execution at that visit, the first included; ``retry_on`` are globs over codes.
    """

    max_attempts: int = 3
    initial: float = 0.0
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.0
    retry_on: tuple[str, ...] = ("*",)
    name = "retry"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise BlockValidationError(
                "validation.bad_config", f"max_attempts must be at least 1, not {self.max_attempts}"
            )
        if self.initial < 0 or self.factor <= 0 or not 0 <= self.jitter <= 1:
            raise BlockValidationError(
                "validation.bad_config", "initial ≥ 0, factor > 0 and 0 ≤ jitter ≤ 1 are required"
            )
        object.__setattr__(self, "cap", max(self.cap, MIN_CAP))
        object.__setattr__(self, "retry_on", tuple(self.retry_on))

    @classmethod
    def none(cls) -> RetryPolicy:
        """One attempt, no retry."""
        return cls(max_attempts=1)

    @classmethod
    def exponential(
        cls,
        retries: int,
        initial: float = 1.0,
        factor: float = 2.0,
        cap: float = 30.0,
        jitter: float = 0.2,
        retry_on: tuple[str, ...] = ("*",),
    ) -> RetryPolicy:
        """``retries`` further attempts with growing pauses; non-positive numbers fall back to the defaults."""
        return cls(
            max_attempts=retries + 1,
            initial=initial if initial > 0 else 1.0,
            factor=factor if factor > 0 else 2.0,
            cap=cap,
            jitter=jitter,
            retry_on=retry_on,
        )

    def covers(self, code: str | None) -> bool:
        """Does a failure with ``code`` match one of the globs?"""
        return any(fnmatchcase(code or "", glob) for glob in self.retry_on)

    def delay(self, retry: int, seed: str) -> float:
        """Seconds before this policy's ``retry``-th retry (from 1), jittered reproducibly by ``seed``."""
        if self.initial <= 0:
            return 0.0
        base = min(self.cap, self.initial * self.factor ** (retry - 1))
        if not self.jitter:
            return base
        low = 1.0 - self.jitter
        return min(self.cap, base * (low + 2 * self.jitter * unit_interval(seed)))


def unit_interval(seed: str) -> float:
    """A number in [0, 1) that depends only on ``seed``."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") / 2**64


Repair = Callable[["Request", "Response"], "Request"]


@dataclass(frozen=True, slots=True)
class RepairPolicy(Policy):
    """One attempt with a request rebuilt from (last request, current failure).

    ``repair`` is a function or the name of a registered one. ``assume_idempotent=False`` refuses to repair
    ``idempotent`` blocks too.
    """

    repair: str | Repair
    assume_idempotent: bool = True
    name = "repair"


class DebugAction(StrEnum):
    """What a debug hook decides; the plain words will do."""

    RESUME = "resume"  # one more attempt, if it is safe
    GIVE_UP = "give_up"
    WAIT = "wait"  # ask the operator, then ask the hook again


DebugHook = Callable[["DebugSession"], "str | Awaitable[str]"]
#: The checkpoint taken right before the visit that failed.
PRE_NODE: Final = "pre_node"


@dataclass(frozen=True, slots=True)
class DebugPolicy(Policy):
    """A breakpoint. Without ``hook`` the failure becomes ``debug_breakpoint_hit``; with one it may mend and resume.

    ``hook`` gets a `DebugSession` and returns a `DebugAction`, directly or as an awaitable. ``rollback_to`` is where a
    rollback goes that names no checkpoint.
    """

    hook: DebugHook | None = None
    rollback_to: str = PRE_NODE
    name = "debug"


@dataclass(frozen=True, slots=True)
class BubblePolicy(Policy):
    """Stop here and hand the current failure up unchanged. Closes every stack implicitly."""

    name = "bubble"


PolicyStack = tuple[object, ...]
RecoveryMap = Mapping[type[Exception], PolicyStack]


def reexecutes(policy: object) -> bool:
    """Could this policy run the block a second time?"""
    if isinstance(policy, RetryPolicy):
        return policy.max_attempts > 1
    return isinstance(policy, RepairPolicy) or (isinstance(policy, DebugPolicy) and policy.hook is not None)


class RepairRegistry:
    """Named repair functions. The shipped ones survive `clear`."""

    def __init__(self) -> None:
        self._functions: dict[str, Repair] = {}
        self.clear()

    def register(self, name: str, function: Repair) -> None:
        if name in self._functions:
            raise RegistryError("registry.reserved_name", f"a repair named {name!r} exists already")
        self._functions[name] = function

    def lookup(self, repair: str | Repair) -> Repair:
        """The function itself; raises `RegistryError` ``registry.unknown_name``."""
        if not isinstance(repair, str):
            return repair
        if repair not in self._functions:
            known = ", ".join(sorted(self._functions))
            raise RegistryError("registry.unknown_name", f"no repair named {repair!r}; known: {known}")
        return self._functions[repair]

    def clear(self) -> None:
        self._functions = {"add_validation_feedback": add_validation_feedback}


def add_validation_feedback(request: Request, failure: Response) -> Request:
    """Tell the model what was wrong: append the failure text to the prompt (blocks spec §14.5)."""
    feedback = (
        f"\n\nThe previous answer was refused: {_failure_text(failure)}\nAnswer again so that it matches the schema."
    )
    payload = request.payload
    if payload.kind is BlockValueKind.STRING:
        return request.with_payload(payload.expect_string() + feedback)
    if payload.kind is not BlockValueKind.MAP:
        return request
    key = next((name for name in ("prompt", "content", "input") if name in payload), "prompt")
    members = dict(payload.expect_map())
    members[key] = BlockValue.of(members[key].text() + feedback if key in members else feedback.strip())
    return request.with_payload(members)


def _failure_text(failure: Response) -> str:
    for key in ("error", "message"):
        told = failure.details.get(key)
        if told is not None and told.kind is BlockValueKind.STRING:
            return told.expect_string()
    return failure.message


REPAIRS: Final = RepairRegistry()
