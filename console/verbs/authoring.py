"""Verbs for authors: lint, schema, graph, init. None of them needs a store."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from console.model.safe import safe
from console.verbs.output import print_json, problem_text, say
from runtime.host.api import Exit, QuarterdeckError


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
        counted = f"{_count(len(errors), 'error')}, {_count(len(problems) - len(errors), 'warning')}"
        say(f"{options.path}: {counted if problems else 'ok'}")
    return Exit.USAGE if errors else Exit.OK


async def schema(options: argparse.Namespace) -> int:
    """The JSON Schema of mission files, for editors; with a path also for the packs beside that mission."""
    import json

    from runtime.host.authoring import mission_schema

    found = await asyncio.to_thread(mission_schema, None if options.path is None else Path(options.path))
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return Exit.OK


async def graph(options: argparse.Namespace) -> int:
    """``--json``: ``{name, discipline, entry, output_node, input, output, max_steps, nodes, links, branches, on_error,
    issues}``; nested workflows are under their node's ``workflow``. Nothing runs and no store is needed."""
    from runtime.host.authoring import graph_picture, mission_graph

    data = await asyncio.to_thread(mission_graph, Path(options.path))
    if options.json or options.format == "json":
        print_json(data)
    else:
        print(safe(graph_picture(data, options.format), lines=True), end="")
    return Exit.OK


async def init(options: argparse.Namespace) -> int:
    """Write a first mission and its schema, or a first block; existing files are never overwritten.

    One word is always a mission's folder, even ``block``; ``block NAME [DIR]`` makes a block.
    ``--json``: ``{"created": [path, …]}``.
    """
    from runtime.host.authoring import create_block, create_mission

    words = options.words
    if len(words) < 2:
        created = await asyncio.to_thread(create_mission, Path(words[0] if words else "."))
        advice = f"next: quarterdeck lint {created[0]} && quarterdeck run {created[0]}"
    elif words[0] == "block" and len(words) < 4:
        created = await asyncio.to_thread(create_block, words[1], Path(words[2] if len(words) > 2 else "."))
        home = created[0].parent
        advice = f"next: pytest {home}; after each change of what it declares: quarterdeck packs build {home}"
    else:
        raise QuarterdeckError(
            "INIT_WORDS", "init takes [DIR], or block NAME [DIR]", hint="see quarterdeck init --help"
        )
    if options.json:
        print_json({"created": [str(path) for path in created]})
    else:
        for path in created:
            print(safe(path))
        say(advice)
    return Exit.OK


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
