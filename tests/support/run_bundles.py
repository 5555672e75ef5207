"""A run with a bit of everything, its checkpoints and its bundle, made with plain code: for tests of all who doubt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime.audit.canonical_zip import encode
from runtime.kernel.canonical import (
    JOURNAL_GENESIS,
    RECEIPT_GENESIS,
    canonical_bytes,
    digest,
    digest_bytes,
    parse_strict,
)
from runtime.kernel.clock import ManualClock
from runtime.kernel.ids import NO_COMMIT
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.anchors import AnchorChain, Witness
from runtime.orchestration.checkpoints import KEY_NAME, Checkpoint, VerifierKey, signed_note
from runtime.orchestration.journal_format import sealed
from runtime.orchestration.merkle import Frontier
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from runtime.orchestration.stream_index import StreamIndex
from tests.support.journals import EMPTY_STATE, JOURNAL_ID, RECIPE, receipt, start_operation

#: Entries between two checkpoints.
EVERY = 16
ANCHOR_KEY = bytes(range(32))
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FOREIGN = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

Entries = Sequence[StoredEntry]


def public_key(key: Ed25519PrivateKey) -> VerifierKey:
    return VerifierKey(KEY_NAME, key.public_key().public_bytes_raw())


@dataclass
class RecordedRun:
    """What a run leaves behind: its entries, and the bodies they name by digest."""

    entries: list[StoredEntry]
    bodies: dict[str, bytes]
    environment: bytes
    plan: bytes
    withheld: dict[str, bytes] = field(default_factory=dict)


@dataclass
class _Recorder:
    """Writes the entries of steps and operations."""

    journal: MissionJournal
    clock: ManualClock
    bodies: dict[str, bytes] = field(default_factory=dict)
    count: int = 0

    def keep(self, value: object) -> str:
        return self.put(canonical_bytes(value))

    def put(self, data: bytes) -> str:
        self.bodies[digest_bytes(data)] = data
        return digest_bytes(data)

    def operation(self, step: str) -> str:
        """Budget, intention and receipt, whose hash is returned."""
        self.count += 1
        key, operation = digest({"n": self.count}), f"{step}.{self.count}"
        self.journal.append("budget", phase="reserved", operation_id=operation, micros=self.count, tokens=0)
        start_operation(self.journal, key, step_id=step, operation_id=operation)
        self.clock.advance(0.25)
        return self.receipt(key, step, operation)

    def receipt(self, key: str, step: str, operation: str, **changes: Any) -> str:
        told = {"n": self.count, "of": operation}
        bodies = {
            "params_hash": self.keep({"params": told}),
            "output_hash": self.keep({"output": told}),
            "evidence_hash": self.keep({"evidence": told}),
        }
        made = receipt(key, step_id=step, operation_id=operation, timestamp=self.clock_text(), **{**bodies, **changes})
        return self.journal.append_receipt(made).receipt_hash

    def clock_text(self) -> str:
        return self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def recorded_run(rounds: int = 23, journal_id: str = JOURNAL_ID) -> RecordedRun:
    """A closed run of ``17 + 8 * rounds`` entries: operations, a denial, an undo, a question, a stream, an end."""
    store, clock = MemoryJournalStore(), ManualClock()
    recorder = _Recorder(MissionJournal(store, journal_id=journal_id, clock=clock), clock)
    journal = recorder.journal
    environment, plan = canonical_bytes({"python": "3.11"}), canonical_bytes({"schema": "plan/1", "rounds": rounds})
    journal.append(
        "journal_opened",
        mission_id="m1",
        run_id=RECIPE,
        mission_type="m1",
        baseline_commit=NO_COMMIT,
        envelope_hash=digest({}),
        prev_journal_head=None,
        environment=recorder.put(environment),
    )
    journal.append("plan", plan_hash=digest({"plan": 1}), document=recorder.put(plan), steps=2 * rounds)
    journal.append("signal", signals=[{"name": "admit"}, {"name": "turn_open"}])
    undone = ""
    for number in range(rounds):
        undone = _round(recorder, number) or undone
    _events(recorder, undone)
    journal.append("evidence", evidence={"ok": True})
    journal.append("signal", signals=[{"name": "commit"}])
    journal.append("signal", signals=[{"name": "close"}])
    journal.close("completed", result_commit=None, exit_code=0)
    secret = recorder.keep({"output": {"n": 2, "of": "s2.2"}})
    return RecordedRun(store.entries, recorder.bodies, environment, plan, {secret: recorder.bodies.pop(secret)})


def _round(recorder: _Recorder, number: int) -> str:
    """Two steps, one with an operation or, every second time, with signals instead; the receipt of an operation."""
    journal, step = recorder.journal, f"s{number}"
    journal.record_step(step, operation_type="tool_invoke", inputs={"n": number}, pre_state_hash=EMPTY_STATE)
    done = "" if number % 2 else recorder.operation(step)
    for signal in range(3 * (number % 2)):
        journal.append("signal", signals=[{"name": "progress", "n": signal}])
    big = {"$artifact": recorder.put(b"large output of %d" % number), "bytes": 18}
    stream = {"stream": _stream(recorder)} if number == 1 else {}
    journal.complete_step(step, "completed", outputs={"text": big}, post_state_hash=EMPTY_STATE, **stream)
    journal.record_step(f"t{number}", operation_type="human")
    journal.complete_step(f"t{number}", "completed", outputs={"value": 'naïve ⟨text⟩ "quoted"\n'})
    journal.append("signal", signals=[number])
    return done


def _stream(recorder: _Recorder) -> dict[str, Any]:
    index = StreamIndex(recorder.put)
    for number in range(3):
        index.add(recorder.put(b"chunk %d" % number), 2)
    return {"items": 6, "index": index.root()}


def _events(recorder: _Recorder, undone: str) -> None:
    """What does not happen in every step."""
    journal = recorder.journal
    ask = {"escalation_id": "e1", "step_id": "ask", "subject_digest": digest({"q": 1})}
    journal.append("escalation", phase="asked", reason="may it?", severity="normal", choices=["yes"], **ask)
    journal.append("escalation", phase="answered", resolution="yes", resolved_by="operator", **ask)
    journal.append("operator_action", action="pause", actor="operator", reason="", target=journal.journal_id)
    denied = digest({"denied": 1})
    journal.append(
        "operation_denied",
        step_id="s0",
        operation_id="s0.denied",
        idempotency_key=denied,
        code="PATH_DENIED",
        evidence_hash=recorder.keep({"code": "PATH_DENIED"}),
    )
    recorder.receipt(denied, "s0", "s0.denied", status="failed", reason_code="PATH_DENIED")
    undo = {"operation_id": "s0.1", "compensates": undone}
    journal.append("compensation_started", outcome=None, verified=False, checks={}, **undo)
    journal.append("compensation_finished", outcome="restored", verified=True, checks={"state": True}, **undo)
    recorder.receipt(digest({"n": recorder.count}), "s0", "s0.1", compensates=undone, compensation_verified=True)
    journal.append("external_modification", paths=["a.txt"])


def lines_of(entries: Entries) -> list[bytes]:
    return [stored.body for stored in entries]


def jsonl(lines: Sequence[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def resealed(lines: Sequence[bytes], start: int, mark: str) -> list[bytes]:
    """The journal written anew from entry ``start`` on: that entry gets a false ``note``, and all hashes fit again."""
    changed = parse_strict(lines[start])
    changed["note"] = mark
    if changed["kind"] == "receipt":
        changed["receipt"]["affected_paths"] = [mark]
    return rebuilt([*lines[:start], canonical_bytes(changed), *lines[start + 1 :]], start)


def rebuilt(lines: Sequence[bytes], start: int = 0) -> list[bytes]:
    """Entries from ``start`` on numbered, linked, counted and hashed anew, receipts too, as a careful forger would."""
    result = list(lines[:start])
    head = parse_strict(lines[start - 1])["entry_hash"] if start else JOURNAL_GENESIS
    receipts = RECEIPT_GENESIS
    for line in result:
        entry = parse_strict(line)
        receipts = entry["receipt"]["receipt_hash"] if entry["kind"] == "receipt" else receipts
    renamed: dict[str, str] = {}
    for seq, line in enumerate(lines[start:], start):
        entry = parse_strict(line)
        del entry["entry_hash"]
        entry.update(seq=seq, prev_entry_hash=head)
        if "compensates" in entry:
            entry["compensates"] = renamed.get(entry["compensates"], entry["compensates"])
        if entry["kind"] == "receipt":
            receipts = _chained(entry["receipt"], receipts, renamed)
        elif entry["kind"] == "journal_closed":
            entry.update(entries=seq + 1, last_receipt_hash=receipts)
        body, head = sealed(entry)
        result.append(body)
    return result


def _chained(receipt: dict[str, Any], head: str, renamed: dict[str, str]) -> str:
    """Make ``receipt`` continue ``head`` and return its new hash; ``renamed`` are the receipts changed so far."""
    was = receipt.pop("receipt_hash")
    receipt.update(prev_receipt_hash=head, compensates=renamed.get(receipt["compensates"], receipt["compensates"]))
    receipt["receipt_hash"] = renamed[was] = digest(receipt)
    return renamed[was]


def notes_of(
    lines: Sequence[bytes], *, every: int = EVERY, key: Ed25519PrivateKey = SIGNING, journal_id: str = JOURNAL_ID
) -> list[bytes]:
    """Signed checkpoints after every so many entries and at the end."""
    frontier, notes = Frontier(), []
    for number, line in enumerate(lines, 1):
        frontier.append(line)
        if number % every == 0 or number == len(lines):
            checkpoint = Checkpoint(journal_id, number, frontier.root())
            notes.append(signed_note(checkpoint, public_key(key), key.sign))
    return notes


def anchors_of(lines: Sequence[bytes], *, every: int = EVERY, key: bytes = ANCHOR_KEY) -> bytes:
    """An anchor log with the same cadence."""
    chain, log = AnchorChain(key), b""
    for number, line in enumerate(lines, 1):
        if number % every == 0 or number == len(lines):
            entry = parse_strict(line)
            log += chain.next(
                journal_id=entry["journal_id"],
                run_id=RECIPE,
                seq=entry["seq"],
                entry_hash=entry["entry_hash"],
                at=entry["at"],
                final=entry["kind"] == "journal_closed",
            )
    return log


def witness_of(lines: Sequence[bytes], seq: int = -1) -> str:
    entry = parse_strict(lines[seq])
    return Witness(entry["journal_id"], entry["seq"], entry["entry_hash"]).text


def bundle_files(run: RecordedRun, **changes: Any) -> dict[str, bytes]:
    """The files of the run's bundle without the manifest; ``changes`` replace members of `run.json`."""
    lines, notes = lines_of(run.entries), notes_of(lines_of(run.entries))
    last = parse_strict(lines[-1])
    files = {
        "pytest.ini": b"[pytest]\ntestpaths = runtime/tests\n",
        "run/journal.jsonl": jsonl(lines),
        "run/mission.yaml": b"name: m1\n",
        "run/mission.json": canonical_bytes({"name": "m1"}) + b"\n",
        "run/plan.json": run.plan + b"\n",
        "run/environment.json": run.environment + b"\n",
        "run/verification.json": canonical_bytes({"ok": True}) + b"\n",
        "run/anchors.jsonl": anchors_of(lines),
        **{f"run/checkpoints/{number:03}.note": note for number, note in enumerate(notes)},
        **{_place(name): body for name, body in run.bodies.items()},
    }
    record: dict[str, Any] = {
        "schema": "run-bundle/1",
        "run_id": JOURNAL_ID,
        "journal_id": JOURNAL_ID,
        "mission": "m1",
        "mission_version": "1",
        "status": "succeeded",
        "exit_code": 0,
        "created_at": parse_strict(lines[0])["at"],
        "finished_at": last["at"],
        "entries": len(lines),
        "head_hash": last["entry_hash"],
        "journal": ["run/journal.jsonl"],
        "checkpoints": [f"run/checkpoints/{number:03}.note" for number in range(len(notes))],
        "keys": [public_key(SIGNING).text],
        "anchors": "run/anchors.jsonl",
        "artifacts": {name: {"bytes": len(body), "parts": [_place(name)]} for name, body in run.bodies.items()},
        "withheld": {name: {"bytes": len(body), "what": "output"} for name, body in run.withheld.items()},
        "forced": False,
        "code_version": "0",
        "summary": {},
    }
    files["run/run.json"] = canonical_bytes({**record, **changes}) + b"\n"
    return files


def _place(name: str) -> str:
    digits = name.removeprefix("sha256:")
    return f"run/artifacts/{digits[:2]}/{digits}"


def with_manifest(files: Mapping[str, bytes]) -> dict[str, bytes]:
    named = {name: data for name, data in files.items() if name != "manifest.txt"}
    lines = [f"{hashlib.sha256(named[name]).hexdigest()}  {name}\n" for name in sorted(named)]
    return {**named, "manifest.txt": "".join(lines).encode()}


def packed(files: Mapping[str, bytes]) -> bytes:
    """The archive of ``files`` with a manifest that fits."""
    return encode(with_manifest(files))


@cache
def the_run() -> RecordedRun:
    """The one most tests look at; not to be changed."""
    return recorded_run()


def foreign_line() -> bytes:
    """A good entry of another journal."""
    return recorded_run(1, "00000000-0000-4000-8000-0000000000ff").entries[5].body
