"""The stand-alone verifier as a stranger uses it: an isolated interpreter, a folder with its scripts, a file to doubt.

0 every check held, 2 one did not, 3 could not check, and nothing else whatever happens.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runtime.audit.canonical_zip import encode
from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.fingerprint import fingerprint
from runtime.orchestration.checkpoints import read_note
from tests.support.bundle_scripts import SCRIPTS
from tests.support.doubters import stand_alone
from tests.support.run_bundles import (
    ANCHOR_KEY,
    FOREIGN,
    SIGNING,
    RecordedRun,
    anchors_of,
    bundle_files,
    foreign_line,
    jsonl,
    lines_of,
    notes_of,
    packed,
    public_key,
    recorded_run,
    resealed,
    with_manifest,
    witness_of,
)

Files = dict[str, bytes]
OK, BROKEN, UNKNOWN = 0, 2, 3


@cache
def small() -> RecordedRun:
    return recorded_run(3)


def lines() -> list[bytes]:
    return lines_of(small().entries)


def good() -> Files:
    return bundle_files(small())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nothing but the verifier's scripts."""
    for name in ("verify_bundle.py", "verify_journal.py", "verify_evidence.py", "ed25519.py"):
        shutil.copy(SCRIPTS / name, tmp_path / name)
    return tmp_path


def run(folder: Path, *arguments: str, **options: Any) -> tuple[int, str]:
    command = [sys.executable, "-I", "-S", str(folder / "verify_bundle.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=50, check=False, **options)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode("ascii")


def judged(data: bytes | Files, *arguments: str, name: str = "b.zip") -> tuple[int, set[str]]:
    """Exit status and error codes for a bundle (or, by name, a journal), in this process."""
    verifier = stand_alone()
    evidence = verifier.gathered(verifier.parsed([name, *arguments]))
    if isinstance(data, dict):
        result = verifier.check_files(name, lambda: verifier.unzipped(packed(data)), evidence)
    elif name.endswith(".jsonl"):
        result = verifier.check_journal(name, [data], evidence)
    else:
        result = verifier.check_files(name, lambda: verifier.unzipped(data), evidence)
    assert result.record()["exit_code"] == result.exit_code
    return result.exit_code, {item.code for item in result.journal.findings if item.error}


# -- as a command ------------------------------------------------------------------------------------------------------


def test_a_good_bundle_alone_in_a_folder(folder: Path) -> None:
    (folder / "b.zip").write_bytes(packed(good()))
    code, text = run(folder, "b.zip")
    assert code == OK
    assert "RESULT: every check held" in text
    assert "a key inside a bundle proves nothing" in text
    assert "a holder of the key who rewrote everything" in text
    assert fingerprint(read_note(notes_of(lines())[-1]).checkpoint.text()) in text
    assert public_key(SIGNING).words in text
    assert {path.name for path in folder.iterdir()} == {path.name for path in SCRIPTS.glob("[ev]*.py")} | {"b.zip"}


def test_its_report_as_data_with_everything_given(folder: Path) -> None:
    (folder / "b.zip").write_bytes(packed(good()))
    (folder / "mac.key").write_bytes(ANCHOR_KEY)
    (folder / "seen.note").write_bytes(notes_of(lines())[0])
    given = ["--key", public_key(SIGNING).text, "--anchor-key", "mac.key", "--witness", witness_of(lines())]
    code, text = run(folder, "b.zip", "--json", *given, "--witness", "seen.note")
    report = json.loads(text)
    assert code == report["exit_code"] == OK
    assert (report["level"], report["entries"], report["witnessed_size"]) == ("witnessed", len(lines()), len(lines()))
    assert [report[name]["standing"] for name in ("integrity", "completeness", "anchoring")] == ["good"] * 3
    assert report["findings"] == []
    assert report["key_words"] == public_key(SIGNING).words


def test_an_extracted_bundle_and_a_lone_journal(folder: Path) -> None:
    for name, data in with_manifest(good()).items():
        path = folder / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "j.jsonl").write_bytes(jsonl(lines()))
    assert run(folder, "out")[0] == OK
    assert run(folder, "j.jsonl", "--witness", witness_of(lines()))[0] == OK
    (folder / "out/run/mission.yaml").write_bytes(b"name: other\n")
    code, text = run(folder, "out", "--json")
    assert code == BROKEN
    assert {item["code"] for item in json.loads(text)["findings"] if item["severity"] == "error"} == {"MANIFEST_HASH"}
    (folder / "out/link").symlink_to("/etc")
    assert "TYPE_SYMLINK" in run(folder, "out")[1]


def test_a_damaged_bundle(folder: Path) -> None:
    (folder / "b.zip").write_bytes(packed(good())[:-1])
    code, text = run(folder, "b.zip")
    assert code == BROKEN
    assert "ZIP_NO_EOCD" in text
    assert "RESULT: FAILED" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere.zip"],
        [],
        ["--help"],
        ["b.zip", "--unknown"],
        ["b.zip", "--key", "quarterdeck+00000000+AAAA"],
        ["b.zip", "--key", "no-such-file"],
        ["b.zip", "--witness", "mission-witness/1 a b c"],
        ["b.zip", "--anchor-key", "b.zip"],
        ["pipe"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_checked(folder: Path, arguments: list[str]) -> None:
    (folder / "b.zip").write_bytes(packed({"pytest.ini": b"[pytest]\n"}))
    os.mkfifo(folder / "pipe")
    code, text = run(folder, *arguments)
    assert code == UNKNOWN
    assert "RESULT: COULD NOT CHECK" in text


def test_a_missing_script_is_could_not(folder: Path) -> None:
    (folder / "b.zip").write_bytes(packed({"pytest.ini": b"[pytest]\n"}))
    assert run(folder, "b.zip")[0] == OK
    (folder / "ed25519.py").unlink()
    assert run(folder, "b.zip")[0] == UNKNOWN


def test_an_answer_nobody_could_read_is_could_not(folder: Path) -> None:
    """Output closed from the start, and a pipe whose reader has left."""
    (folder / "b.zip").write_bytes(packed({"pytest.ini": b"[pytest]\n"}))
    reader, writer = os.pipe()
    os.close(reader)
    closing = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    for before, output in (["-c", closing], None), ([], writer):
        command = [sys.executable, *before, "-I", "-S", "verify_bundle.py", "b.zip"]
        assert subprocess.run(command, cwd=folder, stdout=output, check=False, timeout=50).returncode == UNKNOWN
    os.close(writer)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_could_not(folder: Path) -> None:
    (folder / "b.zip").write_bytes(packed(good()))
    (folder / "b.zip").chmod(stat.S_IWUSR)
    assert run(folder, "b.zip")[0] == UNKNOWN


def test_text_from_inside_does_nothing_to_a_terminal(folder: Path) -> None:
    files = good()
    record = json.loads(files["run/run.json"])
    record["mission"] = "\x1b[2Jm\u202e"
    files["run/run.json"] = canonical_bytes(record) + b"\n"
    (folder / "b.zip").write_bytes(packed(files))
    code, text = run(folder, "b.zip")
    assert code == OK
    assert "\\x1b[2Jm\\u202e" in text
    assert text.replace("\n", "").isprintable()


# -- every kind of damage ----------------------------------------------------------------------------------------------


def journal_of(*changed: bytes) -> Callable[[Files], None]:
    return lambda files: files.update({"run/journal.jsonl": jsonl(changed)})


def edited(name: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    return change


def first(prefix: str) -> str:
    return min(name for name in good() if name.startswith(prefix))


CUT = lines()[:-3]
DAMAGE: dict[str, tuple[Callable[[Files], object], str]] = {
    "an entry edited": (edited("run/journal.jsonl", b'"tool_invoke"', b'"tool_invokf"'), "J_ENTRY_HASH"),
    "an entry dropped": (journal_of(*lines()[:5], *lines()[6:]), "J_PREV_HASH"),
    "an entry of another journal": (journal_of(*lines()[:5], foreign_line(), *lines()[6:]), "J_JOURNAL_ID"),
    "the first entry dropped": (journal_of(*lines()[1:]), "J_GENESIS"),
    "a key twice": (edited("run/journal.jsonl", b'{"at":', b'{"at":"x","at":'), "J_DUPLICATE_KEY"),
    "white space": (edited("run/journal.jsonl", b'{"at":', b'{ "at":'), "J_NONCANONICAL"),
    "negative zero": (edited("run/journal.jsonl", b'"micros":1', b'"micros":-0.0'), "J_NONCANONICAL"),
    "a number too large": (edited("run/journal.jsonl", b'"micros":1', b'"micros":9007199254740992'), "J_NONCANONICAL"),
    "not a number": (edited("run/journal.jsonl", b'"micros":1', b'"micros":NaN'), "J_NONCANONICAL"),
    "nested too deep": (edited("run/journal.jsonl", b"[0]", b"[" * 65 + b"]" * 65), "J_NONCANONICAL"),
    "nested much too deep": (edited("run/journal.jsonl", b"[0]", b"[" * 100_000), "J_NOT_JSON"),
    "not UTF-8": (edited("run/journal.jsonl", b'"m1"', b'"\xff1"'), "J_NOT_UTF8"),
    "an unknown kind": (edited("run/journal.jsonl", b'"kind":"budget"', b'"kind":"gadget"'), "J_SCHEMA"),
    "a line too long": (journal_of(b"x" * (256 * 1024 + 1), *lines()[1:]), "J_LINE_TOO_LONG"),
    "half a line": (edited("run/journal.jsonl", lines()[-1] + b"\n", lines()[-1][:40]), "J_TORN_TAIL"),
    "no entries": (journal_of(), "J_EMPTY"),
    "the end cut off": (journal_of(*CUT), "J_TRUNCATED"),
    "written anew": (journal_of(*resealed(lines(), 7, "false")), "J_ANCHOR_MISMATCH"),
    "a checkpoint by a foreign key": (
        lambda files: files.update({first("run/checkpoints/"): notes_of(lines(), key=FOREIGN)[0]}),
        "J_ANCHOR_MAC",
    ),
    "checkpoints out of order": (
        lambda files: files.update({first("run/checkpoints/"): notes_of(lines())[-1]}),
        "J_ANCHOR_CHAIN",
    ),
    "a checkpoint of another journal": (
        lambda files: files.update({first("run/checkpoints/"): notes_of(lines(), journal_id="other")[0]}),
        "J_ANCHOR_MISMATCH",
    ),
    "no checkpoint": (lambda files: files.update({first("run/checkpoints/"): b"hello\n"}), "NOTE_FORMAT"),
    "an anchor removed": (
        lambda files: files.update({"run/anchors.jsonl": files["run/anchors.jsonl"].split(b"\n", 1)[1]}),
        "J_ANCHOR_CHAIN",
    ),
    "anchors of a longer journal": (
        lambda files: files.update({"run/anchors.jsonl": anchors_of(lines_of(recorded_run(9).entries))}),
        "J_TRUNCATED",
    ),
    "a body changed": (lambda files: files.update({first("run/artifacts/"): b"other"}), "J_ARTIFACT_HASH"),
    "a body listed but missing": (lambda files: files.pop(first("run/artifacts/")), "J_ARTIFACT_MISSING"),
    "a file run.json does not list": (lambda files: files.update({"run/more.txt": b"?\n"}), "RUN_FORMAT"),
    "another plan": (lambda files: files.update({"run/plan.json": b"{}\n"}), "J_ARTIFACT_HASH"),
    "another environment": (lambda files: files.update({"run/environment.json": b"{}\n"}), "J_ARTIFACT_HASH"),
    "run.json of another head": (
        edited("run/run.json", b'"head_hash":"sha256:', b'"head_hash":"sha256;'),
        "RUN_MISMATCH",
    ),
    "run.json that is none": (lambda files: files.update({"run/run.json": b"[]\n"}), "RUN_FORMAT"),
    "run.json removed": (lambda files: files.pop("run/run.json"), "RUN_FORMAT"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_the_run_is_found_in_a_bundle_packed_anew(kind: str) -> None:
    change, expected = DAMAGE[kind]
    files = good()
    change(files)
    code, codes = judged(files)
    assert code == BROKEN
    assert expected in codes


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace(b"  ", b" ", 1), "MANIFEST_FORMAT"),
        (lambda text: text.replace(b"\n", b"\r\n", 1), "MANIFEST_FORMAT"),
        (lambda text: text[:-1], "MANIFEST_FORMAT"),
        (lambda text: text.upper(), "MANIFEST_FORMAT"),
        (lambda text: b"", "MANIFEST_EMPTY"),
        (lambda text: b"\n".join(reversed(text[:-1].split(b"\n"))) + b"\n", "MANIFEST_ORDER"),
        (lambda text: text + text.split(b"\n")[-2] + b"\n", "MANIFEST_DUPLICATE"),
        (lambda text: text + b"0" * 64 + b"  zz/absent\n", "MANIFEST_ABSENT"),
        (lambda text: b"0" * 64 + b"  ../outside\n" + text, "MANIFEST_PATH"),
        (lambda text: text.split(b"\n", 1)[1], "MANIFEST_UNLISTED"),
        (lambda text: b"0" * 64 + text[64:], "MANIFEST_HASH"),
    ],
)
def test_a_manifest_that_does_not_fit(change: Callable[[bytes], bytes], expected: str) -> None:
    files = with_manifest(good())
    files["manifest.txt"] = change(files["manifest.txt"])
    code, codes = judged(encode(files))
    assert code == BROKEN
    assert expected in codes


def test_a_bundle_without_a_run_is_checked_as_far_as_it_goes() -> None:
    code = {"pytest.ini": b"[pytest]\n", "runtime/__init__.py": b""}
    assert judged(code) == (OK, set())
    assert judged(code, "--witness", witness_of(lines())) == (BROKEN, {"J_MISSING"})


def test_only_keys_given_count_and_only_their_signatures() -> None:
    forged = bundle_files(small())
    again = notes_of(lines(), key=FOREIGN)
    forged.update({f"run/checkpoints/{number:03}.note": note for number, note in enumerate(again)})
    forged["run/run.json"] = forged["run/run.json"].replace(
        public_key(SIGNING).text.encode(), public_key(FOREIGN).text.encode()
    )
    assert judged(forged) == (OK, set()), "a forger brings the key that fits"
    assert judged(forged, "--key", public_key(SIGNING).text) == (BROKEN, {"J_ANCHOR_MAC"})
    assert judged(good(), "--key", public_key(SIGNING).text) == (OK, set())
    assert judged(jsonl(lines()), "--key", public_key(SIGNING).text, name="j.jsonl") == (BROKEN, {"J_ANCHOR_MAC"})


def test_a_signature_changed_by_one_bit_is_none() -> None:
    files = good()
    name = first("run/checkpoints/")
    note = bytearray(files[name])
    note[-20] ^= 1
    files[name] = bytes(note)
    assert judged(files)[1] <= {"J_ANCHOR_MAC", "NOTE_FORMAT"}
    assert judged(files)[0] == BROKEN


def test_a_key_for_anchors_wants_anchors_of_this_journal(tmp_path: Path) -> None:
    (tmp_path / "mac.key").write_bytes(ANCHOR_KEY)
    (tmp_path / "hex.key").write_text(ANCHOR_KEY.hex() + "\n")
    (tmp_path / "other.key").write_bytes(bytes(32))
    for name in ("mac.key", "hex.key"):
        assert judged(good(), "--anchor-key", str(tmp_path / name)) == (OK, set())
    assert judged(good(), "--anchor-key", str(tmp_path / "other.key")) == (BROKEN, {"J_ANCHOR_MAC"})
    assert judged(jsonl(lines()), "--anchor-key", str(tmp_path / "mac.key"), name="j.jsonl")[0] == BROKEN


@pytest.mark.parametrize("odd", [None, True, -1, "x", [], [[]], {}, {"a": []}, 2**53 - 1])
def test_no_odd_member_of_run_json_stops_the_verdict(odd: object) -> None:
    """What cannot be read is a failed check, not an error in the verifier, and never good."""
    record = json.loads(good()["run/run.json"])
    for name in (
        "schema",
        "run_id",
        "journal_id",
        "entries",
        "head_hash",
        "journal",
        "checkpoints",
        "keys",
        "artifacts",
    ):
        files = good()
        files["run/run.json"] = canonical_bytes({**record, name: odd}) + b"\n"
        if name != "run_id" or type(odd) is not str:
            assert judged(files)[0] == BROKEN, name
