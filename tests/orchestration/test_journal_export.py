"""The completion export: the same bytes twice, and nothing in it that does not follow from its entries (test 7.l)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from runtime.kernel.canonical import canonical_bytes, digest_bytes
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey, signed_note
from runtime.orchestration.journal_export import Beside, completion, verify_completion
from runtime.orchestration.merkle import leaf_hash, root_of
from tests.support.journals import run_of

KEY = VerifierKey("quarterdeck", bytes(range(32)))
SPEC = frozenset(
    [
        "schema",
        "mission_id",
        "run_id",
        "run_id_audit",
        "genesis",
        "chain_root",
        "entries",
        "receipts",
        "anchors",
        "verification",
        "governance_hashes",
        "baseline_commit",
        "result_commit",
        "escalations",
        "model_calls",
        "exported_at",
        "bundle_hash",
        "checkpoints",
        "keys",
        "forced",
    ]
)


def _sign(text: bytes) -> bytes:
    return digest_bytes(text).encode()[-64:]


def _check(public: bytes, signature: bytes, text: bytes) -> bool:
    return (public, signature) == (KEY.public, _sign(text))


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    return [row.body for row in run_of(2)[1].entries]


def exported(bodies: list[bytes], size: int | None = None) -> bytes:
    size = len(bodies) if size is None else size
    told = Checkpoint(json.loads(bodies[0])["journal_id"], size, root_of(map(leaf_hash, bodies[:size])))
    note = signed_note(told, KEY, _sign).decode()
    return completion(bodies, Beside(verification={"ok": True}, checkpoints=[note], keys=[KEY.text]))


def test_what_an_export_holds(bodies: list[bytes]) -> None:
    data = exported(bodies)
    told = json.loads(data)
    last = json.loads(bodies[-1])
    assert told.keys() == SPEC
    assert data == exported(bodies)
    assert (told["chain_root"], told["exported_at"]) == (last["entry_hash"], last["at"])
    assert [canonical_bytes(entry) for entry in told["entries"]] == bodies
    verdict = verify_completion(data, _check)
    assert (verdict.ok, verdict.findings, verdict.entries) == (True, (), len(bodies))


def _rehashed(told: dict[str, Any]) -> bytes:
    told.pop("bundle_hash")
    return canonical_bytes({**told, "bundle_hash": digest_bytes(canonical_bytes(told))})


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "hash": ("J_EXPORT_FORMAT", lambda told: None),
    "receipt": ("J_EXPORT_FORMAT", lambda told: told["receipts"].append({})),
    "root": ("J_EXPORT_FORMAT", lambda told: told.update(chain_root="sha256:" + "0" * 64)),
    "time": ("J_EXPORT_FORMAT", lambda told: told.update(exported_at="2030-01-01T00:00:00.000000Z")),
    "more": ("J_EXPORT_FORMAT", lambda told: told.update(more=1)),
    "type": ("J_EXPORT_FORMAT", lambda told: told.update(entries={})),
    "entry": ("J_ENTRY_HASH", lambda told: told["entries"][1].update(at="2030-01-01T00:00:00.000000Z")),
    "cut": ("J_TRUNCATED", lambda told: told["entries"].pop()),
    "key": ("J_ANCHOR_MAC", lambda told: told.update(keys=[])),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_export_that_was_changed_is_found_out(bodies: list[bytes], what: str) -> None:
    code, change = CHANGES[what]
    told = json.loads(exported(bodies))
    change(told)
    data = exported(bodies).replace(b'"forced":false', b'"forced":true') if what == "hash" else _rehashed(told)
    verdict = verify_completion(data, _check)
    assert not verdict.ok
    assert code in {item.code for item in verdict.findings}


def test_a_checkpoint_of_a_shorter_journal_counts_as_far_as_it_goes(bodies: list[bytes]) -> None:
    assert verify_completion(exported(bodies, 1), _check).ok


def test_a_checkpoint_of_other_entries_shows_that_these_were_written_anew(bodies: list[bytes]) -> None:
    notes = json.loads(exported([row.body for row in run_of(3)[1].entries], len(bodies)))["checkpoints"]
    verdict = verify_completion(completion(bodies, Beside(verification={}, checkpoints=notes, keys=[KEY.text])), _check)
    assert [item.code for item in verdict.findings] == ["J_ANCHOR_MISMATCH"]


def test_damaged_bytes_are_exported_as_they_are(bodies: list[bytes]) -> None:
    data = completion([bodies[0], b"\xff\x00", *bodies[2:]], Beside(verification={"ok": False}, forced=True))
    assert json.loads(data)["entries"][1] == {"$bytes": "/wA="}
    assert "J_NOT_UTF8" in {item.code for item in verify_completion(data).findings}
