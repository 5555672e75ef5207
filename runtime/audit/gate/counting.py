"""What the tests of a bundle should have been, from syntax trees, and what they were, from the runner's own report."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from runtime.audit.gate.layout import TEST_MODULES
from runtime.audit.gate.report import Fault

#: A report beyond this is not read.
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
#: Of all tests, at most one in ten may be skipped (expected failures count as skipped: they show nothing).
_SKIPPED_OF: Final = 10
_ERROR_KINDS: Final = frozenset({"failure", "error"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tests by the file they are in, and how many failed or broke."""

    executed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: int = 0


def test_functions(source: bytes) -> int:
    """Functions that a test runner will find in ``source``, which compiles: ``test*``, and in classes ``Test*``."""
    return sum(1 for _ in _found(ast.parse(source).body))


def _found(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                yield node
        elif isinstance(node, ast.ClassDef):
            if node.name.startswith("Test"):
                yield from _found(node.body)
        else:
            # Under a condition a test is a test: whoever does not run it has to skip it.
            for block in ("body", "orelse", "finalbody"):
                yield from _found(getattr(node, block, []))


def outcome(report: bytes) -> Outcome | None:
    """Read a report in the JUnit form with a ``file`` per test case; None for something else."""
    if len(report) > MAX_REPORT_BYTES or b"<!" in report.replace(b"<![CDATA[", b""):
        return None
    try:
        root = ET.fromstring(report)
    except ET.ParseError:
        return None
    result = Outcome()
    failed = 0
    for case in root.iter("testcase"):
        kinds = {child.tag for child in case}
        failed += bool(kinds & _ERROR_KINDS)
        (result.skipped if "skipped" in kinds else result.executed)[case.get("file", "")] += 1
    return Outcome(result.executed, result.skipped, failed)


def faults(result: Outcome, files: Mapping[str, bytes]) -> Iterator[Fault]:
    """What is wrong with ``result`` for the bundle ``files``, whose required modules are there and compile."""
    executed, skipped = result.executed.total(), result.skipped.total()
    if result.failed:
        yield Fault("TESTS_FAILED", text="a test failed or broke")
    if not executed:
        yield Fault("TESTS_NONE", text="no test was executed")
    for name in TEST_MODULES:
        ran = result.executed[name]
        if not ran or ran + result.skipped[name] < test_functions(files[name]):
            yield Fault("TESTS_MISSING", name, "fewer tests ran than it holds")
    if skipped * _SKIPPED_OF > executed + skipped:
        yield Fault("TESTS_SKIPPED", text="more than one test in ten was skipped")
