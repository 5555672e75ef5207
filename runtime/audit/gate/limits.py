"""G3, limits: judged by what the headers say and by what is there (operations spec §13.2, §15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from runtime.audit.gate.report import Fault

if TYPE_CHECKING:
    from runtime.audit.gate.container import Container

#: Operations spec §15.
MAX_ARCHIVE_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRIES: Final = 2_000
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
MAX_TOTAL_BYTES: Final = 64 * 1024 * 1024
#: A syntax tree takes a few hundred times the memory of its source: beyond these, source is not parsed. Ours has
#: 25 KiB in its largest file and 700 KiB in all.
MAX_SOURCE_BYTES: Final = 512 * 1024
MAX_SOURCES_BYTES: Final = 4 * 1024 * 1024
SOURCE: Final = ".py"


def archive_fault(size: int) -> Fault | None:
    """The one limit that is asked before anything is read."""
    text = f"more than {MAX_ARCHIVE_BYTES} bytes"
    return Fault("LIMIT_ARCHIVE", text=text) if size > MAX_ARCHIVE_BYTES else None


def faults(container: Container) -> Iterator[Fault]:
    """Entries, files, sum and Python source beyond their limits."""
    count = max(container.count, container.declared)
    if count > MAX_ENTRIES:
        yield Fault("LIMIT_ENTRIES", text=f"more than {MAX_ENTRIES} entries")
    for entry in container.entries:
        if max(entry.size, entry.packed, entry.local_size) > MAX_FILE_BYTES:
            yield Fault("LIMIT_FILE", entry.name, f"more than {MAX_FILE_BYTES} bytes")
    if sum(max(entry.size, entry.packed) for entry in container.entries) > MAX_TOTAL_BYTES:
        yield Fault("LIMIT_TOTAL", text=f"the files together have more than {MAX_TOTAL_BYTES} bytes")
    yield from _source_faults(container)


def _source_faults(container: Container) -> Iterator[Fault]:
    sources = {name: len(body) for name, body in container.bodies.items() if name.endswith(SOURCE)}
    for name, size in sources.items():
        if size > MAX_SOURCE_BYTES:
            yield Fault("LIMIT_SOURCE", name, f"Python source of more than {MAX_SOURCE_BYTES} bytes")
    if sum(sources.values()) > MAX_SOURCES_BYTES:
        yield Fault("LIMIT_SOURCE", text=f"Python source of more than {MAX_SOURCES_BYTES} bytes in all")


def parsable(container: Container) -> bool:
    """May the Python source be parsed?"""
    return not any(True for _ in _source_faults(container))
