"""``quarterdeck undo`` and the offer a terminated run leaves, on the command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

from runtime.host.api import Launch
from tests.support.deckhand import Deckhand, deckhand
from tests.support.hosting import hosting, question, write_mission, writing

WRITES = """\
mission: writes
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  one: {type: tool_invoke, tool: filesystem.write_file, path: one, content: "1"}
"""


async def _terminated(deck: Deckhand, root: Path, path: str) -> str:
    async with hosting(deck.store) as host:
        begun = await host.launch(Launch(path=path, inputs={"root": str(root)}))
        await question(host, begun.run_id)
        await host.terminate(begun.run_id)
        await host.wait(begun.run_id)
        return begun.run_id


def test_undo_and_the_offer_of_a_terminated_run(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with deckhand(tmp_path / "deck") as deck:
        old = deck.inline("run", write_mission(tmp_path / "w", WRITES), "--input", f"root={root}", "--json")
        assert old.code == 0, old
        undone = deck.inline("undo", "@latest", "--reason", "not wanted")
        assert (undone.code, list(root.iterdir())) == (0, []), undone
        assert "↶ one.0 undone" in undone.err
        nothing = deck.inline("undo", old.run_id, "--json")
        assert (nothing.code, nothing.error["code"]) == (2, "UNDO_NOTHING")
        run_id = asyncio.run(_terminated(deck, root, writing(tmp_path / "m")))
        assert "Undo it?" in deck.inline("approvals").out
        approved = deck.inline("approve", run_id, "--reason", "a mistake", "--json")
        assert (approved.code, approved.done["status"]) == (0, "succeeded"), approved
        assert list(root.iterdir()) == []
        assert deck.inline("approvals", "--json").lines == []
        verified = deck.inline("verify", "@latest")
        assert verified.code == 0, verified
