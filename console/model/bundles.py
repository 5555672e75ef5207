"""The export sheet: where a bundle goes, what it would hold and withhold, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from console.model.rows import Role, Row, piece
from console.model.safe import SafeText, safe
from runtime.events.facts import BundleMember, BundlePlan, Finding, RunSummary
from runtime.host.api import Exported

UNVERIFIED: Final = "J_EXPORT_UNVERIFIED"
_SUFFIX: Final = ".quarterdeck.zip"
#: What kinds of content hold; one that is not known here is called what the runtime calls it.
_KINDS: Final = {
    "model": "prompts and answers",
    "output": "output of processes",
    "files": "contents of files",
    "values": "other values of steps and operations",
}
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CELLS: Final = 24  # cells a name gets at least
_HINT: Final = "space leaves a kind out, or takes it in · tab next · enter or ctrl+s exports"

Line = Finding | BundleMember | Row


def default_target(run: RunSummary) -> str:
    """A file name that says which run it is, whatever the mission's name holds."""
    mission = _UNFIT.sub("-", run.mission).strip(".-")[:60] or "run"
    return f"{mission}-{run.run_id[:8]}{_SUFFIX}"


def kind_label(plan: BundlePlan, kind: str) -> SafeText:
    """One kind of content that can be left out, and how much of it there is."""
    found = [item for item in plan.members if item.what == kind]
    size = size_words(sum(item.bytes for item in found))
    return safe(f"leave out {kind_words(kind)}: {f'{_files(len(found))}, {size}' if found else 'there are none'}")


def kind_words(kind: str) -> str:
    """What an operator calls a kind of content."""
    return _KINDS.get(kind, kind)


def plan_title(plan: BundlePlan | None) -> SafeText:
    """How much it is in all."""
    if plan is None:
        return safe("bundle")
    withheld = sum(bool(item.withheld) for item in plan.members)
    kept = f" · {withheld:,} withheld" if withheld else ""
    return safe(f"bundle  {_files(len(plan.members) - withheld)} · {size_words(plan.total_bytes)}{kept}")


def plan_lines(plan: BundlePlan) -> list[Line]:
    """Problems first, then notes, then every member."""
    notes: list[Line] = [(piece("· ", "dim"), piece(note)) for note in plan.notes]
    return [*plan.problems, *notes, *plan.members]


def plan_row(line: Line, width: int) -> Row:
    """One of them."""
    if isinstance(line, Finding):
        role: Role = "warn" if line.code == UNVERIFIED else "bad"
        place = "" if line.seq is None else f"#{line.seq:04d} "
        return (piece(f"{'▲' if role == 'warn' else '✗'} {line.code} ", role), piece(f"{place}{line.detail}", role))
    if not isinstance(line, BundleMember):
        return line
    size = f"{size_words(line.bytes):>9}  "
    note = f"withheld: {line.withheld}" if line.withheld else kind_words(line.what)
    name = _brief(line.name, width - len(size) - len(note) - 4)
    if not line.withheld:
        return (piece("  "), piece(size, "dim"), piece(f"{name}  "), piece(note, "dim"))
    return (piece("⊘ ", "warn"), piece(size, "dim"), piece(f"{name}  ", "dim"), piece(note, "warn"))


def obstacle(plan: BundlePlan) -> Finding | None:
    """The first problem that no confirmation removes."""
    return next((item for item in plan.problems if item.code != UNVERIFIED), None)


def unverified(plan: BundlePlan) -> bool:
    """Is there something only an operator who says so exports?"""
    return any(item.code == UNVERIFIED for item in plan.problems)


def standing_row(plan: BundlePlan) -> Row:
    """What enter would do."""
    if (stopped := obstacle(plan)) is not None:
        return (piece(f"✗ it cannot be exported: {stopped.detail} [{stopped.code}]", "bad"),)
    if unverified(plan):
        return (piece("▲ the journal does not verify: enter asks before it exports that", "warn"),)
    return (piece(_HINT, "dim"),)


def exported_rows(done: Exported) -> list[Row]:
    """What was written, and how whoever gets it checks it."""
    withheld = f", {done.withheld:,} withheld" if done.withheld else ""
    name = done.path.rsplit("/", 1)[-1]
    return [
        (
            piece("✓ exported  ", "good"),
            piece(f"{size_words(done.bytes)}, {_files(done.members)}{withheld}"),
        ),
        (piece("SHA-256     ", "dim"), piece(done.sha256, "accent")),
        (piece("verify      ", "dim"), piece(f"quarterdeck bundle verify {name}")),
        (piece("without us  ", "dim"), piece("unzip it: its scripts/verify_bundle.py needs nothing but Python")),
    ]


def error_rows(code: str, message: str, hint: str, where: str = "not exported") -> list[Row]:
    """Why nothing was written."""
    advice: Sequence[Row] = [(piece(f"  {hint}", "dim"),)] if hint else []
    return [(piece(f"✗ {where}  ", "bad"), piece(f"{message} [{code}]", "bad")), *advice]


def size_words(count: int) -> str:
    """``812 B``, ``12.3 kB``, ``4.0 MB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def _brief(name: str, room: int) -> str:
    """Both ends of a long name in ``room`` cells: artifacts are named by their digests."""
    room = max(room, _NAME_CELLS)
    return name if len(name) <= room else f"{name[: room - 9]}…{name[-8:]}"
