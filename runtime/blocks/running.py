"""The seam between the scheduler and whoever executes one attempt (architecture §4, ruling 1).

A workflow decides *which* node runs *when*; a `NodeRunner` decides *how* one attempt runs. Library use runs it in
place (`DirectRunner`); inside a governed run the execution room puts lanes, pool slots, budget, journal and fence
around it. Blocks reach the world only through the `AttemptHost` such a runner hands in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from runtime.blocks.contracts import BlockMode
from runtime.blocks.effects import SideEffects
from runtime.blocks.services import Services
from runtime.blocks.waits import put, wait_id_of
from runtime.kernel.model import OperationResult

if TYPE_CHECKING:
    from runtime.blocks.attempts import AttemptStore
    from runtime.blocks.block import Block
    from runtime.blocks.envelope import Request, Response
    from runtime.blocks.graph_run import GraphRun
    from runtime.blocks.state import BlockState
    from runtime.blocks.values import BlockValue
    from runtime.blocks.waits import WaitDesk

__all__ = ["AttemptHost", "DirectRunner", "NodeCall", "NodeOptions", "NodeRunner", "Observer", "Scope", "SideEffects"]

_NOTHING: Final[Mapping[str, object]] = {}

#: Gives the next item of a recurring entry.
Pull = Callable[[], Awaitable["Response"]]
#: Receives ``(event, fields)`` synchronously and must be quick. What it raises is logged and changes nothing.
Observer = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a mission may say about one node beyond its block.

    ``accept``: failure codes that become a result (ruling R16). ``fallback``: node run with the same input when
    recovery failed; ``optional``: successors get NULL instead of a failure (ruling R30). ``extra`` is opaque here.
    """

    accept: tuple[str, ...] = ()
    fallback: str | None = None
    optional: bool = False
    lane: str = "DataLane"
    extra: Mapping[str, object] = field(default_factory=lambda: _NOTHING)


def no_pause(prompt: str) -> AbstractContextManager[None]:
    """For callers without a deadline that could stand still."""
    return nullcontext()


class AttemptHost(Protocol):
    """What ``ctx`` offers inside a run. May raise `runtime.kernel.errors.Halted`."""

    async def operate(
        self,
        operation_type: str,
        params: Mapping[str, Any],
        *,
        key: str | None = None,
        compensation: tuple[str, str] | None = None,
        waiting: Callable[[str], AbstractContextManager[None]] = no_pause,
    ) -> OperationResult:
        """Run one governed operation. ``waiting`` is entered with the question while a person is asked about it."""
        ...

    async def wait(
        self, prompt: str, *, kinds: Sequence[str] = (), choices: Sequence[str] = (), subject: BlockValue | None = None
    ) -> BlockValue:
        """Ask a human. Raises `BlockRuntimeError` ``approval.refused`` or ``approval.missing``."""
        ...

    async def send(self, value: BlockValue) -> None:
        """Hand over a Data item, waiting for room.

        Raises `BlockValidationError` ``validation.stream_item``, `BlockRuntimeError` ``runtime.stream_stalled``.
        """
        ...

    def offer(self, value: BlockValue) -> None:
        """Offer a Telemetry item; never waits, lossy. Only on the loop."""
        ...

    def log(self, level: str, event: str, value: object) -> None:
        """Show a diagnostic of the running block, sanitised: ``value`` comes as the author gave it. Only on the loop."""
        ...


class Scope:
    """What one root execution shares with everything inside it; created once per root `execute`."""

    __slots__ = (
        "_turns",
        "_visits",
        "attempts",
        "desk",
        "executor",
        "observer",
        "root",
        "services",
        "stop_requested",
        "waiting",
        "workflow_id",
    )

    def __init__(
        self,
        *,
        services: Services | None = None,
        observer: Observer | None = None,
        executor: Executor | None = None,
        workflow_id: str = "",
        attempts: AttemptStore | None = None,
    ) -> None:
        self.attempts = attempts  # None: nobody keeps records of attempts
        self.services = services or Services()
        self.observer = observer
        self.executor = executor  # None: the loop's default pool, which is bounded
        self.workflow_id = workflow_id
        self.root: GraphRun | None = None  # set by the outermost workflow; reports are built from it
        self.desk: WaitDesk | None = None  # set by a run's handle; whoever holds one can answer questions
        self.stop_requested = False
        self.waiting: asyncio.Timeout | None = None  # while a recurring run waits for its next item
        self._turns: dict[BlockState, deque[asyncio.Future[None]] | None] = {}
        self._visits: dict[tuple[str, int], int] = {}

    def visit_of(self, path: str, tick: int) -> int:
        """The number of the visit that begins now, for a node inside a composite.

        Counted over the whole run (blocks spec §7.3): a composite that runs again, by a retry or in a loop, has a fresh
        ledger, but its nodes are not where they were, and neither are their operations (ruling R13).
        """
        number = self._visits[path, tick] = self._visits.get((path, tick), 0) + 1
        return number

    def visited(self, tick: int, visits: Mapping[str, int]) -> None:
        """Visits that are known without having been made: those of a resumed run's past."""
        for path, number in visits.items():
            self._visits[path, tick] = max(number, self._visits.get((path, tick), 0))

    def begin_run(self) -> None:
        """A scope that served an earlier run starts anew."""
        self.root, self.stop_requested, self._visits = None, False, {}

    def begin_tick(self, tick: int) -> None:
        """Ticks that are over are no longer counted in."""
        self._visits = {key: number for key, number in self._visits.items() if key[1] >= tick}

    def visits_below(self, path: str, tick: int) -> dict[str, int]:
        """How often each node inside the composite at ``path`` has been visited so far."""
        inside = f"{path}/"
        return {name: count for (name, at), count in self._visits.items() if at == tick and name.startswith(inside)}

    def request_stop(self) -> None:
        """Let a recurring run finish its current tick and then end; other runs ignore it. Only on the loop."""
        if self.stop_requested:
            return
        self.stop_requested = True
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())

    def take_turn(self, block: Block) -> Awaitable[None] | None:
        """Claim a block instance, which may occupy several spots of a run (blocks spec §8.2), for one attempt.

        None: it is the caller's now. Else the caller awaits its turn. Either way it calls `end_turn` afterwards.
        """
        state = block.shared_state
        if state not in self._turns:
            self._turns[state] = None
            return None
        return self._queue(block, state)

    async def _queue(self, block: Block, state: BlockState) -> None:
        waiting = self._turns[state] or deque()
        self._turns[state] = waiting
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.end_turn(block)  # it had just become ours
            raise

    def end_turn(self, block: Block) -> None:
        """Hand the instance to whoever waited longest."""
        state = block.shared_state
        waiting = self._turns[state]
        while waiting:
            following = waiting.popleft()
            if not following.done():
                following.set_result(None)
                return
        del self._turns[state]


@dataclass(slots=True, kw_only=True)
class NodeCall:
    """One attempt the scheduler wants: which node, which block, which request.

    ``block`` has the node's own timeout, policies and side-effect class applied. ``kind`` is ``node`` or
    ``handler``.
    """

    node_name: str
    node_path: str
    block: Block
    request: Request
    options: NodeOptions
    attempt: int = 1
    visit: int = 1
    tick: int = 1
    kind: str = "node"
    scope: Scope | None = None

    @property
    def recurring(self) -> bool:
        """Does this attempt open a stream? The item of its tick is another matter (`NodeRunner.tick`)."""
        return self.block.output_contract.mode is BlockMode.RECURRING

    def execute(
        self, *, runner: NodeRunner | None = None, host: AttemptHost | None = None
    ) -> Coroutine[Any, Any, Response]:
        """Run the attempt in place; nested workflows use ``runner`` for their own nodes."""
        return self.block.execute(self.request, runner=runner, host=host, scope=self.scope)


class NodeRunner(Protocol):
    """Executes attempts for a workflow."""

    async def attempt(self, call: NodeCall) -> Response:
        """Execute one attempt and return its response; that of a recurring block opens its stream."""
        ...

    async def tick(self, call: NodeCall, pull: Pull) -> Response:
        """The item of the tick ``call`` is about: from the record of a resumed run, else from ``pull``.

        ``pull`` opens the stream with `attempt` when there is none, waits for its next item and answers like an
        attempt. Where the stream gave none it answers with a skip, to be recorded like any answer.
        """
        ...

    async def undo(self, call: NodeCall, failure: Response) -> SideEffects | None:
        """Undo what the failed attempt left behind, before a retry, repair, fallback, optional or accept goes on.

        Returns the attempt's effective class as known from receipts, or None to use the declared one (ruling R14).
        Raises `runtime.kernel.errors.Halted` when it could not be undone.
        """
        ...

    async def ask(
        self, call: NodeCall, index: str, prompt: str, kinds: Sequence[str], choices: Sequence[str]
    ) -> BlockValue:
        """Ask a person about an attempt that has ended; ``index`` tells the questions about it apart.

        Raises like `AttemptHost.wait`, and `BlockRuntimeError` ``runtime.no_operator``.
        """
        ...


class DirectRunner:
    """Runs attempts in place; nothing is recorded, so nothing can be undone."""

    def __init__(self, host: AttemptHost | None = None) -> None:
        self._host = host

    def attempt(self, call: NodeCall) -> Coroutine[Any, Any, Response]:
        return call.execute(runner=self, host=self._host)

    async def tick(self, call: NodeCall, pull: Pull) -> Response:
        return await pull()

    async def undo(self, call: NodeCall, failure: Response) -> SideEffects | None:
        return None

    async def ask(
        self, call: NodeCall, index: str, prompt: str, kinds: Sequence[str], choices: Sequence[str]
    ) -> BlockValue:
        wait_id = wait_id_of(call.request.metadata, index)
        return await put(call.scope or Scope(), self._host, wait_id, call.node_path, prompt, kinds, choices)
