"""Ways to falsify a journal and the evidence beside it, as somebody who can write the files would go about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from runtime.host.signing import check_signature
from runtime.kernel.canonical import JOURNAL_GENESIS, parse_strict
from runtime.orchestration.anchors import AnchorChain, Witness
from runtime.orchestration.checkpoints import Checkpoint, VerifierKey, signed_note
from runtime.orchestration.journal_evidence import Evidence, Held
from runtime.orchestration.journal_format import sealed
from runtime.orchestration.merkle import Frontier
from tests.support.journals import JOURNAL_ID, RECIPE, run_of

HMAC_KEY: Final = bytes(range(32))
SECRET: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FOREIGN: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
#: Entries between two checkpoints or anchors.
EVERY: Final = 16
#: Entries at the end that no checkpoint and no anchor covers, where a test wants such a tail.
TAIL: Final = 3


def key_of(secret: Ed25519PrivateKey) -> VerifierKey:
    return VerifierKey("quarterdeck", secret.public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True)
class World:
    """A journal that still grows, as stored bytes, and what lies beside it: signed notes, and the sizes anchored by HMAC."""

    bodies: tuple[bytes, ...]
    notes: tuple[bytes, ...] = ()
    anchors: bytes = b""

    @property
    def lines(self) -> bytes:
        return b"".join(body + b"\n" for body in self.bodies)


def sizes(entries: int, tail: int = 0) -> list[int]:
    """Where evidence is made: at the beginning, now and then, and at the end less a tail."""
    return [1, *range(EVERY, entries - tail, EVERY), entries - tail]


def world(steps: int = 25, tail: int = 0) -> World:
    """A journal of ``4 * steps + 1`` entries with checkpoints and anchors beside it."""
    bodies = tuple(item.body for item in run_of(steps)[1].entries[:-1])
    at = sizes(len(bodies), tail)
    return World(bodies, notes(bodies, at), anchors(bodies, at))


def notes(bodies: Sequence[bytes], at: Sequence[int], secret: Ed25519PrivateKey = SECRET) -> tuple[bytes, ...]:
    made, frontier = [], Frontier()
    for body in bodies:
        frontier.append(body)
        if frontier.size in at:
            checkpoint = Checkpoint(JOURNAL_ID, frontier.size, frontier.root())
            made.append(signed_note(checkpoint, key_of(secret), secret.sign))
    return tuple(made)


def anchors(bodies: Sequence[bytes], at: Sequence[int], key: bytes = HMAC_KEY) -> bytes:
    chain = AnchorChain(key)
    return b"".join(
        chain.next(journal_id=JOURNAL_ID, run_id=RECIPE, seq=size - 1, entry_hash=head(bodies[size - 1]), at="2027")
        for size in at
        if size <= len(bodies)
    )


def head(body: bytes) -> str:
    return str(parse_strict(body)["entry_hash"])


def witness(bodies: Sequence[bytes]) -> str:
    """What somebody noted down of the last entry."""
    return Witness(JOURNAL_ID, len(bodies) - 1, head(bodies[-1])).text


def by_checkpoints(world: World, **more: Any) -> Evidence:
    held = tuple(Held(note) for note in world.notes)
    return Evidence(checkpoints=held, trusted=(key_of(SECRET),), check=check_signature, **more)


# -- attacks on the entries, at a position from 1 to the last but one ---------------------------------------------------


def edit(world: World, at: int) -> World:
    body = world.bodies[at]
    middle = len(body) // 2
    changed = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    return replace(world, bodies=(*world.bodies[:at], changed, *world.bodies[at + 1 :]))


def drop(world: World, at: int) -> World:
    return replace(world, bodies=world.bodies[:at] + world.bodies[at + 1 :])


def swap(world: World, at: int) -> World:
    first, second = sorted((at, at + 1 if at + 1 < len(world.bodies) else at - 1))
    bodies = list(world.bodies)
    bodies[first], bodies[second] = bodies[second], bodies[first]
    return replace(world, bodies=tuple(bodies))


def insert(world: World, at: int) -> World:
    """A false entry that continues the one before it."""
    return replace(world, bodies=(*world.bodies[:at], false_entry(world.bodies[at - 1]), *world.bodies[at:]))


def false_entry(before: bytes) -> bytes:
    last = parse_strict(before)
    entry = {name: last[name] for name in ("schema", "journal_id", "at")}
    more = {"seq": last["seq"] + 1, "prev_entry_hash": last["entry_hash"], "kind": "evidence", "told": "a lie"}
    return sealed({**entry, **more})[0]


def cut(world: World, keep: int) -> World:
    """The entries after ``keep`` are gone, the evidence is left."""
    return replace(world, bodies=world.bodies[:keep])


def rewritten(world: World, at: int) -> World:
    """One entry says something else, and every hash after it is computed anew."""
    bodies, previous = list(world.bodies[:at]), JOURNAL_GENESIS if at == 0 else head(world.bodies[at - 1])
    for number, body in enumerate(world.bodies[at:]):
        entry = parse_strict(body)
        del entry["entry_hash"]
        if number == 0:
            entry["a_lie"] = True
        body, previous = sealed({**entry, "prev_entry_hash": previous})
        bodies.append(body)
    return replace(world, bodies=tuple(bodies))


def cut_back(world: World, keep: int) -> World:
    """The entries after ``keep`` and everything that knows them are gone: an older copy looks the same."""
    return _evidenced(cut(world, keep), SECRET, HMAC_KEY)


def forged(world: World, at: int) -> World:
    """Rewritten, with evidence made by other keys."""
    return _evidenced(rewritten(world, at), FOREIGN, b"x" * 32)


def stolen(world: World, at: int) -> World:
    """Rewritten, with evidence made by the stolen keys."""
    return _evidenced(rewritten(world, at), SECRET, HMAC_KEY)


def brand_new(world: World, at: int) -> World:
    """Another history of ``at`` entries, with evidence made by the stolen keys."""
    first = parse_strict(world.bodies[0])
    bodies = [
        sealed({name: value for name, value in {**first, "baseline_commit": "1" * 40}.items() if name != "entry_hash"})[
            0
        ]
    ]
    while len(bodies) < at:
        bodies.append(false_entry(bodies[-1]))
    return _evidenced(World(tuple(bodies)), SECRET, HMAC_KEY)


def appended(world: World, at: int) -> World:
    """False entries at the end, properly chained."""
    bodies = list(world.bodies)
    for _ in range(at):
        bodies.append(false_entry(bodies[-1]))
    return replace(world, bodies=tuple(bodies))


def _evidenced(world: World, secret: Ed25519PrivateKey, key: bytes) -> World:
    at = sizes(len(world.bodies))
    return replace(world, notes=notes(world.bodies, at, secret), anchors=anchors(world.bodies, at, key))


#: The attacks of reliability §1.2: which of (a) the chain, (b) checkpoints beside it, (c) a copy elsewhere shows each.
CLASSES: Final[dict[str, tuple[Callable[[World, int], World], str]]] = {
    "edit": (edit, "abc"),
    "delete": (drop, "abc"),
    "swap": (swap, "abc"),
    "insert": (insert, "abc"),
    "cut the end, keep the checkpoints": (cut, "bc"),
    "cut back to an older checkpoint": (cut_back, "c"),
    "restore an older copy of everything": (cut_back, "c"),
    "edit and compute every hash anew": (rewritten, "bc"),
    "the same, signed with a foreign key": (forged, "bc"),
    "the same, signed with the stolen key": (stolen, "c"),
    "a brand-new history, stolen key": (brand_new, "c"),
    "append a false entry": (appended, ""),
}
