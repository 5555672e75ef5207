"""The door between faces and runtime: intents in, summaries and events out (architecture §3, ruling 16).

`Deck` is everything the console and the command line may ask for. The in-process host, the thread facade under
the console and the read-only observer implement it; tests use a fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from runtime.events.facts import (
    BundlePlan,
    Comparison,
    EntryAppended,
    Escalation,
    Holder,
    MissionEstimate,
    NodeInfo,
    Proof,
    ReplayReport,
    RunSummary,
    StreamEvent,
    UndoPlan,
    Verification,
    Violation,
    WatchState,
)
from runtime.kernel.errors import QuarterdeckError as QuarterdeckError
from runtime.kernel.errors import Refused as Refused
from runtime.kernel.errors import StorageError as StorageError
from runtime.kernel.outcomes import Exit as Exit
from runtime.kernel.outcomes import RunStatus as RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class InputInfo:
    """One declared mission input. ``type`` is string, integer, number, boolean, list or path."""

    name: str
    type: str
    required: bool
    default: Any = None
    choices: tuple[Any, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a mission file; ``line`` and ``column`` start at 1."""

    code: str
    message: str
    path: str
    line: int
    column: int
    snippet: str = ""
    hint: str = ""
    severity: str = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionPack:
    """A pack a mission uses, as it is now. ``trust`` is none, confined or in_process: with none a launch is refused."""

    name: str
    version: str
    path: str
    digest: str
    trust: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionInfo:
    """One mission of the catalogue. ``problems`` is non-empty when the file does not load."""

    name: str
    path: str
    version: str = ""
    description: str = ""
    inputs: tuple[InputInfo, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    envelope: Mapping[str, Any] = field(default_factory=dict)
    workspace: str = "none"
    watch: tuple[str, ...] = ()
    """Patterns of the files whose changes rerun it; empty when it declares none."""
    packs: tuple[MissionPack, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Start a mission. ``path`` is a file or a folder holding ``mission.yaml``.

    ``unattended`` runs refuse (exit 3) instead of asking a human; ``wait`` queues behind a busy work tree.
    ``directory`` is where the operator stands: relative paths among the inputs start there.
    ``parent_run_id`` makes it a run of that run's lineage, with its inputs where none are given; with ``from_step``
    finished steps that do not follow that step are reused (ruling R19). ``session_id`` and ``cause`` are for runs
    somebody starts on an operator's behalf, such as a watch: one session, and why in one line.
    """

    path: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    unattended: bool = False
    wait: bool = False
    trigger: str = "cli"
    reason: str = ""
    parent_run_id: str | None = None
    from_step: str | None = None
    session_id: str | None = None
    cause: str | None = None
    directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Execute a recorded run again in memory, every operation answered from its receipt (ruling R7).

    ``mission`` is ``current`` (the file as it is now, the recorded one when it is gone) or ``recorded``.
    ``from_step``: compare from that step's first attempt on.
    """

    run_id: str
    mission: str = "current"
    from_step: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Run a mission whenever files it declares change.

    ``overlap`` is ``queue``, ``preempt`` or ``skip``; None takes the mission's. ``run_now`` starts a first run.
    ``directory`` is where the operator's relative paths among the inputs start.
    """

    path: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    overlap: str | None = None
    debounce_ms: int | None = None
    unattended: bool = False
    run_now: bool = False
    directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer an open escalation: ``resolution`` is ``approved``, ``rejected`` or one of its choices."""

    escalation_id: str
    resolution: str
    notes: str = ""
    by: str = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What became of a control intent. ``done`` false means nothing changed, and ``message`` says why."""

    done: bool
    run_id: str
    message: str


class Health(Enum):
    """``FAIL``: something a mission needs by default does not work here."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding; ``fix`` says what to do and is empty where nothing needs to be done."""

    name: str
    status: Health
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOutcome:
    """One probe of one tier's self-test: was it held back, and is that as pinned; ``detail`` is what it met."""

    tier: str
    name: str
    blocked: bool
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Every check, the confinement tier in force, and the probes of each tier that was tried, best first."""

    checks: tuple[Check, ...]
    tier: str
    probes: tuple[ProbeOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBundle:
    """Hand a run on. ``target`` is a file that must not exist; ``withhold`` names kinds of content to leave out; ``attest``
    adds a signed statement about the members; ``force`` exports what does not verify, and says so inside."""

    run_id: str
    target: str
    withhold: tuple[str, ...] = ()
    attest: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A bundle that was written and verified. ``sha256`` is 64 hex digits."""

    path: str
    sha256: str
    bytes: int
    members: int
    withheld: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedPack:
    """A pack whose code may run: the one folder with this content, wherever it lies (ruling R43).

    ``digest`` covers the whole folder. ``in_process``: its code may run inside this program, where nothing confines it.
    ``path`` is where it lay when it was trusted.
    """

    digest: str
    name: str
    version: str
    path: str
    in_process: bool
    at: str


class Subscription(Protocol):
    """A bounded feed of `StreamEvent`; safe to drain from another thread than the runtime's."""

    def drain(self, limit: int = 2000) -> Sequence[StreamEvent]:
        """Take what has arrived, oldest first, without waiting."""
        ...

    async def wait(self) -> None:
        """Return when there may be something to drain (call on the loop that subscribed)."""
        ...

    def close(self) -> None: ...


class Deck(Protocol):
    """Everything a face may ask of the runtime. Every method raises `QuarterdeckError` with a registered code."""

    @property
    def read_only(self) -> bool:
        """True when another process holds the store: control intents raise `Refused` ``STORE_LOCKED``."""
        ...

    @property
    def store_path(self) -> str: ...

    async def holder(self) -> Holder | None: ...

    async def missions(self) -> tuple[MissionInfo, ...]: ...

    async def mission(self, path: str) -> MissionInfo: ...

    async def estimate(self, path: str) -> MissionEstimate:
        """What a run of the mission at ``path`` is expected to take, from its earlier runs; starts nothing.

        Raises `MissionInvalid`, and `StorageError` where the record cannot be read.
        """
        ...

    async def graph(self, path: str) -> str:
        """The blocks of the mission at ``path`` and where each leads, as lines of text; runs nothing.

        Raises `MissionInvalid`.
        """
        ...

    async def launch(self, intent: Launch) -> RunSummary:
        """Return once the run is journalled (or refused: status ``refused`` with its code)."""
        ...

    async def cancel(self, run_id: str, reason: str = "") -> Ack: ...

    async def terminate(self, run_id: str, reason: str = "") -> Ack: ...

    async def stop(self, run_id: str, reason: str = "") -> Ack:
        """Let a recurring run end after its current tick. Raises `QuarterdeckError` ``RUN_NOT_RECURRING``."""
        ...

    async def pause(self, run_id: str, reason: str = "") -> Ack: ...

    async def resume(self, run_id: str, reason: str = "", *, unattended: bool | None = None) -> Ack:
        """Continue a paused run, or repair and continue a resumable one.

        ``unattended`` says whether this face can answer questions of a resumable run; None keeps what it had.
        """
        ...

    async def undo_plan(self, run_id: str) -> UndoPlan:
        """What undoing a run that has ended would undo.

        Raises `Refused` ``UNDO_LIVE``, ``UNDO_NOTHING``, ``UNDO_RECORD``, or the code of a journal that does not verify.
        """
        ...

    async def undo(self, run_id: str, reason: str = "", approved: str | None = None) -> RunSummary:
        """Start a run that undoes what stands of a run that has ended, last write first; ``refused`` as for `launch`.

        ``approved`` is the digest of the plan an operator agreed to. Raises like `undo_plan`, and ``UNDO_CHANGED``.
        """
        ...

    async def unlatch(self, path: str, reason: str) -> Ack:
        """Clear the halt latch of the work tree at ``path``; the reason goes into the store's journal.

        Raises `Refused` ``LATCH_REASON`` without a reason, ``ROOT_MISSING`` when there is no such folder.
        """
        ...

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        """Let the work tree at ``path`` protect ``pattern`` no longer, once its own list does not name it any more.

        ``digest`` is that of everything runs there protected so far, typed by the operator; pattern, digest and
        reason go into the store's journal. Built-in patterns stay. Raises `Refused` ``SELFMOD_FLOOR``,
        ``SELFMOD_REASON`` without a reason, ``ROOT_MISSING`` when there is no such folder.
        """
        ...

    async def trust_pack(self, path: str, digest: str, *, in_process: bool = False) -> Ack:
        """Let missions run the code of the pack at ``path``, for which an operator has seen ``digest``.

        ``in_process`` lets it run inside this program. Raises `Refused` ``PACK_CHANGED`` when the folder is another
        by now, and the ``plugin.*`` code of a pack that cannot be read.
        """
        ...

    async def untrust_pack(self, digest: str) -> Ack:
        """Missions run the code with this digest no longer; runs at work keep what they began with."""
        ...

    async def trusted_packs(self) -> tuple[TrustedPack, ...]:
        """Every pack whose code may run, oldest trust first."""
        ...

    async def answer(self, intent: Answer) -> Ack: ...

    async def runs(
        self,
        *,
        text: str = "",
        statuses: Sequence[RunStatus] = (),
        before: tuple[str, str] | None = None,
        limit: int = 100,
        sort: str = "created",
        descending: bool = True,
        offset: int = 0,
    ) -> tuple[RunSummary, ...]:
        """Newest first. ``before`` is the ``(created_at, run_id)`` of the last row already seen (keyset).

        ``sort`` is ``created``, ``mission``, ``status``, ``duration`` or ``violations``; ``offset`` skips rows of
        that order, for a list that jumps.
        """
        ...

    async def count_runs(self, *, text: str = "", statuses: Sequence[RunStatus] = ()) -> int:
        """How many runs `runs` would list."""
        ...

    async def lineage(self, run_id: str) -> tuple[RunSummary, ...]:
        """The runs of this run's lineage, oldest first, itself included."""
        ...

    async def find(self, selector: str) -> RunSummary:
        """By unique id prefix or ``@latest``; raises `Refused` ``RUN_UNKNOWN`` or ``RUN_AMBIGUOUS``."""
        ...

    async def nodes(self, run_id: str) -> tuple[NodeInfo, ...]: ...

    async def entries(
        self,
        run_id: str,
        *,
        after: int = -1,
        limit: int = 500,
        until: int | None = None,
        kinds: Sequence[str] = (),
        step: str | None = None,
        offset: int = 0,
    ) -> tuple[EntryAppended, ...]:
        """Entries after ``after``, in order, as far as the journal can be read; at most 2,000.

        Only those up to ``until``, of ``kinds`` (from an index), and naming ``step`` (searched for: give ``until``),
        after skipping ``offset`` of them.
        """
        ...

    async def count_entries(self, run_id: str, *, kinds: Sequence[str] = ()) -> int:
        """How many entries `entries` could give, of these kinds or of any."""
        ...

    async def violations(self, run_id: str | None = None, *, limit: int = 200) -> tuple[Violation, ...]:
        """What was refused, with its places in the mission file and what became of it; at most 1,000.

        Of all runs the newest first; of one run the newest ones in journal order.
        """
        ...

    async def violation(self, run_id: str, seq: int) -> Violation:
        """The one of a journal entry. Raises `Refused` ``VIOLATION_UNKNOWN`` when that entry is none."""
        ...

    async def escalations(self, *, run_id: str | None = None, open_only: bool = True) -> tuple[Escalation, ...]: ...

    async def verify(self, run_id: str, *, witnesses: Sequence[str] = ()) -> Verification:
        """Recompute a journal from disk and judge it by all evidence at hand; ``store`` names the store's own journal.

        ``witnesses`` are texts kept elsewhere: signed checkpoints or ``mission-witness/1`` lines.
        Raises `Refused` ``WITNESS_FORMAT`` for one that is neither, ``RUN_UNKNOWN``.
        """
        ...

    async def proof(self, run_id: str, seq: int) -> Proof:
        """That entry ``seq`` is inside the newest checkpoint. Raises `Refused` ``PROOF_NONE`` while no checkpoint covers it."""
        ...

    async def accept_loss(self, journal_id: str, reason: str) -> Ack:
        """Go on although a journal is behind what was signed or witnessed; what is missing and the reason go on record.

        Raises `Refused` ``LOSS_NONE`` when it is not behind, ``LOSS_REASON`` without a reason.
        """
        ...

    async def rotate_key(self, reason: str) -> Ack:
        """Sign with a new key from now on; old and new key vouch for each other in the store's journal.

        Raises `Refused` ``KEY_REASON`` without a reason, ``KEY_EXTERNAL`` when an external program signs.
        """
        ...

    async def bundle_plan(self, run_id: str, withhold: Sequence[str] = ()) -> BundlePlan:
        """What `bundle` would write, without writing it."""
        ...

    async def bundle(self, intent: ExportBundle) -> Exported:
        """Write a run's bundle, verified. Raises `Refused` ``BUNDLE_*``, ``J_EXPORT_UNVERIFIED``."""
        ...

    async def replay(self, intent: Replay) -> ReplayReport:
        """Replay in memory: no process but the confined ones of packs, no request, no lock, nothing appended.

        Raises `Refused` ``REPLAY_*`` when the record cannot carry a replay, ``STEP_UNKNOWN``.
        """
        ...

    async def compare(
        self, base: str, other: str, *, timing_ms: int | None = None, expected: Sequence[str] = ()
    ) -> Comparison:
        """Two recorded runs side by side, by full run id.

        ``timing_ms``: how much longer a step may take before that counts; None compares no times. ``expected`` are
        differences that are no failure, as ``CLASS`` or ``CLASS@SCOPE``; one that does not appear is. Raises like
        `replay`, and `Refused` ``REPLAY_EXPECTED``.
        """
        ...

    async def watch(self, intent: Watch) -> WatchState:
        """Arm a watch and return once it is; a mission is watched once. Raises `Refused` ``WATCH_*``."""
        ...

    async def unwatch(self, watch_id: str) -> Ack:
        """Disarm; a run it started goes on."""
        ...

    async def rearm(self, watch_id: str) -> Ack:
        """Let a suspended watch go on from the files as they are now."""
        ...

    async def watches(self) -> tuple[WatchState, ...]: ...

    async def artifact(self, digest: str) -> bytes | None: ...

    async def wait(self, run_id: str) -> RunSummary:
        """Return the summary once the run is terminal."""
        ...

    async def drained(self) -> None:
        """Return when no run or watch, of whatever face, needs this process any more (ruling R35)."""
        ...

    def subscribe(self) -> Subscription: ...

    async def close(self) -> None: ...
