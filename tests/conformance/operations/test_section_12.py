"""The bundle (operations specification §12): tests 12.a–12.f, and that what a bundle carries works out there."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

from runtime.audit import builder
from runtime.audit.builder import build, main, static_files
from runtime.audit.canonical_zip import encode

ROOT = builder.ROOT


@pytest.fixture(scope="module")
def bundle() -> bytes:
    """The bundle of this checkout."""
    return build(static_files())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout with the same content: made in another order, with other modes and times."""
    root = tmp_path / "checkout"
    for path in sorted((ROOT / "runtime").rglob("*"), reverse=True):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = root / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o700)
            os.utime(copy, (0, 0))
    return root


def extracted(data: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(folder)
    return folder


def refused(root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it finds that ``root`` makes no bundle; nothing may be left behind."""
    out.parent.mkdir(exist_ok=True)
    assert main(["--root", str(root), "--out", str(out)]) == 2
    assert list(out.parent.iterdir()) == [], "no bundle, and nothing half done"
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


@cache
def interpreters() -> tuple[str, ...]:
    """Every Python a bundle may be built with: our own, and what else is installed under the usual names."""
    found = {Path(sys.executable): sys.executable}
    for minor in range(11, 20):
        other = shutil.which(f"python3.{minor}")
        if other is not None and Path(other).resolve() != Path(sys.executable).resolve():
            # Version managers leave names that start nothing.
            answer = subprocess.run([other, "-c", ""], capture_output=True, timeout=30)
            if answer.returncode == 0:
                found.setdefault(Path(other).resolve(), other)
    return tuple(found.values())


@pytest.mark.parametrize(
    ("zone", "locale", "umask"),
    [("UTC0", "C", 0o022), ("Pacific/Auckland", "tr_TR.UTF-8", 0o077)],
    ids=["here", "away"],
)
def test_12_a_the_same_bytes_wherever_it_is_built(
    tmp_path: Path, bundle: bytes, zone: str, locale: str, umask: int
) -> None:
    environment = {"PATH": os.environ["PATH"], "TZ": zone, "LC_ALL": locale, "PYTHONPATH": str(ROOT)}
    for number, python in enumerate(interpreters()):
        (tmp_path / str(number)).mkdir()
        done = subprocess.run(
            [python, "-B", "-m", "runtime.audit.builder", "--out", f"{number}/b.zip"],
            cwd=tmp_path, env=environment, umask=umask, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / str(number) / "b.zip").read_bytes() == bundle, python
        assert done.stdout == f"{hashlib.sha256(bundle).hexdigest()}  b.zip\n"


def test_12_a_order_modes_and_times_of_the_files_do_not_matter(checkout: Path, bundle: bytes) -> None:
    """Nor does what installers compile beside them."""
    compiled = checkout / builder.CARRIED / "runtime/tests/__pycache__/rig.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"bytecode")
    assert build(static_files(checkout)) == bundle


def test_12_b_the_golden_archive() -> None:
    files = {"a.txt": b"hi\n", "runtime/__init__.py": b""}
    manifest = builder.manifest(files)
    assert hashlib.sha256(manifest).hexdigest() == "fb3db5da5e143dbed35f3c679cb73a0c9b94717cd461af7d41175899399694fb"
    archive = encode({"manifest.txt": manifest, **files})
    assert len(archive) == 483
    assert hashlib.sha256(archive).hexdigest() == "87c765173330841a956b076a3f5308a9c9450cb87ec74a4e1359721fa359c3e3"


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("runtime/kernel/ids.py", b"X = 1\r\n", "TEXT_"),
        ("runtime/audit/bundle_files/docs/note.md", b"\xef\xbb\xbfhello\n", "TEXT_"),
        ("runtime/audit/bundle_files/pytest.ini", b"[pytest]\ntestpaths = runtime/tests\naddopts = -x\n", "PYTEST_INI"),
        ("runtime/audit/bundle_files/docs/a b.md", b"hello\n", "NAME_"),
    ],
    ids=["crlf", "bom", "addopts", "name"],
)
def test_12_c_content_that_breaks_a_rule_is_refused(
    checkout: Path, capsys: pytest.CaptureFixture[str], path: str, content: bytes, code: str
) -> None:
    (checkout / path).write_bytes(content)
    told = refused(checkout, checkout.parent / "out/b.zip", capsys)
    assert "BUNDLE_REFUSED" in told
    assert code in told


@pytest.mark.parametrize(
    "path",
    [
        "runtime/orchestration/operations.py",
        "runtime/governance/__init__.py",
        "runtime/audit/bundle_files/pytest.ini",
        "runtime/audit/bundle_files/runtime/tests/test_operations.py",
    ],
)
def test_12_d_without_a_required_file_there_is_no_bundle(
    checkout: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    (checkout / path).rename(checkout / "elsewhere")
    assert "BUNDLE_FILE_MISSING" in refused(checkout, checkout.parent / "out/b.zip", capsys)
    (checkout / path).symlink_to(checkout / "elsewhere")
    told = refused(checkout, checkout.parent / "out/b.zip", capsys)
    assert "BUNDLE_FILE_KIND" in told
    assert path in told


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("runtime/kernel/ids.py", "import yaml\n"),
        ("runtime/kernel/ids.py", "def later() -> None:\n    from console.model import safe\n"),
        ("runtime/kernel/ids.py", "from runtime.nowhere import anything\n"),
        ("runtime/audit/bundle_files/runtime/tests/rig.py", "import runtime.missions\n"),
    ],
)
def test_12_e_an_import_of_what_does_not_come_along_is_refused(
    checkout: Path, capsys: pytest.CaptureFixture[str], path: str, line: str
) -> None:
    with (checkout / path).open("a") as file:
        file.write(line)
    told = refused(checkout, checkout.parent / "out/b.zip", capsys)
    assert "IMPORT_CLOSURE" in told


def test_12_f_a_tested_workspace_packs_into_the_same_bundle(tmp_path: Path, bundle: bytes) -> None:
    """The bundle's own tests, run as a stranger would; bytecode they leave behind is no part of anything."""
    folder = extracted(bundle, tmp_path / "workspace")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout
    assert list(folder.rglob("*.pyc"))
    out = tmp_path / "again.zip"
    assert main(["--root", str(folder), "--out", str(out)]) == 0
    assert out.read_bytes() == bundle
