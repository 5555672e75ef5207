"""Which deck a face gets, and which exit code an error stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.host.codes import exit_code_of
from runtime.host.observer import Observer, RemoteDeck
from runtime.host.opening import exported_lines, mission_folders, open_console_deck, open_deck, state_dir
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.errors import JournalError, QuarterdeckError, StorageError
from runtime.kernel.outcomes import Exit
from runtime.storage.store import Store
from tests.support.fake_deck import FakeDeck
from tests.support.hosting import hosting, open_host


async def test_to_act_the_first_holds_and_the_second_goes_through_it(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    first = await open_deck(store, writing=True)
    second = await open_deck(store, writing=True)
    reader = await open_deck(store, writing=False)
    try:
        assert isinstance(first, RuntimeHost)
        assert isinstance(second, RemoteDeck)
        assert isinstance(reader, Observer)
        holder = await second.holder()
        assert holder is not None
        assert holder.epoch == 1
    finally:
        for deck in (reader, second, first):
            await deck.close()
    again = await open_console_deck(store)
    assert isinstance(again, RuntimeHost)
    await again.close()
    await again.close()


async def test_to_read_a_store_that_is_not_there_creates_it_empty(tmp_path: Path) -> None:
    deck = await open_deck(str(tmp_path / "new"), writing=False)
    try:
        assert await deck.runs() == ()
    finally:
        await deck.close()


async def test_an_opening_that_fails_half_way_gives_the_lock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    with monkeypatch.context() as patch:

        async def broken(*_: object) -> None:
            raise StorageError("CONTROL_PATH", "in the way")

        patch.setattr("runtime.host.control.ControlServer.start", broken)
        with pytest.raises(StorageError, match="in the way"):
            await open_host(tmp_path / "store")
    async with hosting(tmp_path / "store") as host:
        assert not host.read_only


async def test_a_store_that_fails_before_there_is_a_host_fails_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Store.open

    async def poisoned(*arguments: object, **named: object) -> Store:
        store = await opening(*arguments, **named)  # type: ignore[arg-type]
        store.submit([("INSERT INTO nowhere VALUES (1)", ())])
        with pytest.raises(StorageError):
            await store.flush()
        return store

    monkeypatch.setattr(Store, "open", poisoned)
    with pytest.raises(StorageError) as caught:
        await open_host(tmp_path / "store")
    assert caught.value.code == "STORE_POISONED"


def test_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARTERDECK_HOME", str(tmp_path))
    assert state_dir(None).root == tmp_path
    assert state_dir(str(tmp_path / "other")).root == tmp_path / "other"
    assert mission_folders([str(tmp_path)]) == (tmp_path,)


async def test_only_a_deck_of_the_store_itself_exports() -> None:
    with pytest.raises(QuarterdeckError) as caught:
        await anext(exported_lines(FakeDeck(), "x"))
    assert caught.value.code == "EXPORT_IO"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("STORE_LOCKED", Exit.LOCKED),
        ("STORE_BUSY", Exit.LOCKED),
        ("STORE_UNRESPONSIVE", Exit.LOCKED),
        ("LOCK_HELD", Exit.LOCKED),
        ("STORE_CORRUPT", Exit.UNVERIFIED),
        ("STORE_ARTIFACT_DAMAGED", Exit.UNVERIFIED),
        ("J_SEQ", Exit.UNVERIFIED),
        ("STORE_MISSING", Exit.USAGE),
        ("STORE_NOT_FOLDER", Exit.USAGE),
        ("MISSION_INVALID", Exit.USAGE),
        ("RUN_UNKNOWN", Exit.USAGE),
        ("INPUT_TYPE", Exit.USAGE),
        ("ENV_PATH", Exit.POLICY),
        ("APPROVAL_MISSING", Exit.APPROVAL),
        ("BUDGET_EXCEEDED", Exit.BUDGET),
        ("STORE_FULL", Exit.FAILED),
        ("REPO_DIRTY", Exit.FAILED),
    ],
)
def test_exit_codes(code: str, expected: Exit) -> None:
    assert exit_code_of(QuarterdeckError(code, "")) is expected


def test_a_journal_error_is_never_verified() -> None:
    assert exit_code_of(JournalError("STORE_IO", "")) is Exit.UNVERIFIED
