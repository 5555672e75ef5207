"""Asking a person from inside a run: one question per node at a time, deadlines stand still meanwhile (spec §8.5).

Inside a governed run the attempt's host asks. In a library run the `WaitDesk` of the run's handle keeps the open
questions; without either nobody can answer and the wait fails. Waiting does not survive the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.blocks.contracts import BlockValueKindSet
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockInputError,
    BlockRuntimeError,
    BlockValidationError,
    WaitRefused,
    engine_error,
)
from runtime.blocks.sanitise import clean_text
from runtime.blocks.state import BlockPhase
from runtime.blocks.values import BlockValue
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import Halted
from runtime.kernel.ids import operation_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.blocks.execute import Attempt
    from runtime.blocks.running import AttemptHost, Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitTicket:
    """One open question. ``kinds`` are the value kinds an answer may have, empty for any; ``since`` is UTC."""

    wait_id: str
    node_path: str
    prompt: str
    kinds: tuple[str, ...]
    choices: tuple[str, ...]
    since: str


class WaitDesk:
    """The open questions of one library run. Belongs to the run's loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, tuple[WaitTicket, asyncio.Future[BlockValue]]] = {}
        self.suspended = 0  # how many waits are on, also those a host answers

    @property
    def tickets(self) -> tuple[WaitTicket, ...]:
        """What still needs an answer, oldest first."""
        return tuple(ticket for ticket, _ in self._open.values())

    async def ask(
        self, wait_id: str, node_path: str, prompt: str, kinds: Sequence[str], choices: Sequence[str]
    ) -> BlockValue:
        """Ask and wait without limit; the question goes when the asker is cancelled.

        Raises `BlockValidationError` ``validation.bad_config`` for a kind that does not exist.
        """
        try:
            BlockValueKindSet.from_names(*kinds)
        except BlockDefinitionError as error:
            raise BlockValidationError("validation.bad_config", f"ctx.wait: {error.message}") from None
        ticket = WaitTicket(
            wait_id=wait_id,
            node_path=node_path,
            prompt=clean_text(prompt),
            kinds=tuple(kinds),
            choices=tuple(choices),
            since=timestamp(self._clock.now()),
        )
        future: asyncio.Future[BlockValue] = asyncio.get_running_loop().create_future()
        self._open[wait_id] = (ticket, future)
        try:
            return await future
        finally:
            self._open.pop(wait_id, None)

    def answer(self, wait_id: str, value: object) -> None:
        """Let the asker go on with ``value``. Raises `WaitRefused`, and the question stays open, unless it fits:

        ``wait.unknown`` no such open question, ``wait.kind_mismatch``, ``wait.bad_choice``.
        """
        found = self._open.get(wait_id)
        if found is None or found[1].done():
            raise WaitRefused("wait.unknown", f"no question {wait_id!r} is open; it may have been answered")
        ticket, future = found
        future.set_result(_fitting(ticket, BlockValue.of(value)))
        del self._open[wait_id]


def _fitting(ticket: WaitTicket, value: BlockValue) -> BlockValue:
    kinds = BlockValueKindSet.from_names(*ticket.kinds)
    if ticket.kinds and not kinds.contains(value.kind):
        raise WaitRefused(
            "wait.kind_mismatch", f"{ticket.node_path} wants {kinds} for an answer, not {value.kind.name.lower()}"
        )
    if ticket.choices and _choice(value) not in ticket.choices:
        offered = ", ".join(ticket.choices)
        raise WaitRefused("wait.bad_choice", f"{ticket.node_path} offers {offered}; answer with one of these")
    return value


def _choice(value: BlockValue) -> str | None:
    """What was chosen: the value as text, or the member ``choice`` of a MAP."""
    chosen = value.get("choice") if value.is_map else value
    try:
        return None if chosen is None else chosen.text()
    except BlockInputError:
        return None


class AttemptWaits:
    """The waits of one attempt: how many were begun, how many are on, and the time its deadline had left."""

    __slots__ = ("asked", "on", "remaining", "turn")

    def __init__(self) -> None:
        self.asked = 0
        self.on = 0
        self.remaining: float | None = None
        self.turn = asyncio.Lock()


async def ask(
    attempt: Attempt, prompt: str, kinds: Sequence[str], choices: Sequence[str], subject: object
) -> BlockValue:
    """One question of a block. A second one of the same attempt waits for its turn (blocks spec §8.5)."""
    waits = _waits(attempt)
    async with waits.turn:
        if not attempt.open:
            raise Halted("runtime.canceled", "the attempt has ended")
        if attempt.host is None and attempt.scope.desk is None:
            raise no_operator(attempt.block.block_name)
        wait_id = wait_id_of(attempt.metadata, f"ask{waits.asked}")
        waits.asked += 1
        path = str(attempt.metadata.get("node_path", ""))
        with waiting(attempt, prompt, wait_id):
            return await put(attempt.scope, attempt.host, wait_id, path, prompt, kinds, choices, subject)


async def put(
    scope: Scope,
    host: AttemptHost | None,
    wait_id: str,
    node_path: str,
    prompt: str,
    kinds: Sequence[str],
    choices: Sequence[str],
    subject: object = None,
) -> BlockValue:
    """Put a question to whoever is there. Raises `BlockRuntimeError` ``runtime.no_operator`` when nobody is."""
    if host is not None:
        about = None if subject is None else BlockValue.of(subject)
        return await host.wait(prompt, kinds=kinds, choices=choices, subject=about)
    if scope.desk is not None:
        return await scope.desk.ask(wait_id, node_path, prompt, kinds, choices)
    raise no_operator(node_path)


def wait_id_of(metadata: Mapping[str, Any], index: str) -> str:
    """Derived like an operation id, so that a run told again asks under the same ids (ruling R8)."""
    place = operation_id(
        str(metadata.get("node_path", "")),
        index,
        tick=int(metadata.get("tick", 1)),
        visit=int(metadata.get("visit", 1)),
        attempt=int(metadata.get("attempt", 1)),
    )
    return f"{metadata['run_id']}/{place}"


def no_operator(asker: str) -> BlockRuntimeError:
    return engine_error(
        BlockRuntimeError, "runtime.no_operator", f"{asker} asks a question, but nobody can answer here"
    )


@contextmanager
def waiting(attempt: Attempt, prompt: str, wait_id: str | None = None) -> Iterator[None]:
    """The block is WAITING and its deadline stands still until the last of its overlapping waits is over."""
    waits, state = _waits(attempt), attempt.block.shared_state
    told = {} if wait_id is None else {"wait_id": wait_id}
    waits.on += 1
    if waits.on == 1:
        state.phase = BlockPhase.WAITING
        waits.remaining = _pause(attempt)
    attempt.observe("block.waiting", {**told, "prompt": clean_text(prompt, 256)})
    try:
        with suspended(attempt.scope):
            yield
    finally:
        waits.on -= 1
        if attempt.open:
            if waits.on == 0:
                state.phase = BlockPhase.BUSY
                _resume(attempt, waits.remaining)
            attempt.observe("block.resumed", told)


@contextmanager
def suspended(scope: Scope) -> Iterator[None]:
    """The run's handle shows that a person is asked."""
    desk = scope.desk
    if desk is None:
        yield
        return
    desk.suspended += 1
    try:
        yield
    finally:
        desk.suspended -= 1


def _waits(attempt: Attempt) -> AttemptWaits:
    if attempt.waits is None:
        attempt.waits = AttemptWaits()
    return attempt.waits


def _pause(attempt: Attempt) -> float | None:
    timeout = attempt.deadline
    when = None if timeout is None else timeout.when()
    if timeout is None or when is None or timeout.expired():
        return None
    timeout.reschedule(None)
    return when - _loop_time()


def _resume(attempt: Attempt, remaining: float | None) -> None:
    if remaining is not None and attempt.deadline is not None:
        attempt.deadline.reschedule(_loop_time() + remaining)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
