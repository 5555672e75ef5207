"""What the console and the command line are told: summaries, and the bounded stream of changes.

These frozen records are the whole vocabulary between runtime and faces. Facts (entries, statuses, verdicts, the
inbox) are never coalesced away; gauges (`LanesChanged`) replace older ones; `OutputDelta` may be dropped, and
then a `StreamGap` says so. All text in them is untrusted until the console's sanitiser has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.kernel.outcomes import RunStatus
from runtime.kernel.refusals import Tried, why


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run as a list row shows it. Times are ``…Z`` strings; ``duration_ms`` is active wall time so far."""

    run_id: str
    session_id: str
    lineage_id: str
    mission: str
    mission_version: str
    mission_path: str
    status: RunStatus
    created_at: str
    parent_run_id: str | None = None
    reason: str | None = None
    code: str | None = None
    message: str | None = None
    exit_code: int | None = None
    finished_at: str | None = None
    duration_ms: int = 0
    work_tree: str | None = None
    output_folder: str | None = None
    """Where the run leaves files of its own, outside the work tree; None when it leaves none."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] | None = None
    trigger: str = "cli"
    cause: str | None = None
    """Why it was started, in one line: the files that changed, or the run and step it was forked from."""
    entries: int = 0
    head_hash: str | None = None
    violations: int = 0
    steps_done: int = 0
    steps_total: int = 0
    confinement: str | None = None
    resumable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """One block of a run's frozen plan, in registration order. ``inside`` says what a composite is made of, where the
    mission file is at hand: it is no part of the plan, which holds the file's hash."""

    node_id: str
    block_type: str
    lane: str = "DataLane"
    after: tuple[str, ...] = ()
    inside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEstimate:
    """What one block of a mission is expected to take; ``samples`` 0 means nothing is known and the numbers are 0."""

    node_id: str
    block_type: str
    samples: int = 0
    time_ms: float = 0.0
    time_std_ms: float = 0.0
    cost_usd: float = 0.0
    llm_calls: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionEstimate:
    """What a run of a mission is expected to take, from its earlier runs (blocks spec §19.2).

    Means, with population standard deviations beside them; time is active time, without waiting for people.
    ``confidence`` is ``none`` without history, ``low`` below 5 samples, ``medium`` from 5, ``high`` from 20 on.
    ``source`` is ``stats`` (whole runs), ``heuristic`` (added up from blocks, some of them unknown) or ``unknown``.
    """

    mission: str
    version: str
    samples: int = 0
    source: str = "unknown"
    confidence: str = "none"
    time_ms: float = 0.0
    time_std_ms: float = 0.0
    cost_usd: float = 0.0
    cost_std_usd: float = 0.0
    llm_calls: float = 0.0
    block_executions: float = 0.0
    steps: tuple[StepEstimate, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in the mission file a run read, as it was then. ``line`` and ``column`` count from 1; ``snippet`` is
    the line with a caret under the column. ``since`` is what became of the file: nothing, ``changed`` or ``gone``."""

    path: str
    line: int
    column: int
    snippet: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One refused operation, or with ``during`` something an operation was refused while it ran.

    ``rule`` decided, ``attempted`` says what it decided about, ``needed`` what it would have taken. ``accepted`` says
    the mission expected it (ruling R16). ``position`` is the block that tried, ``rule_position`` where the mission
    file has the rule. ``outcome`` is what became of it: ``accepted``, ``went_on`` (the operation, without it),
    ``ended`` (the run, by this), ``survived`` (by the run, which did not end by this) or ``open`` (the run has not
    ended). Both positions and the outcome are left out where only the journal entry is at hand.
    """

    run_id: str
    mission: str
    seq: int
    at: str
    step_id: str
    operation_id: str
    code: str
    reason: str
    check: str = ""
    path: str | None = None
    accepted: bool = False
    rule: str = ""
    attempted: str = ""
    needed: str = ""
    during: bool = False
    position: Place | None = None
    rule_position: Place | None = None
    outcome: str = ""


def violation(run_id: str, seq: int, at: str, entry: Mapping[str, Any], *, mission: str = "") -> Violation:
    """What an ``operation_denied`` entry tells; one without the words for it gets those that follow from the rest."""
    code, path = str(entry["code"]), entry.get("path")
    told = {name: str(entry[name]) for name in ("rule", "attempted", "needed") if entry.get(name)}
    words = why(code, {**told, "requested_path": path}, Tried())
    return Violation(
        run_id=run_id,
        mission=mission,
        seq=seq,
        at=at,
        step_id=str(entry["step_id"]),
        operation_id=str(entry["operation_id"]),
        code=code,
        reason=str(entry.get("reason") or code),
        check=str(entry.get("check") or ""),
        path=path,
        during=bool(entry.get("during")),
        rule=words.rule,
        attempted=words.attempted,
        needed=words.needed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """One question to, or notice for, the operator (ruling R8)."""

    escalation_id: str
    run_id: str
    step_id: str
    reason: str
    severity: str
    blocking: bool
    choices: tuple[str, ...]
    subject_digest: str
    created_at: str
    resolved_at: str | None = None
    resolution: str | None = None
    resolved_by: str | None = None
    notes: str | None = None

    @property
    def offers_undo(self) -> bool:
        """Is it about undoing a run that has ended? Ids of what a run itself asks end with a number."""
        return self.escalation_id == offer_id(self.run_id)


def offer_id(run_id: str) -> str:
    """The id of the question whether to undo what a terminated run did (ruling R27)."""
    return f"{run_id}/undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoStep:
    """One write that would be undone. ``compensation`` is its type, ``command`` its declaration."""

    operation_id: str
    step_id: str
    compensation: str
    command: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoPlan:
    """What undoing a run that has ended would undo, in that order: last write first. ``digest`` is what an approval is
    bound to."""

    run_id: str
    mission: str
    digest: str
    steps: tuple[UndoStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds the store."""

    pid: int
    host: str
    epoch: int
    started_at: str
    heartbeat_at: str
    socket: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing verification found. ``severity`` is ``error`` or ``warning``; ``seq`` names the entry, if any."""

    code: str
    severity: str
    seq: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One of the three verdicts on a journal. ``standing`` is ``good``, ``warn``, ``bad`` or ``unknown``; ``words`` say why."""

    standing: str = "unknown"
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manipulation:
    """A way to falsify a journal, and whether the evidence at hand would show it; ``because`` names that evidence or
    what is missing."""

    what: str
    revealed: bool
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkState:
    """One place outside the store that remembers checkpoints. ``size`` is what it confirms of the journal at hand: None
    when it does not know it, 0 when it remembers something and nothing of it agrees; ``trouble`` is why it cannot be written or read, empty when it can."""

    name: str
    size: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The verdict on one journal. ``trusted_prefix`` counts leading entries that are good.

    ``integrity``: is what is there unaltered? ``completeness``: is everything there, and did all that began end?
    ``anchoring``: how far can the first two be held against somebody who may write the store? ``ok`` is false when one of
    them is ``bad``. ``level`` is ``chain``, ``anchored``, ``authenticated`` or ``witnessed``.
    """

    run_id: str
    ok: bool
    entries: int
    trusted_prefix: int
    head_seq: int | None
    head_hash: str | None
    closed: bool
    level: str = "chain"
    findings: tuple[Finding, ...] = ()
    checked_at: str = ""
    duration_ms: float = 0.0
    integrity: Verdict = Verdict()
    completeness: Verdict = Verdict()
    anchoring: Verdict = Verdict()
    checkpoint_size: int | None = None
    """Entries covered by the newest valid checkpoint beside the journal; ``words`` is its fingerprint."""
    words: str = ""
    key_words: str = ""
    """Fingerprint of the key that signed it."""
    witnessed_size: int | None = None
    """Entries that a sink or a witness outside the store confirms."""
    sinks: tuple[SinkState, ...] = ()
    unanchored_tail: int = 0
    """Entries after the newest valid checkpoint."""
    bad_between: tuple[int, int] | None = None
    """The first entry that is not to be trusted is among these, both included; equal when it is known exactly."""
    manipulations: tuple[Manipulation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofStep:
    """One sibling on the way from an entry to the root: ``side`` is ``left`` or ``right``, ``hash`` 64 hex digits."""

    side: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That one entry is inside a signed checkpoint. ``text`` is the C2SP tlog-proof to hand on; ``holds`` says that it was
    verified from that text alone, ``signed_by`` whose key, in six words."""

    run_id: str
    seq: int
    entry_hash: str
    leaf: str
    size: int
    root: str
    path: tuple[ProofStep, ...]
    words: str
    signed_by: str
    holds: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleMember:
    """One file of a bundle. ``withheld`` says why its content stays here, empty when it is included."""

    name: str
    bytes: int
    what: str
    withheld: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundlePlan:
    """What a bundle of a run would hold. ``problems`` are why it cannot be made, empty when it can; ``notes`` are what
    whoever hands it on should know."""

    run_id: str
    members: tuple[BundleMember, ...]
    total_bytes: int
    kinds: tuple[str, ...]
    """Kinds of content that can be withheld, as `BundleMember.what` has them."""
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Gauge of one lane queue. ``running`` counts dispatched node attempts not yet finished."""

    lane: str
    depth: int
    limit: int
    high: int
    low: int
    saturated: bool
    dispatched: int
    running: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryAppended:
    """One journal entry, in chain order. ``entry`` is a deep read-only copy."""

    run_id: str
    seq: int
    kind: str
    at: str
    entry_hash: str
    entry: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanged:
    """A run's summary changed (status, counts, end)."""

    run: RunSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class LanesChanged:
    """Gauges of a run: the three lanes of attempts, the two edges its stream items pass (Data, Telemetry), the pool.

    On a stream edge ``dispatched`` counts delivered items and ``running`` is 0.
    """

    run_id: str
    lanes: tuple[LaneState, ...]
    pool_running: int
    pool_slots: int
    streams: tuple[LaneState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDelta:
    """A live piece of output. ``stream`` is ``stdout`` or ``stderr`` of a process, ``model``, or what blocks emit:
    ``data``, which is kept before it is shown, and ``telemetry``, which is only shown. Lossy."""

    run_id: str
    step_id: str
    stream: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalVerified:
    """A new verdict on a run's journal."""

    verification: Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxChanged:
    """The open questions, all of them, oldest first."""

    escalations: tuple[Escalation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderChanged:
    """Who holds the store now (None: nobody), and whether this process may write."""

    holder: Holder | None
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One watched file whose content changed. Hashes are ``sha256:…``; None: the file did not, or does not, exist."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredChange:
    """A change that started nothing, and why: ``excluded``, ``same_content``, ``own_write`` or ``busy``.

    An own write names the run and the journal entry that made it.
    """

    path: str
    why: str
    at: str
    run_id: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """One armed watch. ``status`` is ``arming``, ``armed``, ``settling`` (debounce), ``running``, ``suspended`` (a
    loop: see ``code`` and ``reason``), ``failed`` or ``stopped``. Counters are totals since it was armed."""

    watch_id: str
    mission: str
    mission_path: str
    session_id: str
    root: str
    paths: tuple[str, ...]
    excludes: tuple[str, ...]
    debounce_ms: int
    overlap: str
    status: str
    since: str
    files: int = 0
    events: int = 0
    runs: int = 0
    skipped: int = 0
    pending: int = 0
    active_run_id: str | None = None
    last_run_id: str | None = None
    last_fired_at: str | None = None
    last_changes: tuple[FileChange, ...] = ()
    ignored: int = 0
    recent_ignored: tuple[IgnoredChange, ...] = ()
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchesChanged:
    """Every watch of the holder, oldest first."""

    watches: tuple[WatchState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One difference between a recorded run and another telling of it (turn runtime §3.27).

    ``kind`` is the class, ``PLAN_DIVERGENCE`` …; ``scope`` says what of (``turn:<id>``, ``step:<path>``,
    ``operation:<id>``). ``base_seq`` and ``other_seq`` are journal entries where there are some.
    """

    kind: str
    scope: str
    field: str
    detail: str
    step_id: str | None = None
    expected: str | None = None
    actual: str | None = None
    base_seq: int | None = None
    other_seq: int | None = None
    diff_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPair:
    """One block attempt on both sides, aligned; None where a side has none. ``kind`` is the worst divergence, if any."""

    step_id: str
    block_type: str
    attempt: int = 1
    visit: int = 1
    tick: int = 1
    base_status: str | None = None
    other_status: str | None = None
    base_code: str | None = None
    other_code: str | None = None
    base_ms: int | None = None
    other_ms: int | None = None
    base_output: str | None = None
    other_output: str | None = None
    base_seq: int | None = None
    other_seq: int | None = None
    kind: str | None = None
    reused_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two tellings of a mission have in common. ``base`` and ``other`` are run ids; ``other`` is ``replay`` for
    a replay in memory. ``drift`` is ``version_drift`` when only code or model versions differ. ``downstream`` are
    the steps after the first divergence. ``truncated`` counts divergences beyond those listed."""

    base: str
    other: str
    equivalent: bool
    divergences: tuple[Divergence, ...] = ()
    first: Divergence | None = None
    downstream: tuple[str, ...] = ()
    drift: str | None = None
    steps: tuple[StepPair, ...] = ()
    truncated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """One replay in memory. ``mode`` is the turn specification's name for what ran. ``mission_source`` is ``current``
    (the file as it is now) or ``recorded`` (as it was)."""

    run_id: str
    fidelity: str
    mode: str
    mission_source: str
    comparison: Comparison
    operations_answered: int
    operations_total: int
    questions_answered: int
    from_step: str | None = None
    duration_ms: float = 0.0
    generated_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamGap:
    """``dropped`` lossy events were left out since the last one delivered."""

    dropped: int


StreamEvent = (
    EntryAppended
    | RunChanged
    | LanesChanged
    | OutputDelta
    | JournalVerified
    | InboxChanged
    | HolderChanged
    | WatchesChanged
    | StreamGap
)
