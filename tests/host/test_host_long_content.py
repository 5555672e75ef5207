"""The largest file a mission may write, from a text no inline value could hold."""

from __future__ import annotations

from pathlib import Path

from runtime.host.api import Replay, RunStatus
from runtime.kernel.canonical import digest_bytes
from runtime.orchestration.handlers.filesystem import MAX_WRITE_BYTES
from tests.support.hosting import entries, hosting, run_to_end, write_mission

BIG = """\
mission: big
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["out/**"], allowed_tools: [filesystem.write_file]}
blocks:
  text: {type: template, template: "{% for _ in range(64) %}{{ 'x' * 65535 }}{{ '\\n' }}{% endfor %}"}
  write: {type: tool_invoke, tool: filesystem.write_file, path: out/big, content: "${outputs.text}"}
links: [text -> write]
"""


async def test_a_mission_writes_four_mebibytes_and_its_record_holds(tmp_path: Path) -> None:
    (tmp_path / "tree" / "out").mkdir(parents=True)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, write_mission(tmp_path / "m", BIG), inputs={"root": str(tmp_path / "tree")})
        assert run.status is RunStatus.SUCCEEDED, run
        written = (tmp_path / "tree" / "out" / "big").read_bytes()
        assert written == (b"x" * 65535 + b"\n") * 64
        assert len(written) == MAX_WRITE_BYTES
        assert await host._store.artifacts.get(digest_bytes(written)) == written
        assert len(await entries(host, run.run_id, "receipt")) == 1
        assert (await host.verify(run.run_id)).ok
        assert (await host.replay(Replay(run_id=run.run_id))).comparison.equivalent
