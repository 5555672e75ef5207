"""Which packs may run their code: told by the store's own journal and folded from it (rulings R33, R43).

Trust is for one content of one folder, by the digest of all of it: a changed pack is another pack, and nobody trusts
it yet. What cannot be read vouches for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from runtime.blocks.packs.report import Trust
from runtime.host.api import TrustedPack
from runtime.kernel.canonical import CanonicalizationError, parse_strict
from runtime.kernel.errors import StorageError
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.store import Store

#: The actions that say so in the store's journal.
TRUSTED: Final = "pack_trusted"
UNTRUSTED: Final = "pack_untrusted"


class PackTrust:
    """The packs one host lets run, oldest trust first."""

    def __init__(self, known: Iterable[TrustedPack] = ()) -> None:
        self._known = {pack.digest: pack for pack in known}

    def of(self, digest: str) -> Trust:
        """How the code of a folder with this content may run."""
        pack = self._known.get(digest)
        if pack is None:
            return Trust.NONE
        return Trust.IN_PROCESS if pack.in_process else Trust.CONFINED

    def get(self, digest: str) -> TrustedPack | None:
        return self._known.get(digest)

    def add(self, pack: TrustedPack) -> None:
        self._known[pack.digest] = pack

    def remove(self, digest: str) -> None:
        self._known.pop(digest, None)


async def read_trust(store: Store) -> tuple[TrustedPack, ...]:
    """The packs that are trusted now, oldest trust first; none when an entry about them cannot be read."""
    try:
        bodies = [
            body
            for action in (TRUSTED, UNTRUSTED)
            for body in await store.journals.naming(STORE_JOURNAL, "operator_action", "action", action)
        ]
        entries = sorted((parse_strict(body) for body in bodies), key=lambda entry: int(entry["seq"]))
        return _fold(entries)
    except (StorageError, CanonicalizationError, KeyError, TypeError, ValueError):
        return ()  # verifying the journal says why; doubt trusts nobody


def _fold(entries: Iterable[Mapping[str, Any]]) -> tuple[TrustedPack, ...]:
    known: dict[str, TrustedPack] = {}
    for entry in entries:
        digest = str(entry["digest"])
        known.pop(digest, None)
        if entry["action"] == TRUSTED:
            known[digest] = trusted_by(entry)
    return tuple(known.values())


def trusted_by(entry: Mapping[str, Any]) -> TrustedPack:
    """What an entry that trusts a pack says. Raises `KeyError` for one that does not."""
    return TrustedPack(
        digest=str(entry["digest"]),
        name=str(entry["pack"]),
        version=str(entry["version"]),
        path=str(entry["path"]),
        in_process=entry["in_process"] is True,
        at=str(entry["at"]),
    )
