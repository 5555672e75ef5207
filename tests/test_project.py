"""What the project promises about itself: shipped files, import hygiene, documentation that matches the code."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from console.cli import build_parser
from runtime.host.authoring import mission_schema
from runtime.missions.loader import lint

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = sorted(path.parent for path in (ROOT / "sample_missions").glob("*/mission.yaml"))


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True, timeout=60)


def test_the_schema_beside_the_samples_is_the_one_the_models_give() -> None:
    kept = json.loads((ROOT / "sample_missions" / "mission.schema.json").read_text(encoding="utf-8"))
    assert kept == mission_schema(), "regenerate with: quarterdeck schema > sample_missions/mission.schema.json"


@pytest.mark.parametrize("folder", SAMPLES, ids=lambda path: path.name)
def test_samples_lint_without_errors_and_explain_themselves(folder: Path) -> None:
    assert [item for item in lint(folder) if item.severity == "error"] == []
    assert f"quarterdeck run sample_missions/{folder.name}" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_runtime_never_loads_textual() -> None:
    loaded = run_python(
        "import sys, runtime.host.opening, runtime.host.thread;"
        "print([n for n in sys.modules if n.split('.')[0] in ('textual', 'rich', 'console')])"
    )
    assert loaded.strip() == "[]"


def test_the_command_line_starts_without_the_runtime_or_textual() -> None:
    loaded = run_python(
        "import sys, console.cli; console.cli.build_parser();"
        "print([n for n in ('textual', 'pydantic', 'aiosqlite', 'runtime.host.runtime_host') if n in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_the_kernel_is_standard_library_only() -> None:
    loaded = run_python(
        "import sys, pkgutil, importlib, runtime.kernel as k;"
        "[importlib.import_module('runtime.kernel.' + m.name) for m in pkgutil.iter_modules(k.__path__)];"
        "print(sorted({n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names) - {'runtime', '__main__'}))"
    )
    foreign = [name for name in json.loads(loaded.replace("'", '"')) if not name.startswith("_")]
    assert [name for name in foreign if name not in {"sitecustomize", "a1_coverage", "coverage"}] == []


def test_the_readme_names_every_verb() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = next(action for action in build_parser()._actions if action.dest == "verb").choices
    missing = [verb for verb in verbs or () if not re.search(rf"`{verb}[ `]", readme)]
    assert missing == []


def test_every_key_the_readme_promises_is_bound() -> None:
    from console.app import ConsoleApp
    from console.screens.home import HomeScreen
    from console.screens.run import RunScreen

    bound = set()
    for owner in (ConsoleApp, HomeScreen, RunScreen):
        for binding in owner.BINDINGS:
            bound.update(str(getattr(binding, "key", binding)).split(","))
    wanted = {"n", "x", "X", "p", "a", "R", "V", "slash", "colon", "question_mark", "exclamation_mark", "ctrl+q"}
    assert wanted <= bound


def test_the_wheel_ships_themes_and_samples() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped == {"themes": "console/_data/themes", "sample_missions": "console/_data/sample_missions"}
    assert project["project"]["scripts"] == {"quarterdeck": "console.cli:main"}


def test_constraints_pin_versions_and_name_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line]
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^ ]+( ; .+)?", line) for line in lines)


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_still_finds_what_it_measures(path: Path) -> None:
    """Nothing else runs them, so a renamed function would be noticed when somebody needs a figure."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert module.__doc__, "it says how it is run"
