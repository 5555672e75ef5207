"""Files a run leaves outside its tree, and mail as files: named safely, bounded, never written by a replay."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import Envelope, OperationStatus
from runtime.orchestration import output_folder
from runtime.orchestration.admission import Recorded
from runtime.orchestration.mail import compose, letter
from tests.support.operation_rig import Rig

MAIL = {"to": "Ada <ada@example.org>", "subject": "News", "body": "Hello.\n"}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    (tmp_path / "tree").mkdir()
    return Rig(tmp_path / "tree")


def out(rig: Rig) -> Path:
    return rig.root.parent / "run" / "out"


def unspaced(text: object) -> str:
    """Folding a long subject may lose a space."""
    return "".join(str(text).split())


async def test_a_file_is_left_outside_the_tree_and_nothing_is_locked_or_undone(rig: Rig) -> None:
    result = await rig.tool("output.write_file", name="deep/notes.md", content="é\n")
    assert result.output == {"path": "deep/notes.md", "sha256": digest_bytes("é\n".encode()), "bytes": 3}
    assert (out(rig) / "deep/notes.md").read_text() == "é\n"
    modes = {path.stat().st_mode & 0o777 for path in (out(rig).parent, out(rig), out(rig) / "deep")}
    assert modes == {0o700}
    assert (out(rig) / "deep/notes.md").stat().st_mode & 0o777 == 0o600
    assert list(rig.root.iterdir()) == []
    receipt = rig.receipts()[0]
    assert (receipt["effect"], receipt["affected_paths"], receipt["pre_workspace"]) == ("none", [], None)
    assert str(out(rig)) not in str(rig.entries()) + str(rig.artifacts.bodies), "nothing recorded names this machine"


async def test_the_same_name_is_replaced_whole(rig: Rig) -> None:
    for index, content in enumerate(("long text", "short")):
        assert (await rig.tool("output.write_file", id=f"s1.{index}", name="a", content=content)).ok
    assert [(path.name, path.read_text()) for path in out(rig).iterdir()] == [("a", "short")]


@pytest.mark.parametrize(
    ("tool", "params", "code"),
    [
        ("output.write_file", {"name": "../a", "content": "x"}, "PATH_TRAVERSAL"),
        ("output.write_file", {"name": "/etc/a", "content": "x"}, "PATH_ABSOLUTE"),
        ("output.write_file", {"name": "a//b", "content": "x"}, "PATH_NOT_NORMAL"),
        ("output.write_file", {"name": "nul.md", "content": "x"}, "PATH_RESERVED_NAME"),
        ("output.write_file", {"name": "", "content": "x"}, "PATH_EMPTY"),
        ("output.write_file", {"name": "a", "content": ["x"]}, "OP_PARAMS"),
        ("output.write_file", {"name": "a", "content": "x", "mode": "755"}, "OP_PARAM_UNKNOWN"),
        ("mail.write_file", {**MAIL, "name": "a.txt"}, "OP_PARAMS"),
        ("mail.write_file", {**MAIL, "name": "../a.eml"}, "PATH_TRAVERSAL"),
        ("mail.write_file", {**MAIL, "to": []}, "MAIL_ADDRESS"),
        ("mail.write_file", {**MAIL, "to": "ada"}, "MAIL_ADDRESS"),
        ("mail.write_file", {**MAIL, "to": "a@example.org, b@example.org"}, "MAIL_ADDRESS"),
        ("mail.write_file", {**MAIL, "to": "a@example.org\r\nBcc: all@example.org"}, "MAIL_HEADER"),
        ("mail.write_file", {**MAIL, "subject": "Hi\nBcc: all@example.org"}, "MAIL_HEADER"),
        ("mail.write_file", {**MAIL, "from": "Ada\u2028 <ada@example.org>"}, "MAIL_HEADER"),
        ("mail.write_file", {**MAIL, "subject": "s" * 501}, "ENV_LIMIT"),
    ],
)
async def test_refusals_leave_no_trace(rig: Rig, tool: str, params: dict[str, Any], code: str) -> None:
    result = await rig.tool(tool, **params)
    assert result.reason_code == code
    assert rig.kinds() == ["operation_denied", "receipt"]
    assert not out(rig).exists()


async def test_the_envelope_must_list_the_tool(rig: Rig) -> None:
    narrow = Envelope(allowed_paths=["**"], allowed_tools=["filesystem"], allowed_roles=["runner"])
    rig.envelope = narrow
    rig.build(base_stack=(narrow,))
    for index, (tool, params) in enumerate(
        (("output.write_file", {"name": "a", "content": ""}), ("mail.write_file", MAIL))
    ):
        result = await rig.do("tool_invoke", {"tool": tool, **params}, id=f"s1.{index}", stack=(narrow,))
        assert result.reason_code == "ENV_TOOL"


async def test_what_one_run_may_leave_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_folder, "MAX_FILES", 2)
    monkeypatch.setattr(output_folder, "MAX_TOTAL_BYTES", 10)
    sent = [("a", "12345"), ("b/c", "12345"), ("b/c", "1234"), ("d", ""), ("a", "1234567")]
    codes = [
        (await rig.tool("output.write_file", id=f"s1.{index}", name=name, content=content)).reason_code
        for index, (name, content) in enumerate(sent)
    ]
    assert codes == [None, None, None, "ENV_LIMIT", "ENV_LIMIT"]
    assert (out(rig) / "a").read_text() == "12345"


async def test_links_and_folders_in_the_way_are_not_followed(rig: Rig) -> None:
    elsewhere = rig.root.parent / "elsewhere"
    elsewhere.mkdir()
    out(rig).mkdir(parents=True)
    (out(rig) / "link").symlink_to(elsewhere)
    (out(rig) / "file").symlink_to(elsewhere / "kept")
    (out(rig) / "folder").mkdir()
    assert (await rig.tool("output.write_file", name="link/a", content="x")).reason_code == "PATH_IO"
    assert (await rig.tool("output.write_file", id="s1.1", name="folder", content="x")).reason_code == "PATH_IO"
    assert (await rig.tool("output.write_file", id="s1.2", name="file", content="x")).ok, "the link itself is replaced"
    assert list(elsewhere.iterdir()) == []
    assert not (out(rig) / "file").is_symlink()
    assert sorted(path.name for path in out(rig).iterdir()) == ["file", "folder", "link"], "no temporary file stays"


async def test_a_recorded_replay_answers_without_writing(rig: Rig) -> None:
    told = Recorded(status=OperationStatus.SUCCESS, output={"path": "a", "sha256": "…", "bytes": 1})
    rig.build(recorded=lambda key: told)
    result = await rig.tool("output.write_file", name="a", content="x")
    assert (result.ok, result.output["path"]) == (True, "a")
    assert (await rig.tool("mail.write_file", id="s1.1", **MAIL)).ok
    assert not out(rig).parent.exists()


async def test_mail_reads_back_as_it_was_said(rig: Rig) -> None:
    to = ["Ada Ünal <ada@example.org>", "bob@example.org"]
    body = "Grüße\n\n.\nFrom here on: " + "word " * 300
    result = await rig.tool("mail.write_file", to=to, subject="Ünïcode, " * 20, body=body, name="m/x.eml")
    assert result.output == {
        "path": "m/x.eml",
        "to": ["ada@example.org", "bob@example.org"],
        "body_sha256": digest_bytes(body.encode()),
    }
    written = (out(rig) / "m/x.eml").read_bytes()
    assert written.isascii()
    assert written.count(b"\n") == written.count(b"\r\n")
    read = message_from_bytes(written, policy=policy.default)
    assert [(item.display_name, item.addr_spec) for item in read["To"].addresses] == [
        ("Ada Ünal", "ada@example.org"),
        ("", "bob@example.org"),
    ]
    assert unspaced(read["Subject"]) == "Ünïcode," * 20
    assert read["From"].addresses[0].addr_spec == "quarterdeck@localhost"
    assert read["Date"].datetime == rig.clock.now()
    assert read.get_content().splitlines() == body.splitlines()


async def test_a_message_is_the_same_in_one_run_and_another_in_the_next(rig: Rig, tmp_path: Path) -> None:
    await rig.tool("mail.write_file", **MAIL)
    first = (out(rig) / "s1.0.eml").read_bytes()
    (out(rig) / "s1.0.eml").unlink()
    again = Rig(rig.root)
    assert (await again.tool("mail.write_file", **MAIL)).ok
    assert (out(rig) / "s1.0.eml").read_bytes() == first
    other = await again.tool("mail.write_file", id="s1.1", **MAIL)
    ids = [message_from_bytes(path.read_bytes())["Message-ID"] for path in sorted(out(rig).iterdir())]
    assert len(set(ids)) == 2
    assert other.output["body_sha256"] == digest_bytes(b"Hello.\n")


@settings(max_examples=60)
@given(
    subject=st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=200),
    name=st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=60),
    body=st.text(st.characters(exclude_categories=("Cs",)), max_size=400),
)
def test_whatever_is_said_no_header_is_added(subject: str, name: str, body: str) -> None:
    """A law over hostile text: it is either written faithfully or refused, never with another error."""
    with suppress(Refused):
        said = letter(sender="q@localhost", to=[f"{name} <a@example.org>"], subject=subject, body=body)
        message = compose(said, date=datetime(2026, 1, 1, tzinfo=UTC), message_id="1")
        check_as_said(message.as_bytes(), subject)


def check_as_said(written: bytes, subject: str) -> None:
    read = message_from_bytes(written, policy=policy.default)
    assert unspaced(read["Subject"]) == unspaced(subject)
    assert [item.addr_spec for item in read["To"].addresses] == ["a@example.org"]
    assert sorted(set(read.keys())) == sorted(read.keys())
    assert not {"Bcc", "Cc", "Reply-To"} & set(read.keys())
