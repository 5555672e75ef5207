"""G1, the container: an archive read by hand, from its bytes alone (operations spec §13.2).

Archive libraries are forgiving, and each forgives something else: two of them can see two different archives in the
same bytes. So every byte is accounted for here: headers and bodies lie one after the other from the first byte on, the
central directory follows and says the same as the local headers, the end record follows and nothing after it. Nothing
is ever unpacked. An entry that is not stored is a fault, and its content is not looked at.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from runtime.audit.canonical_zip import CENTRAL, CENTRAL_MARK, END, END_MARK, LOCAL, LOCAL_MARK
from runtime.audit.gate.limits import MAX_ENTRIES, MAX_FILE_BYTES
from runtime.audit.gate.report import Fault

_ZIP64_LOCATOR: Final = b"PK\x06\x07"
_ZIP64_LOCATOR_BYTES: Final = 20
_FULL_16: Final = 0xFFFF
_FULL_32: Final = 0xFFFFFFFF
#: Bits 0, 6 and 13: encrypted, strongly encrypted, directory encrypted.
_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
_DESCRIPTOR: Final = 1 << 3
#: Headers are counted no further: the end record cannot name more.
_MAX_COUNTED: Final = _FULL_16


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as the central directory describes it. ``span`` is header and body, ``body`` the body alone; both are
    None when they do not lie inside the archive."""

    raw: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    disk: int
    extra: int
    comment: int
    attributes: int
    offset: int
    span: tuple[int, int] | None = None
    body: tuple[int, int] | None = None
    #: The larger of the two sizes in the local header.
    local_size: int = 0

    @property
    def name(self) -> str:
        """One character per byte, so that names with other than ASCII stay distinct."""
        return self.raw.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Container:
    """What could be read. ``count`` is the number of headers seen, of which `MAX_ENTRIES` are kept; ``declared`` that of
    the end record; ``bodies`` holds stored content by name, ``complete`` when that is all there is."""

    faults: tuple[Fault, ...] = ()
    entries: tuple[Entry, ...] = ()
    count: int = 0
    declared: int = 0
    bodies: Mapping[str, bytes] = field(default_factory=dict)
    complete: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.entries)

    @property
    def listed(self) -> bool:
        """Are all names known, and is there one?"""
        return 0 < self.count == len(self.entries)


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the central directory lies, how many entries it should have, and how far all offsets are shifted."""

    start: int
    end: int
    count: int
    shift: int


def read(data: bytes) -> Container:
    """Everything that can be said about ``data`` as an archive; never raises on content."""
    faults: list[Fault] = []
    at = _end_record(data, faults)
    directory = None if at is None else _directory(data, at, faults)
    if directory is None:
        return Container(tuple(faults))
    found, count = _central_headers(data, directory, faults)
    entries = tuple(_placed(data, entry, directory, faults) for entry in found)
    apart = count <= len(entries) and _lie_side_by_side(entries, directory, faults)
    bodies = _bodies(data, entries, faults) if apart else {}
    complete = apart and len(bodies) == len(entries) == directory.count
    return Container(tuple(faults), entries, count, directory.count, bodies, complete)


def _end_record(data: bytes, faults: list[Fault]) -> int | None:
    """Where the end record is: the last thing that looks like one."""
    exact = len(data) - END.size
    at = data.rfind(END_MARK, 0, exact + len(END_MARK)) if exact >= 0 else -1
    if at < 0:
        faults.append(Fault("ZIP_NO_EOCD", text="there is no end record: this is no archive"))
        return None
    comment = int(END.unpack_from(data, at)[-1])
    if comment:
        faults.append(Fault("ZIP_COMMENT", text=f"the end record announces a comment of {comment} bytes"))
    if at + comment != exact:
        faults.append(Fault("ZIP_TRAILING_DATA", text="the end record is not the end of the file"))
    return at


def _directory(data: bytes, at: int, faults: list[Fault]) -> _Directory | None:
    _, disk, first, here, total, size, offset, _ = END.unpack_from(data, at)
    if disk or first or here != total:
        faults.append(Fault("ZIP_MULTIDISK", text="the end record speaks of several disks"))
    locator = data.startswith(_ZIP64_LOCATOR, max(0, at - _ZIP64_LOCATOR_BYTES))
    if locator or _FULL_16 in (here, total) or _FULL_32 in (size, offset):
        faults.append(Fault("ZIP_ZIP64", text="the archive uses ZIP64"))
    if not total:
        faults.append(Fault("ZIP_NO_ENTRIES", text="the archive is empty"))
    shift = at - size - offset
    if shift == 0:
        return _Directory(offset, at, total, 0)
    if shift > 0 and data.startswith(CENTRAL_MARK, offset):
        faults.append(Fault("ZIP_GAP", text=f"{shift} bytes lie between central directory and end record"))
        return _Directory(offset, offset + size, total, 0)
    if shift > 0 and data.startswith(CENTRAL_MARK, offset + shift) and data.startswith(LOCAL_MARK, shift):
        faults.append(Fault("ZIP_PREPENDED", text=f"{shift} bytes lie before the archive"))
        return _Directory(offset + shift, at, total, shift)
    faults.append(Fault("ZIP_CD_BOUNDS", text="the central directory is not where the end record says"))
    return None


def _central_headers(data: bytes, directory: _Directory, faults: list[Fault]) -> tuple[list[Entry], int]:
    kept: list[Entry] = []
    at, count = directory.start, 0
    while count <= _MAX_COUNTED and at + CENTRAL.size <= directory.end and data.startswith(CENTRAL_MARK, at):
        fields = CENTRAL.unpack_from(data, at)
        name, extra, comment, disk = fields[10:14]
        after = at + CENTRAL.size + name + extra + comment
        if after > directory.end:
            break
        count += 1
        if count <= MAX_ENTRIES:
            raw = data[at + CENTRAL.size : at + CENTRAL.size + name]
            flags, method, _, _, crc, packed, size = fields[3:10]
            attributes, offset = fields[15:]
            kept.append(Entry(raw, flags, method, crc, packed, size, disk, extra, comment, attributes, offset))
        at = after
    if at != directory.end:
        faults.append(Fault("ZIP_CD_BOUNDS", text="the central directory holds something that is no header"))
    if count != directory.count:
        faults.append(Fault("ZIP_CD_COUNT", text=f"the end record counts {directory.count} entries, not {count}"))
    return kept, count


def _placed(data: bytes, entry: Entry, directory: _Directory, faults: list[Fault]) -> Entry:
    """The entry with its place, found through its local header; everything that is wrong with both headers."""
    faults.extend(_header_faults(entry))
    at = entry.offset + directory.shift
    if at + LOCAL.size > directory.start or not data.startswith(LOCAL_MARK, at):
        faults.append(Fault("ZIP_LFH_MISMATCH", entry.name, "there is no local header where the directory says"))
        return entry
    _, _, flags, method, _, _, crc, packed, size, name, extra = LOCAL.unpack_from(data, at)
    body = at + LOCAL.size + name + extra
    raw = data[at + LOCAL.size : at + LOCAL.size + name]
    if (raw, flags, method, crc, packed, size) != (
        entry.raw, entry.flags, entry.method, entry.crc, entry.packed, entry.size,
    ):  # fmt: skip
        faults.append(Fault("ZIP_LFH_MISMATCH", entry.name, "local header and central directory disagree"))
    if flags & _DESCRIPTOR and not entry.flags & _DESCRIPTOR:
        faults.append(Fault("ZIP_DATA_DESCRIPTOR", entry.name, "the sizes follow the content"))
    if extra:
        faults.append(Fault("ZIP_EXTRA_FIELD", entry.name, "the local header has an extra field"))
    end = body + entry.packed
    if end > directory.start:
        faults.append(Fault("ZIP_CD_BOUNDS", entry.name, "the content reaches into the central directory"))
        return replace(entry, local_size=max(packed, size))
    return replace(entry, span=(at, end), body=(body, end), local_size=max(packed, size))


def _header_faults(entry: Entry) -> Iterator[Fault]:
    if entry.flags & _ENCRYPTED:
        yield Fault("ZIP_ENCRYPTED", entry.name, "the entry is encrypted")
    if entry.flags & _DESCRIPTOR:
        yield Fault("ZIP_DATA_DESCRIPTOR", entry.name, "the sizes follow the content")
    if entry.method:
        yield Fault("ZIP_METHOD", entry.name, f"method {entry.method}; the content must be stored")
    elif entry.packed != entry.size:
        yield Fault("ZIP_METHOD", entry.name, "stored content has one size, not two")
    if entry.extra:
        yield Fault("ZIP_EXTRA_FIELD", entry.name, "the central header has an extra field")
    if entry.comment:
        yield Fault("ZIP_COMMENT", entry.name, "the central header has a comment")
    if entry.disk:
        yield Fault("ZIP_MULTIDISK", entry.name, "the entry lies on another disk")
    if _FULL_32 in (entry.packed, entry.size, entry.offset):
        yield Fault("ZIP_ZIP64", entry.name, "the entry uses ZIP64")


def _lie_side_by_side(entries: Sequence[Entry], directory: _Directory, faults: list[Fault]) -> bool:
    """Does every byte before the central directory belong to exactly one entry? False if two share one."""
    spans = sorted((entry.span, entry.name) for entry in entries if entry.span is not None)
    edges = [((0, directory.shift), ""), *spans, ((directory.start, directory.start), "")]
    apart = True
    for (before, _), (after, name) in pairwise(edges):
        if after[0] < before[1]:
            apart = False
            faults.append(Fault("ZIP_OVERLAP", name, "the entry shares bytes with another"))
        elif after[0] > before[1]:
            code = "ZIP_GAP" if before[1] else "ZIP_PREPENDED"
            faults.append(Fault(code, name, f"{after[0] - before[1]} bytes before it belong to no entry"))
    return apart


def _bodies(data: bytes, entries: Iterable[Entry], faults: list[Fault]) -> dict[str, bytes]:
    """Stored content by name, of the first entry where a name comes twice. Together never more than the archive has."""
    bodies: dict[str, bytes] = {}
    for entry in entries:
        if entry.method or entry.body is None or entry.packed != entry.size or entry.packed > MAX_FILE_BYTES:
            continue
        content = data[slice(*entry.body)]
        if zlib.crc32(content) != entry.crc:
            faults.append(Fault("ZIP_CRC", entry.name, "the checksum is not that of the content"))
        bodies.setdefault(entry.name, content)
    return bodies
