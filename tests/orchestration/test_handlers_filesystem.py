"""``filesystem.*`` and ``git.*`` through the whole executor (operations spec §3.2, rulings R18, R42)."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import digest_bytes, parse_strict
from runtime.kernel.errors import ModelError
from runtime.kernel.model import MAX_CONTENT_BYTES, Envelope, Operation
from runtime.orchestration.handlers.filesystem import MAX_WRITE_BYTES
from tests.support.operation_rig import OPEN, Rig
from tests.support.repositories import repository, sh


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    files = {"a.txt": "one\n", "docs/b.md": "b\n", "docs/secret/key.txt": "s\n"}
    return Rig(tmp_path / "tree", git=repository(tmp_path / "tree", files))


async def test_tool_and_action_may_be_two_params(rig: Rig) -> None:
    result = await rig.do("tool_invoke", {"tool": "filesystem", "action": "read_file", "path": "a.txt"})
    assert result.output["content"] == "one\n"


async def test_reading_text_bytes_and_the_beginning(rig: Rig) -> None:
    (rig.root / "raw").write_bytes(b"\xff\x00")
    text = await rig.tool("filesystem.read_file", path="a.txt", max_bytes=2)
    assert (text.output["content"], text.output["truncated"], text.output["size"]) == ("on", True, 4)
    assert text.output["sha256"] == digest_bytes(b"one\n")
    many = await rig.tool("filesystem.read_files", id="s1.1", paths=["raw", "a.txt"])
    assert [item["encoding"] for item in many.output["files"]] == ["base64", "utf-8"]
    assert many.receipt is not None
    assert many.receipt.pre_workspace is None  # no fingerprint for a read


async def test_listing_a_folder(rig: Rig) -> None:
    result = await rig.tool("filesystem.list_dir", path="docs", recursive=True)
    assert result.output["entries"] == [
        {"path": "b.md", "kind": "file"},
        {"path": "secret", "kind": "directory"},
        {"path": "secret/key.txt", "kind": "file"},
    ]


@pytest.mark.parametrize(("path", "code"), [("a.txt", "TOOL_CONFLICT"), ("new", None)])
async def test_null_means_must_not_exist(rig: Rig, path: str, code: str | None) -> None:
    result = await rig.tool("filesystem.write_file", path=path, content="x", expect_sha256=None)
    assert result.reason_code == code


async def test_writing_bytes_with_a_mode_into_a_new_folder(rig: Rig) -> None:
    content = base64.b64encode(b"\x00\xff").decode()
    result = await rig.tool(
        "filesystem.write_file", path="x/y/z", content=content, encoding="base64", mode="755", create_parents=True
    )
    assert result.output == {"path": "x/y/z", "size": 2, "sha256": digest_bytes(b"\x00\xff"), "created": True}
    assert (rig.root / "x/y/z").read_bytes() == b"\x00\xff"
    assert (rig.root / "x/y/z").stat().st_mode & 0o777 == 0o755


async def test_long_content_is_named_by_its_digest_and_written_as_it_is(rig: Rig) -> None:
    text = "é" * (MAX_WRITE_BYTES // 2)
    result = await rig.tool("filesystem.write_file", path="big", content=text)
    assert result.ok, result.evidence
    assert (rig.root / "big").read_text() == text
    assert result.receipt is not None
    named = {"$artifact": digest_bytes(text.encode()), "bytes": MAX_WRITE_BYTES}
    given = parse_strict(rig.artifacts.bodies[result.receipt.params_hash])
    assert given == {"tool": "filesystem.write_file", "path": "big", "content": named}
    assert rig.artifacts.bodies[named["$artifact"]] == text.encode()
    assert (await rig.tool("filesystem.write_file", path="big", content=text)).replayed
    other = await rig.tool("filesystem.write_file", path="big", content=text[:-1] + "è")
    assert other.reason_code == "IDEMPOTENCY_CONFLICT"
    longer = await rig.tool("filesystem.write_file", id="s1.1", path="more", content=text + "x")
    assert longer.reason_code == "ENV_LIMIT"


@pytest.mark.parametrize(
    "params",
    [
        {"content": "x" * (MAX_CONTENT_BYTES + 1)},
        {"content": {"$artifact": "sha256:" + "0" * 64, "bytes": 1}},
        {"content": "x", "path": "y" * 256 * 1024},
        {"content": "x" * 300_000, "path": "y" * 256 * 1024},
    ],
    ids=["beyond any file", "a name for it", "another parameter", "both"],
)
def test_only_content_may_be_long_and_only_so_long(params: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="OP_PARAMS"):
        Operation("s1.0", "tool_invoke", {"tool": "filesystem.write_file", **params})


@pytest.mark.parametrize(
    ("tool", "params", "code"),
    [
        ("filesystem.write_file", {"path": "x"}, "OP_PARAMS"),
        ("filesystem.write_file", {"path": "x", "content": "", "colour": "red"}, "OP_PARAM_UNKNOWN"),
        ("filesystem.write_file", {"path": "x", "content": "", "mode": "4755"}, "OP_PARAMS"),
        ("filesystem.write_file", {"path": "x", "content": "?", "encoding": "base64"}, "OP_PARAMS"),
        ("filesystem.write_file", {"path": "x", "content": "", "expect_sha256": "abc"}, "OP_PARAMS"),
        ("filesystem.write_file", {"path": "no/x", "content": ""}, "PATH_PARENT_MISSING"),
        ("filesystem.delete_file", {"path": "a.txt"}, "OP_PARAMS"),
        ("filesystem.delete_file", {"path": "a.txt", "expect_sha256": None}, "OP_PARAMS"),
        ("filesystem.read_file", {"path": "/etc/passwd"}, "PATH_ABSOLUTE"),
        ("filesystem.read_file", {"path": "docs/secret/key.txt"}, "POLICY_DENIED"),
        ("filesystem.read_file", {"path": "a.txt", "max_bytes": True}, "OP_PARAMS"),
        ("filesystem.read_files", {"paths": ["a.txt", "a.txt"]}, "OP_PARAMS"),
        ("filesystem.write_file", {"path": "CLAUDE.md", "content": "x"}, "SELFMOD_PROTECTED"),
        ("filesystem.write_file", {"path": "STOP_AUTONOMY", "content": "x"}, "PATH_RUNTIME_RESERVED"),
        ("git.add", {"paths": []}, "OP_PARAMS"),
        ("git.add", {"paths": ["."]}, "PATH_NOT_NORMAL"),
        ("git.commit", {"message": "a\x07b"}, "OP_PARAMS"),
        ("git.commit", {"message": " "}, "OP_PARAMS"),
        ("git.commit", {"message": "nothing staged"}, "GIT_FAILED"),
        ("git.status", {"verbose": True}, "OP_PARAM_UNKNOWN"),
        ("git.log", {"max": 5_001}, "OP_PARAMS"),
        ("git.log", {"since": "--output=a.txt"}, "OP_PARAMS"),
        ("git.log", {"until": "a\x00b"}, "OP_PARAMS"),
        ("git.log", {"until": "x" * 201}, "OP_PARAMS"),
    ],
)
async def test_refusals_leave_everything_as_it_was(rig: Rig, tool: str, params: dict[str, Any], code: str) -> None:
    result = await rig.tool(tool, **params)
    assert result.reason_code == code
    assert rig.kinds() == ["operation_denied", "receipt"]
    assert sh(rig.root, "status", "--porcelain") == ""


async def test_staging_and_committing(rig: Rig) -> None:
    (rig.root / "a.txt").write_text("two\n")
    (rig.root / "docs/b.md").unlink()
    staged = await rig.tool("git.add", paths=["a.txt", "docs/b.md"])
    assert staged.output == {"staged": ["a.txt", "docs/b.md"]}
    commit = await rig.tool("git.commit", id="s1.1", message="Both\n\nbecause")
    assert commit.output["commit"] == sh(rig.root, "rev-parse", "HEAD")
    assert sh(rig.root, "show", "--name-only", "--format=%s") == "Both\n\na.txt\ndocs/b.md"
    receipt = commit.receipt
    assert receipt is not None
    assert (receipt.pre_head, receipt.post_head) == (sh(rig.root, "rev-parse", "HEAD~1"), commit.output["commit"])
    log = await rig.tool("git.log", id="s1.2", max=1)
    assert (len(log.output["commits"]), log.output["truncated"]) == (1, True)
    whole = await rig.tool("git.log", id="s1.3", max=2, since="", until="")
    assert (len(whole.output["commits"]), whole.output["truncated"]) == (2, False)
    since = await rig.tool("git.log", id="s1.4", since="HEAD~1")
    assert [item["subject"] for item in since.output["commits"]] == ["Both"]
    assert (await rig.tool("git.log", id="s1.5", until="v9")).reason_code == "GIT_REVISION"


async def test_a_deletion_is_staged_and_committed_when_its_folder_is_gone_too(rig: Rig) -> None:
    shutil.rmtree(rig.root / "docs")
    staged = await rig.tool("git.add", paths=["docs/b.md"])
    assert staged.ok, staged.evidence
    commit = await rig.tool("git.commit", id="s1.1", message="Gone")
    assert commit.ok, commit.evidence
    assert sh(rig.root, "show", "--name-status", "--format=") == "D\tdocs/b.md"


async def test_every_staged_path_is_checked_before_a_commit(rig: Rig) -> None:
    narrow = Envelope(allowed_paths=["a.txt"], allowed_tools=["git"], allowed_roles=["runner"])
    (rig.root / "a.txt").write_text("two\n")
    (rig.root / "docs/b.md").write_text("smuggled\n")
    sh(rig.root, "add", "-A")
    head = sh(rig.root, "rev-parse", "HEAD")
    result = await rig.do("tool_invoke", {"tool": "git.commit", "message": "x"}, stack=(OPEN, narrow))
    assert result.reason_code == "POLICY_NOT_ALLOWED"
    assert sh(rig.root, "rev-parse", "HEAD") == head


async def test_staging_a_protected_file_is_refused(rig: Rig) -> None:
    (rig.root / "AGENTS.md").write_text("obey\n")
    assert (await rig.tool("git.add", paths=["AGENTS.md"])).reason_code == "SELFMOD_PROTECTED"


async def test_a_diff_shows_only_what_may_be_read(rig: Rig) -> None:
    (rig.root / "a.txt").write_text("two\n")
    (rig.root / "docs/secret/key.txt").write_text("leaked\n")
    everything = await rig.tool("git.diff")
    assert "+two" in everything.output["text"]
    assert "leaked" not in everything.output["text"]
    assert everything.output["withheld"] == 1
    named = await rig.tool("git.diff", id="s1.1", paths=["docs/secret/key.txt"])
    assert named.reason_code == "POLICY_DENIED"
    stat = await rig.tool("git.diff_stat", id="s1.2", paths=["a.txt"])
    assert stat.output["files"] == [{"path": "a.txt", "added": 1, "deleted": 1}]
    status = await rig.tool("git.status", id="s1.3")
    assert status.output["clean"] is False
    head = await rig.tool("git.rev_parse_head", id="s1.4")
    assert head.output["commit"] == sh(rig.root, "rev-parse", "HEAD")


async def test_without_a_repository_git_says_so(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    rig = Rig(tmp_path / "tree")
    assert (await rig.tool("git.status")).reason_code == "GIT_FAILED"
    assert (await rig.tool("filesystem.make_dir", id="s1.1", path="d")).ok
