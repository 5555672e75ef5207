"""One registry of every code an operator may see, so that each has a meaning and none is invented in passing.

Codes are unique within a family, and each family keeps its spelling (ruling R5): operations UPPER_CASE, blocks
dotted, turns snake_case; `HOST` holds the upper-case codes of missions, inputs, storage and the command line. A
failed operation reaches block code as ``op.<lower case>``, which is computed here rather than listed.

A test reads the code base and fails on a code that is raised but not registered.
"""

from __future__ import annotations

from collections.abc import Mapping

from runtime.kernel.codes_audit import AUDIT as AUDIT
from runtime.kernel.codes_blocks import BLOCKS as BLOCKS
from runtime.kernel.codes_host import HOST as HOST
from runtime.kernel.codes_operations import OPERATIONS as OPERATIONS
from runtime.kernel.codes_turns import TURNS as TURNS
from runtime.kernel.outcomes import operation_code

#: Every family by name, in the order `explain` looks a code up.
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "operations": OPERATIONS,
    "host": HOST,
    "audit": AUDIT,
    "blocks": BLOCKS,
    "turns": TURNS,
}


def known(code: str) -> bool:
    """Is ``code`` registered, or the block form (``op.…``) of a registered code?"""
    return _meaning(code) is not None


def explain(code: str) -> str:
    """One sentence saying what ``code`` means; says so when it is not one of ours (packs may define their own)."""
    return _meaning(code) or f"{code} is not a code of Quarterdeck itself."


def family(code: str) -> str | None:
    """The name of the family ``code`` belongs to, or None when it is not registered."""
    bare = operation_code(code)
    return next((name for name, codes in FAMILIES.items() if bare in codes), None)


def _meaning(code: str) -> str | None:
    name = family(code)
    return FAMILIES[name][operation_code(code)] if name else None
