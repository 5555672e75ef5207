"""Verdicts, a proof and a plan of a bundle as the runtime would tell them of one journal."""

from __future__ import annotations

from dataclasses import replace

from support.fake_deck import RUN, good_verdict

from runtime.events.facts import (
    BundleMember,
    BundlePlan,
    Finding,
    Manipulation,
    Proof,
    ProofStep,
    SinkState,
    Verdict,
    Verification,
)

ENTRIES = 53
KEY_WORDS = "bizat zukop furav dopil hajug nirot"
_INSIDE = Manipulation(
    what="edit, insert, drop or swap entries", revealed=True, because="every entry names the hash of the one before"
)
_ADDED = Manipulation(
    what="append a false entry at the end",
    revealed=False,
    because="integrity is not truthfulness: no record shows that",
)
GOOD = replace(
    good_verdict(RUN, ENTRIES),
    closed=True,
    checked_at="2026-01-02T00:04:10.123456Z",
    duration_ms=12.4,
    sinks=(SinkState(name="file /mnt/witness", size=ENTRIES), SinkState(name="git notes", size=ENTRIES)),
    manipulations=(
        _INSIDE,
        Manipulation(what="cut entries off the end", revealed=True, because="file /mnt/witness confirms all 53"),
        Manipulation(
            what="rewrite everything with the stolen key", revealed=True, because="two places confirm this root"
        ),
        _ADDED,
    ),
)
WARN = replace(
    GOOD,
    closed=False,
    completeness=Verdict(standing="unknown", words="the run has not ended"),
    anchoring=Verdict(standing="warn", words="5 entries after the newest checkpoint; 21 are not witnessed"),
    checkpoint_size=48,
    witnessed_size=32,
    unanchored_tail=5,
    sinks=(
        SinkState(name="file /mnt/witness", size=32, trouble="SINK_TROUBLE: /mnt/witness is not mounted"),
        SinkState(name="git notes", size=32),
    ),
    findings=(
        Finding(code="J_UNANCHORED_TAIL", severity="warning", seq=48, detail="5 entries have no checkpoint yet"),
    ),
    manipulations=(
        _INSIDE,
        Manipulation(
            what="cut entries off the end", revealed=True, because="up to #0047; the 5 after it are not covered"
        ),
        Manipulation(
            what="rewrite everything with the stolen key",
            revealed=False,
            because="only the first 32 entries are witnessed",
        ),
        _ADDED,
    ),
)
BROKEN = replace(
    GOOD,
    ok=False,
    trusted_prefix=12,
    level="chain",
    closed=False,
    integrity=Verdict(standing="bad", words="all hashes hold, but entries were rewritten after #0011"),
    completeness=Verdict(standing="bad", words="2 entries that were signed are missing at the end"),
    anchoring=Verdict(standing="bad", words="the root of 32 entries is not the one that was signed"),
    bad_between=(12, 31),
    checkpoint_size=32,
    witnessed_size=None,
    unanchored_tail=21,
    sinks=(),
    findings=(
        Finding(code="J_TRUNCATED", severity="error", seq=None, detail="the row says 55 entries, the journal has 53"),
        Finding(code="J_ANCHOR_MISMATCH", severity="error", seq=None, detail="the root of 32 entries differs"),
        Finding(code="J_TIME_REGRESSION", severity="warning", seq=20, detail="dated before the entry before it"),
    ),
    manipulations=(_INSIDE, _ADDED),
)


def riddled(count: int) -> Verification:
    """A journal of which every entry is bad."""
    found = tuple(
        Finding(code="J_ENTRY_HASH", severity="error", seq=seq, detail="hash differs") for seq in range(count)
    )
    return replace(BROKEN, entries=count, trusted_prefix=0, bad_between=None, findings=found)


PROOF = Proof(
    run_id=RUN,
    seq=7,
    entry_hash="sha256:" + "a7" * 32,
    leaf="1f" * 32,
    size=48,
    root="9c" * 32,
    path=tuple(
        ProofStep(side=side, hash=pair * 32) for side, pair in (("left", "3b"), ("left", "04"), ("right", "e2"))
    ),
    words=GOOD.words,
    signed_by=KEY_WORDS,
    holds=True,
    text="c2sp.org/tlog-proof@v1\nindex 7\nOzs7\n\nquarterdeck/x\n48\nnJyc\n\n— quarterdeck abcd\n",
)
_UNVERIFIED = Finding(code="J_EXPORT_UNVERIFIED", severity="error", seq=14, detail="the journal does not verify")
PLAN = BundlePlan(
    run_id=RUN,
    members=(
        BundleMember(name="manifest.txt", bytes=4_211, what="list of members"),
        BundleMember(name="scripts/verify_bundle.py", bytes=23_904, what="verifier"),
        BundleMember(name="run/run.json", bytes=1_902, what="run"),
        BundleMember(name="run/journal.jsonl", bytes=38_114, what="journal"),
        BundleMember(name="run/checkpoints/000.note", bytes=241, what="checkpoint"),
        BundleMember(name=f"run/artifacts/3b/{'3b' * 32}", bytes=18_300, what="model"),
        BundleMember(name=f"run/artifacts/9c/{'9c' * 32}", bytes=2_460_000, what="files"),
        BundleMember(name=f"run/artifacts/e2/{'e2' * 32}", bytes=512, what="output"),
    ),
    total_bytes=2_547_184,
    kinds=("model", "output", "files", "values"),
    notes=("values of secrets were replaced when they were recorded", "it names the folder /srv/project 14 times"),
)
UNVERIFIED = replace(PLAN, problems=(_UNVERIFIED,))
IMPOSSIBLE = replace(
    PLAN,
    problems=(Finding(code="BUNDLE_BODY", severity="error", seq=9, detail="the body sha256:9c9c… is not stored"),),
)
