"""The one encoding of a bundle (operations spec §12.4)."""

from __future__ import annotations

import hashlib
import io
import zipfile

from runtime.audit.canonical_zip import encode


def test_the_golden_archive() -> None:  # 12.b
    files = {"a.txt": b"hi\n", "runtime/__init__.py": b""}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    manifest = "".join(lines).encode()
    assert hashlib.sha256(manifest).hexdigest() == "fb3db5da5e143dbed35f3c679cb73a0c9b94717cd461af7d41175899399694fb"
    archive = encode({"manifest.txt": manifest, **files})
    assert len(archive) == 483
    assert hashlib.sha256(archive).hexdigest() == "87c765173330841a956b076a3f5308a9c9450cb87ec74a4e1359721fa359c3e3"


def test_other_tools_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(encode({"b/c": b"2", "a": b"1"}))) as archive:
        assert archive.testzip() is None
        assert [(item.filename, archive.read(item)) for item in archive.infolist()] == [("a", b"1"), ("b/c", b"2")]
