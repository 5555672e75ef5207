"""The one encoding of a bundle (operations spec §12.4; its golden archive is test 12.b in conformance/)."""

from __future__ import annotations

import io
import zipfile

from runtime.audit.canonical_zip import encode


def test_other_tools_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(encode({"b/c": b"2", "a": b"1"}))) as archive:
        assert archive.testzip() is None
        assert [(item.filename, archive.read(item)) for item in archive.infolist()] == [("a", b"1"), ("b/c", b"2")]
