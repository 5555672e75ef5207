"""Run rows, the list the console pages through, questions, and recorded mission files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runtime.events.facts import Escalation, RunSummary
from runtime.kernel.errors import ContractError, StorageError
from runtime.kernel.outcomes import Exit, RunStatus
from runtime.storage.escalations import insert_escalation, resolve_escalation
from runtime.storage.missions import MissionRecord, insert_mission
from runtime.storage.runs import SORTS, RunRecord, insert_run, update_run
from runtime.storage.store import Store

Run = Callable[..., RunRecord]


async def test_a_row_keeps_everything(store: Store, run: Run) -> None:
    record = replace(
        run(1, inputs={"path": "ä", "n": 3}, parent_run_id="p", work_tree="/w", trigger="console", confinement="A"),
        mission_hash="m",
        plan_digest="sha256:p",
        contract_hash="c",
        recipe_hash="r",
        unattended=True,
        active_ms=5,
        last_seq=-1,
    )
    await store.submit([insert_run(record)])
    assert await store.runs.record(record.summary.run_id) == record
    assert await store.runs.get(record.summary.run_id) == record.summary
    assert await store.runs.get("unknown") is None


async def test_updates_go_by_attribute_names(store: Store, run: Run) -> None:
    await store.submit([insert_run(run(1))])
    run_id = run(1).summary.run_id
    changes: dict[str, Any] = {
        "status": RunStatus.FAILED,
        "exit_code": Exit.POLICY,
        "outputs": {"ok": False},
        "finished_at": "2026-01-01T00:00:09.000000Z",
        "entries": 12,
        "last_seq": 11,
    }
    await store.submit([update_run(run_id, **changes)])
    record = await store.runs.record(run_id)
    assert record is not None
    assert record.last_seq == 11
    assert record.summary == replace(
        run(1).summary, **{name: value for name, value in changes.items() if name != "last_seq"}
    )


@pytest.mark.parametrize("changes", [{}, {"run_id": "x"}, {"nonsense": 1}, {"status = 'x', epoch": 1}])
def test_updates_of_anything_else_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        update_run("r", **changes)


async def fill(store: Store, run: Run, count: int) -> None:
    statuses = list(RunStatus)
    for number in range(count):
        record = run(number, status=statuses[number % len(statuses)], mission=("hello", "fix_100%")[number % 2])
        store.submit([insert_run(record)])
    await store.flush()


async def test_pages_cover_everything_once_newest_first(store: Store, run: Run) -> None:
    await fill(store, run, 55)
    seen: list[RunSummary] = []
    before = None
    while page := await store.runs.list(before=before, limit=10):
        seen += page
        before = (page[-1].created_at, page[-1].run_id)
    assert [summary.run_id for summary in seen] == [run(n).summary.run_id for n in reversed(range(55))]


async def test_equal_times_are_ordered_by_id(store: Store, run: Run) -> None:
    for number in range(6):
        store.submit([insert_run(run(number, created_at="2026-01-01T00:00:00.000000Z"))])
    await store.flush()
    first = await store.runs.list(limit=4)
    rest = await store.runs.list(limit=4, before=(first[-1].created_at, first[-1].run_id))
    assert [s.run_id for s in first + rest] == [run(n).summary.run_id for n in reversed(range(6))]


async def test_text_matches_mission_id_and_status_literally(store: Store, run: Run) -> None:
    await fill(store, run, 22)
    assert {s.mission for s in await store.runs.list(text="100%")} == {"fix_100%"}
    assert {s.mission for s in await store.runs.list(text="X_1")} == {"fix_100%"}
    assert await store.runs.list(text="x%1") == ()
    assert await store.runs.list(text="\\") == ()
    assert len(await store.runs.list(text=" HELLO ")) == 11
    assert {s.status for s in await store.runs.list(text="time")} == {RunStatus.TIMED_OUT}
    assert [s.run_id for s in await store.runs.list(text="0000000a-")] == [run(10).summary.run_id]


async def test_statuses_filter_and_combine_with_text(store: Store, run: Run) -> None:
    await fill(store, run, 22)
    failed = await store.runs.list(statuses=[RunStatus.FAILED, RunStatus.PAUSED])
    assert {s.status for s in failed} == {RunStatus.FAILED, RunStatus.PAUSED}
    assert len(failed) == 4
    assert len(await store.runs.list(statuses=[RunStatus.FAILED], text="fix")) == 1


async def test_find_by_prefix_and_latest(store: Store, run: Run) -> None:
    assert await store.runs.latest() is None
    await fill(store, run, 40)
    assert [s.run_id for s in await store.runs.find("0000002")] == [run(n).summary.run_id for n in range(32, 40)]
    assert len(await store.runs.find("0000001F")) == 1
    assert await store.runs.find("f") == ()
    assert await store.runs.find("0000_") == ()
    latest = await store.runs.latest()
    assert latest is not None
    assert latest.run_id == run(39).summary.run_id


async def test_unfinished_are_the_ones_not_terminal(store: Store, run: Run) -> None:
    await fill(store, run, 11)
    found = await store.runs.unfinished()
    assert [r.summary.status for r in found] == [status for status in RunStatus if not status.terminal]


async def test_paging_never_reads_the_wide_rows_it_skips(store: Store) -> None:
    """A guarantee of the plan, not of the clock: the page is chosen on the covering index alone."""
    rows = await store._reader.fetch(
        "EXPLAIN QUERY PLAN SELECT rowid FROM runs WHERE (created_at, run_id) < ('x', 'y')"
        " AND (mission LIKE '%a%' OR run_id LIKE '%a%' OR status LIKE '%a%')"
        " ORDER BY created_at DESC, run_id DESC LIMIT 50"
    )
    plan = " ".join(str(row[-1]) for row in rows)
    assert "COVERING INDEX runs_listing" in plan
    assert "TEMP B-TREE" not in plan


async def test_a_row_that_does_not_decode_is_named(store: Store, run: Run) -> None:
    await store.submit([insert_run(run(1)), ("UPDATE runs SET status = 'dreaming'", ())])
    with pytest.raises(StorageError, match=r"00000001-.*dreaming") as caught:
        await store.runs.list()
    assert caught.value.code == "STORE_CORRUPT"


def question(escalation_id: str, run_id: str = "r1", at: int = 0) -> Escalation:
    return Escalation(
        escalation_id=escalation_id,
        run_id=run_id,
        step_id="s",
        reason="go on?",
        severity="info",
        blocking=True,
        choices=("yes", "no"),
        subject_digest="sha256:x",
        created_at=f"2026-01-01T00:00:0{at}.000000Z",
    )


async def test_questions_are_listed_oldest_first_and_answered_once(store: Store) -> None:
    for asked in (question("b", at=2), question("a", "r2", 1), question("c", at=3), question("b", at=9)):
        store.submit([insert_escalation(asked)])
    await store.submit(
        [
            resolve_escalation("r1", "c", resolution=verdict, resolved_by="op", notes="n", at="t")
            for verdict in ("yes", "no")
        ]
    )
    assert await store.escalations.list() == (question("a", "r2", 1), question("b", at=2))
    assert await store.escalations.list(run_id="r2") == (question("a", "r2", 1),)
    (answered,) = (e for e in await store.escalations.list(open_only=False) if e.resolved_at)
    assert answered == replace(question("c", at=3), resolution="yes", resolved_by="op", notes="n", resolved_at="t")
    assert await store.escalations.find("a") == (question("a", "r2", 1),)
    assert await store.escalations.find("%") == ()


async def test_mission_files_are_kept_byte_for_byte(store: Store) -> None:
    first = MissionRecord(mission_hash="h", name="n", version="1", path="/p", source=b"\x00\xff", first_seen="t")
    await store.submit([insert_mission(first), insert_mission(replace(first, path="/later"))])
    assert await store.missions.get("h") == first
    assert await store.missions.get("unknown") is None


STATUS_FILTERS: list[tuple[RunStatus, ...]] = [(), (RunStatus.FAILED,), (RunStatus.RUNNING, RunStatus.CANCELLED)]


async def test_every_order_and_filter_pages_like_a_sorted_list(store: Store, run: Run) -> None:
    """Sort × direction × text × statuses × offset, against the same rows in Python, equal keys included."""
    records = [
        run(
            number * 7919 % 240,
            status=list(RunStatus)[number % 11],
            mission=("hello", "triage", "watch-tests")[number % 3],
            duration_ms=number % 13 * 100,
            violations=number % 4,
        )
        for number in range(240)
    ]
    for record in records:
        store.submit([insert_run(record)])
    await store.flush()
    keys: dict[str, Callable[[RunSummary], Any]] = {
        "created": lambda row: "",
        "mission": lambda row: row.mission,
        "status": lambda row: row.status.value,
        "duration": lambda row: row.duration_ms,
        "violations": lambda row: row.violations,
    }
    assert set(keys) == set(SORTS)
    for text, statuses in itertools.product(("", "watch", "RUN", "0000000"), STATUS_FILTERS):
        rows = [
            record.summary
            for record in records
            if (not statuses or record.summary.status in statuses)
            and text.lower() in f"{record.summary.mission} {record.summary.run_id} {record.summary.status.value}"
        ]
        assert await store.runs.count(text=text, statuses=statuses) == len(rows)
        for (sort, key), descending in itertools.product(keys.items(), (True, False)):
            rows.sort(key=lambda row: (key(row), row.created_at, row.run_id), reverse=descending)
            for offset in (0, 3, len(rows) - 2, len(rows) + 1):
                page = await store.runs.list(
                    text=text, statuses=statuses, sort=sort, descending=descending, offset=offset, limit=5
                )
                wanted = rows[max(offset, 0) : max(offset, 0) + 5]
                assert [row.run_id for row in page] == [row.run_id for row in wanted], (sort, descending, text, offset)


@pytest.mark.parametrize("sort", SORTS)
async def test_no_order_of_the_list_is_sorted_by_hand(store: Store, sort: str) -> None:
    order = ", ".join(f"{column} DESC" for column in (*SORTS[sort], "created_at", "run_id"))
    rows = await store._reader.fetch(
        f"EXPLAIN QUERY PLAN SELECT rowid FROM runs WHERE mission LIKE '%a%' ORDER BY {order} LIMIT 50 OFFSET 90000"
    )
    plan = " ".join(str(row[-1]) for row in rows)
    assert "COVERING INDEX" in plan
    assert "TEMP B-TREE" not in plan


async def test_an_unknown_order_is_refused(store: Store) -> None:
    with pytest.raises(ContractError, match="sorted by"):
        await store.runs.list(sort="created_at; DROP TABLE runs")
