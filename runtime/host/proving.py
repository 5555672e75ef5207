"""That one entry is inside the newest signed checkpoint, proven by a text that needs nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from runtime.events.facts import Proof, ProofStep
from runtime.host.signing import check_signature, trusted_keys
from runtime.kernel.errors import JournalError, Refused
from runtime.kernel.ports import StoredEntry
from runtime.orchestration.checkpoints import Note, VerifierKey, read_note
from runtime.orchestration.merkle import leaf_hash
from runtime.orchestration.tlog_proof import PathTo, proof_text, read_proof
from runtime.storage.store import Store


async def prove(store: Store, journal_id: str, seq: int) -> Proof:
    """Raises `Refused`: ``PROOF_NONE`` when no checkpoint covers the entry, ``NOTE_FORMAT`` when it is none, and
    ``J_TRUNCATED`` when the journal has fewer entries than it covers; `StorageError` for damage."""
    note = await _covering(store, journal_id, seq)
    said = note.checkpoint
    path = PathTo(seq, said.size)
    entry: StoredEntry | None = None
    async for page in store.journals.pages(journal_id):
        wanted = page[: said.size - path.fed]
        if path.fed <= seq < path.fed + len(wanted):
            entry = wanted[seq - path.fed]
        await asyncio.to_thread(_feed, path, wanted)
        if path.fed == said.size:
            break
    if entry is None or path.fed < said.size:
        detail = f"the checkpoint covers {said.size} entries, the journal has {path.fed}"
        raise Refused("J_TRUNCATED", detail, hint=f"`quarterdeck verify {journal_id[:8]}` says more")
    text = proof_text(seq, entry.body, path.siblings(), note.data)
    return _judged(journal_id, entry.entry_hash, text, await asyncio.to_thread(trusted_keys, store.state))


async def _covering(store: Store, journal_id: str, seq: int) -> Note:
    row = await store.checkpoints.newest(journal_id)
    if row is None or not 0 <= seq < row.size:
        covered = "there is none" if row is None else f"the newest covers {row.size} entries"
        raise Refused(
            "PROOF_NONE",
            f"no checkpoint covers entry {seq} of {journal_id}: {covered}",
            hint="checkpoints are made while a run goes on and when it ends",
        )
    try:
        note = read_note(row.note)
    except JournalError as error:
        raise Refused(error.code, error.message, where=str(store.state.db)) from None
    if note.checkpoint.size != row.size:
        raise Refused("NOTE_FORMAT", "the newest checkpoint is not the one it is stored as", where=str(store.state.db))
    return note


def _judged(journal_id: str, entry_hash: str, text: str, keys: Sequence[VerifierKey]) -> Proof:
    """Everything that is shown comes from the text, as it would for whoever is given it."""
    proof = read_proof(text)
    said = proof.note.checkpoint
    signer = proof.signed_by(keys, check_signature)
    return Proof(
        run_id=journal_id,
        seq=proof.index,
        entry_hash=entry_hash,
        leaf=leaf_hash(proof.body).hex(),
        size=said.size,
        root=said.root.hex(),
        path=tuple(ProofStep(side=side, hash=sibling.hex()) for side, sibling in proof.steps()),
        words=said.words,
        signed_by="" if signer is None else signer.words,
        holds=signer is not None and proof.holds(),
        text=text,
    )


def _feed(path: PathTo, page: Sequence[StoredEntry]) -> None:
    for stored in page:
        path.feed(leaf_hash(stored.body))
