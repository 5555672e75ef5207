"""``quarterdeck plan``: what a mission would do and what it is expected to take, before anything is started."""

from __future__ import annotations

import argparse

from console.model.estimates import confidence_line, expected_line, step_cells
from console.model.home import PACK_TRUST, untrusted_line
from console.model.safe import safe
from console.verbs.output import plain, print_json, print_table, problem_text, say
from console.verbs.running import absolute, deck_for
from runtime.host.api import Exit


async def plan(options: argparse.Namespace) -> int:
    """``--json``: the mission as ``missions`` lists it, plus ``estimate``: samples, source, confidence (none, low,
    medium, high), time_ms, time_std_ms, cost_usd, cost_std_usd, llm_calls, block_executions, steps and notes.
    Exit 2 when the mission does not load."""
    path = absolute(options.path)
    async with deck_for(options, writing=False) as deck:
        mission = await deck.mission(path)
        if mission.problems:
            if options.json:
                print_json(mission)
            for problem in () if options.json else mission.problems:
                say(problem_text(problem))
            return Exit.USAGE
        found = await deck.estimate(path)
    if options.json:
        print_json({**plain(mission), "estimate": found})
        return Exit.OK
    print(f"{safe(mission.name)} v{safe(mission.version)}  {safe(mission.description)}")
    print(f"works in: {safe(mission.workspace)}")
    for pack in mission.packs:
        print(f"pack {safe(pack.name)} {safe(pack.version)}: {PACK_TRUST[pack.trust][0]}")
    if told := untrusted_line(mission):
        say(told)
    steps = {step.node_id: step for step in found.steps}
    print_table(
        ("BLOCK", "TYPE", "AFTER", "EXPECTED TIME", "COST", "CALLS"),
        [
            (node.node_id, node.block_type, ", ".join(node.after), *step_cells(steps[node.node_id]))
            for node in mission.nodes
        ],
    )
    print(f"expected: {expected_line(found)}")
    if told := confidence_line(found):
        print(f"          {told}")
    for note in found.notes:
        print(f"note: {safe(note)}")
    return Exit.OK
