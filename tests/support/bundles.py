"""Bundles for the audit gate: a small good one, one with this tree's own modules, and archives no tool would write."""

from __future__ import annotations

import ast
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runtime.audit.canonical_zip import CENTRAL, CENTRAL_MARK, END, END_MARK, LOCAL, LOCAL_MARK, MODE, encode
from runtime.audit.gate.layout import GATE, MODULES, PLAN, SCRIPT, TEST_MODULES, running_gate

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "runtime/audit/bundle_files" / SCRIPT
MANIFEST = "manifest.txt"
INI = b"[pytest]\ntestpaths = runtime/tests\n"


def small(**changed: bytes) -> dict[str, bytes]:
    """The least a good bundle holds, without its manifest; in keywords ``test_operations=b"..."`` replaces that test."""
    files = dict.fromkeys(("runtime", "runtime/governance", "runtime/orchestration", "runtime/tests"), b"")
    files = {f"{folder}/__init__.py": body for folder, body in files.items()}
    files |= {f"{module.replace('.', '/')}.py": b"import json\nVALUE = json.dumps(1)\n" for module in MODULES}
    for name, module in zip(TEST_MODULES, sorted(MODULES, key=lambda item: item.rpartition(".")[2]), strict=True):
        files[name] = f"from {module} import VALUE\n\n\ndef test_value():\n    assert VALUE == '1'\n".encode()
    files |= {SCRIPT: b"print('a gate')\n", PLAN: b"# Plan\n", "pytest.ini": INI}
    return files | {f"runtime/tests/{name}.py": body for name, body in changed.items()}


@cache
def real() -> Mapping[str, bytes]:
    """The four modules of this tree with all they need, and the gate itself, in the rest of `small`."""
    files = {path: (ROOT / path).read_bytes() for path in _closure(MODULES)}
    tests = {
        name: f"import {module}\n\n\ndef test_it_is_there():\n    assert {module}\n".encode()
        for name, module in zip(TEST_MODULES, sorted(MODULES, key=lambda item: item.rpartition(".")[2]), strict=True)
    }
    return {**small(), **files, **running_gate(), **tests}


def _closure(modules: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = [*modules, f"{GATE.replace('/', '.')}main"]
    while waiting:
        module = waiting.pop()
        for path in _files(module):
            if path not in found:
                found.add(path)
                waiting += _imported(ROOT / path)
    return found


def _files(module: str) -> Iterator[str]:
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        plain = "/".join(parts[:end])
        yield from (path for path in (f"{plain}/__init__.py", f"{plain}.py") if (ROOT / path).is_file())


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def manifest(files: Mapping[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files, key=str.encode)]
    return "".join(lines).encode()


def archive(files: Mapping[str, bytes], listing: bytes | None = None) -> bytes:
    """The canonical archive of ``files`` with their manifest, or with ``listing`` as one."""
    return encode({**files, MANIFEST: manifest(files) if listing is None else listing})


@dataclass(frozen=True)
class Item:
    """An entry as some other tool, or nobody, would write it; None means what is true."""

    name: bytes
    body: bytes = b""
    mode: int = MODE >> 16
    local_name: bytes | None = None
    method: int = 0
    flags: int = 0
    size: int | None = None
    crc: int | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    comment: bytes = b""
    disk: int = 0
    time: int = 0
    #: Added to where the central directory says the entry is.
    shift: int = 0


def items(files: Mapping[str, bytes]) -> list[Item]:
    """``files`` and their manifest as entries in canonical order."""
    everything = {**files, MANIFEST: manifest(files)}
    return [Item(name.encode(), everything[name]) for name in sorted(everything, key=str.encode)]


def written(entries: list[Item], *, prefix: bytes = b"", between: bytes = b"", gap: bytes = b"") -> bytes:
    """An archive of ``entries`` as they say. ``prefix`` comes first with all offsets right, ``between`` before the
    central directory, ``gap`` after the first entry."""
    out, heads = bytearray(prefix), bytearray()
    for number, item in enumerate(entries):
        offset = len(out) + item.shift
        crc = zlib.crc32(item.body) if item.crc is None else item.crc
        sizes = (len(item.body), len(item.body) if item.size is None else item.size)
        common = (20, item.flags, item.method, item.time, 0x0021, crc, *sizes)
        local = item.name if item.local_name is None else item.local_name
        out += LOCAL.pack(LOCAL_MARK, *common, len(local), len(item.local_extra)) + local + item.local_extra + item.body
        out += gap if number == 0 else b""
        lengths = (len(item.name), len(item.extra), len(item.comment))
        heads += CENTRAL.pack(CENTRAL_MARK, 0x0314, *common, *lengths, item.disk, 0, item.mode << 16, offset)
        heads += item.name + item.extra + item.comment
    out += between
    return bytes(out + heads + end(len(entries), len(heads), len(out)))


def end(count: int, size: int, offset: int, *, total: int | None = None, disk: int = 0, comment: bytes = b"") -> bytes:
    """An end record."""
    total = count if total is None else total
    return END.pack(END_MARK, disk, 0, count & 0xFFFF, total & 0xFFFF, size, offset, len(comment)) + comment
