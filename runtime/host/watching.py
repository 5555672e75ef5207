"""One armed mission: hears that files moved, looks what changed, judges whose change it is, and starts runs.

Everything it decides is in `runtime.missions.watch_rules`; this is the shell around it, one task that does one thing
at a time. While a run of the watch is at work its writes cannot be told from anybody else's, so changes are judged
when its journal is complete; only to preempt it they are judged before, without taking note of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from runtime.events.facts import FileChange, IgnoredChange, RunSummary, WatchState
from runtime.host.api import Launch, Watch
from runtime.host.watch_aim import Aim, recorded, take_aim
from runtime.host.watch_files import shown
from runtime.host.watch_lookout import Lookout, Sighting
from runtime.kernel.clock import Clock, timestamp
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.ids import IdSource
from runtime.kernel.outcomes import RunStatus
from runtime.missions.watch_rules import (
    Doings,
    Heard,
    Judgement,
    Next,
    Settling,
    Suspicion,
    cause_of,
    judge,
    may_look,
    overlapping,
)

#: Changes and ignored changes a watch shows; the totals count all.
MAX_SHOWN: Final = 20
_RECENT_RUNS: Final = 8
#: A launch that takes longer waits for its work tree, and the watch says so.
_WAITS_AFTER: Final = 2.0
#: How long git is left alone between two looks at whether it is done.
_GIT_SECONDS: Final = 0.05
_LOG: Final = logging.getLogger(__name__)

TRIGGER: Final = "watch"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPorts:
    """What the host lends a watch.

    ``launch`` opens a run under an id and returns its summary (refused or live); ``withdraw`` gives up one that still
    waits to open; ``preempt`` cancels a live one, false when that cannot be done (yet); ``done`` waits for its end.
    ``changed`` shows the watch, ``record`` writes into the store's journal.
    """

    clock: Clock
    ids: IdSource
    ours: tuple[Path, ...]
    launch: Callable[[str, Launch, Sequence[FileChange]], Awaitable[RunSummary]]
    withdraw: Callable[[str], None]
    preempt: Callable[[str], bool]
    done: Callable[[str], Awaitable[RunSummary]]
    doings: Callable[[Iterable[RunSummary], Sequence[str], Path], Awaitable[Doings]]
    changed: Callable[[], None]
    record: Callable[..., None]


@dataclass(slots=True)
class _Run:
    """The run of this watch that is being opened, or at work (``live``)."""

    run_id: str
    task: asyncio.Task[RunSummary]
    live: RunSummary | None = None
    preempted: bool = False


@dataclass(slots=True)
class _Tally:
    """Totals since the watch was armed, and the newest of what it left out."""

    events: int = 0
    runs: int = 0
    skipped: int = 0
    ignored: int = 0
    recent: deque[IgnoredChange] = field(default_factory=lambda: deque(maxlen=MAX_SHOWN))


class Watcher:
    """One watch. `arm` it once, then it lives in a task of its own until `close`."""

    def __init__(self, watch_id: str, intent: Watch, aim: Aim, ports: WatchPorts) -> None:
        self.watch_id = watch_id
        self.session_id = ports.ids.uuid()
        self._intent = intent
        self._aim = aim
        self._ports = ports
        self._since = timestamp(ports.clock.now())
        self._lookout = Lookout(aim, heard=self._heard, lost=self._touch)
        self._settling = Settling(aim.debounce_ms / 1000)
        self._tally = _Tally()
        self._suspicion = Suspicion()
        self._recent: deque[RunSummary] = deque(maxlen=_RECENT_RUNS)
        self._run: _Run | None = None
        self._last_run_id: str | None = None
        self._last_fired: str | None = None
        self._last_changes: tuple[FileChange, ...] = ()
        self._touched_idle = False
        self._meanwhile: set[str] = set()  # files seen to have changed while a run was at work
        self._unanswered: tuple[FileChange, ...] = ()  # changes of the mission taken note of, but not run for yet
        self._broken = False
        self._wanted_rearm = False
        self._phase = "arming"
        self._trouble: QuarterdeckError | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- what others see and ask --------------------------------------------------------------------------------

    @property
    def mission_path(self) -> Path:
        return self._aim.mission.path.resolve()

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._task

    @property
    def state(self) -> WatchState:
        """The watch as faces show it."""
        aim, run, tally, trouble = self._aim, self._run, self._tally, self._trouble
        return WatchState(
            watch_id=self.watch_id,
            mission=aim.mission.name,
            mission_path=str(aim.mission.path),
            session_id=self.session_id,
            root=shown(str(aim.root)),
            paths=aim.rules.paths,
            excludes=aim.rules.excludes,
            debounce_ms=aim.debounce_ms,
            overlap=aim.overlap,
            status=self._status(),
            since=self._since,
            files=self._lookout.files,
            events=tally.events,
            runs=tally.runs,
            skipped=tally.skipped,
            pending=int(run is not None and (run.preempted or self._settling.touched)),
            active_run_id=None if run is None else run.run_id,
            last_run_id=self._last_run_id,
            last_fired_at=self._last_fired,
            last_changes=self._last_changes,
            ignored=tally.ignored,
            recent_ignored=tuple(tally.recent),
            code=None if trouble is None else trouble.code,
            reason=None if trouble is None else _told(trouble),
        )

    def _status(self) -> str:
        if self._phase != "armed":
            return self._phase
        if self._run is not None:
            return "running"
        return "settling" if self._settling.touched else "armed"

    async def arm(self) -> None:
        """Listen, take the first look, and live. Raises `Refused` ``WATCH_*``; nothing is left then."""
        await self._lookout.begin(self._aim)
        self._phase = "armed"
        self._task = asyncio.create_task(self._live(), name=f"watch-{self.watch_id[:8]}")
        if self._intent.run_now:
            self._fire(())

    def rearm(self) -> bool:
        """Go on from the files as they are now. False when it is armed already."""
        if self._phase not in ("suspended", "failed"):
            return False
        self._wanted_rearm = True
        self._wake.set()
        return True

    async def close(self) -> None:
        """Stop watching; a run that is at work goes on, one that still waits for its work tree does not begin."""
        self._phase = "stopped"
        run, tasks = self._run, {self._task} if self._task is not None else set()
        if run is not None:
            if run.live is None:
                self._ports.withdraw(run.run_id)
            tasks.add(run.task)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._lookout.close()

    # -- life ---------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Wait for what is due, do it, and turn every failure into a state somebody can see."""
        while True:
            await self._pause(self._due())
            try:
                await self._step()
            except QuarterdeckError as error:
                await self._fail(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours ends the watching visibly, never silently
                _LOG.exception("watch %s failed", self.watch_id)
                await self._fail(Refused("WATCH_FAILED", f"internal error: {type(error).__name__}: {error}"))

    async def _pause(self, seconds: float | None) -> None:
        if seconds == 0:
            return
        waiting = {asyncio.ensure_future(self._wake.wait())}
        if seconds is not None:
            waiting.add(asyncio.ensure_future(self._ports.clock.sleep(seconds)))  # type: ignore[arg-type]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for item in waiting:
                item.cancel()
            self._wake.clear()

    def _due(self) -> float | None:
        """Seconds until there is something to do; None: when called."""
        if self._wanted_rearm:
            return 0
        if self._phase != "armed" or not self._may_look():
            return None
        return self._settling.left(self._ports.clock.monotonic())

    def _may_look(self) -> bool:
        run = self._run
        stoppable = run is not None and run.live is not None and not run.preempted
        return may_look(busy=run is not None, overlap=self._aim.overlap, stoppable=stoppable)

    async def _step(self) -> None:
        if self._wanted_rearm:
            self._wanted_rearm = False
            await self._start_over()
        elif self._due() == 0:
            await self._evaluate()
        self._ports.changed()

    async def _start_over(self) -> None:
        self._phase = "arming"
        self._ports.changed()
        self._take(await asyncio.to_thread(take_aim, self._intent, self._ports.ours))
        await self._lookout.begin(self._aim)
        self._settling.clear()
        self._phase, self._trouble, self._suspicion = "armed", None, Suspicion()
        self._recent.clear()
        self._meanwhile.clear()
        self._unanswered = ()

    async def _fail(self, error: QuarterdeckError) -> None:
        await self._lookout.close()
        self._stop("failed", error)

    def _stop(self, phase: str, error: QuarterdeckError) -> None:
        self._phase, self._trouble = phase, error
        self._settling.clear()
        self._ports.record(
            f"watch_{phase}", actor="runtime", target=self.watch_id, code=error.code, reason=_told(error)
        )
        self._ports.changed()

    # -- hearing ------------------------------------------------------------------------------------------------

    def _heard(self, heard: Heard) -> None:
        if self._phase != "armed":
            return
        for path in heard.excluded:
            self._ignore(path, "excluded")
        self._tally.events += heard.count
        if heard.look:
            self._touch()
        self._ports.changed()

    def _touch(self) -> None:
        if self._phase == "armed":
            self._touched_idle = self._touched_idle or self._run is None
            self._settling.touch(self._ports.clock.monotonic())
            self._wake.set()

    def _ignore(self, path: str, why: str, run_id: str | None = None, seq: int | None = None) -> None:
        at = timestamp(self._ports.clock.now())
        self._tally.ignored += 1
        self._tally.recent.append(IgnoredChange(path=shown(path), why=why, at=at, run_id=run_id, seq=seq))

    # -- judging ------------------------------------------------------------------------------------------------

    async def _evaluate(self) -> None:
        """Look, and do what the rules say about what changed.

        While a run is at work nothing is noted: its end looks again. Only somebody else's change may take its place.
        """
        run, while_busy = self._run, not self._touched_idle
        overdue = self._settling.overdue(self._ports.clock.monotonic())
        if not overdue and await self._rewritten():
            return
        self._settling.clear()
        self._touched_idle = False
        redefined = await self._lookout.redefined(note=run is None)
        if redefined and run is None:
            await self._reload()
        if run is None:
            redefined, self._unanswered = _joined(self._unanswered, redefined), ()
        sighting = await self._lookout.look()
        changes = self._merged(redefined, sighting.difference.changes)
        runs = (*self._recent, *((run.live,) if run is not None and run.live is not None else ()))
        doings = await self._ports.doings(runs, [item.path for item in changes], self._aim.root)
        judgement = judge(changes, doings)
        paths = {item.path for item in judgement.foreign}
        if run is not None:
            if overlapping(judgement, busy=True, overlap=self._aim.overlap, all_while_busy=True) is Next.PREEMPT:
                run.preempted = self._ports.preempt(run.run_id)
            return
        self._meanwhile |= paths if while_busy else set()
        meanwhile = paths <= self._meanwhile
        decision = overlapping(judgement, busy=False, overlap=self._aim.overlap, all_while_busy=meanwhile)
        self._leave_out(sighting, judgement)
        if judgement.loop is not None:
            self._stop("suspended", Refused("WATCH_LOOP", judgement.loop))
        elif decision is Next.RUN and not overdue and (self._settling.touched or await self._rewritten()):
            # Something moved while we looked: it is looked at again when it has come to rest. That the mission changed
            # is known by now and would not be seen again.
            self._unanswered = redefined
            return
        elif decision is not Next.NOTHING and not self._broken:
            self._lookout.note(sighting, paths)
            possible = [path for path in paths & self._meanwhile if doings.possible(path)]
            self._carry_out(decision, judgement.foreign, possible)
        self._recent.clear()
        self._meanwhile.clear()

    async def _rewritten(self) -> bool:
        """Is git at it? Then all of what it changes is one change, and the look comes when it is done."""
        if not await asyncio.to_thread(self._aim.rewritten, self._ports.clock.now()):
            return False
        await self._ports.clock.sleep(_GIT_SECONDS)
        self._settling.touch(self._ports.clock.monotonic())
        return True

    async def _reload(self) -> None:
        """The mission file, or one it names, changed: go by the new one, or say what is wrong with it."""
        try:
            aim = await asyncio.to_thread(take_aim, self._intent, self._ports.ours)
        except QuarterdeckError as error:
            self._broken, self._trouble = True, error
            return
        same = (aim.root, aim.rules, aim.definition) == (self._aim.root, self._aim.rules, self._aim.definition)
        self._take(aim)
        self._trouble = None
        if not same:
            # That the mission changed starts a run anyway, whatever became of other files meanwhile.
            await self._lookout.turn(aim)
            await self._lookout.redefined(note=True)

    def _take(self, aim: Aim) -> None:
        self._aim, self._broken = aim, False
        self._settling.quiet = aim.debounce_ms / 1000

    def _merged(self, redefined: Sequence[FileChange], changes: Sequence[FileChange]) -> tuple[FileChange, ...]:
        """Changes of the mission's own files first, each file once."""
        own = [replace(item, path=self._aim.named(item.path)) for item in redefined]
        named = {item.path for item in own}
        return (*own, *(item for item in changes if item.path not in named))

    def _leave_out(self, sighting: Sighting, judgement: Judgement) -> None:
        """Take note of what starts nothing, and say why."""
        for path in sighting.difference.same:
            self._ignore(path, "same_content")
        for change, author in judgement.own:
            self._ignore(change.path, "own_write", author.run_id, author.seq)
        self._lookout.note(sighting, [*sighting.difference.same, *(change.path for change, _ in judgement.own)])

    def _carry_out(self, decision: Next, changes: Sequence[FileChange], possible: Sequence[str]) -> None:
        if decision is Next.SKIP:
            self._tally.skipped += 1
            for change in changes:
                self._ignore(change.path, "busy")
            return
        self._suspicion = self._suspicion.after(possible)
        if self._suspicion.loop is not None:
            self._stop("suspended", Refused("WATCH_LOOP", self._suspicion.loop))
        else:
            self._fire(changes)

    # -- running ------------------------------------------------------------------------------------------------

    def _fire(self, changes: Sequence[FileChange]) -> None:
        """Start a run because of ``changes``; none: because the watch began."""
        run_id, told = self._ports.ids.uuid(), recorded(changes)
        self._tally.runs += 1
        self._last_fired = timestamp(self._ports.clock.now())
        self._last_changes, self._last_run_id = told[:MAX_SHOWN], run_id
        self._trouble = None
        intent = Launch(
            path=self._intent.path,
            inputs=self._intent.inputs,
            unattended=self._intent.unattended,
            wait=True,
            trigger=TRIGGER,
            session_id=self.session_id,
            cause=cause_of(told),
            directory=self._intent.directory,
        )
        task = asyncio.create_task(self._carry(run_id, intent, told), name=f"watched-{run_id[:8]}")
        self._run = _Run(run_id, task)
        task.add_done_callback(self._ended)
        self._ports.changed()

    async def _carry(self, run_id: str, intent: Launch, changes: Sequence[FileChange]) -> RunSummary:
        """One run from its opening to its end."""
        opening = asyncio.ensure_future(self._ports.launch(run_id, intent, changes))
        try:
            done, _ = await asyncio.wait({opening}, timeout=_WAITS_AFTER)
            if not done:
                self._show(Refused("LOCK_HELD", "the run waits until another one has left the work tree"))
            begun = await opening
        finally:
            opening.cancel()
        if begun.status is RunStatus.REFUSED:
            self._show(Refused(begun.code or "REFUSED", begun.message or "the run was refused"))
            return begun
        self._show(None)
        if self._run is not None:
            self._run.live = begun
        self._wake.set()
        return await self._ports.done(run_id)

    def _show(self, trouble: QuarterdeckError | None) -> None:
        """What keeps runs from starting just now; why the watch itself stopped is not written over."""
        if self._phase == "armed":
            self._trouble = trouble
        self._ports.changed()

    def _ended(self, task: asyncio.Task[RunSummary]) -> None:
        run, self._run = self._run, None
        if task.cancelled() or run is None:
            return
        error = task.exception()
        if isinstance(error, QuarterdeckError):
            self._show(error)
        elif error is not None:
            _LOG.error("a run of watch %s failed", self.watch_id, exc_info=error)
            self._show(Refused("WATCH_FAILED", f"internal error: {type(error).__name__}: {error}"))
        else:
            self._recent.append(task.result())
        if self._phase == "armed":
            # Its journal is complete: what it wrote, and what others did meanwhile, can be told apart now.
            if self._aim.overlap == "skip" or not self._settling.touched:
                self._settling.expire(self._ports.clock.monotonic())
            self._wake.set()
        self._ports.changed()


def _joined(earlier: Sequence[FileChange], later: Sequence[FileChange]) -> tuple[FileChange, ...]:
    """Changes of the same files in a row, each file once."""
    before = {item.path: item.before for item in earlier}
    changed = {item.path: replace(item, before=before.get(item.path, item.before)) for item in later}
    return tuple({**{item.path: item for item in earlier}, **changed}.values())


def _told(error: QuarterdeckError) -> str:
    """An error in one line."""
    place = f"{error.where}: " if error.where else ""
    hint = f" ({error.hint})" if error.hint else ""
    return f"{place}{error.message}{hint}"
