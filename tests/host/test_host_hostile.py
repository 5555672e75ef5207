"""One mission whose tools try everything they should not, under ``confinement: required``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.sandbox import Sandbox
from runtime.host.api import RunStatus
from runtime.host.runtime_host import RuntimeHost
from tests.support.hosting import entries, hosting, run_to_end, write_mission
from tests.support.sandboxing import INTRUDER, Pulse, alive, counts_processes

PROCESSES = 24
MISSION = """\
mission: hostile
version: "1"
inputs: {{root: {{type: string}}}}
workspace: {{root: "${{inputs.root}}", kind: folder}}
envelope: {{allowed_tools: [process.run]}}
sandbox: {{confinement: required, limits: {{memory_mb: 256, processes: {processes}, file_mb: 1}}}}
on_failure: keep
commands:
{commands}
blocks:
{blocks}
links:
{links}
"""


@pytest.fixture
async def sandbox() -> Sandbox:
    found = await Sandbox.detect()
    if not found.confined:
        pytest.skip(f"no confinement here: {found.self_test and found.self_test.summary}")
    return found


def mission(folder: Path, attempts: Mapping[str, tuple[str, ...]]) -> str:
    command = [sys.executable, "-I", "-S", "hostile.py"]
    commands = [f"  {name}: {json.dumps({'argv': [*command, name, *given]})}" for name, given in attempts.items()]
    blocks = [
        f"  {name}: {{type: tool_invoke, tool: process.run, template: {name}, accept: [op.process_exit]}}"
        for name in attempts
    ]
    first, *rest = attempts
    members = {"commands": commands, "blocks": blocks, "links": [f"  - {first} -> {name}" for name in rest]}
    text = MISSION.format(processes=PROCESSES, **{name: "\n".join(lines) for name, lines in members.items()})
    return write_mission(folder, text)


async def outputs(host: RuntimeHost, run_id: str) -> dict[str, Mapping[str, Any]]:
    """By step, what its process left in the record."""
    found = {}
    for entry in await entries(host, run_id, "receipt"):
        body = await host.artifact(entry["receipt"]["output_hash"])
        assert body is not None
        found[entry["receipt"]["step_id"].partition(".")[0]] = json.loads(body)
    return found


async def test_nothing_a_tool_tries_succeeds_and_all_of_it_is_on_record(sandbox: Sandbox, tmp_path: Path) -> None:
    root, home, outside = tmp_path / "tree", tmp_path / "home", tmp_path / "outside"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("canary")
    root.mkdir()
    (root / "hostile.py").write_text(INTRUDER)
    token = f"intruder-{os.getpid()}"
    attempts: dict[str, tuple[str, ...]] = {"hog": (), "fill": ("/tmp",), "daemon": (token,)}
    if counts_processes(sandbox):
        attempts["bomb"] = ("400",)
    async with (
        hosting(tmp_path / "store", sandbox=sandbox) as host,
        await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server,
        Pulse() as pulse,
    ):
        look = (str(home), str(outside), str(server.sockets[0].getsockname()[1]))
        path = mission(tmp_path / "mission", {"look": look, **attempts})
        run = await run_to_end(host, path, inputs={"root": str(root)})
        met = await outputs(host, run.run_id)
        assert (await host.verify(run.run_id)).ok
    assert run.status is RunStatus.SUCCEEDED, run
    assert met.keys() == {"look", *attempts}
    assert met["look"]["stdout"].splitlines() == [
        "write in the tree: Read-only file system",
        "write to the system: Read-only file system",
        "read a key: No such file or directory",
        "connect: Connection refused",
        "trace: Operation not permitted",
    ]
    assert sorted(path.name for path in root.iterdir()) == ["hostile.py"]
    assert not outside.exists()
    if "bomb" in attempts:
        assert met["bomb"]["exit_code"] == 7, met["bomb"]
        assert int(met["bomb"]["stdout"].split()[0]) <= PROCESSES + 2  # the starters are counted with the tree
    assert (met["hog"]["exit_code"], met["hog"]["stderr"].splitlines()[-1]) == (1, "MemoryError")
    assert (met["fill"]["exit_code"], met["fill"]["stdout"]) == (8, "fill: File too large\n")
    assert (met["daemon"]["exit_code"], met["daemon"]["stdout"]) == (0, "left\n")
    assert alive(token) == []
    assert pulse.beats > 20
    assert pulse.longest < 0.5, "seconds this process worked without letting its loop come round"
