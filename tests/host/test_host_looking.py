"""What a run sees of a work tree without git: all of it where its envelope reaches the top, less what is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.host.api import RunStatus
from tests.support.hosting import entries, hosting, run_to_end, write_mission

STRAYING = """\
mission: straying
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
sandbox: {confinement: best_effort}
envelope: {allowed_paths: [PATTERNS], allowed_tools: [process.run]}
commands: {make: {argv: [sh, -c, "echo x > out/made; SURPLUS"], writes: [out]}}
blocks:
  make: {type: tool_invoke, tool: process.run, template: make}
links: []
"""


@pytest.mark.parametrize(
    ("patterns", "surplus", "code"),
    [
        ('"**"', "echo x > litter.txt", "op.op_undeclared_effect"),
        ('"out/", "*.md"', "echo x > litter.txt", "op.op_undeclared_effect"),
        ('"out/", notes.txt', "echo x > deep/litter.txt", "op.op_undeclared_effect"),
        ('"**"', "true", None),
        ('"out/"', "echo x > litter.txt", None),
    ],
    ids=["everything", "pattern at the top", "file at the top", "nothing more", "only a folder is watched"],
)
async def test_an_undeclared_write_is_seen_wherever_the_envelope_reaches(
    tmp_path: Path, patterns: str, surplus: str, code: str | None
) -> None:
    root = tmp_path / "tree"
    for folder in ("out", "deep"):
        (root / folder).mkdir(parents=True)
    text = STRAYING.replace("PATTERNS", patterns).replace("SURPLUS", surplus)
    async with hosting(tmp_path / "store") as host:
        run = await run_to_end(host, write_mission(tmp_path / "m", text), inputs={"root": str(root)})
        assert run.code == code, run
        assert run.status is (RunStatus.SUCCEEDED if code is None else RunStatus.FAILED)
        receipts = [item["receipt"] for item in await entries(host, run.run_id, "receipt")]
    assert receipts[0]["pre_workspace"] is not None
