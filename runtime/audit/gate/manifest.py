"""G4 and G5, the manifest: its spelling, and that it lists exactly what is there (operations spec §12.2)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from runtime.audit.gate.names import path_code
from runtime.audit.gate.report import Fault

MANIFEST: Final = "manifest.txt"
_LINE: Final = re.compile(rb"([0-9a-f]{64})  ([^\r\n]+)\Z")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Hashes by name, of the lines that could be read, and what is wrong with its format."""

    hashes: Mapping[str, str]
    faults: tuple[Fault, ...]


def parsed(data: bytes) -> Manifest:
    """Read the manifest's own bytes. Names are only compared with those of the archive, never opened."""
    if not data:
        return Manifest({}, (Fault("MANIFEST_EMPTY", MANIFEST, "the manifest lists nothing"),))
    faults: list[Fault] = []
    *lines, rest = data.split(b"\n")
    if rest:
        faults.append(Fault("MANIFEST_FORMAT", MANIFEST, "the last line does not end"))
        lines.append(rest)
    found: list[tuple[bytes, str]] = []
    for number, line in enumerate(lines, 1):
        match = _LINE.match(line)
        if match is None:
            faults.append(Fault("MANIFEST_FORMAT", MANIFEST, f"line {number} is not a hash, two spaces and a path"))
        else:
            found.append((match[2], match[1].decode("ascii")))
    faults.extend(_path_faults([raw for raw, _ in found]))
    hashes: dict[str, str] = {}
    for raw, sha256 in found:
        hashes.setdefault(raw.decode("latin-1"), sha256)
    return Manifest(hashes, tuple(faults))


def _path_faults(paths: list[bytes]) -> Iterator[Fault]:
    for raw in paths:
        if path_code(raw) or raw.lower() == MANIFEST.encode():
            yield Fault("MANIFEST_PATH", raw.decode("latin-1"), "no path a manifest may list")
    for before, after in pairwise(paths):
        if before > after:
            yield Fault("MANIFEST_ORDER", after.decode("latin-1"), "the lines are not sorted by path")
    seen: set[bytes] = set()
    for raw in paths:
        if raw.lower() in seen:
            yield Fault("MANIFEST_DUPLICATE", raw.decode("latin-1"), "the path is listed twice")
        seen.add(raw.lower())


def content_faults(manifest: Manifest, names: Collection[str], bodies: Mapping[str, bytes]) -> Iterator[Fault]:
    """What is not listed, what is listed and not there, what is there with another content."""
    there = set(names) - {MANIFEST}
    for name in sorted(there - manifest.hashes.keys()):
        yield Fault("MANIFEST_UNLISTED", name, "the manifest does not list it")
    for name in sorted(manifest.hashes.keys() - there - {MANIFEST}):
        yield Fault("MANIFEST_ABSENT", name, "the manifest lists it, the archive does not hold it")
    for name in sorted(there & manifest.hashes.keys() & bodies.keys()):
        if hashlib.sha256(bodies[name]).hexdigest() != manifest.hashes[name]:
            yield Fault("MANIFEST_HASH", name, "the content is not what the manifest says")
