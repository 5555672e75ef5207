"""What stands above a mission on one work tree: the protected set and the operator's rules (operations spec §9).

Loaded anew at every start, checked against what was known before, and never changed afterwards: a run keeps the
`Policy` it started with, so there is nothing to compare before each operation. Loading blocks; use a worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.governance.protected_set import (
    CONFIG_PATH,
    ProtectedSet,
    check_floor,
    load_additions,
    lowered_floor,
)
from runtime.governance.self_mod_protection import SelfModProtector
from runtime.host.evidence_file import Evidence, load_evidence
from runtime.host.floors import Floors
from runtime.host.rulebook import RuleBook, load_rules
from runtime.kernel.errors import Refused
from runtime.orchestration.tree_lock import tree_key
from runtime.storage.layout import StateDir

#: More patterns than anybody writes by hand.
_MAX_BYTES: Final = 256 * 1024
_MAX_TREES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one run is held to."""

    protector: SelfModProtector
    rules: RuleBook
    evidence: Evidence


class Policies:
    """Loads policies for one host, and remembers what each work tree protected."""

    def __init__(self, state: StateDir, evidence: Evidence | None) -> None:
        """``evidence`` is what signer and sinks were taken from; None when the file was not right."""
        self._state = state
        self._evidence = evidence
        self._floors = Floors(state.floors)
        self._known: dict[str, tuple[str, ...]] = {}

    def load(self, root: Path, origin: Path | None, *, names: str) -> Policy:
        """The policy for work in ``root``; ``origin`` is the operator's tree it is or was made from, None for none.

        Raises `Refused`: ``RULES_INVALID``, ``EVIDENCE_INVALID``, ``EVIDENCE_CHANGED``, ``SELFMOD_CONFIG``,
        ``SELFMOD_FLOOR``, ``SELFMOD_SHRINK``, ``ROOT_FORBIDDEN``.
        """
        for tree in (root, *(() if origin is None else (origin,))):
            check_apart(self._state.root, tree)
        rules = load_rules(self._state.root)
        evidence = load_evidence(self._state)
        evidence.check_in_force(self._state.evidence, self._evidence)
        additions = _additions(root)
        floor = self._floors.read(origin) if origin is not None else ()
        check_floor(floor, ProtectedSet(additions).floor)
        known = self._known.get(tree_key(origin), ()) if origin is not None else ()
        protector = SelfModProtector(root, known, rules.opened, names=names).reloaded(additions)
        if origin is not None and additions:
            self._remember(origin, additions, floor, protector.protected.floor)
        return Policy(protector=protector, rules=rules, evidence=evidence)

    def holds(self, root: Path, pattern: str, typed_digest: str) -> bool:
        """May the floor of ``root`` be lowered by ``pattern``? False when it does not hold it.

        Raises `Refused` ``SELFMOD_FLOOR`` for a built-in pattern or a digest that is not the floor's.
        """
        floor = self._floors.read(root)
        return pattern in floor and bool(lowered_floor(floor, [pattern], typed_digest))

    def unprotect(self, root: Path, pattern: str, typed_digest: str) -> None:
        """Lower the floor by one pattern it holds. Raises `Refused` ``SELFMOD_FLOOR``."""
        self._floors.write(root, lowered_floor(self._floors.read(root), [pattern], typed_digest))
        key = tree_key(root)
        self._known[key] = tuple(item for item in self._known.get(key, ()) if item != pattern)

    def _remember(self, origin: Path, additions: tuple[str, ...], floor: tuple[str, ...], now: tuple[str, ...]) -> None:
        if {*floor} != {*now}:
            self._floors.write(origin, now)
        if len(self._known) >= _MAX_TREES:
            self._known.pop(next(iter(self._known)))  # its floor is on disk
        self._known[tree_key(origin)] = additions


def _additions(root: Path) -> tuple[str, ...]:
    """What the project itself adds. Raises `Refused` ``SELFMOD_CONFIG``."""
    file = root / CONFIG_PATH
    try:
        if not file.is_symlink() and not file.exists():
            return ()
        data = file.read_bytes() if file.is_file() and not file.is_symlink() else None
    except OSError as error:
        raise Refused("SELFMOD_CONFIG", f"cannot be read: {error.strerror}", where=CONFIG_PATH) from error
    if data is None or len(data) > _MAX_BYTES:
        raise Refused("SELFMOD_CONFIG", "must be a regular file of at most 256 KiB", where=CONFIG_PATH)
    return load_additions(data)


def check_apart(state: Path, root: Path) -> None:
    """Raises `Refused` ``ROOT_FORBIDDEN`` unless the state folder is no part of a work tree: whoever works there may read
    all of it, and with it the key that signs journals. Private trees in the state folder are the exception."""
    real, tree = state.resolve(), root.resolve()
    if tree.is_relative_to(real) and not tree.is_relative_to(real / "work"):
        raise Refused(
            "ROOT_FORBIDDEN", "the state folder cannot be a work tree", where=str(root), hint="choose another folder"
        )
    if real.is_relative_to(tree):
        raise Refused(
            "ROOT_FORBIDDEN",
            f"the state folder {state} lies in this work tree, where missions could read the key that signs journals",
            where=str(root),
            hint="keep the state elsewhere: --store or QUARTERDECK_HOME",
        )
