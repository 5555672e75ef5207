"""What faces may read, also when some of it is damaged."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runtime.host.api import Launch, Refused
from runtime.host.codes import exit_code_of
from runtime.host.observer import Observer
from runtime.host.opening import exported_lines, open_deck
from runtime.kernel.canonical import parse_strict
from runtime.kernel.errors import StorageError
from tests.support.hosting import hosting, plain, run_to_end, write_mission

GUARDED = """\
mission: guarded
version: "1"
workspace: {from: files}
envelope: {allowed_paths: ["out/**"], allowed_tools: [filesystem.write_file]}
blocks:
  bad: {type: tool_invoke, tool: filesystem.write_file, path: "${outputs.name}", content: x, accept: [op.path_outside, op.env_path]}
  name: {type: template, template: elsewhere/file}
links: [name -> bad]
"""


@pytest.fixture
async def done(tmp_path: Path) -> str:
    """The id of a finished run of two steps; the store is closed."""
    path = plain(
        tmp_path / "m", "  a: {type: template, template: hi}\n  b: {type: template, template: you}", "[a -> b]"
    )
    async with hosting(tmp_path / "store") as host:
        return (await run_to_end(host, path)).run_id


def change(tmp_path: Path, *statements: str) -> None:
    """What somebody with the file in hand can do."""
    database = sqlite3.connect(tmp_path / "store" / "quarterdeck.db")
    with database:
        for name in [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
    database.close()


async def observe(tmp_path: Path) -> Observer:
    deck = await open_deck(str(tmp_path / "store"), writing=False)
    assert isinstance(deck, Observer)
    return deck


async def test_a_finished_run_reads_the_same_for_an_observer(tmp_path: Path, done: str) -> None:
    deck = await observe(tmp_path)
    try:
        run = await deck.find("@latest")
        assert (run.run_id, run.steps_done) == (done, 2)
        assert (await deck.find(done[:8])).run_id == done
        assert [node.node_id for node in await deck.nodes(done)] == ["a", "b"]
        page = await deck.entries(done, after=2, limit=3)
        assert [entry.seq for entry in page] == [3, 4, 5]
        lines = [line async for line in exported_lines(deck, done)]
        assert [parse_strict(line[:-1])["seq"] for line in lines] == list(range(run.entries))
        assert (await deck.verify(done)).ok
    finally:
        await deck.close()


async def test_unknown_and_ambiguous_ids(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", "  a: {type: template, template: hi}")
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused, match="no runs yet"):
            await host.find("@latest")
        for _ in range(17):
            await run_to_end(host, path)
        ids = [run.run_id for run in await host.runs()]
        first = next(char for char in "0123456789abcdef" if sum(item.startswith(char) for item in ids) > 1)
        with pytest.raises(Refused) as caught:
            await host.find(first)
        assert caught.value.code == "RUN_AMBIGUOUS"
        for ask in (host.find, host.verify):
            with pytest.raises(Refused) as caught:
                await ask("00000000-0000-4000-8000-000000000000")
            assert caught.value.code == "RUN_UNKNOWN"
        assert exit_code_of(caught.value) == 2


async def test_a_refused_operation_is_a_violation_with_its_place(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        path = write_mission(tmp_path / "m", GUARDED, {"files/out/keep": ""})
        ended = await run_to_end(host, path)
        (found,) = await host.violations(ended.run_id)
        assert (found.step_id, found.run_id, found.mission) == ("bad", ended.run_id, "guarded")
        assert ended.violations == 1
        assert await host.violations() == (found,)


async def test_an_end_that_was_cut_off_shows(tmp_path: Path, done: str) -> None:
    change(tmp_path, "DELETE FROM journal_entries WHERE kind = 'journal_closed'")
    deck = await observe(tmp_path)
    verdict = await deck.verify(done)
    await deck.close()
    assert not verdict.ok
    assert [item.code for item in verdict.findings] == ["J_TRUNCATED"]
    assert 0 < verdict.trusted_prefix <= verdict.entries, "what evidence confirms, or all of it without any"


@pytest.mark.parametrize("column", ["body", "entry_hash", "prev_entry_hash", "kind", "at"])
async def test_a_changed_row_is_named(tmp_path: Path, done: str, column: str) -> None:
    new = "CAST(replace(body, 'hi', 'ho') AS BLOB)" if column == "body" else f"{column} || 'x'"
    change(tmp_path, f"UPDATE journal_entries SET {column} = {new} WHERE seq = 4")
    deck = await observe(tmp_path)
    verdict = await deck.verify(done)
    await deck.close()
    assert not verdict.ok
    assert verdict.trusted_prefix <= 4
    assert {item.seq for item in verdict.findings if not item.code.startswith("J_ANCHOR")} <= {4, 5}


async def test_a_damaged_plan_hides_the_steps_and_nothing_else(tmp_path: Path, done: str) -> None:
    change(
        tmp_path,
        "UPDATE artifacts SET body = zeroblob(length(body)) WHERE digest = (SELECT plan_digest FROM runs LIMIT 1)",
    )
    deck = await observe(tmp_path)
    try:
        assert await deck.nodes(done) == ()
        assert (await deck.find(done)).steps_done == 2
        verdict = await deck.verify(done)
        assert "J_ARTIFACT_HASH" in {item.code for item in verdict.findings}
    finally:
        await deck.close()


async def test_damage_the_database_refuses_leaves_the_trusted_prefix(tmp_path: Path, done: str) -> None:
    path = tmp_path / "store" / "quarterdeck.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = database.execute("PRAGMA page_size").fetchone()[0]
    root = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
    database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    deck = await observe(tmp_path)
    try:
        verdict = await deck.verify(done)
        assert not verdict.ok
        assert [item.code for item in verdict.findings] == ["STORE_CORRUPT"]
        assert verdict.trusted_prefix == verdict.entries > 0
        with pytest.raises(StorageError) as caught:
            await deck.find("@latest")
        assert exit_code_of(caught.value) == 7
    finally:
        await deck.close()


async def test_missions_and_their_problems_are_listed(tmp_path: Path) -> None:
    plain(tmp_path / "all" / "good", "  a: {type: template, template: hi}")
    write_mission(tmp_path / "all" / "bad", "mission: bad\n")
    deck = await open_deck(str(tmp_path / "store"), writing=False, missions=[str(tmp_path / "all")])
    try:
        found = {item.name: item for item in await deck.missions()}
        assert found["plain"].problems == ()
        assert found["plain"].nodes[0].node_id == "a"
        (broken,) = [item for item in found.values() if item.problems]
        assert (await deck.mission(broken.path)).problems
        with pytest.raises(Exception, match="nowhere"):
            await deck.launch(Launch(path=str(tmp_path / "nowhere")))
    finally:
        await deck.close()
