"""The audit gate (operations specification §13), first half: rows about bytes, each from a good bundle. Nothing runs here."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.audit.canonical_zip import CENTRAL_MARK
from runtime.audit.gate import Report, static_report
from runtime.audit.gate.layout import PLAN, REQUIRED, running_gate
from runtime.audit.gate.limits import MAX_ARCHIVE_BYTES
from runtime.kernel import codes
from tests.support.bundles import INI, MANIFEST, Item, archive, end, items, manifest, small, written

GOOD = archive(small())
OPERATIONS = "runtime/orchestration/operations.py"
TESTS = "runtime/tests/test_operations.py"
MIB = 1024 * 1024


def failed(data: bytes, *wanted: str, gate: str | None = None) -> Report:
    """``data`` is refused for what is ``wanted``, and nothing of it would be run."""
    report = static_report(data)
    assert report.exit_code == 2
    assert set(wanted) <= set(report.failed), list(report.remarks())
    assert gate is None or set(wanted) <= set(report[gate].codes)
    assert [report[name].status.value for name in ("G9", "G10", "G11", "G12")] == ["NOT_RUN"] * 4
    assert all(codes.known(code.partition(":")[0]) for code in report.failed)
    return report


# --- what is in the archive -------------------------------------------------------------------------------------------


def test_a_good_bundle_passes_all_that_can_be_seen() -> None:
    report = static_report(GOOD, expect_sha256=hashlib.sha256(GOOD).hexdigest().upper())
    assert (report.failed, report.verdict, report.exit_code) == ((), "BLOCKED", 3), "nothing was run, so nothing passed"
    assert report.files == {**small(), MANIFEST: manifest(small())}
    assert report.json_bytes() == static_report(GOOD).json_bytes()


def test_another_archive_than_the_expected_one() -> None:
    report = static_report(GOOD, expect_sha256="0" * 64)
    assert (report.failed, report.files) == (("BUNDLE_SHA256",), {})


def test_one_byte_of_a_file_changed_but_not_the_manifest() -> None:
    listing = manifest(small())
    report = failed(archive({**small(), OPERATIONS: b"import sys\n"}, listing), "MANIFEST_HASH", gate="G5")
    assert report.failed == ("MANIFEST_HASH",)
    assert [item.where for item in report["G5"].details] == [OPERATIONS]


def test_a_file_added_but_unlisted() -> None:
    files = small()
    report = failed(archive({**files, "docs/more.md": b"x\n"}, manifest(files)), "MANIFEST_UNLISTED", gate="G5")
    assert report.failed == ("MANIFEST_UNLISTED",)


def test_a_file_listed_but_absent() -> None:
    files = small()
    report = failed(archive(files, manifest({**files, "docs/more.md": b"x\n"})), "MANIFEST_ABSENT", gate="G5")
    assert report.failed == ("MANIFEST_ABSENT",)


def many_lines() -> bytes:
    return b"".join(b"0" * 64 + b"  scripts/z%d\n" % number for number in range(1000, 3001))


def doubled(listing: bytes) -> bytes:
    first, rest = listing.split(b"\n", 1)
    return first + b"\n" + first + b"\n" + rest


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(lambda text: b"", "MANIFEST_EMPTY", id="empty"),
        pytest.param(lambda text: text.replace(b"\n", b"\r\n"), "MANIFEST_FORMAT", id="CRLF"),
        pytest.param(lambda text: text[:64].upper() + text[64:], "MANIFEST_FORMAT", id="uppercase hex"),
        pytest.param(lambda text: text.replace(b"  ", b" ", 1), "MANIFEST_FORMAT", id="one space"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, "MANIFEST_FORMAT", id="BOM"),
        pytest.param(lambda text: b"\n" + text, "MANIFEST_FORMAT", id="blank line"),
        pytest.param(lambda text: b"# a comment\n" + text, "MANIFEST_FORMAT", id="comment"),
        pytest.param(lambda text: b"".join(reversed(text.splitlines(True))), "MANIFEST_ORDER", id="unsorted"),
        pytest.param(doubled, "MANIFEST_DUPLICATE", id="duplicate line"),
        pytest.param(
            lambda text: text + b"0" * 64 + b"  " + b"Runtime/x.py\n", "MANIFEST_ORDER", id="order is by bytes"
        ),
        pytest.param(lambda text: text[:-1], "MANIFEST_FORMAT", id="no final LF"),
        pytest.param(lambda text: text + b"0" * 64 + b"  scripts/\xff\n", "MANIFEST_PATH", id="not ASCII"),
        pytest.param(lambda text: text + b"0" * 64 + b"  /etc/passwd\n", "MANIFEST_PATH", id="absolute"),
        pytest.param(lambda text: text + b"0" * 64 + b"  manifest.txt\n", "MANIFEST_PATH", id="itself"),
        pytest.param(lambda text: text + many_lines(), "MANIFEST_FORMAT", id="more lines than files"),
    ],
)
def test_a_manifest_that_is_spelled_otherwise(change: Callable[[bytes], bytes], code: str) -> None:
    failed(archive(small(), change(manifest(small()))), code, gate="G4")


def test_no_manifest() -> None:
    without = [item for item in items(small()) if item.name != MANIFEST.encode()]
    failed(written(without), "MANIFEST_MISSING", "LAYOUT_MISSING")


def test_a_manifest_line_that_leaves_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outside file is never opened: names are compared, not followed."""
    outside = tmp_path / "x"
    outside.write_bytes(b"outside\n")
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    opened: list[str] = []
    recording = [True]  # audit hooks cannot be taken off
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" and recording else None)
    line = f"{hashlib.sha256(outside.read_bytes()).hexdigest()}  ../x\n".encode()
    opened.clear()
    report = failed(archive(small(), line + manifest(small())), "MANIFEST_PATH", gate="G4")
    recording.clear()
    assert [path for path in opened if path.endswith("x") and "gate" not in path] == []
    assert report.files == {}


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"docs/\xc3\xa4.md", "NAME_ENCODING"),
        (b"docs/a b.md", "NAME_CHARSET"),
        (b"docs/-x.md", "NAME_CHARSET"),
        (b"docs/" + b"x" * 101, "NAME_CHARSET"),
        (b"docs/" + b"/".join([b"x" * 90] * 2), "NAME_CHARSET"),
        (b"docs/" + b"/".join([b"d"] * 16), "NAME_CHARSET"),
        (b"docs/x.", "NAME_PATH:PATH_EDGE_CHAR"),
        (b"docs/\x1b[31m", "NAME_PATH:PATH_CONTROL"),
        (b"docs/.git/config", "NAME_PATH:PATH_GIT_INTERNAL"),
        (b"docs/.gitignore", "NAME_FORBIDDEN"),
        (b"runtime/__pycache__/x.py", "NAME_FORBIDDEN"),
        (b"runtime/x.pyc", "NAME_FORBIDDEN"),
        (b"docs/x.ZIP", "NAME_FORBIDDEN"),
        (b"docs/x.md~", "NAME_FORBIDDEN"),
        (b"docs/thing.egg-info/PKG", "NAME_FORBIDDEN"),
        (b"venv/x", "NAME_FORBIDDEN"),
        (b"docs/.coverage", "NAME_FORBIDDEN"),
    ],
)
def test_other_names(name: bytes, code: str) -> None:
    report = failed(written([*items(small()), Item(name)]), code, gate="G2")
    told = "\n".join([*report.remarks(), *report.lines(), report.json_bytes().decode()])
    assert told.isascii()
    assert re.search(r"[^\x20-\x7e\n]", told) is None, "names are shown escaped"


def test_two_entries_of_one_name_with_different_content() -> None:
    failed(written([*items(small()), Item(OPERATIONS.encode(), b"import os\n")]), "NAME_DUPLICATE", gate="G2")


def test_two_spellings_of_one_folder() -> None:
    failed(archive({**small(), "docs/Sub/a.md": b"", "docs/sub/b.md": b""}), "NAME_CASE_COLLISION", gate="G2")


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (Item(b"docs/link", b"../../etc", mode=0o120777), "TYPE_SYMLINK"),
        (Item(b"docs/device", mode=0o060644), "TYPE_SPECIAL"),
        (Item(b"docs/pipe", mode=0o010644), "TYPE_SPECIAL"),
        (Item(b"docs/setuid", mode=0o104755), "TYPE_SPECIAL"),
        (Item(b"docs/folder/", mode=0o040755), "NAME_DIRECTORY_ENTRY"),
        (Item(b"docs/folder", mode=0o040755), "NAME_DIRECTORY_ENTRY"),
    ],
)
def test_a_link_a_device_a_folder(item: Item, code: str) -> None:
    failed(written([*items(small()), item]), code, gate="G2")


# --- the container ----------------------------------------------------------------------------------------------------


def with_first(**changes: object) -> bytes:
    first, *rest = items(small())
    return written([replace(first, **changes), *rest])  # type: ignore[arg-type]


def with_end(**changes: object) -> bytes:
    count, size, offset = len(small()) + 1, *(int.from_bytes(GOOD[at : at + 4], "little") for at in (-10, -6))
    values = {"count": count, "size": size, "offset": offset} | changes
    return GOOD[:-22] + end(**values)  # type: ignore[arg-type]


def with_junk() -> bytes:
    """A central directory that goes on after its last header."""
    at = int.from_bytes(GOOD[-6:-2], "little")
    return GOOD[:-22] + b"junk" + end(len(small()) + 1, len(GOOD) - 22 + 4 - at, at)


def reaching() -> bytes:
    """Both headers of the only entry say that its content goes on, over the central directory."""
    data = bytearray(written([Item(b"docs/x", b"abc")]))
    head = data.index(CENTRAL_MARK)
    for at in (18, 22, head + 20, head + 24):
        data[at : at + 4] = (60).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(with_first(local_name=b"docs/other"), "ZIP_LFH_MISMATCH", id="local name differs from central"),
        pytest.param(b"#!/bin/sh\n" + GOOD, "ZIP_PREPENDED", id="shebang before the first header"),
        pytest.param(written(items(small()), prefix=b"#!/bin/sh\n"), "ZIP_PREPENDED", id="shebang, offsets right"),
        pytest.param(GOOD + b"more", "ZIP_TRAILING_DATA", id="bytes after the end record"),
        pytest.param(GOOD + b"x" * 70_000, "ZIP_TRAILING_DATA", id="more bytes after it than a comment could have"),
        pytest.param(with_end(comment=b"hello"), "ZIP_COMMENT", id="archive comment"),
        pytest.param(GOOD[:-22] + end(1, 0, 0, comment=GOOD[-22:])[:-22] + GOOD[-22:], "ZIP_GAP", id="two end records"),
        pytest.param(b"", "ZIP_NO_EOCD", id="nothing"),
        pytest.param(b"\x7fELF" + bytes(500), "ZIP_NO_EOCD", id="no archive"),
        pytest.param(GOOD[:-10], "ZIP_NO_EOCD", id="cut off"),
        pytest.param(end(0, 0, 0), "ZIP_NO_ENTRIES", id="no entries"),
        pytest.param(with_end(count=3), "ZIP_CD_COUNT", id="another count"),
        pytest.param(with_end(total=3), "ZIP_MULTIDISK", id="several disks"),
        pytest.param(with_end(disk=1), "ZIP_MULTIDISK", id="another disk"),
        pytest.param(with_first(disk=1), "ZIP_MULTIDISK", id="entry on another disk"),
        pytest.param(with_end(offset=10**6), "ZIP_CD_BOUNDS", id="directory beyond the end"),
        pytest.param(with_end(offset=0xFFFFFFFF), "ZIP_ZIP64", id="ZIP64 offset"),
        pytest.param(with_end(count=0xFFFF), "ZIP_ZIP64", id="ZIP64 count"),
        pytest.param(with_first(size=0xFFFFFFFF), "ZIP_ZIP64", id="ZIP64 size"),
        pytest.param(GOOD[:-22] + b"PK\x06\x07" + bytes(16) + GOOD[-22:], "ZIP_ZIP64", id="ZIP64 locator"),
        pytest.param(with_junk(), "ZIP_CD_BOUNDS", id="directory holds something else"),
        pytest.param(
            written([*items(small())[:-1], Item(b"scripts/z", b"", crc=0, size=9)]), "ZIP_METHOD", id="two sizes"
        ),
        pytest.param(reaching(), "ZIP_CD_BOUNDS", id="content reaches into the directory"),
        pytest.param(with_first(shift=1), "ZIP_LFH_MISMATCH", id="no header where it should be"),
        pytest.param(written(items(small()), gap=b"hidden"), "ZIP_GAP", id="bytes between two entries"),
        pytest.param(written(items(small()), between=b"hidden"), "ZIP_GAP", id="bytes before the directory"),
        pytest.param(GOOD[:-22] + b"hidden" + GOOD[-22:], "ZIP_GAP", id="bytes after the directory"),
        pytest.param(with_first(comment=b"c"), "ZIP_COMMENT", id="entry comment"),
        pytest.param(with_first(extra=b"\x01\x00\x00\x00"), "ZIP_EXTRA_FIELD", id="central extra field"),
        pytest.param(with_first(local_extra=b"\x01\x00\x00\x00"), "ZIP_EXTRA_FIELD", id="local extra field"),
        pytest.param(with_first(flags=8), "ZIP_DATA_DESCRIPTOR", id="data descriptor"),
        pytest.param(with_first(flags=1), "ZIP_ENCRYPTED", id="encrypted"),
        pytest.param(with_first(flags=1 << 13), "ZIP_ENCRYPTED", id="directory encrypted"),
        pytest.param(with_first(method=8), "ZIP_METHOD", id="deflated"),
        pytest.param(with_first(crc=1), "ZIP_CRC", id="checksum"),
        pytest.param(with_first(time=1), "BUNDLE_NOT_CANONICAL", id="a time"),
        pytest.param(with_first(flags=1 << 11), "BUNDLE_NOT_CANONICAL", id="names marked UTF-8"),
        pytest.param(with_first(mode=0o100755), "BUNDLE_NOT_CANONICAL", id="an executable"),
        pytest.param(written(items(small())[::-1]), "BUNDLE_NOT_CANONICAL", id="another order"),
    ],
)
def test_an_archive_that_could_be_read_in_two_ways(data: bytes, code: str) -> None:
    failed(data, code)


def test_the_tools_of_these_tests_write_good_archives() -> None:
    assert written(items(small())) == GOOD == with_end() == with_first()


def test_the_same_content_from_another_tool() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, body in {**small(), MANIFEST: manifest(small())}.items():
            made.writestr(zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6)), body, zipfile.ZIP_DEFLATED)
    failed(out.getvalue(), "ZIP_METHOD", "BUNDLE_NOT_CANONICAL")


# --- limits, layout and content -----------------------------------------------------------------------------------------


def test_limits_of_what_is_really_there() -> None:
    large = {**small(), "docs/large": bytes(8 * MIB + 1)}
    failed(archive(large), "LIMIT_FILE", gate="G3")
    many = {**small(), **{f"docs/{number}": b"" for number in range(2000)}}
    failed(archive(many), "LIMIT_ENTRIES", gate="G3")
    source = {**small(), "runtime/large.py": b"# " + b"x" * 600_000 + b"\n"}
    report = failed(archive(source), "LIMIT_SOURCE", gate="G3")
    assert (report.failed, report["G8"].status.value) == (("LIMIT_SOURCE",), "NOT_RUN")
    report = failed(bytes(MAX_ARCHIVE_BYTES + 1), "LIMIT_ARCHIVE", gate="G3")
    assert report.bundle_sha256 is None, "what was not read whole was not hashed"


@pytest.mark.parametrize("name", sorted(set(REQUIRED) - {MANIFEST}))
def test_a_required_file_is_missing(name: str) -> None:
    files = small()
    del files[name]
    failed(archive(files), "LAYOUT_MISSING", gate="G6")


def test_files_lie_in_four_folders() -> None:
    assert static_report(archive({**small(), "run/journal.jsonl": b"{}\n"})).failed == (), "ruling R39"
    failed(archive({**small(), "setup.cfg": b""}), "LAYOUT_EXTRA_ROOT", gate="G6")
    failed(archive({**small(), "runtimes/x.py": b""}), "LAYOUT_EXTRA_ROOT", gate="G6")


def test_the_gate_inside_is_compared_with_the_running_one() -> None:
    def note(files: dict[str, bytes]) -> str:
        return static_report(archive(files))["G6"].details[0].text

    assert note({**small(), **running_gate()}) == "the gate in the bundle equals the running one"
    other = {**small(), **running_gate(), "runtime/audit/gate/more.py": b""}
    assert note(other) == "the gate in the bundle is not the running one"
    assert note(small()) == "the bundle carries no gate modules"


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("docs/a.md", b"\xff\n", "TEXT_ENCODING"),
        ("docs/a.md", b"\xef\xbb\xbfx\n", "TEXT_BOM"),
        ("docs/a.md", b"x\r\n", "TEXT_LINE_END"),
        ("docs/a.JSON", b"x\0\n", "TEXT_NUL"),
        ("docs/a.md", b"x", "TEXT_FINAL_LINE"),
        ("runtime/a.py", b"# coding: utf-7\n", "TEXT_ENCODING"),
        ("runtime/a.py", b"# coding: no-such\n", "TEXT_ENCODING"),
        (PLAN, b"All 12 tests passed.\n", "DOC_TEST_COUNT"),
        (PLAN, b"| 3 | skipped |\n3 **skipped**\n", "DOC_TEST_COUNT"),
        ("runtime/a.py", b"def f(:\n", "PY_SYNTAX"),
        ("runtime/a.py", b"return\n", "PY_SYNTAX"),
        ("runtime/a.py", b"(" * 5000 + b"\n", "PY_SYNTAX"),
        ("scripts/a.py", b"x = '\0'\n", "PY_SYNTAX"),
        ("runtime/conftest.py", b"", "CONFTEST_PLACE"),
        ("scripts/conftest.py", b"", "CONFTEST_PLACE"),
        ("runtime/a.py", b"import runtime.errors\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"from runtime import errors\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"from . import errors\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"from ..x import y\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"def f():\n    import yaml\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"import pytest\n", "IMPORT_CLOSURE"),
        ("runtime/a.py", b"import importlib\nimportlib.import_module('console.cli')\n", "IMPORT_CLOSURE"),
        ("scripts/a.py", b"import neighbour\n", "IMPORT_CLOSURE"),
    ],
)
def test_content_that_breaks_a_rule(name: str, body: bytes, code: str) -> None:
    failed(archive({**small(), name: body}), code, gate="G8")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("runtime/tests/conftest.py", b"import pytest\n"),
        ("runtime/a.py", b"# coding: utf-8\nfrom runtime.orchestration import operations\nfrom . import tests\n"),
        ("runtime/tests/test_b.py", b"from ..orchestration.operations import VALUE\nimport pytest\n"),
        ("scripts/b.py", b"import audit_gate_build_loop_phase2\n"),
        ("docs/a.bin", b"\xff\r\0"),
        (PLAN, b"Phase 2 of 3. Tests that passed are 12 in number.\n"),
    ],
)
def test_content_that_breaks_none(name: str, body: bytes) -> None:
    assert static_report(archive({**small(), name: body})).failed == ()


@pytest.mark.parametrize(
    "more",
    [
        b"addopts = --collect-only\n",
        b"python_files = none\n",
        b"filterwarnings =\n    error\naddopts = -x\n",
        b"[tool]\n",
        b"testpaths = runtime/tests\n",
        b"norecursedirs: tests\n",
    ],
)
def test_a_pytest_ini_that_could_hide_tests(more: bytes) -> None:
    assert failed(archive({**small(), "pytest.ini": INI + more}), "PYTEST_INI").failed == ("PYTEST_INI",)


def test_testpaths_of_a_pytest_ini() -> None:
    failed(archive({**small(), "pytest.ini": b"[pytest]\ntestpaths = runtime/tests docs\n"}), "PYTEST_INI")
    failed(archive({**small(), "pytest.ini": b"[pytest]\n"}), "PYTEST_INI")
    allowed = b"# ours\n" + INI + b"xfail_strict = true\nfilterwarnings =\n    error\n"
    assert static_report(archive({**small(), "pytest.ini": allowed})).failed == ()


def test_a_module_importing_an_absent_runtime_errors() -> None:
    report = failed(archive({**small(), OPERATIONS: b"from runtime.errors import Broken\n"}), "IMPORT_CLOSURE")
    assert report.failed == ("IMPORT_CLOSURE",)


@given(at=st.integers(0, len(GOOD) - 1), value=st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_no_change_of_a_single_byte_goes_unseen(at: int, value: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= value
    report = static_report(bytes(changed))
    assert report.exit_code == 2, f"byte {at} changed by {value}"
    assert report.json_bytes()
