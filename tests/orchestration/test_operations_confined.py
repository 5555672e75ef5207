"""The repair of a failing build behind the strongest wall this machine has (rulings R19, R48–R50).

Runs at whatever tier the machine offers, so it is the same test on a laptop and inside a container.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from runtime.governance.sandbox import Sandbox
from runtime.kernel.model import Envelope, OperationReceipt
from runtime.orchestration.git import Git
from runtime.orchestration.handlers.settings import ModelSettings
from runtime.providers.adapters.scripted import ScriptedProvider
from tests.support.operation_rig import Rig
from tests.support.repositories import repository, sh

BROKEN = "def total(items):\n    return sum(items[:-1])\n"
FIXED = "def total(items):\n    return sum(items)\n"
TEST = "from ledger import total\n\n\ndef test_total():\n    assert total([1, 2]) == 3\n"
SCHEMA = {"type": "object", "required": ["path", "content"], "properties": {"path": {"type": "string"}, "content": {}}}
ENVELOPE = Envelope(
    allowed_paths=["src/**", "tests/**"],
    allowed_tools=["filesystem.write_file", "git.add", "git.commit"],
    allowed_roles=["runner"],
    timeout_seconds=60,
)


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    root = tmp_path / "tree"
    config = '[tool.pytest.ini_options]\npythonpath = ["src"]\n'
    repository(root, {"src/ledger.py": BROKEN, "tests/test_ledger.py": TEST, "pyproject.toml": config})
    sandbox = await Sandbox.detect("best_effort")
    models = ModelSettings(
        provider=ScriptedProvider({"runner": [{"path": "src/ledger.py", "content": FIXED}]}), free=True
    )
    git = Git(root, sandbox)
    return Rig(root, runner=sandbox, git=git, envelope=ENVELOPE, models=models, python=sys.executable, strict=True)


async def repair(rig: Rig) -> list[OperationReceipt]:
    red = await rig.do("run_tests", {"test_paths": ["tests"]}, id="red.0")
    assert red.reason_code == "TEST_FAILED", red
    answer = await rig.do("llm_call", {"prompt": red.output["stdout"], "output_schema": SCHEMA}, id="propose.0")
    await rig.tool("filesystem.write_file", id="apply.0", **answer.output)
    green = await rig.do("run_tests", {"test_paths": ["tests"]}, id="green.0")
    assert green.ok, green
    await rig.tool("git.add", id="stage.0", paths=[answer.output["path"]])
    commit = await rig.tool("git.commit", id="commit.0", message="Fix: count the last entry")
    assert commit.ok, commit
    return [OperationReceipt.from_record(item) for item in rig.receipts()]


async def test_red_propose_apply_green_commit_and_all_the_way_back(rig: Rig) -> None:
    base = sh(rig.root, "rev-parse", "HEAD")
    receipts = await repair(rig)
    assert sh(rig.root, "rev-parse", "HEAD~1") == base
    assert sh(rig.root, "status", "--porcelain", "--ignored") == ""
    outcomes = await rig.executor.compensate_all(receipts)
    assert [item.operation_id for item in outcomes] == ["commit.0", "stage.0", "apply.0"]
    assert all(item.verified for item in outcomes), outcomes
    assert sh(rig.root, "rev-parse", "HEAD") == base
    assert sh(rig.root, "status", "--porcelain", "--ignored") == ""
    assert (rig.root / "src/ledger.py").read_text() == BROKEN


async def test_a_confined_test_cannot_change_the_tree(rig: Rig) -> None:
    (rig.root / "tests/test_ledger.py").write_text("def test_litter():\n    open('src/litter.txt', 'w').write('x')\n")
    rig.strict = False
    rig.build()
    result = await rig.do("run_tests", {"test_paths": ["tests"]})
    if rig.settings.confined:
        assert result.reason_code == "TEST_FAILED"
        assert "Read-only file system" in json.dumps(result.output)
        assert not (rig.root / "src/litter.txt").exists()
    else:
        assert result.reason_code == "OP_UNDECLARED_EFFECT"


async def test_a_confined_command_writes_below_its_folder_only(rig: Rig) -> None:
    rig.envelope = Envelope(allowed_paths=["src/"], allowed_tools=["process.run"], allowed_roles=["runner"])
    rig.strict = False
    rig.commands = {
        "make": {
            "argv": ["sh", "-c", "echo x > src/made.txt; ln -s / src/link; echo x > tests/sneaky.txt"],
            "writes": ["src"],
        }
    }
    rig.__post_init__()
    result = await rig.tool("process.run", template="make")
    assert not result.ok
    assert result.compensation_status == "completed"
    assert [path.name for path in (rig.root / "src").iterdir()] == ["ledger.py"]
    assert (rig.root / "tests/sneaky.txt").exists() is not rig.settings.confined


async def test_a_host_that_is_not_listed_is_a_violation_of_the_command_that_asked(rig: Rig) -> None:
    rig.envelope = Envelope(allowed_tools=["process.run"], allowed_roles=["runner"])
    rig.hosts, rig.strict = ("listed.example",), False
    fetch = "import urllib.request as r; r.urlopen('http://unlisted.invalid/')"
    rig.commands = {"fetch": {"argv": [sys.executable, "-c", fetch], "network": True}}
    rig.__post_init__()
    result = await rig.tool("process.run", template="fetch")
    assert result.reason_code == "PROCESS_EXIT"
    denied = [entry for entry in rig.entries() if entry["kind"] == "operation_denied"]
    expected = [("NET_HOST_DENIED", "unlisted.invalid:80", True)] if rig.settings.confined else []
    assert [(entry["code"], entry["attempted"], entry["during"]) for entry in denied] == expected
