"""A store somebody has tampered with, or that the disk has damaged: found, named, and never a traceback."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.events.facts import Verification
from runtime.host.observer import Observer
from runtime.kernel.clock import SystemClock
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from tests.support.deckhand import SAMPLES, Deckhand, deckhand

pytestmark = pytest.mark.slow

PAGE = 4096
SEED = 20


@dataclass(frozen=True, slots=True)
class Original:
    """A store with two finished runs, checkpointed; tests damage copies of it."""

    store: Path
    run_id: str
    entries: int
    head: str


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Original]:
    with deckhand(tmp_path_factory.mktemp("original")) as hand:
        assert hand.inline("run", str(SAMPLES / "hello")).code == 0
        done = hand.inline("run", str(SAMPLES / "guarded"), "--json").done
        yield Original(hand.store, done["run_id"], done["entries"], done["journal_head"])


@pytest.fixture
def deck(original: Original, tmp_path: Path) -> Iterator[Deckhand]:
    """A command line on a copy of the original store."""
    with deckhand(tmp_path) as hand:
        restore(original, hand)
        yield hand


def restore(original: Original, hand: Deckhand) -> None:
    hand.store.mkdir(mode=0o700, exist_ok=True)
    for name in ("quarterdeck.db-wal", "quarterdeck.db-shm"):
        (hand.store / name).unlink(missing_ok=True)
    shutil.copyfile(original.store / "quarterdeck.db", hand.database)
    hand.database.chmod(0o600)
    if (original.store / "keys").is_dir():
        shutil.copytree(original.store / "keys", hand.store / "keys", dirs_exist_ok=True)


def tamper(hand: Deckhand, *statements: tuple[str, tuple[object, ...]]) -> None:
    """What somebody with the file and sqlite3 can do."""
    with contextlib.closing(sqlite3.connect(hand.database, isolation_level=None)) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in found:
            database.execute(f"DROP TRIGGER {name}")
        for statement, values in statements:
            changed = database.execute(statement, values).rowcount
            assert changed == 1, f"{statement} changed {changed} rows"
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def verify(hand: Deckhand, run_id: str) -> Verification:
    """The same verification without the start of a process."""
    observer = Observer(await Store.observe(StateDir(hand.store)), missions=(), clock=SystemClock())
    try:
        return await observer.verify(run_id)
    finally:
        await observer.close()


def flipped(value: Any, rng: random.Random) -> Any:
    """``value`` with one bit of it turned."""
    raw = bytearray(value if isinstance(value, bytes) else value.encode())
    at = rng.randrange(len(raw))
    raw[at] ^= 1 << rng.randrange(7)
    return bytes(raw) if isinstance(value, bytes) else raw.decode("latin-1")


COLUMNS = ("body", "entry_hash", "prev_entry_hash", "kind", "at")


@pytest.mark.parametrize("column", COLUMNS)
async def test_any_flipped_bit_of_any_row_names_the_entry(original: Original, deck: Deckhand, column: str) -> None:
    rng = random.Random(SEED)
    for seq in (0, 1, 7, original.entries // 2, original.entries - 2, original.entries - 1):
        restore(original, deck)
        query = f"SELECT {column} FROM journal_entries WHERE journal_id = ? AND seq = ?"
        value = deck.rows(query, original.run_id, seq)[0][0]
        changed = flipped(value, rng)
        assert changed != value
        update = f"UPDATE journal_entries SET {column} = ? WHERE journal_id = ? AND seq = ?"
        tamper(deck, (update, (changed, original.run_id, seq)))
        verdict = await verify(deck, original.run_id)
        assert not verdict.ok, f"{column} of entry {seq}: {value!r} -> {changed!r}"
        assert verdict.trusted_prefix <= seq
        assert seq in {item.seq for item in verdict.findings}, verdict.findings


async def test_the_untouched_copy_verifies(original: Original, deck: Deckhand) -> None:
    """The check of the checks: dropping triggers alone changes no entry."""
    tamper(deck)
    verdict = await verify(deck, original.run_id)
    assert verdict.ok, verdict.findings
    assert (verdict.entries, verdict.head_hash) == (original.entries, original.head)


MOVES: dict[str, Callable[[str], tuple[str, tuple[object, ...]]]] = {
    "deleted": lambda run: ("DELETE FROM journal_entries WHERE journal_id = ? AND seq = 9", (run,)),
    "moved away": lambda run: (
        "UPDATE journal_entries SET journal_id = 'x' WHERE journal_id = ? AND seq = 9", (run,)
    ),
    "renumbered": lambda run: ("UPDATE journal_entries SET seq = 500 WHERE journal_id = ? AND seq = 9", (run,)),
}  # fmt: skip


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
async def test_a_row_that_is_not_where_it_was(
    original: Original, deck: Deckhand, move: Callable[[str], tuple[str, tuple[object, ...]]]
) -> None:
    tamper(deck, move(original.run_id))
    verdict = await verify(deck, original.run_id)
    assert not verdict.ok
    assert verdict.trusted_prefix <= 9
    assert verdict.bad_between is not None
    assert verdict.bad_between[0] <= 9 <= verdict.bad_between[1]
    assert {9, 10} & {item.seq for item in verdict.findings}, verdict.findings


async def test_the_end_cut_off(original: Original, deck: Deckhand) -> None:
    """The run's row remembers how many entries there were and what the last one was."""
    tamper(
        deck,
        ("DELETE FROM journal_entries WHERE journal_id = ? AND seq = ?", (original.run_id, original.entries - 1)),
    )
    verdict = await verify(deck, original.run_id)
    assert not verdict.ok, "a finished run without its end does not verify"


async def test_a_flipped_bit_of_an_artifact_names_the_entry_that_vouches_for_it(
    original: Original, deck: Deckhand
) -> None:
    digest, body = deck.rows("SELECT digest, body FROM artifacts WHERE length(body) > 100 LIMIT 1")[0]
    tamper(deck, ("UPDATE artifacts SET body = ? WHERE digest = ?", (flipped(body, random.Random(SEED)), digest)))
    verdicts = [await verify(deck, run_id) for (run_id,) in deck.rows("SELECT run_id FROM runs")]
    bad = [item for item in verdicts if not item.ok]
    assert bad, digest
    assert all(item.seq is not None for verdict in bad for item in verdict.findings)


def test_verify_says_so_and_exits_7(original: Original, deck: Deckhand) -> None:
    tamper(deck, ("UPDATE journal_entries SET at = '2020' WHERE journal_id = ? AND seq = 7", (original.run_id,)))
    done = deck.run("verify", original.run_id, "--json")
    assert done.code == 7, done
    verdict = done.lines[0]
    assert verdict["ok"] is False
    assert verdict["trusted_prefix"] == 7
    assert [item["seq"] for item in verdict["findings"]] == [7]
    text = deck.inline("verify", original.run_id[:8])
    assert text.code == 7
    assert "entry 7" in text.out
    # Everything else still shows what it can, and does not fall over it.
    for verb in ("show", "logs", "violations"):
        assert deck.inline(verb, original.run_id).code == 0
    assert deck.inline("runs").code == 0


READING = (["runs"], ["show", "RUN"], ["logs", "RUN"], ["violations"], ["verify", "RUN"], ["approvals"])


def damage(hand: Deckhand, offset: int, content: bytes) -> None:
    with hand.database.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def header(hand: Deckhand) -> None:
    damage(hand, 0, b"not a database, sorry")


def emptied(hand: Deckhand) -> None:
    hand.database.write_bytes(hand.database.read_bytes()[: PAGE * 2 + 100])


def noise(hand: Deckhand) -> None:
    hand.database.write_bytes(random.Random(SEED).randbytes(20 * PAGE))


@pytest.mark.parametrize("harm", [header, emptied, noise])
def test_a_database_sqlite_refuses(original: Original, deck: Deckhand, harm: Callable[[Deckhand], None]) -> None:
    harm(deck)
    before = deck.database.read_bytes()
    for verb in READING:
        done = deck.inline(*[original.run_id if word == "RUN" else word for word in verb], "--json")
        assert done.code in (0, 7), done
        if done.code == 7:
            trusted = [line for line in done.lines if "trusted_prefix" in line]
            assert trusted or done.error["code"].startswith("STORE_"), done
    assert deck.inline("verify", original.run_id).code == 7
    acting = deck.inline("run", str(SAMPLES / "hello"))
    assert acting.code == 7, acting
    assert "STORE_" in acting.err
    assert len(acting.err.strip().splitlines()) >= 2, "what, and what to do"
    assert deck.database.read_bytes() == before, "evidence is left alone"


def test_any_damaged_page_is_noticed_or_harmless(original: Original, deck: Deckhand) -> None:
    """Whatever page is hit: verify either recomputes the whole original chain, or exits 7 with what can be trusted."""
    rng = random.Random(SEED)
    pages = original.store.joinpath("quarterdeck.db").stat().st_size // PAGE
    noticed = 0
    for page in rng.sample(range(1, pages), min(pages - 1, 24)):
        restore(original, deck)
        damage(deck, page * PAGE + rng.randrange(0, 64), rng.randbytes(512))
        done = deck.inline("verify", original.run_id, "--json")
        shown = deck.inline("show", original.run_id)
        assert shown.code in (0, 2, 7), shown
        assert done.code in (0, 7), done
        if done.code == 0:
            verdict = done.lines[0]
            assert (verdict["entries"], verdict["head_hash"]) == (original.entries, original.head), done
            continue
        noticed += 1
        line = done.lines[0]
        if line.get("event") == "error":
            assert line["code"].startswith("STORE_"), done
            assert line["hint"], done
        else:
            assert line["trusted_prefix"] < original.entries or line["findings"], done
    assert noticed >= 3


def test_a_page_of_the_journal_destroyed_leaves_a_trusted_prefix(original: Original, deck: Deckhand) -> None:
    """Damage in the last entries: everything before them can still be read and is said to hold."""
    body = deck.rows(
        "SELECT body FROM journal_entries WHERE journal_id = ? AND seq = ?", original.run_id, original.entries - 3
    )[0][0]
    raw = deck.database.read_bytes()
    at = raw.index(body)
    page = at // PAGE * PAGE
    damage(deck, page, b"\xff" * 8)
    done = deck.inline("verify", original.run_id, "--json")
    assert done.code == 7, done
    verdict = done.lines[0]
    assert verdict["ok"] is False
    assert 0 < verdict["trusted_prefix"] <= original.entries - 3
    assert any(item["code"].startswith("STORE_") for item in verdict["findings"]), verdict
