"""G6, layout: what every bundle holds and where everything else may lie (operations spec §12.1; ruling R39: ``run/``)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from runtime.audit.gate.manifest import MANIFEST
from runtime.audit.gate.report import Fault

SCRIPT: Final = "scripts/audit_gate_build_loop_phase2.py"
PLAN: Final = "docs/03_runtime/Implementation_Plan_Build_Loop_Phase2_v1.1.md"
PYTEST_INI: Final = "pytest.ini"
TESTS: Final = "runtime/tests/"
GATE: Final = "runtime/audit/gate/"
#: Modules that must import alone, and from the bundle (G10).
MODULES: Final = (
    "runtime.orchestration.operations",
    "runtime.orchestration.mission_journal",
    "runtime.governance.envelope_enforcer",
    "runtime.governance.self_mod_protection",
)
#: Test modules that must have run (G11).
TEST_MODULES: Final = (
    "runtime/tests/test_envelope_enforcer.py",
    "runtime/tests/test_mission_journal.py",
    "runtime/tests/test_operations.py",
    "runtime/tests/test_self_mod_protection.py",
)
REQUIRED: Final = (
    MANIFEST,
    PYTEST_INI,
    PLAN,
    SCRIPT,
    "runtime/__init__.py",
    "runtime/governance/__init__.py",
    "runtime/orchestration/__init__.py",
    "runtime/tests/__init__.py",
    *(module.replace(".", "/") + ".py" for module in MODULES),
    *TEST_MODULES,
)
_FOLDERS: Final = ("runtime/", "scripts/", "docs/", "run/")
_FILES: Final = frozenset({MANIFEST, PYTEST_INI})
#: What the gate's own modules lean on.
_BESIDES: Final = (
    SCRIPT,
    "runtime/__init__.py",
    "runtime/audit/__init__.py",
    "runtime/audit/canonical_zip.py",
    "runtime/governance/__init__.py",
    "runtime/governance/path_lexical.py",
    "runtime/kernel/__init__.py",
    "runtime/kernel/canonical.py",
    "runtime/kernel/errors.py",
    "runtime/kernel/globs.py",
)
_ROOT: Final = Path(__file__).resolve().parents[3]


def faults(names: Collection[str]) -> Iterator[Fault]:
    """Required files that are missing, and files outside the roots."""
    for name in REQUIRED:
        if name not in names:
            yield Fault("LAYOUT_MISSING", name, "every bundle holds this file")
    for name in sorted(names):
        if name not in _FILES and not name.startswith(_FOLDERS):
            yield Fault("LAYOUT_EXTRA_ROOT", name, "files lie below runtime, scripts, docs or run")


def gate_note(bodies: Mapping[str, bytes]) -> str:
    """Is the gate inside the bundle the one that is judging? If so that still proves nothing about the bundle."""
    running = running_gate()
    bundled = {name: body for name, body in bodies.items() if name in running or name.startswith(GATE)}
    if not any(name.startswith(GATE) for name in bundled):
        return "the bundle carries no gate modules"
    if bundled == running:
        return "the gate in the bundle equals the running one"
    return "the gate in the bundle is not the running one"


@cache
def running_gate() -> Mapping[str, bytes]:
    """The files this gate runs from, by the names they have in a bundle; a checkout keeps scripts elsewhere."""
    carried = _ROOT / "runtime/audit/bundle_files"
    places = {f"{GATE}{path.name}": path for path in (_ROOT / GATE).glob("*.py")}
    places |= {name: _ROOT / name for name in _BESIDES}
    if (carried / SCRIPT).is_file():
        places[SCRIPT] = carried / SCRIPT
    return {name: path.read_bytes() for name, path in places.items() if path.is_file()}
