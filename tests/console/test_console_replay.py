"""A replay shows exactly the fold of the entries up to its position, however it came there, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_deck import NODES, RUN, entry, run_summary

from console.model import replay as module
from console.model.fold import RunState
from console.model.playback import LONGEST_PAUSE, MOST_AT_ONCE, Playback, advance, shortened
from console.model.replay import COARSE_KEPT, FINE_KEPT, PAGES_KEPT, Replay, as_it_was, step_at
from console.model.seek import seek
from runtime.events.facts import Comparison, Divergence, EntryAppended, ReplayReport
from runtime.host.api import RunStatus

STEPS = ("red", "propose", "apply", "green")


def at(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"2026-01-02T12:{int(minutes):02d}:{rest:09.6f}Z"


def made(seq: int, what: int, when: float) -> EntryAppended:
    """One entry of a recorded-like journal; ``what`` chooses kind and step."""
    step = STEPS[what % len(STEPS)]
    block = {"step_id": step, "operation_type": "run_tests", "attempt": 1 + what % 3, "started_at": at(when)}
    operation = {"step_id": step, "operation_id": f"{step}.0", "operation_type": "run_tests"}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("step_started", {**block, "status": "running", "inputs": {"value": what}}),
        ("step_finished", {**block, "status": "completed", "completed_at": at(when)}),
        ("step_finished", {**block, "status": "failed", "accepted": what % 2 == 0, "code": "op.x"}),
        ("operation_started", {**operation, "effect": "write", "affected_paths": ["a"]}),
        ("operation_denied", {**operation, "code": "ENV_TOOL"}),
        ("receipt", {"receipt": {**operation, "status": "success", "output_hash": f"sha256:{what}"}}),
        ("budget", {"phase": "settled", "operation_id": f"{step}.0", "micros": what, "remaining_micros": 9}),
        ("escalation", {"phase": "asked", "step_id": step, "blocking": True, "reason": "?", "escalation_id": "q"}),
        ("escalation", {"phase": "answered", "escalation_id": "q", "resolution": "yes", "resolved_by": "me"}),
        ("operator_action", {"action": ("pause", "resume")[what % 2], "actor": "me"}),
        ("signal", {"signals": [{"signal": ("turn_open", "commit")[what % 2]}]}),
        ("compensation_finished", {"operation_id": f"{step}.0", "outcome": "done", "verified": True}),
    )
    kind, members = kinds[what // len(STEPS) % len(kinds)]
    return replace(entry(seq, kind, **members), at=at(when))


def journal(choices: Sequence[int]) -> list[EntryAppended]:
    """A journal with one entry per second."""
    opening = replace(entry(0, "journal_opened", mission_id="m"), at=at(0))
    return [opening, *(made(seq, what, float(seq)) for seq, what in enumerate(choices, 1))]


LONG = journal([(seq * 7919) % 997 for seq in range(1, 700)])


def begin(entries: Sequence[EntryAppended], **changes: Any) -> Replay:
    return Replay(run_summary(entries=len(entries), status=RunStatus.SUCCEEDED, **changes), NODES)


def settle(replay: Replay, entries: Sequence[EntryAppended]) -> None:
    """What the screen's worker does."""
    while True:
        if replay.fold():
            continue
        wanted = replay.wanted()
        if wanted is None:
            return
        first = wanted - wanted % module.PAGE
        if not replay.feed(wanted, entries[first : first + module.PAGE]):
            replay.end_before(wanted)


def folded(entries: Sequence[EntryAppended], run: Any) -> RunState:
    state = RunState.begin(run, NODES)
    state.apply_all(entries)
    return state


def opened(entries: Sequence[EntryAppended] = LONG) -> Replay:
    replay = begin(entries)
    settle(replay, entries)
    return replay


SMALL = {
    "PAGE": 4,
    "PAGES_KEPT": 2,
    "COARSE_STRIDE": 8,
    "COARSE_KEPT": 3,
    "FINE_STRIDE": 2,
    "FINE_KEPT": 2,
}


def test_every_position_is_exactly_the_fold_up_to_it() -> None:
    replay = opened()
    fresh = RunState.begin(replay.run, NODES)
    for position, item in enumerate(LONG):
        fresh.apply(item)
        replay.seek(position)
        settle(replay, LONG)
        assert replay.view == fresh


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=90),
    st.lists(st.tuples(st.booleans(), st.integers(0, 95)), min_size=1, max_size=12),
)
def test_however_one_walks_the_picture_is_the_same(choices: list[int], walk: list[tuple[bool, int]]) -> None:
    entries = journal(choices)
    with mock.patch.multiple(module, **SMALL):
        replay = begin(entries)
        for by_time, place in walk:
            if by_time and replay.began is not None:
                replay.seek_time(replay.began + place)
            else:
                replay.seek(place)
            settle(replay, entries)
            expected = min(place, len(entries) - 1)
            assert replay.here == replay.target == expected
            assert replay.view == folded(entries[: expected + 1], replay.run)
            assert replay.checkpoints <= 3 + 2


def test_a_step_back_from_far_reads_little_and_holds_little() -> None:
    entries = journal([seq % 400 for seq in range(6_000)])
    with mock.patch.object(module, "COARSE_STRIDE", 32):
        replay = opened(entries)
    replay.seek(len(entries))
    settle(replay, entries)
    assert 24 <= replay.checkpoints <= COARSE_KEPT + FINE_KEPT
    reads = 0
    for _ in range(300):
        replay.seek(replay.target - 1)
        while replay.fold() or (wanted := replay.wanted()) is not None:
            reads += 1
            first = wanted - wanted % module.PAGE
            replay.feed(wanted, entries[first : first + module.PAGE])
    assert replay.view == folded(entries[: replay.target + 1], replay.run)
    assert reads <= 12
    held = sum(replay.pages.get(seq) is not None for seq in range(len(entries)))
    assert held <= PAGES_KEPT * module.PAGE


def test_a_copy_goes_its_own_way() -> None:
    state = folded(LONG[:50], run_summary())
    twin = state.copy()
    assert twin == state
    twin.apply_all(LONG[50:90])
    assert state == folded(LONG[:50], run_summary())
    assert twin == folded(LONG[:90], run_summary())


def test_a_journal_shorter_than_its_row_ends_where_it_can_be_read() -> None:
    replay = begin(LONG[:40])
    settle(replay, LONG[:30])
    replay.seek(39)
    settle(replay, LONG[:30])
    assert (replay.total, replay.readable, replay.here) == (40, 30, 29)


def test_a_live_run_grows() -> None:
    replay = begin(
        LONG[:10],
    )
    settle(replay, LONG[:10])
    replay.grow(run_summary(entries=20))
    replay.seek(19)
    settle(replay, LONG[:20])
    assert (replay.here, replay.scanned) == (19, 20)


# -- what a position says ------------------------------------------------------------------------------------------


def told(*entries: tuple[str, dict[str, Any]]) -> Replay:
    listed = [replace(entry(seq, kind, **members), at=at(seq)) for seq, (kind, members) in enumerate(entries)]
    replay = begin(listed, code="op.late", message="known only at the end")
    replay.seek(len(listed) - 1)
    settle(replay, listed)
    return replay


OPENED = ("journal_opened", {"mission_id": "m"})
STARTED = ("step_started", {"step_id": "red", "operation_type": "x", "status": "running", "started_at": at(1)})
DONE = ("step_finished", {"step_id": "red", "operation_type": "x", "status": "completed", "completed_at": at(2)})
ASKED = ("escalation", {"phase": "asked", "step_id": "red", "blocking": True, "reason": "Go?", "escalation_id": "q"})


def test_the_summary_knows_nothing_of_the_future() -> None:
    run = as_it_was(told(OPENED, STARTED))
    assert (run.status, run.steps_done, run.code, run.message, run.entries) == (RunStatus.RUNNING, 0, None, None, 2)
    assert run.duration_ms == 1000


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (ASKED, RunStatus.WAITING),
        (("operator_action", {"action": "pause", "actor": "me"}), RunStatus.PAUSED),
        (("operator_action", {"action": "cancel", "actor": "me"}), RunStatus.STOPPING),
        (("signal", {"signals": [{"signal": "abort", "reason": "budget_exhausted"}]}), RunStatus.STOPPING),
        (("signal", {"signals": [{"signal": "commit"}]}), RunStatus.RUNNING),
        (("journal_closed", {"status": "completed"}), RunStatus.SUCCEEDED),
    ],
)
def test_the_status_is_the_one_of_that_moment(last: tuple[str, dict[str, Any]], status: RunStatus) -> None:
    assert as_it_was(told(OPENED, STARTED, last)).status is status


def test_the_step_at_a_position_is_its_entrys_own_or_the_last_that_began() -> None:
    assert step_at(told(OPENED)) is None
    assert step_at(told(OPENED, STARTED, DONE, ("evidence", {}))) == "red"
    receipt = ("receipt", {"receipt": {"operation_id": "apply.0", "step_id": "apply", "status": "success"}})
    assert step_at(told(OPENED, STARTED, receipt)) == "apply"
    assert (
        step_at(told(OPENED, STARTED, ("budget", {"phase": "lost", "operation_id": "green~1.2.1.0", "micros": 1})))
        == "green"
    )


def test_marks_lie_where_something_happened_and_jumps_go_to_them() -> None:
    denied = ("operation_denied", {"step_id": "red", "operation_id": "red.0", "code": "ENV_TOOL"})
    replay = told(OPENED, STARTED, denied, ASKED, ("evidence", {}))
    assert [(mark.seq, mark.label) for mark in replay.marks()] == [(2, "refused ENV_TOOL"), (3, "asked Go?")]
    replay.seek(0)
    assert replay.stop(-1) is None
    assert (found := replay.stop(1)) is not None
    assert found.seq == 2
    replay.bookmark("here")
    assert [mark.kind for mark in replay.marks()] == ["bookmark", "event", "event"]


def test_too_many_marks_are_thinned_over_the_whole_journal() -> None:
    denied = {"step_id": "red", "operation_id": "red.0", "code": "ENV_TOOL"}
    entries = [LONG[0], *(entry(seq, "operation_denied", **denied) for seq in range(1, 600))]
    with mock.patch.object(module, "EVENTS_KEPT", 50):
        replay = opened(entries)
    marked = [mark.seq for mark in replay.marks()]
    assert len(marked) <= 50
    assert len(marked) + replay.events_thinned == replay.events_seen == 599
    gaps = {after - before for before, after in pairwise(marked)}
    assert gaps == {16}
    assert marked[-1] > 580


def test_divergences_are_what_jumps_go_to_once_there_are_some() -> None:
    replay = told(OPENED, STARTED, ASKED, DONE)
    first = Divergence(kind="OUTCOME_DIVERGENCE", scope="step:red", field="output", detail="", base_seq=3)
    comparison = Comparison(base=RUN, other="replay", equivalent=False, divergences=(first,), first=first)
    replay.seek(0)
    replay.judge(
        ReplayReport(
            run_id=RUN,
            fidelity="recorded",
            mode="m",
            mission_source="current",
            comparison=comparison,
            operations_answered=1,
            operations_total=1,
            questions_answered=0,
        )
    )
    assert (found := replay.stop(1)) is not None
    assert (found.seq, found.label) == (3, "OUTCOME output")


# -- playing -------------------------------------------------------------------------------------------------------


def played(play: Playback, now: float, position: int, times: Sequence[float | None]) -> tuple[Playback, int]:
    return advance(play, now, position, len(times) - 1, lambda seq: times[seq] if seq < len(times) else None)


def test_recorded_pauses_are_scaled_and_long_ones_shortened() -> None:
    times: list[float | None] = [0.0, 2.0, 2.0, 300.0]
    play = Playback(playing=True, speed=1, since=10.0)  # ×4
    assert played(play, 10.4, 0, times) == (play, 0)
    play, position = played(play, 10.5, 0, times)
    assert (position, play.since) == (2, 10.5)
    assert played(play, 10.5 + LONGEST_PAUSE - 0.01, 2, times)[1] == 2
    assert shortened(play, 2, lambda seq: times[seq]) == 298.0
    play, position = played(play, 10.5 + LONGEST_PAUSE, 2, times)
    assert (position, play.playing) == (3, False)


def test_playing_is_as_far_whatever_the_ticks() -> None:
    times: list[float | None] = [seq * 0.3 for seq in range(30)]
    coarse = played(Playback(playing=True), 5.05, 0, times)
    fine: tuple[Playback, int] = (Playback(playing=True), 0)
    for tick in range(1, 102):
        fine = played(fine[0], tick * 0.05, fine[1], times)
    assert coarse[1] == fine[1] == 16


def test_an_entry_per_tick_ignores_time_and_no_tick_goes_too_far() -> None:
    assert played(Playback(playing=True, speed=4), 0.0, 3, [None] * 9)[1] == 4
    burst: list[float | None] = [0.0] * 5000
    assert played(Playback(playing=True), 0.0, 0, burst)[1] == MOST_AT_ONCE


def test_playing_holds_while_the_next_entry_is_not_read_and_does_not_catch_up() -> None:
    play, position = played(Playback(playing=True), 50.0, 0, [0.0, None, 2.0])
    assert (play.since, position) == (50.0, 0)
    assert played(play, 50.5, 0, [0.0, 0.6, 2.0])[1] == 0


def test_speeds_end_at_both_ends() -> None:
    play = Playback()
    assert play.faster(-1).factor == 1
    assert [play.faster(step).factor for step in range(6)] == [1, 4, 16, 64, None, None]


# -- seeking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("417", 417),
        ("#0417", 417),
        ("0", 0),
        ("+30s", 130),
        ("+30", 130),
        ("-1m30s", 10),
        ("+1m", 160),
        ("-2h", 0),
        ("+9h", 699),
        ("12:01:40", 100),
        ("12:02", 120),
        (" 12:05:00 ", 300),
        ("11:59:59", 699),  # the next day's: later than the end
    ],
)
def test_seek_understands(text: str, position: int) -> None:
    replay = opened()
    replay.seek(100)
    settle(replay, LONG)
    seek(replay, text)
    settle(replay, LONG)
    assert replay.here == position


def test_seek_finds_where_a_step_began() -> None:
    replay = opened()
    seek(replay, "green")
    settle(replay, LONG)
    assert replay.here == next(
        item.seq for item in LONG if item.kind == "step_started" and item.entry["step_id"] == "green"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "type 417"),
        ("700", "the journal has 0 to 699"),
        ("+", "no place"),
        ("+3x", "no place"),
        ("12:61:00", "no time of day"),
        ("25:00", "no time of day"),
        ("aply", "apply"),
        ("commit", "commit never began"),
        ("9999999999999", "no place"),
    ],
)
def test_seek_says_what_it_expected(text: str, says: str) -> None:
    replay = opened()
    replay.seek(100)
    settle(replay, LONG)
    with pytest.raises(ValueError, match=says):
        seek(replay, text)
    assert replay.target == 100
