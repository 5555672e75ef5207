"""Why one operation was refused: which rule decided, what was attempted, and what would have been needed.

Pure words, made from a refusal's code and evidence and from the operation itself. They are made when the refusal
happens and become part of the record; for a journal without them they are made when it is read, from less. Whoever
refuses may say any of the three itself, as ``rule``, ``attempted`` or ``needed`` of its evidence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kernel.ids import TREE_MARK
from runtime.kernel.model import Access
from runtime.kernel.redaction import Redactor
from runtime.kernel.remedies import Remedy, remedy

#: How a rule of a block's own envelope is spelled: ``step envelope.allowed_paths``.
STEP: Final = "step "

_ACCESSES: Final = frozenset(access.value for access in Access)
#: Parameters that say what an operation is about, the most telling first.
_ABOUT: Final = ("path", "template", "name", "check", "schema", "transform", "role")
_SEVERAL: Final = ("paths", "test_paths")
_MAX_NAME: Final = 160
_OTHERS: Final = Remedy("the code itself", "whatever its author says of the code")
_DRIVE: Final = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An operation, as far as a refusal tells of it; nothing in it has been checked.

    ``micros`` is the worst-case price in micro-USD, ``role`` the one it acts as.
    """

    type: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""
    micros: int = 0

    @property
    def tool(self) -> str:
        """``tool.action``, or the operation's type."""
        tool, action = (_text(self.params.get(name)) for name in ("tool", "action"))
        return (f"{tool}.{action}" if action else tool) or self.type

    @property
    def about(self) -> str:
        """What it names: a path, a command, a check, a role."""
        for name in _ABOUT:
            if text := _text(self.params.get(name)):
                return f"asking {text}" if name == "role" else text
        for name in _SEVERAL:
            several = self.params.get(name)
            if isinstance(several, list | tuple) and several:
                more = f" and {len(several) - 1} more" if len(several) > 1 else ""
                return f"{_text(several[0])}{more}"
        return ""


@dataclass(frozen=True, slots=True)
class Why:
    """``rule`` begins with a key of the mission file where the rule is written there; ``needed`` is in its terms."""

    rule: str
    attempted: str
    needed: str

    def without_secrets(self, redactor: Redactor) -> Why:
        """The same words with known secrets taken out."""
        return Why(redactor.text(self.rule), redactor.text(self.attempted), redactor.text(self.needed))


def why(code: str, evidence: Mapping[str, Any], tried: Tried) -> Why:
    """Explain a refusal; never empty, whatever is missing."""
    told = remedy(code) or _OTHERS
    rule = _rule(evidence, told)
    needed = evidence.get("needed")
    if not isinstance(needed, str):
        needed = told.needed.format_map(_fields(rule, evidence, tried))
    return Why(rule, _attempted(code, evidence, tried), needed)


def _rule(evidence: Mapping[str, Any], told: Remedy) -> str:
    """As the refuser names it, with the place it gives; else the one that stands behind the code."""
    given, place = (evidence.get(name) for name in ("rule", "position"))
    named = given if isinstance(given, str) else told.rule.format_map(_RuleFields(evidence))
    return f"{place} {named}" if isinstance(place, str) and place not in named else named.removesuffix(": ")


def _attempted(code: str, evidence: Mapping[str, Any], tried: Tried) -> str:
    """One line: what was to be done to what, with what, as whom, for how much."""
    given, path, access = (evidence.get(name) for name in ("attempted", "requested_path", "operation"))
    if isinstance(given, str):
        return given
    if isinstance(path, str) and path:
        path = path.removesuffix("/" + TREE_MARK)
        line = f"{access} {path}" if access in _ACCESSES else path
        line = f"{line} with {tried.tool}" if tried.tool else line
    else:
        line = " ".join(part for part in (tried.tool, tried.about) if part) or "an operation of this step"
    line += f" as {tried.role}" if tried.role and code.endswith("_ROLE") else ""
    return line + (f" for up to {_money(tried.micros)}" if tried.micros > 0 else "")


class _RuleFields(dict[str, str]):
    """The fields of a rule; one the evidence lacks is left empty."""

    def __init__(self, evidence: Mapping[str, Any]) -> None:
        super().__init__(pattern=_pattern("", evidence), role=_text(evidence.get("role")))


def _fields(rule: str, evidence: Mapping[str, Any], tried: Tried) -> dict[str, str]:
    """What remedies name."""
    path = _text(evidence.get("requested_path")) or tried.about
    pattern = _pattern(rule, evidence)
    written = rule.partition(": ")[0]
    return {
        "glob": f'"{_glob(path)}"' if path else "its path",
        "pattern": f'"{pattern}"' if pattern else "the pattern that covers it",
        "list": f"the block's {written.removeprefix(STEP)}" if written.startswith(STEP) else written,
        "op": tried.type or _text(evidence.get("operation")) or "its type",
        "tool": _text(evidence.get("tool")) or tried.tool or "the tool",
        "role": _text(evidence.get("role")) or tried.role or "the role",
        "normal": _text(evidence.get("normal_form")) or "no empty components, no dots, no slash at the end",
        "amount": _amount(evidence, tried),
    }


def _pattern(rule: str, evidence: Mapping[str, Any]) -> str:
    """The pattern that decided: named by the rule, or the first that matched."""
    matching = evidence.get("matching_patterns")
    if isinstance(matching, list | tuple) and matching:
        return _text(matching[0])
    return rule.partition(": ")[2] or _text(evidence.get("pattern"))


def _glob(path: str) -> str:
    """A pattern that matches this path and nothing else; a folder's mark means everything in it."""
    folder = path.removesuffix("/" + TREE_MARK)
    literal = folder.replace("[", "[[]")
    return f"{literal}/**" if folder != path else literal


def _amount(evidence: Mapping[str, Any], tried: Tried) -> str:
    micros = evidence.get("reserve_micros", tried.micros)
    return _money(micros) if isinstance(micros, int) and micros > 0 else "one more call"


def _money(micros: int) -> str:
    """``$0.50``, ``$0.000125``: at least two decimals, at most six."""
    whole, rest = f"{micros / 1_000_000:.6f}".split(".")
    return f"${whole}.{rest.rstrip('0').ljust(2, '0')}"


def _text(value: object) -> str:
    """A name as a record may hold it: printable, short, and no absolute path."""
    if not isinstance(value, str):
        return ""
    if value.startswith(("/", "\\")) or _DRIVE.match(value):
        value = "<absolute>/" + re.split(r"[/\\]", value)[-1]
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in value[: _MAX_NAME + 1])
    return plain if len(plain) <= _MAX_NAME else plain[:_MAX_NAME] + "…"
