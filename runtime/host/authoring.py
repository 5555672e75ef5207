"""For authors of missions: lint, schema and a first mission. Nothing here opens the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from runtime.blocks.describe import mermaid, text
from runtime.blocks.packs.report import Trust
from runtime.host.api import Problem
from runtime.host.block_skeleton import create_block
from runtime.kernel.errors import QuarterdeckError
from runtime.missions.loader import lint, load
from runtime.missions.packs import types_beside
from runtime.missions.problems import MissionProblem
from runtime.missions.schema import mission_schema as _schema

_FIRST_MISSION: Final = """\
# yaml-language-server: $schema=mission.schema.json
mission: my-mission
version: "1"
description: Write a greeting into a file of a private copy of this folder.
inputs:
  name: {type: string, default: operator}
workspace: {from: files}
envelope:
  allowed_paths: ["out/**"]
  allowed_tools: [filesystem.write_file]
blocks:
  greet: {type: template, template: "Hello, {{ name }}.\\n", data: {name: "${inputs.name}"}}
  write: {type: tool_invoke, tool: filesystem.write_file, path: out/greeting.txt, content: "${outputs.greet}"}
links:
  - greet -> write
outputs: {sha256: "${outputs.write.sha256}"}
"""


def problem_of(item: MissionProblem) -> Problem:
    """A loader's problem as faces see it."""
    return Problem(
        code=item.code,
        message=item.message,
        path=str(item.path),
        line=item.line,
        column=item.column,
        snippet=item.snippet,
        hint=item.hint,
        severity=item.severity,
    )


def lint_mission(path: Path, trust: Callable[[str], Trust] | None = None) -> tuple[Problem, ...]:
    """Every problem of a mission file or folder, sorted by position; with ``trust`` also blocks of packs nobody trusts."""
    return tuple(problem_of(item) for item in lint(path, trust=trust))


def mission_schema(mission: Path | None = None) -> dict[str, Any]:
    """The JSON Schema of mission files; with the types of the packs beside ``mission``, a file or its folder."""
    if mission is None:
        return _schema()
    return _schema(types_beside(mission if mission.is_dir() else mission.parent).registry)


def mission_graph(path: Path) -> dict[str, Any]:
    """The picture of a mission's workflow as data, shaped as `runtime.blocks.describe` says. Runs nothing.

    Raises `MissionInvalid` with every problem of the file.
    """
    from runtime.missions.build import build_workflow

    return build_workflow(load(path), {}).describe()


def graph_picture(data: Mapping[str, Any], form: str) -> str:
    """The data of `mission_graph` as ``text`` for a terminal or as a ``mermaid`` chart."""
    return (mermaid if form == "mermaid" else text)(data)


def create_mission(folder: Path) -> list[Path]:
    """Write a first mission into ``folder``; returns what was created.

    Raises `QuarterdeckError`: ``INIT_EXISTS`` when a mission is there already, ``INIT_IO`` when writing fails.
    """
    import json

    mission, schema, keep = (
        folder / "mission.yaml",
        folder / "mission.schema.json",
        folder / "files" / "out" / "README.md",
    )
    for path in (mission, keep):
        if path.exists():
            raise QuarterdeckError("INIT_EXISTS", f"{path} exists", hint="choose another folder; init never overwrites")
    try:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text("The mission writes greeting.txt here, in its private copy.\n", encoding="utf-8")
        schema.write_text(json.dumps(mission_schema(), indent=2) + "\n", encoding="utf-8")
        mission.write_text(_FIRST_MISSION, encoding="utf-8")
    except OSError as error:
        raise QuarterdeckError("INIT_IO", f"cannot write {error.filename}: {error.strerror}") from None
    return [mission, schema, keep]


__all__ = [
    "create_block",
    "create_mission",
    "graph_picture",
    "lint_mission",
    "mission_graph",
    "mission_schema",
    "problem_of",
]
