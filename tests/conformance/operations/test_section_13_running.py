"""The audit gate (operations specification §13), second half: the command, hostile archives, and what runs code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

from runtime.audit.canonical_zip import CENTRAL_MARK
from runtime.audit.gate import Report, Settings, full_report, static_report
from runtime.audit.gate.layout import REQUIRED
from runtime.audit.gate.main import main
from runtime.audit.gate.running import RunLimits
from tests.support.bundles import COMMAND, MANIFEST, Item, archive, end, items, real, small, written

GOOD = archive(small())
OPERATIONS = "runtime/orchestration/operations.py"
TESTS = "runtime/tests/test_operations.py"
MIB = 1024 * 1024


# --- hostile archives --------------------------------------------------------------------------------------------------

NAMES = {
    "../x": "NAME_PATH:PATH_TRAVERSAL",
    "/x": "NAME_PATH:PATH_ABSOLUTE",
    "C:/x": "NAME_PATH:PATH_DRIVE",
    "a\\b": "NAME_PATH:PATH_BACKSLASH",
    "a//b": "NAME_PATH:PATH_NOT_NORMAL",
    "con.py": "NAME_PATH:PATH_RESERVED_NAME",
    "docs/A.py docs/a.py": "NAME_CASE_COLLISION",
    "docs/a docs/a/b": "NAME_PREFIX_CLASH",
}


@pytest.mark.parametrize("names", NAMES)
def test_a_name_no_bundle_may_hold_and_nothing_of_it_runs(tmp_path: Path, names: str) -> None:
    """Judged as a whole, with everything that would run, and in a folder one could climb out of."""
    (tmp_path / "place").mkdir()
    (tmp_path / "temporary").mkdir()
    marker = tmp_path / "temporary" / "marker"
    marking = f"open({str(marker)!r}, 'w').close()\n\n\ndef test_it():\n    pass\n".encode()
    files = {**small(test_operations=marking), OPERATIONS: marking, **dict.fromkeys(names.split(), b"")}
    report = full_report(archive(files), settings=Settings(extract_dir=tmp_path / "place" / "out"))
    assert NAMES[names] in report["G2"].codes
    assert report.exit_code == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["place", "temporary"], "nothing ran, nothing was made"


def deflate_bomb() -> bytes:
    """Ten gibibytes of zeros, as three entries that each promise almost four; nobody needs to have packed them."""
    bombs = [Item(b"docs/bomb%d" % at, bytes(10 * MIB), method=8, size=0xE0000000) for at in range(3)]
    return written([*items(small()), *bombs])


def overlapping_bomb() -> bytes:
    """Two thousand entries that all are the same 8 MiB: 16 GiB in one small archive."""
    kernel = written([Item(b"docs/x", bytes(8 * MIB))])
    at = kernel.index(CENTRAL_MARK)
    head = kernel[at:-22]
    return kernel[:at] + head * 1999 + end(1999, len(head) * 1999, at)


def many_entries() -> bytes:
    """70,000, which takes ZIP64, so an honest tool writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for number in range(70_000):
            made.writestr(f"docs/{number}", b"")
    return out.getvalue()


BOMBS = {
    "deflate": (deflate_bomb, {"ZIP_METHOD", "LIMIT_FILE", "LIMIT_TOTAL"}),
    "overlapping": (overlapping_bomb, {"ZIP_OVERLAP", "LIMIT_TOTAL"}),
    "entries": (many_entries, {"ZIP_ZIP64", "LIMIT_ENTRIES"}),
}
_MEASURED = """\
import resource, sys
sys.path.insert(0, sys.argv.pop(1))
from runtime.audit.gate.main import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss: that of the process it was started from counts there, too.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(status, used.ru_utime + used.ru_stime, peak, file=sys.__stderr__)
"""


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_five_seconds_and_300_mib(tmp_path: Path, kind: str) -> None:
    make, wanted = BOMBS[kind]
    (tmp_path / "bomb").write_bytes(make())
    command = [sys.executable, "-I", "-S", "-c", _MEASURED, str(COMMAND.parents[4]), "--zip", "bomb", "--static-only"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    status, seconds, kib = ended.stderr.splitlines()[-1].split()
    codes_line = " ".join(ended.stdout.split())
    assert wanted <= set(codes_line.split()), ended.stdout
    assert (status, float(seconds) < 5, int(kib) < 300 * 1024) == ("2", True, True), ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    file = tmp_path / "bundle.zip"
    file.write_bytes(GOOD)
    return file


@pytest.mark.parametrize(
    "arguments",
    [["--zip", "gone"], ["--zip", "."], [], ["--zip", "bundle.zip", "--unknown"], ["--help"], ["--zip"],
     ["--zip", "bundle.zip", "--expect-sha256", "12"], ["--zip", "a\0b"], ["--zip", "pipe"],
     ["--zip", "bundle.zip", "--static-only"], ["--zip", "bundle.zip", "--static-only", "--json", "no/such/folder"]],
)  # fmt: skip
def test_what_could_not_be_checked_is_3(
    bundle: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bundle.parent)
    os.mkfifo("pipe")
    assert main(arguments) == 3
    assert "PASS (exit 0)" not in capsys.readouterr().out


def test_a_missing_archive_is_told(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--zip", str(bundle.parent / "gone"), "--static-only", "--json", str(bundle.parent / "json")]) == 3
    assert "BLOCKED  ENV_ZIP_MISSING" in capsys.readouterr().out
    told = json.loads((bundle.parent / "json").read_bytes())
    assert (told["bundle_sha256"], told["verdict"], told["exit_code"]) == (None, "BLOCKED", 3)


def test_a_violation_stays_one_when_it_cannot_be_written_down(bundle: Path, tmp_path: Path) -> None:
    bundle.write_bytes(GOOD[:-1] + b"x")
    assert main(["--zip", str(bundle), "--static-only", "--json", str(tmp_path / "no" / "where")]) == 2


def test_a_gate_that_breaks_blocks_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.audit.gate.names.faults", lambda entries: 1 / 0)
    report = static_report(GOOD)
    assert (report["G2"].status.value, report["G2"].codes, report.exit_code) == ("BLOCKED", ("GATE_INTERNAL",), 3)
    assert report.files == {}, "what was not checked is not handed on"
    assert static_report(GOOD[:-1] + b"x").exit_code == 2


def test_an_internal_error_of_the_command_is_3(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.audit.gate.main.full_report", lambda *given, **more: 1 / 0)
    assert main(["--zip", str(bundle)]) == 3


def test_an_old_interpreter_is_3() -> None:
    report = full_report(GOOD, settings=Settings(static_only=True, version=(3, 10)))
    assert (report["G0"].codes, report.exit_code) == (("ENV_PYTHON",), 3)


# --- what starts processes --------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; empty again after every way out."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def command(*arguments: str | Path, python: str | Path = sys.executable, script: Path = COMMAND, **options: object) -> subprocess.CompletedProcess[str]:  # fmt: skip
    line = [str(python), str(script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=50, **options)  # type: ignore[call-overload, no-any-return]


def test_a_good_bundle_passes_and_says_the_same_again_from_inside(tmp_path: Path) -> None:
    """First judged from this checkout, then, as whoever received it might, by the gate in the extracted bundle."""
    bundle, workspace, temporary = tmp_path / "good.zip", tmp_path / "workspace", tmp_path / "temporary"
    bundle.write_bytes(archive(real()))
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    first = command("--zip", bundle, "--json", tmp_path / "1", "--extract-dir", workspace, "--report-dir",
                    tmp_path / "reports", env=environment)  # fmt: skip
    assert first.returncode == 0, first.stdout + first.stderr
    lines = first.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*(f"G{number}" for number in range(13)), "TOTAL:", "RESULT:"]
    assert lines[-1] == "RESULT: PASS (exit 0)"
    assert {path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()} == {*real(), MANIFEST}  # fmt: skip
    assert "4 passed" in (tmp_path / "reports" / "tests.log").read_text()
    inside = workspace / COMMAND.relative_to(COMMAND.parents[1])
    second = command("--zip", bundle, "--json", tmp_path / "2", script=inside, env=environment, cwd=tmp_path)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    told = (tmp_path / "1").read_bytes()
    assert told == (tmp_path / "2").read_bytes()
    assert json.loads(told)["bundle_sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert str(tmp_path).encode() not in told
    assert not list(workspace.rglob("__pycache__"))
    assert not list(temporary.iterdir())


def judged(temporary: Path, changes: dict[str, bytes], **settings: object) -> Report:
    """The whole gate over a small bundle with ``changes``; nothing temporary stays."""
    report = full_report(archive({**small(), **changes}), settings=Settings(**settings))  # type: ignore[arg-type]
    assert not list(temporary.iterdir())
    return report


def test_a_failing_test(temporary: Path) -> None:
    """Whatever status the runner was talked into."""
    talk = b"def pytest_sessionfinish(session):\n    session.exitstatus = 0\n"
    report = judged(temporary, {TESTS: b"def test_no():\n    assert False\n", "runtime/tests/conftest.py": talk})
    assert (report.failed, report.exit_code) == (("TESTS_FAILED",), 2)


def test_no_tests(temporary: Path) -> None:
    nothing = dict.fromkeys((name for name in REQUIRED if "/tests/test_" in name), b"")
    report = judged(temporary, nothing)
    assert {"TESTS_NONE", "TESTS_MISSING"} <= set(report.failed)


def test_tests_that_are_skipped_or_hidden(temporary: Path) -> None:
    """A skipped test shows nothing, and one that a later function of the same name covers never runs."""
    skipped = b"import pytest\n\n\n@pytest.mark.skip\ndef test_a():\n    pass\n\n\ndef test_b():\n    pass\n"
    hidden = b"def test_a():\n    assert False\n\n\ndef test_a():\n    pass\n"
    changes = {TESTS: skipped, "runtime/tests/test_mission_journal.py": hidden}
    report = judged(temporary, changes)
    assert report.failed == ("TESTS_MISSING", "TESTS_SKIPPED")
    assert [item.where for item in report["G11"].details] == ["runtime/tests/test_mission_journal.py", ""]


def test_an_endless_test_and_everything_it_started_is_ended(temporary: Path, tmp_path: Path) -> None:
    """Its child has left the process group and ignores being asked."""
    note = tmp_path / "pid"
    child = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.setsid(); "
    child += f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    source = f"import subprocess\nimport sys\nimport time\n\n\ndef test_on_and_on():\n    subprocess.Popen([sys.executable, '-c', {child!r}])\n    time.sleep(100)\n"
    began = time.monotonic()
    report = judged(temporary, {TESTS: source.encode()}, limits=RunLimits(test_seconds=1.5))
    assert (report.failed, report.exit_code) == (("TESTS_TIMEOUT",), 2)
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_test_that_writes_into_the_workspace(temporary: Path) -> None:
    source = b"from pathlib import Path\n\n\ndef test_it():\n    Path('more').mkdir(0o000)\n"
    report = judged(temporary, {TESTS: source})
    assert (report.failed, report["G12"].details[0].where) == (("WORKSPACE_DIRTY",), "more")


def test_imports_are_tried_alone(temporary: Path) -> None:
    """What a test could still put right is wrong: without site packages, from nothing but the bundle."""
    report = judged(temporary, {OPERATIONS: b"import json\nVALUE = json.dumps(1)\nimport sys\nsys.exit(7)\n"})
    assert "IMPORT_FAILED" in report.failed
    elsewhere = b"import sys\nVALUE = '1'\n__file__ = sys.executable\n"
    assert "IMPORT_ORIGIN" in judged(temporary, {OPERATIONS: elsewhere}).failed
    slow = b"import time\nVALUE = '1'\ntime.sleep(100)\n"
    limits = RunLimits(import_seconds=0.5, test_seconds=0.5)
    assert "IMPORT_TIMEOUT" in judged(temporary, {OPERATIONS: slow}, limits=limits).failed


def test_bundled_code_sees_nothing_of_the_operators_environment(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATORS_SECRET", "x")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    source = b"import os\nimport sys\n\n\ndef test_it():\n    assert 'OPERATORS_SECRET' not in os.environ\n    assert sys.stdin.read() == ''\n"
    source = source.replace(b"sys.stdin.read() == ''", b"os.read(0, 1) == b''")
    assert judged(temporary, {TESTS: source}).exit_code == 0


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the standard library and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder / "bin" / "python"


def test_pytest_not_installed(temporary: Path, bare: Path) -> None:
    """All but the tests is checked, and that is not enough."""
    report = judged(temporary, {}, python=str(bare))
    assert (report.failed, report.exit_code) == ((), 3)
    assert report["G0"].codes == report["G11"].codes == ("ENV_PYTEST",)
    assert [report[gate].status.value for gate in ("G9", "G10", "G11", "G12")] == ["PASS", "PASS", "BLOCKED", "NOT_RUN"]


def test_pytest_not_installed_and_a_bad_manifest(tmp_path: Path, bare: Path) -> None:
    """Failure outranks blocked; here with the command, run by an interpreter that has nothing."""
    (tmp_path / "bad.zip").write_bytes(archive(small(), b"x"))
    ended = command("--zip", tmp_path / "bad.zip", python=bare)
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (2, "RESULT: FAIL (exit 2)")
    assert "ENV_PYTEST" in ended.stdout


def test_no_interpreter_to_start(temporary: Path) -> None:
    report = judged(temporary, {}, python="/no/such/python")
    assert (report["G0"].codes, report.exit_code) == (("ENV_SPAWN",), 3)


@pytest.mark.parametrize("kind", ["not empty", "a link", "a file", "no parent"])
def test_an_extract_directory_that_is_not_ours_to_fill(tmp_path: Path, temporary: Path, kind: str) -> None:
    folder = tmp_path / "out"
    target = tmp_path / "target"
    target.mkdir()
    if kind == "not empty":
        folder.mkdir()
        (folder / "mine").write_text("kept")
    elif kind == "a link":
        folder.symlink_to(target)
    elif kind == "a file":
        folder.write_text("kept")
    else:
        folder = folder / "below"
    before = sorted(tmp_path.rglob("*"))
    report = judged(temporary, {}, extract_dir=folder)
    assert (report["G0"].codes, report.failed, report.exit_code) == (("ENV_EXTRACT_DIR",), (), 3)
    assert sorted(tmp_path.rglob("*")) == before, "contents untouched"


def test_a_report_directory_inside_of_what_is_judged(temporary: Path, tmp_path: Path) -> None:
    report = judged(temporary, {}, extract_dir=tmp_path / "out", report_dir=tmp_path / "out" / "reports")
    assert (report["G0"].codes, report.exit_code) == (("ENV_REPORT_DIR",), 3)
    assert not (tmp_path / "out").exists()


def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be seen without any is still judged."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert full_report(GOOD)["G0"].codes == ("ENV_TEMPORARY",)
    assert [full_report(data).exit_code for data in (GOOD, GOOD + b"x")] == [3, 2]


def test_an_interrupt_ends_everything_and_is_3(tmp_path: Path, bundle: Path) -> None:
    """In the middle of the bundled tests, while nobody reads the output either."""
    temporary, note = tmp_path / "temporary", tmp_path / "pid"
    temporary.mkdir()
    os.mkfifo(note)
    source = f"import os\nimport time\n\n\ndef test_it():\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n    time.sleep(100)\n"
    bundle.write_bytes(archive(small(test_operations=source.encode())))
    line = [sys.executable, str(COMMAND), "--zip", str(bundle)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, env={"TMPDIR": str(temporary)}) as process:
        pid = int(note.read_text())
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 3
    assert not list(temporary.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(("data", "status"), [(GOOD, 3), (GOOD[:-1] + b"x", 2)], ids=["good", "bad"])
def test_nobody_reads_the_output(bundle: Path, data: bytes, status: int) -> None:
    bundle.write_bytes(data)
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, str(COMMAND), "--zip", str(bundle), "--static-only"], stdout=write, timeout=50
    )
    os.close(write)
    assert ended.returncode == status
