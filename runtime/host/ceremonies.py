"""What only an operator may do: to the controls of a work tree, to keys, and to whose code may run.

Only on the record (operations spec §9.2, §10.3, ruling R33): what is not in the store's journal does not happen.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from runtime.host.api import Ack
from runtime.host.checkpointing import CheckpointDesk
from runtime.host.pack_trust import TRUSTED, UNTRUSTED, PackTrust, trusted_by
from runtime.host.packs import look_at
from runtime.host.policy import Policies
from runtime.host.signing import begin_rotation
from runtime.host.store_journal import StoreJournal
from runtime.host.words import plain_words
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.orchestration.git import find_toplevel
from runtime.orchestration.run_controller import HaltLatch
from runtime.storage.layout import StateDir


class Ceremonies:
    """For one host. ``latches`` is the state folder's."""

    def __init__(
        self,
        latches: Path,
        policies: Policies,
        journal: StoreJournal,
        desk: CheckpointDesk,
        clock: Clock,
        trust: PackTrust,
    ) -> None:
        self._desk = desk
        self._latches = latches
        self._policies = policies
        self._journal = journal
        self._clock = clock
        self._trust = trust

    async def unlatch(self, path: str, reason: str) -> Ack:
        """See `runtime.host.api.Deck.unlatch`."""
        root = find_toplevel(Path(path)) or Path(path)
        record = HaltLatch(self._latches, root, clock=self._clock).clear(plain_words(reason))
        if record is None:
            return Ack(done=False, run_id="", message=f"{root} is not latched")
        told = self._journal.append(
            "latch",
            action="cleared",
            code=record.code,
            run_id=record.run_id,
            root=str(root),
            reason=plain_words(reason),
        )
        await told.durable
        return Ack(done=True, run_id=record.run_id, message=f"the latch of {root} is cleared: {record.message}")

    async def rotate_key(self, state: StateDir, reason: str) -> Ack:
        """See `runtime.host.api.Deck.rotate_key`. On record before it happens; a crash between leaves the old key."""
        if not reason.strip():
            raise Refused("KEY_REASON", "a key is changed only with a reason", hint="--reason TEXT")
        signer = self._desk.signer
        if signer is None:
            raise Refused("KEY_DAMAGED", "nobody signs", hint="`quarterdeck doctor` says why")
        rotation = await asyncio.to_thread(begin_rotation, state, signer)
        told = self._journal.append(
            "operator_action",
            action="key_rotated",
            actor="operator",
            reason=plain_words(reason),
            **rotation.members,
        )
        await told.durable
        await asyncio.to_thread(rotation.finish)
        self._desk.sign_with(rotation.signer)
        return Ack(
            done=True, run_id="", message=f"signing with {rotation.signer.key.text} ({rotation.signer.key.words})"
        )

    async def trust_pack(self, path: str, digest: str, *, in_process: bool) -> Ack:
        """See `runtime.host.api.Deck.trust_pack`."""
        pack = await asyncio.to_thread(look_at, Path(path))
        if pack.digest != digest:
            raise Refused(
                "PACK_CHANGED",
                f"the folder's digest is {pack.digest} by now",
                where=path,
                hint="look at it and trust it anew",
            )
        known = self._trust.get(digest)
        how = "inside this program" if in_process else "in a confined process"
        if known is not None and known.in_process == in_process:
            return Ack(done=False, run_id="", message=f"{known.name} {known.version} is trusted already, {how}")
        told = self._journal.append(
            "operator_action",
            action=TRUSTED,
            actor="operator",
            pack=pack.name,
            version=pack.version,
            digest=digest,
            path=plain_words(path),
            in_process=in_process,
        )
        await told.durable
        self._trust.add(trusted_by(told.entry))
        return Ack(done=True, run_id="", message=f"{pack.name} {pack.version} may run, {how}")

    async def untrust_pack(self, digest: str) -> Ack:
        """See `runtime.host.api.Deck.untrust_pack`."""
        known = self._trust.get(digest)
        if known is None:
            return Ack(done=False, run_id="", message=f"nobody trusts {plain_words(digest)}")
        told = self._journal.append("operator_action", action=UNTRUSTED, actor="operator", digest=digest)
        await told.durable
        self._trust.remove(digest)
        return Ack(done=True, run_id="", message=f"{known.name} {known.version} may run no longer")

    async def unprotect(self, path: str, pattern: str, digest: str, reason: str) -> Ack:
        """See `runtime.host.api.Deck.unprotect`. What is not on the record does not happen."""
        if not reason.strip():
            raise Refused(
                "SELFMOD_REASON", "protection is given up only with a reason", hint="say why missions may change it"
            )
        for root in dict.fromkeys((Path(path), find_toplevel(Path(path)) or Path(path))):
            if not await asyncio.to_thread(self._policies.holds, root, pattern, digest):
                continue
            told = self._journal.append(
                "operator_action",
                action="unprotect",
                actor="operator",
                root=plain_words(str(root)),
                pattern=plain_words(pattern),
                digest=plain_words(digest),
                reason=plain_words(reason),
            )
            await told.durable
            await asyncio.to_thread(self._policies.unprotect, root, pattern, digest)
            return Ack(done=True, run_id="", message=f"{root} no longer has to protect {pattern}")
        return Ack(done=False, run_id="", message=f"no run in {path} has protected {pattern}")
