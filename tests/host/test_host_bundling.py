"""A run handed on: the same bytes twice, nothing that should stay here, and every doubt a refusal."""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.audit import builder
from runtime.audit.gate import container
from runtime.events.facts import RunSummary
from runtime.host import bundle_format
from runtime.host.api import ExportBundle, Launch, Replay
from runtime.host.archiving import Archive
from runtime.host.bundle_check import check_archive, check_bundle
from runtime.host.bundle_format import RUN_JSON, STATEMENT, text_member
from runtime.host.bundle_store import open_archive
from runtime.host.observer import Observer
from runtime.host.signing import check_signature, open_signer, trusted_keys
from runtime.host.thread import ThreadedDeck, threaded
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey, read_note, signed_note
from runtime.orchestration.journal_export import verify_completion
from runtime.orchestration.merkle import leaf_hash, root_of
from runtime.storage.checkpoints import StoredCheckpoint, insert_checkpoint
from runtime.storage.layout import StateDir
from runtime.storage.store import Store
from tests.replay.test_replay_recorded import outside
from tests.support.deckhand import SAMPLES
from tests.support.hosting import hosting, plain, question, run_to_end, write_mission

STRANGER = VerifierKey("quarterdeck", bytes(range(32)))


@dataclass(frozen=True)
class Recorded:
    """A store with two finished runs, its key, and copies of the missions that are gone by now."""

    store: Path
    hello: RunSummary
    repair: RunSummary
    key: VerifierKey


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("handed")
    return asyncio.run(_record(folder))


async def _record(folder: Path) -> Recorded:
    store, runs = folder / "store", {}
    async with hosting(store) as host:
        signer = await open_signer(StateDir(store), SystemClock())
        for name in ("hello", "fix-the-build"):
            await asyncio.to_thread(shutil.copytree, SAMPLES / name, folder / name)
            runs[name] = await run_to_end(host, str(folder / name))
            await asyncio.to_thread(shutil.rmtree, folder / name)
        run = runs["fix-the-build"]
        bodies = [row.body async for row in host._store.journals.stream(run.run_id)]
        told = Checkpoint(run.run_id, len(bodies), root_of(map(leaf_hash, bodies)))
        signature = await signer.sign(told.text())
        note = signed_note(told, signer.key, lambda text: signature)
        known = await host._store.checkpoints.of(run.run_id)
        if not any(item.size == len(bodies) for item in known):
            row = StoredCheckpoint(
                journal_id=run.run_id, generation=1, size=len(bodies), head_hash=str(run.head_hash), note=note, at="x"
            )
            host._store.submit([insert_checkpoint(row)])
        await host._store.flush()
    return Recorded(store, runs["hello"], run, signer.key)


@asynccontextmanager
async def looking(store: Path) -> AsyncIterator[Observer]:
    deck = Observer(await Store.observe(StateDir(store)), missions=(), clock=SystemClock())
    try:
        yield deck
    finally:
        await deck.close()


@dataclass(frozen=True)
class Bundle:
    """The bundle of *fix-the-build*, with a statement, as a file and as what is in it."""

    path: Path
    files: Mapping[str, bytes]

    def changed(self, change: Callable[[dict[str, bytes]], None]) -> Archive:
        files = dict(self.files)
        change(files)
        return archive(files)


@pytest.fixture(scope="module")
def bundle(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    target = tmp_path_factory.mktemp("out") / "run.zip"
    return Bundle(target, asyncio.run(_exported(recorded.store, recorded.repair.run_id, target, attest=True)))


async def _exported(store: Path, run_id: str, target: Path, **options: Any) -> dict[str, bytes]:
    """Export, and what is in the archive. The manifest aside, which a change would make wrong."""
    async with looking(store) as deck:
        done = await deck.bundle(ExportBundle(run_id=run_id, target=str(target), **options))
    data = target.read_bytes()
    files = dict(container.read(data).bodies)
    assert (done.sha256, done.bytes, done.members) == (hashlib.sha256(data).hexdigest(), len(data), len(files))
    del files["manifest.txt"]
    return files


def archive(files: Mapping[str, bytes]) -> Archive:
    """One that passed the gate: these tests are about what comes after it, and it takes a second each time."""
    return Archive(files=files, sha256="0" * 64, size=sum(map(len, files.values())))


@pytest.fixture
def waved_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "judge", lambda data: container.read(data).bodies)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that knows nothing: its home and temporary folder are empty, and stay so."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for folder in (home, scratch):
        folder.mkdir()
    for name in ("HOME", "QUARTERDECK_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    yield scratch
    assert list(home.iterdir()) == []
    assert list(scratch.iterdir()) == []


def edited(member: str, change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        value = json.loads(files[member])
        change(value)
        files[member] = text_member(value)

    return edit


# -- round trip --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bare")
async def test_a_stranger_checks_looks_at_and_replays_it(recorded: Recorded, bundle: Bundle) -> None:
    run = recorded.repair
    with outside() as seen:
        verdict = await check_bundle(bundle.path, keys=[recorded.key.text])
        deck = await open_archive(archive(bundle.files))
        try:
            again = await deck.find("@latest")
            entries, nodes = await deck.entries(run.run_id), await deck.nodes(run.run_id)
            report = await deck.replay(Replay(run_id=run.run_id))
            same = await deck.compare(run.run_id, run.run_id)
            ledger = next(item.entry["receipt"] for item in entries if item.kind == "receipt")
            body = await deck.artifact(ledger["output_hash"])
            with pytest.raises(Refused, match="STORE_READ_ONLY"):
                await deck.launch(Launch(path="."))
        finally:
            await deck.close()
    assert seen == [], "no process, no connection"
    assert (verdict.result, verdict.reason, verdict.keys) == ("verified", None, "given")
    assert verdict.statement is not None
    assert verdict.statement.key == recorded.key.text
    assert report.comparison.equivalent, report.comparison.first
    assert (report.mission_source, report.operations_answered) == ("recorded", report.operations_total)
    assert same.equivalent
    assert (again.status, again.entries, again.head_hash, again.outputs, again.inputs) == (
        run.status,
        run.entries,
        run.head_hash,
        run.outputs,
        run.inputs,
    )
    assert len(entries) == run.entries
    assert [node.node_id for node in nodes] == ["red", "propose", "apply", "green", "stage", "commit"]
    assert body is not None


@pytest.mark.usefixtures("bare")
async def test_the_journal_it_becomes_is_judged_by_the_keys_that_count(recorded: Recorded, bundle: Bundle) -> None:
    deck = await open_archive(archive(bundle.files))
    try:
        stored = await deck._store.checkpoints.of(deck.run_id)
        assert stored[-1].head_hash == recorded.repair.head_hash
        [key] = trusted_keys(deck._store.state)
        assert read_note(stored[-1].note).signed_by([key], check_signature) == recorded.key
    finally:
        await deck.close()
    verdict = await check_archive(archive(bundle.files), keys=[STRANGER])
    assert (verdict.result, verdict.statement) == ("failed", None)
    with pytest.raises(Refused, match="KEY_FORMAT"):
        await check_bundle(bundle.path, keys=["no key"])


@pytest.mark.usefixtures("waved_through")
async def test_twice_the_same_bytes_whatever_the_time(
    recorded: Recorded, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    monkeypatch.chdir(tmp_path)
    await _exported(recorded.store, recorded.repair.run_id, tmp_path / "again.zip", attest=True)
    assert (tmp_path / "again.zip").read_bytes() == bundle.path.read_bytes()


async def test_what_is_not_hashed_names_no_folder_of_this_machine(recorded: Recorded, bundle: Bundle) -> None:
    files = bundle.files
    told = b"".join(data for name, data in files.items() if "/artifacts/" not in name and "journal" not in name)
    assert str(recorded.store.parent).encode() not in told.replace(files[bundle_format.PLAN], b"")
    async with looking(recorded.store) as deck:
        plan = await deck.bundle_plan(recorded.repair.run_id)
    assert any("name folders of this machine" in note for note in plan.notes)


@pytest.mark.usefixtures("waved_through")
async def test_what_is_too_long_for_a_member_is_cut_and_joined_again(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_format, "MAX_FILE_BYTES", 8192)
    files = await _exported(recorded.store, recorded.repair.run_id, tmp_path / "cut.zip")
    names = json.loads(files[RUN_JSON])["journal"]
    assert names == [f"run/journal.{number:03d}.jsonl" for number in range(len(names))]
    assert len(names) > 4
    assert all(files[name].endswith(b"\n") for name in names)
    body, digest = bytes(20_000), digest_bytes(bytes(20_000))
    parts = bundle_format.body_members(digest, body)
    assert [len(part) for part in parts.values()] == [8192, 8192, 3616]

    def add(value: Any) -> None:
        value["artifacts"][digest] = {"bytes": len(body), "parts": list(parts)}

    edited(RUN_JSON, add)(files)
    found = bundle_format.read_run({**files, **parts})
    assert found.bodies[digest] == body
    assert len(found.lines) == recorded.repair.entries


async def test_where_it_ran_is_recorded_and_bound_to_the_journal(bundle: Bundle) -> None:
    told = json.loads(bundle.files[bundle_format.ENVIRONMENT])
    opened = json.loads(bundle.files["run/journal.jsonl"].splitlines()[0])
    assert opened["environment"] == digest_bytes(bundle.files[bundle_format.ENVIRONMENT][:-1])
    assert (told["python"], told["sqlite"]) == (platform.python_version(), sqlite3.sqlite_version)
    assert {"textual", "cryptography", "pydantic"} <= told["packages"].keys()
    assert opened["files"].keys() == {"answers.yaml", "patch.schema.json"}


LONG = """\
mission: long
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["out/**"], allowed_tools: [filesystem.write_file]}
blocks:
  text: {type: template, template: "{% for _ in range(8) %}{{ 'x' * 65535 }}{% endfor %}"}
  write: {type: tool_invoke, tool: filesystem.write_file, path: out/long, content: "${outputs.text}"}
links: [text -> write]
"""


@pytest.mark.usefixtures("waved_through")
async def test_the_first_statement_of_a_store_lists_the_key_it_makes_and_long_content_comes_along(
    tmp_path: Path,
) -> None:
    (tmp_path / "tree" / "out").mkdir(parents=True)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, write_mission(tmp_path / "m", LONG), inputs={"root": str(tmp_path / "tree")})
        await host.bundle(ExportBundle(run_id=run.run_id, target=str(tmp_path / "a.zip"), attest=True))
        shy = await host.bundle_plan(run.run_id, ("files",))
    long = digest_bytes(b"x" * 65535 * 8).removeprefix("sha256:")
    assert [item.withheld for item in shy.members if item.name.endswith(long)] == ["files is withheld"]
    made = archive(container.read((tmp_path / "a.zip").read_bytes()).bodies)
    verdict = await check_archive(made)
    assert (verdict.result, verdict.statement is None) == ("verified", False), verdict.reason
    deck = await open_archive(made)
    try:
        assert (await deck.replay(Replay(run_id=run.run_id))).comparison.equivalent
    finally:
        await deck.close()


def test_a_console_may_look_at_it_from_another_thread(bare: Path, bundle: Bundle) -> None:
    async def look(deck: ThreadedDeck) -> tuple[bool, int]:
        return deck.read_only, len(await deck.runs())

    with threaded(open_archive(archive(bundle.files))) as deck:
        assert asyncio.run(look(deck)) == (True, 1)
        assert len(list(bare.iterdir())) == 1


# -- withholding -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bare", "waved_through")
async def test_what_is_withheld_stays_here_and_is_listed(recorded: Recorded, tmp_path: Path) -> None:
    run_id, target = recorded.repair.run_id, tmp_path / "shy.zip"
    async with looking(recorded.store) as deck:
        plan = await deck.bundle_plan(run_id, ("model",))
    files = await _exported(recorded.store, run_id, target, withhold=("model",))
    record = json.loads(files[RUN_JSON])
    shy = {item.name for item in plan.members if item.withheld}
    assert {item["what"] for item in record["withheld"].values()} == {"model"}
    assert {f"run/artifacts/{name[7:9]}/{name[7:]}" for name in record["withheld"]} == shy
    assert not shy & files.keys()
    bodies = b"".join(data for name, data in files.items() if name.startswith("run/artifacts/"))
    assert b"You repair" not in bodies, "prompts stay here"
    assert b"count the last entry of a ledger\n" not in bodies, "and so do scripted answers"
    assert any("cannot be withheld" in note for note in plan.notes)
    verdict = await check_archive(archive(files))
    assert (verdict.result, verdict.withheld) == ("verified", len(shy))
    assert verdict.verification is not None
    missing = [item for item in verdict.verification.findings if item.code == "J_ARTIFACT_WITHHELD"]
    assert {item.severity for item in missing} == {"warning"}
    opened = await open_archive(archive(files))
    try:
        with pytest.raises(Refused, match="REPLAY_PRUNED"):
            await opened.replay(Replay(run_id=run_id))
    finally:
        await opened.close()


async def test_each_kind_leaves_out_its_own(recorded: Recorded) -> None:
    async with looking(recorded.store) as deck:
        plans = {kind: await deck.bundle_plan(recorded.repair.run_id, (kind,)) for kind in ("model", "output", "files")}
    left = {kind: {item.name for item in plan.members if item.withheld} for kind, plan in plans.items()}
    assert all(left.values())
    assert not left["model"] & left["output"]
    whole = max(plan.total_bytes for plan in plans.values())
    assert all(plan.total_bytes <= whole for plan in plans.values())


# -- refusals ----------------------------------------------------------------------------------------------------


async def test_what_cannot_be_handed_on(recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "no.zip"

    async def refused(store: Path, run_id: str, **options: Any) -> str:
        with pytest.raises(Refused) as caught:
            await _exported(store, run_id, target, **options)
        assert not target.exists()
        return caught.value.code

    hello = recorded.hello.run_id
    assert await refused(recorded.store, hello, withhold=("everything",)) == "BUNDLE_KIND"
    assert await refused(recorded.store, "no-such-run") == "RUN_UNKNOWN"
    with monkeypatch.context() as small:
        small.setattr(bundle_format, "MAX_FILES", 80)
        async with looking(recorded.store) as deck:
            plan = await deck.bundle_plan(hello)
        assert [item.code for item in plan.problems] == ["BUNDLE_TOO_LARGE"]
        assert await refused(recorded.store, hello) == "BUNDLE_TOO_LARGE"
    with monkeypatch.context() as small:
        small.setattr(bundle_format, "MAX_TOTAL_BYTES", 1000)
        assert await refused(recorded.store, hello) == "BUNDLE_TOO_LARGE"
    target.write_text("mine")
    async with looking(recorded.store) as deck:
        with pytest.raises(Refused, match="BUNDLE_EXISTS"):
            await deck.bundle(ExportBundle(run_id=hello, target=str(target)))
    assert target.read_text() == "mine"


async def test_a_run_that_goes_on_is_refused(tmp_path: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        path = plain(tmp_path / "m", "  ask: {type: approval, message: Really?}")
        live = await host.launch(Launch(path=path))
        await question(host, live.run_id)
        with pytest.raises(Refused, match="BUNDLE_LIVE"):
            await host.bundle_plan(live.run_id)
        await host.cancel(live.run_id)
        await host.wait(live.run_id)
        assert (await host.bundle_plan(live.run_id)).problems == ()


@pytest.mark.usefixtures("bare", "waved_through")
async def test_a_tampered_journal_is_exported_by_force_only_and_says_so(recorded: Recorded, tmp_path: Path) -> None:
    store, target, run_id = tmp_path / "store", tmp_path / "forced.zip", recorded.hello.run_id
    shutil.copytree(recorded.store, store)
    with closing(sqlite3.connect(store / "quarterdeck.db")) as database, database:
        database.execute("DROP TRIGGER journal_no_update")
        database.execute(
            "UPDATE journal_entries SET body = CAST(replace(CAST(body AS TEXT), '\"completed\"', '\"done\"') AS BLOB)"
            " WHERE journal_id = ? AND kind = 'step_finished'",
            (run_id,),
        )
    async with looking(store) as deck:
        for attempt in (deck.bundle(ExportBundle(run_id=run_id, target=str(target))), deck.completion(run_id)):
            with pytest.raises(Refused, match="J_EXPORT_UNVERIFIED"):
                await attempt
        assert [item.code for item in (await deck.bundle_plan(run_id)).problems] == ["J_EXPORT_UNVERIFIED"]
        plain_export = await deck.completion(run_id, force=True)
    assert json.loads(plain_export)["forced"] is True
    assert not verify_completion(plain_export).ok
    files = await _exported(store, run_id, target, force=True)
    assert json.loads(files[RUN_JSON])["forced"] is True
    assert json.loads(files[bundle_format.VERIFICATION])["ok"] is False
    verdict = await check_archive(archive(files))
    assert (verdict.result, verdict.forced) == ("failed", True)
    assert verdict.reason is not None
    assert verdict.reason.code == "J_ENTRY_HASH"


# -- what strangers send -----------------------------------------------------------------------------------------


def _other_body(files: dict[str, bytes]) -> None:
    name = next(name for name in sorted(files) if "/artifacts/" in name and len(files[name]) > 10)
    files[name] = files[name][:-1] + b"?"


def _line(files: dict[str, bytes]) -> None:
    lines = files["run/journal.jsonl"].splitlines()
    lines[9] = b"not json"
    files["run/journal.jsonl"] = b"\n".join(lines) + b"\n"


def _cut(files: dict[str, bytes]) -> None:
    del files[STATEMENT]
    files["run/journal.jsonl"] = b"".join(files["run/journal.jsonl"].splitlines(True)[:-3])


def _set(**members: Any) -> Callable[[dict[str, bytes]], None]:
    return edited(RUN_JSON, lambda value: value.update(members))


HUGE = {"sha256:" + "0" * 64: {"bytes": 2**53 - 1, "parts": []}}
HOSTILE: dict[str, tuple[str, Callable[[dict[str, bytes]], None]]] = {
    "no run": ("BUNDLE_NOT_A_RUN", lambda files: files.pop(RUN_JSON) and None),
    "run.json is none": ("BUNDLE_RUN", lambda files: files.update({RUN_JSON: b"[" * 100_000})),
    "a key twice": ("BUNDLE_RUN", lambda files: files.update({RUN_JSON: b'{"schema":1,"schema":2}\n'})),
    "a member more": ("BUNDLE_RUN", _set(more=1)),
    "not a run id": ("BUNDLE_RUN", _set(run_id="../../etc", journal_id="../../etc")),
    "another journal": ("BUNDLE_RUN", _set(journal_id="0" * 8)),
    "no such status": ("BUNDLE_RUN", _set(status="splendid")),
    "a count below zero": ("BUNDLE_RUN", _set(entries=-1)),
    "a wrong type": ("BUNDLE_RUN", _set(entries="33")),
    "an enormous body": ("BUNDLE_RUN", _set(artifacts=HUGE)),
    "a foreign name": ("BUNDLE_RUN", _set(journal=["run/run.json"])),
    "a listed name that is missing": ("BUNDLE_RUN", lambda files: files.pop("run/mission.yaml") and None),
    "a stray name": ("BUNDLE_RUN", lambda files: files.update({"run/more.note": b"x"})),
    "no key": ("BUNDLE_RUN", _set(keys=["quarterdeck+x"])),
    "another plan": ("BUNDLE_RUN", edited(bundle_format.PLAN, lambda value: value.update(more=1))),
    "another definition": ("BUNDLE_RUN", edited(bundle_format.DEFINITION, lambda value: value.update(more=1))),
    "another mission": ("BUNDLE_RUN", lambda files: files.update({"run/mission.yaml": b"mission: other\n"})),
    "another environment": ("BUNDLE_RUN", edited(bundle_format.ENVIRONMENT, lambda value: value.update(python="2"))),
    "a note that is none": ("BUNDLE_RUN", lambda files: files.update({"run/checkpoints/000.note": b"hello\n\n"})),
    "another body": ("BUNDLE_ARTIFACT", _other_body),
    "bad JSON in the journal": ("J_NOT_JSON", _line),
    "entries cut off": ("J_TRUNCATED", _cut),
    "a statement about other members": ("BUNDLE_STATEMENT", _set(forced=False, code_version="9")),
    "a statement that is none": ("BUNDLE_STATEMENT", lambda files: files.update({STATEMENT: b"{}\n"})),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_bundle_is_refused_and_leaves_nothing(bare: Path, bundle: Bundle, what: str) -> None:
    code, change = HOSTILE[what]
    verdict = await check_archive(bundle.changed(change))
    assert verdict.reason is not None
    assert (verdict.result, verdict.reason.code) == ("failed", code), verdict.reason.message
    assert list(bare.iterdir()) == []


async def test_a_signature_by_another_key_is_no_statement(bundle: Bundle) -> None:
    def forge(value: Any) -> None:
        value["signatures"][0]["sig"] = "A" * 86 + "=="

    verdict = await check_archive(bundle.changed(edited(STATEMENT, forge)))
    assert verdict.reason is not None
    assert verdict.reason.code == "BUNDLE_STATEMENT"


# -- verbs -------------------------------------------------------------------------------------------------------


def test_the_verbs_say_what_came_of_it(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from console.cli import main

    def say(*words: str) -> tuple[int, str]:
        code = main(list(words))
        return code, capsys.readouterr().out

    target, run_id = tmp_path / "run.zip", recorded.hello.run_id
    store = ("--store", str(recorded.store))
    code, out = say("bundle", "export", run_id[:8], *store, "--preview", "--json")
    assert (code, json.loads(out)["kinds"]) == (0, ["model", "output", "files", "values"])
    assert not target.exists()
    code, out = say("bundle", "export", run_id, *store, "-o", str(target), "--attest", "--json")
    assert (code, json.loads(out)["path"]) == (0, str(target))
    nowhere = ("--store", str(tmp_path / "none"))
    code, out = say("bundle", "verify", str(target), *nowhere, "--json")
    assert (code, json.loads(out)["result"]) == (0, "verified")
    code, out = say("bundle", "replay", str(target), *nowhere, "--json")
    assert (code, json.loads(out)["comparison"]["equivalent"]) == (0, True)
    assert say("bundle", "open", str(target), *nowhere)[0] == 2, "without a terminal"
    data = bytearray(target.read_bytes())
    place = data.index(b'"step_finished"')
    data[place + 1] ^= 1
    (tmp_path / "flipped.zip").write_bytes(data)
    code, out = say("bundle", "verify", str(tmp_path / "flipped.zip"), "--json")
    assert (code, json.loads(out)["reason"]["code"]) == (7, "BUNDLE_REFUSED")
    code, out = say("bundle", "verify", str(tmp_path / "gone.zip"), "--json")
    assert (code, json.loads(out)["result"], json.loads(out)["reason"]["code"]) == (7, "unchecked", "BUNDLE_IO")
    assert say("bundle", "verify", str(tmp_path), "--json")[0] == 7
    assert not (tmp_path / "none").exists(), "no store is made"
    code, out = say("export", run_id, *store, "--format", "completion")
    assert code == 0
    assert verify_completion(out.rstrip("\n").encode()).ok
