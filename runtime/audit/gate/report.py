"""What the gate says: thirteen gates, their codes and details, one verdict, one exit status (operations spec §13.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from runtime.kernel.canonical import canonical_bytes

SCHEMA: Final = "audit-gate/1"
#: Details kept of one gate. All codes are kept, however many details there are.
MAX_DETAILS: Final = 20
#: Characters of an archive's name that are shown.
MAX_SHOWN: Final = 200

TITLES: Final[Mapping[str, str]] = {
    "G0": "environment",
    "G1": "container",
    "G2": "names and types",
    "G3": "limits",
    "G4": "manifest format",
    "G5": "manifest content",
    "G6": "layout",
    "G7": "canonical encoding",
    "G8": "content",
    "G9": "extraction",
    "G10": "imports",
    "G11": "tests",
    "G12": "cleanliness",
}


class Status(Enum):
    """How a gate ended. `BLOCKED` could not be checked; `NOT_RUN` had no reason to be, after others."""

    PASS = "PASS"
    FAIL = "FAIL"
    BLOCKED = "BLOCKED"
    NOT_RUN = "NOT_RUN"


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding: a registered code (empty for a mere remark), the archive name it is about, and a sentence."""

    code: str
    where: str = ""
    text: str = ""

    @property
    def registered(self) -> str:
        """The code as `runtime.kernel.codes` knows it: ``NAME_PATH:<PATH_*>`` is registered as ``NAME_PATH``."""
        return self.code.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Gate:
    """The result of one gate; ``codes`` are sorted, ``details`` at most `MAX_DETAILS`."""

    id: str
    status: Status
    codes: tuple[str, ...] = ()
    details: tuple[Fault, ...] = ()

    @property
    def line(self) -> str:
        """The line an operator sees."""
        return f"{self.id:<4}{TITLES[self.id]:<20}{self.status.value:<8} {' '.join(self.codes)}".rstrip()


@dataclass(frozen=True, slots=True)
class Report:
    """All gates in order. ``files`` is the content by archive name if G1 to G5 passed, else empty."""

    gates: tuple[Gate, ...]
    #: Hex, or None when the archive could not be read whole.
    bundle_sha256: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __getitem__(self, gate: str) -> Gate:
        return next(item for item in self.gates if item.id == gate)

    @property
    def failed(self) -> tuple[str, ...]:
        """Codes of all gates that failed, in the order of the gates."""
        return tuple(code for gate in self.gates if gate.status is Status.FAIL for code in gate.codes)

    @property
    def exit_code(self) -> int:
        """0 when every gate passed, 2 when one failed, else 3: a violation outranks what could not be checked."""
        statuses = {gate.status for gate in self.gates}
        if Status.FAIL in statuses:
            return 2
        return 0 if statuses == {Status.PASS} else 3

    @property
    def verdict(self) -> str:
        return {0: Status.PASS, 2: Status.FAIL, 3: Status.BLOCKED}[self.exit_code].value

    def json_bytes(self) -> bytes:
        """Canonical bytes without time or place: the same bundle gives the same bytes."""
        gates = [
            {
                "id": gate.id,
                "status": gate.status.value,
                "codes": list(gate.codes),
                "details": [
                    {"code": item.code or None, "where": shown(item.where), "text": item.text} for item in gate.details
                ],
            }
            for gate in self.gates
        ]
        return canonical_bytes(
            {
                "schema": SCHEMA,
                "bundle_sha256": self.bundle_sha256,
                "gates": gates,
                "verdict": self.verdict,
                "exit_code": self.exit_code,
            }
        )

    def lines(self) -> Iterator[str]:
        """One line per gate, the totals, the result."""
        yield from (gate.line for gate in self.gates)
        counts = Counter(gate.status for gate in self.gates)
        totals = ", ".join(f"{counts[status]} {status.value}" for status in Status)
        yield f"TOTAL: {len(self.gates)} gates: {totals}; bundle sha256 {self.bundle_sha256 or 'unknown'}"
        yield f"RESULT: {self.verdict} (exit {self.exit_code})"

    def remarks(self) -> Iterator[str]:
        """Details for a person, one line each."""
        for gate in self.gates:
            for item in gate.details:
                place = f"{shown(item.where)}: " if item.where else ""
                yield f"{gate.id} {item.code or 'note'}: {place}{item.text}".rstrip(": ")


def judged(
    gate: str, faults: Iterable[Fault], *, complete: bool = True, wrong: Status = Status.FAIL, notes: Iterable[str] = ()
) -> Gate:
    """The result of a gate that found ``faults``: none is a pass if all it needed could be read."""
    codes: set[str] = set()
    details = [Fault("", text=note) for note in notes]
    for fault in faults:
        codes.add(fault.code)
        if len(details) < MAX_DETAILS:
            details.append(fault)
    status = wrong if codes else Status.PASS if complete else Status.NOT_RUN
    return Gate(gate, status, tuple(sorted(codes)), tuple(details))


def not_run(*gates: str) -> tuple[Gate, ...]:
    return tuple(Gate(gate, Status.NOT_RUN) for gate in gates)


def shown(name: str) -> str:
    """``name`` without anything a terminal would obey, and not longer than `MAX_SHOWN`."""
    text = name[: MAX_SHOWN + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
