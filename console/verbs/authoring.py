"""Verbs for authors: lint, schema, init. None of them needs a store."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from console.verbs.output import print_json, problem_text, say
from runtime.host.api import Exit


async def lint(options: argparse.Namespace) -> int:
    """``--json``: ``{"path", "problems":[{code,message,path,line,column,…}]}``. Exit 2 when there is an error."""
    from runtime.host.packs import lint_trusting

    problems = await lint_trusting(Path(options.path), options.store)
    errors = [item for item in problems if item.severity == "error"]
    if options.json:
        print_json({"path": options.path, "ok": not errors, "problems": list(problems)})
    else:
        for item in problems:
            print(problem_text(item))
        say(
            f"{options.path}: {len(errors)} errors, {len(problems) - len(errors)} warnings"
            if problems
            else f"{options.path}: ok"
        )
    return Exit.USAGE if errors else Exit.OK


async def schema(options: argparse.Namespace) -> int:
    """The JSON Schema of mission files, for editors; with a path also for the packs beside that mission."""
    import json

    from runtime.host.authoring import mission_schema

    found = await asyncio.to_thread(mission_schema, None if options.path is None else Path(options.path))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return Exit.OK


async def init(options: argparse.Namespace) -> int:
    """Write a first mission, its schema and nothing else; existing files are never overwritten."""
    from runtime.host.authoring import create_mission

    created = await asyncio.to_thread(create_mission, Path(options.path))
    if options.json:
        print_json({"created": [str(path) for path in created]})
    else:
        for path in created:
            print(path)
        say(f"next: quarterdeck lint {created[0]} && quarterdeck run {created[0]}")
    return Exit.OK
