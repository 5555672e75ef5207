"""Every code the code base can raise is registered, and every registered code says something.

The scan reads syntax trees, so a new code fails here on the day it is written, not on the day it is shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.kernel import codes
from runtime.kernel.errors import Halted, QuarterdeckError
from runtime.kernel.outcomes import block_code

ROOT = Path(__file__).resolve().parents[2]
OPERATION = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\Z")
UPPER = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\Z")
#: Spelled like host codes, but names of something else.
OTHER_NAMES = frozenset({"GIT_"})
#: Helpers whose first text argument is a code, besides error classes.
CODE_CALLS = frozenset({"deny", "_deny", "fail", "_fatal", "_note", "Refusal", "halted", "Fault", "Finding"})


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("runtime", "console"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "bundle_files" not in path.parts and not path.name.startswith("codes"):
                yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def error_classes(modules: list[tuple[Path, ast.Module]]) -> set[str]:
    """Names of all classes that descend from ours, and of those whose codes follow the same rule."""
    bases = {
        node.name: {name_of(base) for base in node.bases}
        for _, tree in modules
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {QuarterdeckError.__name__, Halted.__name__, "BlockError"}
    while True:
        more = {name for name, above in bases.items() if above & found} - found
        if not more:
            return found
        found |= more


def texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    """The texts an expression may be: a literal, a module constant, or either arm of a conditional."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, constants)
        yield from texts(node.orelse, constants)


def constants_of(tree: ast.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}
    return found


def raised_codes(path: Path, tree: ast.Module, errors: set[str]) -> Iterator[tuple[str, str]]:
    constants = constants_of(tree)
    # These take the message first and the code as a keyword.
    code_first = (errors | CODE_CALLS) - {"EventError", "PlanError"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        if called in code_first:
            given += node.args[:1]
        for argument in given:
            for text in texts(argument, constants):
                yield text, f"{path}:{node.lineno}"


def literal_codes(path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Any literal with the prefix of a registered upper-case family, wherever it stands."""
    prefixes = {code.partition("_")[0] + "_" for code in (*codes.OPERATIONS, *codes.HOST)} - OTHER_NAMES
    literals = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for node in literals:
        text = str(node.value)
        if OPERATION.match(text) and text.partition("_")[0] + "_" in prefixes:
            yield text, f"{path}:{node.lineno}"


def looks_like_code(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_]+(?:\.[a-z0-9_]+)*", text) is not None


def test_every_code_in_the_code_base_is_registered() -> None:
    modules = list(trees())
    errors = error_classes(modules)
    seen = [
        (text, where)
        for path, tree in modules
        for text, where in (*raised_codes(path, tree, errors), *literal_codes(path, tree))
        if looks_like_code(text)
    ]
    assert len(seen) > 100, "the scan finds nothing: it would pass whatever is written"
    unknown = sorted({f"{text} at {where}" for text, where in seen if not codes.known(text)})
    assert not unknown, "not registered in runtime/kernel/codes_*.py:\n" + "\n".join(unknown)


def test_the_scan_sees_through_constants_and_conditionals() -> None:
    source = 'GONE: Final = "NOT_A_CODE_ONE"\nraise Refused(GONE if x else "NOT_A_CODE_TWO", "m")\nf(code="NOT_THREE")'
    found = [text for text, _ in raised_codes(Path("x.py"), ast.parse(source), {"Refused"})]
    assert sorted(found) == ["NOT_A_CODE_ONE", "NOT_A_CODE_TWO", "NOT_THREE"]


@pytest.mark.parametrize("family", sorted(codes.FAMILIES))
def test_every_code_is_spelled_and_explained_like_its_family(family: str) -> None:
    spelling = {
        "operations": UPPER,
        "host": UPPER,
        "audit": UPPER,
        "blocks": re.compile(r"[a-z]+(?:\.[a-z0-9_]+)+\Z"),
        "turns": re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*\Z"),
    }[family]
    for code, meaning in codes.FAMILIES[family].items():
        assert spelling.match(code), code
        assert meaning.endswith("."), code
        assert 10 < len(meaning) < 120, code


def test_upper_case_families_do_not_overlap() -> None:
    families = (codes.OPERATIONS, codes.HOST, codes.AUDIT)
    assert sum(map(len, families)) == len(set().union(*families))


def test_explain_and_family() -> None:
    assert codes.explain("TEST_FAILED") == codes.explain(block_code("TEST_FAILED")) == "Tests failed."
    assert codes.family("op.path_race") == "operations"
    assert codes.family("runtime.timeout") == "blocks"
    assert codes.family("policy_refused") == "turns"
    assert codes.family("STORE_LOCKED") == "host"
    assert not codes.known("op.no_such_thing")
    assert "not a code of Quarterdeck" in codes.explain("my_pack.odd")
