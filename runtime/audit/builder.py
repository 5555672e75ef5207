"""Builds bundles: archives whose bytes depend on their content and on nothing else (operations spec §12).

This is the one place that lists what a bundle holds: the modules that make and judge evidence with everything they
import, the audit gate, and what lies ready in ``bundle_files``. A file that should be there and is not, or is a link,
or imports what does not come along, stops the build; nothing is skipped with a warning. What was built passes the
static gate before it gets its name. Working content is taken from a checkout or an installation; for committed
content, point ``--root`` at an export of the commit.

``python -m runtime.audit.builder --out FILE [--run-folder DIR] [--root DIR]`` prints the SHA-256 and exits 0, with 2
when what was found makes no bundle, with 3 when it could not be built. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final, Never

from runtime.audit.canonical_zip import encode
from runtime.audit.closure import closure
from runtime.audit.gate import static_report
from runtime.audit.gate.layout import GATE, MODULES, REQUIRED
from runtime.audit.gate.limits import MAX_ARCHIVE_BYTES, MAX_ENTRIES, MAX_FILE_BYTES, MAX_TOTAL_BYTES
from runtime.audit.gate.manifest import MANIFEST, parsed
from runtime.audit.gate.report import Status
from runtime.audit.gate.static import STATIC
from runtime.kernel.errors import Refused

#: The folder that holds the package ``runtime`` this very module belongs to.
ROOT: Final = Path(__file__).resolve().parents[2]
#: Run data lies below this folder of the archive (ruling R39).
RUN: Final = "run"
#: Scripts, plan document, pytest.ini and tests, in archive layout.
CARRIED: Final = "runtime/audit/bundle_files"
#: Beside the modules the specification names, and all of the gate: with this one whoever re-encodes a bundle can.
ENCODER: Final = "runtime.audit.canonical_zip"
#: And with this one whoever doubts a journal, with its anchor log or without.
VERIFIER: Final = "runtime.orchestration.journal_verify"

#: Findings of the gate named in a message.
SHOWN_FAULTS: Final = 3
#: Installers compile what they install; that is nobody's content.
_COMPILED: Final = "__pycache__"
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
#: Refusals that say nothing about the content: the command exits 3.
_COULD_NOT: Final = frozenset({"BUNDLE_EXISTS", "BUNDLE_IO"})


def static_files(root: Path = ROOT) -> dict[str, bytes]:
    """What every bundle holds, by archive path, without the manifest.

    ``root`` is the folder of a checkout or an installation; or of an extracted bundle, and then the result is exactly
    what that bundle held, run data included. Blocking. Raises `Refused`: ``BUNDLE_FILE_MISSING``,
    ``BUNDLE_FILE_KIND``, ``BUNDLE_TOO_LARGE``, ``BUNDLE_IO``, ``IMPORT_CLOSURE``, ``PY_SYNTAX``, ``BUNDLE_MANIFEST``.
    """
    if not (root / CARRIED).is_dir():
        return _extracted(root)
    gate = [
        path.removesuffix(".py").replace("/", ".") for path in _below(root, GATE.rstrip("/")) if path.endswith(".py")
    ]
    entry_points = [*MODULES, ENCODER, VERIFIER, *(name.removesuffix(".__init__") for name in gate)]
    carried = _collected(root, _below(root, CARRIED))
    modules = closure(entry_points, cache(partial(_found, root)))
    return joined(modules, {path.removeprefix(f"{CARRIED}/"): data for path, data in carried.items()})


def run_files(folder: Path) -> dict[str, bytes]:
    """Everything in a prepared run folder, by archive path below ``run/``. Raises `Refused` as `static_files`."""
    files = _collected(folder, _below(folder, ""))
    if not files:
        raise Refused("BUNDLE_FILE_MISSING", "the run folder holds no files", where=str(folder))
    return {f"{RUN}/{path}": data for path, data in files.items()}


def joined(files: Mapping[str, bytes], more: Mapping[str, bytes]) -> dict[str, bytes]:
    """Both together. Raises `Refused` ``BUNDLE_FILE_KIND`` for a path that is in both: which one would be meant?"""
    twice = files.keys() & more.keys()
    if twice:
        raise Refused("BUNDLE_FILE_KIND", "the bundle would hold two files of this name", where=min(twice))
    return {**files, **more}


def manifest(files: Mapping[str, bytes]) -> bytes:
    """The manifest of ``files`` (operations spec §12.2)."""
    lines = [f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files, key=str.encode)]
    return "".join(lines).encode()


def build(files: Mapping[str, bytes], run: Mapping[str, bytes] | None = None) -> bytes:
    """The archive of `static_files` and of a run's, whose paths start with ``run/``; the manifest is added here.

    Pure. Names and content are judged by the gate, in `write_bundle`. Raises `Refused`: ``BUNDLE_FILE_MISSING``,
    ``BUNDLE_FILE_KIND``, ``BUNDLE_TOO_LARGE``.
    """
    everything = joined(files, run or {})
    if MANIFEST in everything:
        raise Refused("BUNDLE_FILE_KIND", "the manifest is made here and never taken", where=MANIFEST)
    everything[MANIFEST] = manifest(everything)
    missing = [path for path in REQUIRED if path not in everything]
    if missing:
        raise Refused("BUNDLE_FILE_MISSING", "a bundle cannot be without this file", where=missing[0])
    large = [path for path, data in everything.items() if len(data) > MAX_FILE_BYTES]
    _limit(not large, f"{large[0] if large else ''} exceeds {MAX_FILE_BYTES} bytes")
    _limit(len(everything) <= MAX_ENTRIES, f"{len(everything)} files exceed {MAX_ENTRIES}")
    total = sum(map(len, everything.values()))
    _limit(total <= MAX_TOTAL_BYTES, f"{total} bytes exceed {MAX_TOTAL_BYTES}")
    data = encode(everything)
    _limit(len(data) <= MAX_ARCHIVE_BYTES, f"{len(data)} bytes exceed {MAX_ARCHIVE_BYTES}")
    return data


def write_bundle(target: Path, data: bytes) -> str:
    """Write ``data`` beside ``target``, let the static gate judge it, and give it its name; returns the SHA-256 in hex.

    A file that exists is never replaced, and without success there is none. Blocking. Raises `Refused`:
    ``BUNDLE_REFUSED`` when the gate finds something, ``BUNDLE_EXISTS``, ``BUNDLE_IO``.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _io(error, target) from error
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        judge(beside.read_bytes())
        os.link(beside, target)  # unlike renaming, this replaces nothing
        _sync_folder(target.parent)
    except FileExistsError:
        raise Refused(
            "BUNDLE_EXISTS", "a bundle never replaces a file", where=str(target), hint="choose another name"
        ) from None
    except OSError as error:
        raise _io(error, target) from error
    finally:
        beside.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def judge(data: bytes) -> Mapping[str, bytes]:
    """The content of an archive that passes the static gate; what the gate could not check has not passed.

    Raises `Refused` ``BUNDLE_REFUSED``.
    """
    report = static_report(data)
    doubtful = [gate for gate in map(report.__getitem__, STATIC) if gate.status is not Status.PASS]
    if doubtful:
        faults = [fault for gate in doubtful for fault in gate.details if fault.code]
        said = "; ".join(f"{fault.code} {fault.where} ({fault.text})" for fault in faults[:SHOWN_FAULTS])
        raise Refused("BUNDLE_REFUSED", f"the audit gate does not pass the bundle: {said}")
    return report.files


def _extracted(root: Path) -> dict[str, bytes]:
    """What the manifest of an extracted bundle lists; whatever else lies there by now was never part of it."""
    listed = parsed(_content(root, MANIFEST))
    if listed.faults:
        fault = listed.faults[0]
        raise Refused("BUNDLE_MANIFEST", f"{fault.code}: {fault.text}", where=fault.where)
    files = _collected(root, listed.hashes)
    for path, data in files.items():
        if hashlib.sha256(data).hexdigest() != listed.hashes[path]:
            raise Refused("BUNDLE_MANIFEST", "is not what the bundle held under this name", where=path)
    return files


def _below(root: Path, folder: str) -> Iterator[str]:
    """Paths of the files below ``folder``, as ``root`` sees them; none when there is no such folder."""
    try:
        with os.scandir(root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _io(error, root / folder) from error
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _below(root, path) if entry.name != _COMPILED else ()
        else:
            yield path


def _collected(root: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """The files at ``paths``, which may be many and long, but not more than a bundle holds."""
    files: dict[str, bytes] = {}
    total = 0
    for path in paths:
        if not path.isascii():
            raise Refused("BUNDLE_FILE_KIND", "names in a bundle are ASCII", where=ascii(path))
        files[path] = _content(root, path)
        total += len(files[path])
        _limit(len(files) <= MAX_ENTRIES, f"more than {MAX_ENTRIES} files")
        _limit(total <= MAX_TOTAL_BYTES, f"more than {MAX_TOTAL_BYTES} bytes in all")
    return files


def _found(root: Path, path: str) -> bytes | None:
    return _content(root, path) if os.path.lexists(root / path) else None


def _content(root: Path, path: str) -> bytes:
    """The bytes of a regular file, reached from ``root`` through folders only."""
    place = root
    try:
        for part in path.split("/"):
            place = place / part
            mode = place.lstat().st_mode
            wanted = stat.S_ISREG(mode) if place == root / path else stat.S_ISDIR(mode)
            if not wanted:
                raise Refused("BUNDLE_FILE_KIND", "only regular files go into a bundle, no links", where=path)
        with os.fdopen(os.open(place, _FLAGS), "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise Refused("BUNDLE_FILE_MISSING", "a bundle cannot be without this file", where=path) from None
    except OSError as error:
        raise _io(error, place) from error
    _limit(len(data) <= MAX_FILE_BYTES, f"{path} exceeds {MAX_FILE_BYTES} bytes")
    return data


def _limit(kept: bool, text: str) -> None:
    if not kept:
        raise Refused("BUNDLE_TOO_LARGE", text, hint="the journal can be exported on its own")


def _io(error: OSError, place: Path) -> Refused:
    return Refused("BUNDLE_IO", error.strerror or type(error).__name__, where=str(place))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        self.print_usage(sys.stderr)
        self.exit(3, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = _Arguments(prog="builder", description="Build a bundle.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the archive to write; must not exist")
    parser.add_argument("--run-folder", type=Path, metavar="DIR", help="prepared run data, becomes run/")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="checkout or extracted bundle to pack")
    given = parser.parse_args(arguments)
    try:
        run = None if given.run_folder is None else run_files(given.run_folder)
        sha256 = write_bundle(given.out, build(static_files(given.root), run))
    except Refused as error:
        print(error, file=sys.stderr)
        return 3 if error.code in _COULD_NOT else 2
    print(f"{sha256}  {given.out.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
