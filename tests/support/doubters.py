"""The two verifiers behind one face: feed lines, copy what is known so far, ask whether it still holds.

The product's and the stand-alone one were written apart; tests hold them against each other on the same lines.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Protocol, Self

from runtime.orchestration.checkpoints import VerifierKey
from runtime.orchestration.journal_evidence import Evidence
from runtime.orchestration.journal_evidence import Held as Noted
from runtime.orchestration.journal_findings import ERROR
from runtime.orchestration.journal_verifier import JournalVerifier
from tests.support.bundle_scripts import script


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a journal is held against. ``keys`` are those trusted to sign checkpoints."""

    notes: Sequence[bytes] = ()
    keys: Sequence[VerifierKey] = ()
    anchors: bytes | None = None
    anchor_key: bytes | None = None
    witnesses: Sequence[str] = ()


class Doubter(Protocol):
    def feed(self, line: bytes) -> None: ...

    def copy(self) -> Self: ...

    def against(self, held: Held) -> set[str]:
        """Codes of all errors once the journal has been fed to its end."""

    @property
    def broken(self) -> bool: ...


class Product:
    """The product's verifier."""

    def __init__(self, verifier: JournalVerifier | None = None, lines: tuple[bytes, ...] = ()) -> None:
        self._verifier = JournalVerifier() if verifier is None else verifier
        self._lines = lines

    def feed(self, line: bytes) -> None:
        self._verifier.feed_line(line)
        self._lines = (*self._lines, line)

    def copy(self) -> Self:
        following = copy.copy(self._verifier)
        following._findings = list(following._findings)
        states = following.states
        inside = {item.name: copy.copy(getattr(states, item.name)) for item in fields(states)}
        following.states = replace(states, **inside)
        marks = following._marks = copy.copy(following._marks)
        for name in ("at", "_wanted", "_recent"):  # what is inside never changes
            setattr(marks, name, copy.copy(getattr(marks, name)))
        marks._tree = copy.deepcopy(marks._tree)
        return type(self)(following, self._lines)

    @property
    def broken(self) -> bool:
        return self._verifier._bad_from is not None

    def against(self, held: Held) -> set[str]:
        """Read again from the start: evidence is given before the entries."""
        evidence = Evidence(
            checkpoints=[Noted(note) for note in held.notes],
            witnesses=held.witnesses,
            trusted=held.keys,
            check=_holds,
            anchors=held.anchors,
            key=held.anchor_key,
        )
        verifier = JournalVerifier(evidence=evidence)
        for line in self._lines:
            verifier.feed_line(line)
        return {item.code for item in verifier.verdict().findings if item.severity == ERROR}


@cache
def stand_alone() -> Any:
    """The module of the stand-alone verifier."""
    return script("verify_bundle")


@cache
def _holds(public: bytes, signature: bytes, text: bytes) -> bool:
    """The stand-alone check of a signature, which the same few notes need again and again."""
    return bool(stand_alone().ed25519.verify(public, signature, text))


class StandAlone:
    """The stand-alone verifier."""

    def __init__(self, journal: Any = None) -> None:
        everywhere = frozenset(range(1000))  # notes are not known yet
        self.journal = stand_alone().rules.Journal(watched=everywhere) if journal is None else journal

    def feed(self, line: bytes) -> None:
        self.journal.feed(line)

    def copy(self) -> Self:
        return type(self)(self.journal.copy())

    @property
    def broken(self) -> bool:
        return bool(self.journal.errors)

    def against(self, held: Held) -> set[str]:
        proofs, journal = stand_alone().proofs, self.journal.copy()
        evidence = proofs.Evidence(
            notes=[proofs.read_note(note, "note") for note in held.notes],
            inside=[proofs.read_key(key.text) for key in held.keys],
            anchors=held.anchors,
            anchor_key=held.anchor_key,
        )
        for text in held.witnesses:
            stand_alone().add_witness(evidence, text.encode(), "witness")
        evidence.compare(journal, _holds)
        return {item.code for item in journal.findings if item.error}


def both() -> list[Doubter]:
    return [Product(), StandAlone()]


def before_each(start: Doubter, lines: Sequence[bytes]) -> list[Doubter]:
    """What is known before each line and after the last."""
    states = [start]
    for line in lines:
        following = states[-1].copy()
        following.feed(line)
        states.append(following)
    return states


def breaks(known: Doubter, lines: Iterable[bytes]) -> bool:
    """Does a journal that goes on like this break? Stops at the first error; ``known`` stays as it is."""
    going_on = known.copy()
    for line in lines:
        going_on.feed(line)
        if going_on.broken:
            return True
    return False
