"""What ``quarterdeck doctor`` found, as rows: for the verb to print and for the console to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from console.model.rows import Piece, Role, Row, piece
from runtime.host.api import Check, Health, ProbeOutcome

_MARKS: Final[dict[Health, tuple[str, Role]]] = {
    Health.OK: ("✓", "good"),
    Health.WARN: ("▲", "warn"),
    Health.FAIL: ("✗", "bad"),
}


def examination_rows(checks: Sequence[Check], probes: Sequence[ProbeOutcome]) -> Iterator[Row]:
    """A line for each check, what to do below it, then every probe of every tier that was tried."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        yield (_mark(check.status), piece(f" {check.name.ljust(width)}  {check.detail}"))
        if check.fix:
            word = "optional: " if check.status is Health.OK else ""
            yield (piece(f"  {' ' * width}  → {word}{check.fix}", "dim"),)
    width = max((len(probe.name) for probe in probes), default=0)
    tier = None
    for probe in probes:
        if probe.tier != tier:
            tier = probe.tier
            yield (piece(""),)
            yield (piece(f"probes of tier {tier}", "dim"),)
        result = "held back" if probe.blocked else "possible, and harmless" if probe.ok else "possible"
        mark = _mark(Health.OK if probe.ok else Health.FAIL)
        yield (mark, piece(f" {probe.name.ljust(width)}  {result}: {probe.detail}"))


def _mark(health: Health) -> Piece:
    return piece(*_MARKS[health])
