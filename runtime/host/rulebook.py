"""The operator's own rules, read from the state folder before every start (ruling R9, relaxations 8 and 9).

No file, no rules. A file that cannot be read exactly as it is meant refuses every start: a rule that is ignored is
worse than a run that has to wait. A book never changes once read; a run keeps the one it started with.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.governance.protected_set import checked_open
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import micros
from runtime.missions.problems import MissionInvalid, MissionProblem
from runtime.missions.rules_file import FILE_NAME, RulesSpec, read_rules
from runtime.missions.yaml_reader import MAX_BYTES, Document
from runtime.orchestration.handlers.settings import Price
from runtime.orchestration.operator_rules import Do, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBook:
    """What the file says. ``opened`` are protected files missions may change, ``day_micros`` what all runs of one day
    may cost together, in micro-USD. ``digest`` names the file's bytes; None where there is no file."""

    rules: tuple[Rule, ...] = ()
    opened: tuple[str, ...] = ()
    prices: Mapping[str, Price] = field(default_factory=dict)
    day_micros: int | None = None
    digest: str | None = None

    def record(self) -> dict[str, object]:
        """Its part of ``journal_opened``; empty where there is no file."""
        told: dict[str, object] = {} if self.digest is None else {"rules_hash": self.digest}
        return {**told, "opened_paths": list(self.opened)} if self.opened else told


def load_rules(folder: Path) -> RuleBook:
    """Read ``rules.yaml`` of the state folder. Raises `Refused` ``RULES_INVALID`` naming file, line and column."""
    path = folder / FILE_NAME
    source = file_content(path, "RULES_INVALID")
    if source is None:
        return RuleBook()
    try:
        spec, document = read_rules(source, path)
    except MissionInvalid as invalid:
        raise first_problem(invalid.problems, "RULES_INVALID") from None
    return _book(spec, document, digest_bytes(source))


def _book(spec: RulesSpec, document: Document, digest: str) -> RuleBook:
    for index, opened in enumerate(spec.open):
        try:
            checked_open(opened)
        except Refused as refusal:
            document.problem(refusal.code, refusal.message, ("open", index))
    if document.report.failed:
        raise first_problem(document.report.problems(), "RULES_INVALID")
    rules = tuple(
        Rule(
            do=Do(item.do),
            position=f"{FILE_NAME}:{line}:{column}",
            tool=item.tool,
            op=item.op,
            mission=item.mission,
            paths=item.paths or (),
            reason=item.reason,
        )
        for index, item in enumerate(spec.rules)
        for line, column in [document.at(("rules", index))]
    )
    return RuleBook(
        rules=rules,
        opened=spec.open,
        prices={name: Price(micros(item.in_), micros(item.out)) for name, item in spec.prices.items()},
        day_micros=None if spec.budget.day_usd is None else micros(spec.budget.day_usd),
        digest=digest,
    )


def file_content(path: Path, code: str, *, ours: bool = False) -> bytes | None:
    """An operator's file, None where there is none. A link would let it live where a mission can write.

    With ``ours`` nobody else may be able to write it, as it names programs to run. Raises `Refused` with ``code``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if ours and (found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
                raise Refused(
                    code, "others can write this file", where=str(path), hint=f"chown it to yourself; chmod 600 {path}"
                )
            if stat.S_ISREG(found.st_mode):
                return file.read(MAX_BYTES + 1)
        why = "not a regular file"
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "a link" if path.is_symlink() else str(error.strerror)
    raise Refused(code, f"the file cannot be read: {why}", where=str(path), hint="make it a regular file")


def first_problem(problems: tuple[MissionProblem, ...], code: str) -> Refused:
    """The first problem at its place, and how many there are."""
    errors = [item for item in problems if item.severity == "error"]
    first, more = errors[0], len(errors) - 1
    rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
    return Refused(
        code,
        f"{first.message}{rest}",
        where=first.where,
        hint=first.hint or "nothing starts until it is right",
    )
