"""Attempts folded from a journal, on one axis: bars add up, waits lie inside them, the critical path is a chain."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_deck import RUN, run_summary
from support.history import LOOP, PLAN, Telling, at, told

from console.model import detail, timeline
from console.model.entries import Unreadable, placed, read_filter
from console.model.fold import ATTEMPTS_KEPT, Attempt, RunState
from console.model.runs import Query, header, row
from runtime.events.facts import NodeInfo


def folded(entries: list, nodes: list[NodeInfo] = PLAN) -> RunState:
    state = RunState.begin(run_summary(), nodes)
    state.apply_all(entries)
    return state


def text(row: object) -> str:
    return "".join(part for part, _ in row)  # type: ignore[attr-defined]


def test_every_attempt_is_kept_with_its_wait_and_its_entries() -> None:
    state = folded(told())
    tries = list(state.tries.values())
    assert [(item.step_id, item.attempt, item.status) for item in tries] == [
        ("fetch", 1, "completed"),
        ("parse", 1, "completed"),
        ("rank", 1, "failed"),
        ("gate", 1, "completed"),
        ("rank", 2, "completed"),
        ("write", 1, "completed"),
        ("notify", 1, "running"),
    ]
    assert tries[3].waits == [(at(43), at(110))]
    assert (tries[2].started_seq, tries[2].finished_seq, tries[2].code) == (7, 10, "llm.rate_limited")
    assert [item.attempt for item in state.attempts_of("rank")] == [1, 2]


def test_a_reused_attempt_says_where_from() -> None:
    book = Telling()
    book.start("fetch")
    book.finish("fetch", reused_from=f"{RUN}/4")
    (item,) = folded(book.entries).tries.values()
    assert item.reused_from == f"{RUN}/4"
    assert "reused from" in text(detail.attempt_row(item, 6))


def test_writes_are_kept_with_what_became_of_undoing_them() -> None:
    book = Telling()
    book.start("write")
    for path, undone in (("a", None), ("b", True), ("c", False)):
        book.write("write", path, undone=undone)
    found = folded(book.entries).writes
    assert [(item.paths, item.undone, item.status) for item in found] == [
        (("a",), None, "success"),
        (("b",), True, "success"),
        (("c",), False, "success"),
    ]


def test_attempts_are_bounded_and_those_left_out_are_counted() -> None:
    book = Telling()
    for visit in range(1, ATTEMPTS_KEPT + 12):
        book.start("draft", visit=visit)
        book.finish("draft")
    state = folded(book.entries, LOOP)
    assert (len(state.tries), state.tries_dropped) == (ATTEMPTS_KEPT, 11)
    assert next(iter(state.tries)) == ("draft", 1, 12, 1)


def test_the_critical_path_follows_what_was_waited_for() -> None:
    line = timeline.build(folded(told()).tries.values(), PLAN, at(150))
    assert line.span == 150
    path = [(bar.attempt.step_id, bar.attempt.attempt) for bar in line.bars if bar.critical]
    assert path == [("fetch", 1), ("parse", 1), ("rank", 1), ("rank", 2), ("write", 1), ("notify", 1)]


def test_a_bar_shows_waiting_failing_and_going_on() -> None:
    line = timeline.build(folded(told()).tries.values(), PLAN, at(150))
    shown = {bar.attempt.key: text(timeline.bar_row(bar, line.span, 10, 60)) for bar in line.bars}
    assert "╳" in shown["rank", 1, 1, 1]
    assert "┄" in shown["gate", 1, 1, 1]
    assert "━" not in shown["gate", 1, 1, 1]
    assert "▸" in shown["notify", 1, 1, 1]
    assert "◐ 1:07" in shown["gate", 1, 1, 1]
    assert text(timeline.axis_row(line.span, 10, 60)).split() == ["0:00", "0:30", "1:00", "1:30", "2:00"]


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    found = []
    for number in range(draw(st.integers(0, 12))):
        start = draw(st.floats(0, 500))
        length = draw(st.one_of(st.none(), st.floats(0, 500)))
        waits = [(at(start + 1), None if length is None else at(start + draw(st.floats(0, 900))))]
        found.append(
            Attempt(
                f"n{number % 5}",
                "python",
                1,
                number,
                1,
                "completed" if length is not None else "running",
                at(start),
                number,
                completed_at=None if length is None else at(start + length),
                waits=waits if draw(st.booleans()) else [],
            )
        )
    return found


@settings(max_examples=60, deadline=None)
@given(attempts(), st.integers(30, 200), st.floats(0, 900))
def test_any_attempts_fit_the_axis(items: list[Attempt], width: int, newest: float) -> None:
    nodes = [NodeInfo(node_id=f"n{index}", block_type="x", after=(f"n{(index + 3) % 5}",)) for index in range(5)]
    line = timeline.build(items, nodes, at(newest))
    assert len(line.bars) == len(items)
    label = timeline.label_cells(line.bars)
    cells = timeline.bar_cells(width, label)
    for bar in line.bars:
        assert 0 <= bar.start <= bar.end <= line.span
        assert all(bar.start <= begun <= over <= bar.end for begun, over in bar.waits)
        first, last = timeline.place(bar.start, bar.end, line.span, cells)
        assert 0 <= first < last <= cells
        drawn = text(timeline.bar_row(bar, line.span, label, cells))[label + 1 :][:cells]
        assert {place for place, cell in enumerate(drawn) if cell != " "} == set(range(first, last))
    path = [bar for bar in line.bars if bar.critical]
    assert bool(path) == bool(items)
    if path:
        assert max(bar.end for bar in path) == line.span
        ordered = sorted(path, key=lambda bar: (bar.start, bar.end))
        assert all(before.end <= after.start for before, after in pairwise(ordered))


def test_values_name_their_artifacts_and_long_ones_are_cut() -> None:
    digest = "sha256:" + "ab" * 32
    lines = detail.value_lines("rank gave", {"rows": {"$artifact": digest, "bytes": 9}, "n": 1}, absent="nothing")
    assert [line.digest for line in lines if line.digest] == [digest]
    assert text(detail.value_lines("rank gave", None, absent="it has not ended")[1].row) == "  it has not ended"
    long = detail.value_lines("x", list(range(detail.VALUE_LINES * 2)), absent="")
    assert len(long) == detail.VALUE_LINES + 2
    assert "more lines" in text(long[-1].row)


def test_an_artifact_is_shown_as_far_as_it_is_bounded() -> None:
    assert "does not hold it" in text(detail.artifact_rows(None)[0])
    rows = [text(row) for row in detail.artifact_rows(b"\x1b[2Jok\n" + b"x" * detail.ARTIFACT_BYTES)]
    assert rows[2] == "ok"
    assert rows[-1] == "… 7 more bytes"


def test_a_journal_filter_is_a_step_or_part_of_kinds() -> None:
    steps = {"fetch", "rank"}
    assert read_filter("denied", steps).kinds == ("operation_denied",)  # type: ignore[union-attr]
    both = read_filter("step rank", steps)
    assert (both.kinds, both.step) == (("step_started", "step_finished"), "rank")  # type: ignore[union-attr]
    assert not read_filter("", steps)
    assert "'rink' is neither" in str(read_filter("rink", steps))


def test_a_page_has_a_row_for_every_number_that_was_written() -> None:
    entries = [item for item in told() if item.seq not in (3, 6)]
    rows = placed(entries[:9], 0, 10, committed=20)
    assert [row.seq for row in rows] == list(range(10))
    assert [row.seq for row in rows if isinstance(row, Unreadable)] == [3, 6]
    assert [row.seq for row in placed(entries[:5], 0, 10, committed=6)] == [0, 1, 2, 3, 4, 5]


def test_a_column_sorts_from_the_most_and_names_upwards() -> None:
    query = Query().by("duration")
    assert (query.sort, query.descending) == ("duration", True)
    assert not Query().by("mission").descending
    assert query.by("duration").by("duration") == query
    for width in (76, 116, 176):
        lines = {text(header(query, "time", width)).rstrip(), text(row(run_summary(), width)).rstrip()}
        assert all(len(line) <= width for line in lines)
        assert "time↓" in max(lines)
