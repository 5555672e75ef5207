"""References to secrets: looked up at the moment of use, made known to the redactor, and never repeated in a refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.governance.secrets import MAX_FILE_BYTES, Secrets
from runtime.kernel.errors import Refused


def private(path: Path, content: bytes = b"canary-1\n", mode: int = 0o600) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return f"file://{path}"


def refusal(reference: str, environ: dict[str, str] | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        Secrets(environ or {}).resolve(reference)
    return caught.value


@pytest.mark.parametrize(
    "reference",
    ["sk-plain-secret", "env://A B", "env://1A", "file://relative", "file://~other/key", "file://host/key", ""],
)
def test_only_references_are_looked_up_and_others_never_repeated(reference: str) -> None:
    refused = refusal(reference)
    assert refused.code == "SECRET_REFERENCE"
    assert not reference or reference not in str(refused)


def test_a_reference_is_looked_up_each_time_and_known_from_then_on(tmp_path: Path) -> None:
    environ = {"A": "canary-1", "HOME": str(tmp_path)}
    secrets = Secrets(environ, handed={"TOKEN": "env://A", "CERT": "file://~/cert.pem"})
    private(tmp_path / "cert.pem", b"canary-2\r\n")
    assert secrets.redactor.text("canary-1 canary-2") == "canary-1 canary-2"
    assert secrets.environment() == {"TOKEN": "canary-1", "CERT": "canary-2"}
    environ["A"] = "rotated-1"
    private(tmp_path / "cert.pem", b"two\n\nlines\n")
    assert secrets.environment() == {"TOKEN": "rotated-1", "CERT": "two\n\nlines"}, "one newline at the end is dropped"
    shown = secrets.redactor.text("canary-1 rotated-1 canary-2")
    assert shown == "<secret:TOKEN> <secret:TOKEN> <secret:CERT>"
    environ["A"] = ""
    with pytest.raises(Refused, match="SECRET_MISSING: env://A: the variable A is not set"):
        secrets.environment()


def test_files_are_judged_as_they_are_opened(tmp_path: Path) -> None:
    reference = private(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    assert Secrets({}).resolve(f"file://{tmp_path}/link") == "canary-1"
    (tmp_path / "key").chmod(0o640)
    assert "chmod 600" in str(refusal(reference))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, content, told in (
        ("pipe", None, "not a regular file"),
        ("missing", None, "No such file"),
        ("long", b"x" * (MAX_FILE_BYTES + 1), "longer than 65536 bytes"),
        ("binary", b"\xff\xfe" * 9, "not text"),
        ("nul", b"canary\x001", "not text"),
    ):
        if content is not None:
            private(tmp_path / name, content)
        refused = refusal(f"file://{tmp_path}/{name}")
        assert refused.code == "SECRET_FILE"
        assert f"file://{tmp_path}/{name}" in refused.message
        assert told in refused.message
    assert refusal("file://~/key").code == "SECRET_FILE", "there is no home"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = private(tmp_path / "key")
    os_user = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: os_user + 1)
    if os_user == 0:
        assert Secrets({}).resolve(reference) == "canary-1", "root's files count as ours"
        try:
            os.chown(tmp_path / "key", 65534, -1)
        except OSError:
            pytest.skip("this root may not give files away: its user namespace knows nobody else")
    assert "belongs to another user" in str(refusal(reference))


def test_short_values_are_refused_because_they_could_not_be_kept_out_of_records() -> None:
    refused = refusal("env://PIN", {"PIN": "12345"})
    assert refused.code == "SECRET_SHORT"
    assert "12345" not in str(refused)


def test_checking_looks_everything_up_before_it_refuses() -> None:
    secrets = Secrets(
        {"B": "canary-2", "KEY": "canary-3"}, handed={"A": "env://A", "B": "env://B"}, others=["env://KEY"]
    )
    with pytest.raises(Refused, match="SECRET_MISSING"):
        secrets.check()
    assert secrets.redactor.text("canary-2 canary-3") == "<secret:B> <secret:KEY>"
    with pytest.raises(Refused, match=r"SECRET_WRITTEN.*<secret:B>") as caught:
        secrets.refuse_written({"inputs": ["a canary-2"]})
    assert "canary-2" not in str(caught.value)
    secrets.refuse_written({"inputs": ["canary"]}, b"source")
