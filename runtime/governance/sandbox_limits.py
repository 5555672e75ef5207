"""What one child process may use, as the kernel counts it, and the order in which it goes when memory runs out."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from runtime.governance.sandbox_counting import RESERVED_NUMBERS, Counting, counts_each_tree, exempt, numbers_each_tree

_MIB: Final = 1024 * 1024
#: Private tmpfs mounts live in memory; each is capped.
SCRATCH_BYTES: Final = 512 * _MIB
#: Both streams together; a child that produces more is stopped (reliability §4.1, output flood).
OUTPUT_BYTES: Final = 64 * _MIB
#: Processes and threads of one tree where nothing is declared: at least this many, and so many for each processor.
_LEAST_PROCESSES, _PROCESSES_EACH = 512, 64
#: Memory one process may write to where nothing is declared, as a part of the machine's.
_MEMORY_SHARE: Final = 2
_LEAST_MEMORY: Final = 1024 * _MIB
#: First victims of a machine out of memory (linux/oom.h). Raising it needs no privilege and is inherited.
#: Of the processes counted in a tree's user namespace, those that are ours: launcher and first process.
_STARTERS: Final = 2
_FIRST_TO_GO: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of every process of a run; None leaves the console's own limit. Core dumps are always off.

    ``processes`` and ``memory_bytes`` have defaults of their own: `usual_processes` wherever a tree is counted by
    itself, and `usual_memory` as writable data of one process. Declared memory is address space, which is stricter: it
    also counts what is only reserved. ``cpu_seconds`` are those of one process.
    """

    file_bytes: int | None = 1024 * _MIB
    open_files: int | None = 4096
    memory_bytes: int | None = None
    processes: int | None = None
    cpu_seconds: int | None = None
    output_bytes: int = OUTPUT_BYTES
    scratch_bytes: int = SCRATCH_BYTES

    def kernel(self, *, tree_of_its_own: bool) -> dict[int, tuple[int, int]]:
        """Soft and hard limits by ``RLIMIT_*`` number. ``tree_of_its_own``: does the child get a user namespace?"""
        wanted = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_AS: self.memory_bytes,
            resource.RLIMIT_DATA: usual_memory() if self.memory_bytes is None else None,
            resource.RLIMIT_NPROC: self.processes,
        }
        if tree_of_its_own and counts_each_tree():
            wanted[resource.RLIMIT_NPROC] = self._processes + _STARTERS
        limits = {number: (value, value) for number, value in wanted.items() if value is not None}
        if self.cpu_seconds is not None:
            # A second apart: the soft limit's signal says why, the hard one's would look like any other kill.
            limits[resource.RLIMIT_CPU] = (self.cpu_seconds, self.cpu_seconds + 1)
        return limits

    def highest_pid(self) -> int | None:
        """The ``pid_max`` that holds the tree to its processes; None where all namespaces share one."""
        return RESERVED_NUMBERS + self._processes if numbers_each_tree() else None

    def counting(self, *, tree_of_its_own: bool, enters: bool) -> Counting:
        """What will hold the number of processes. ``enters``: can the starter write inside the PID namespace?"""
        if exempt():
            return Counting.NUMBERS if tree_of_its_own and enters and numbers_each_tree() else Counting.NONE
        held = resource.RLIMIT_NPROC in self.kernel(tree_of_its_own=tree_of_its_own)
        return Counting.RLIMIT if held else Counting.NONE

    @property
    def _processes(self) -> int:
        return usual_processes() if self.processes is None else self.processes

    def record(self, counting: Counting) -> dict[str, object]:
        """For the journal: what is in force, with what applies where nothing was declared."""
        return {
            "processes": None if counting is Counting.NONE else self._processes,
            "memory_bytes": self.memory_bytes,
            "data_bytes": usual_memory() if self.memory_bytes is None else None,
            "cpu_seconds": self.cpu_seconds,
            "file_bytes": self.file_bytes,
            "open_files": self.open_files,
            "output_bytes": self.output_bytes,
            "scratch_bytes": self.scratch_bytes,
        }


@cache
def usual_processes() -> int:
    """Processes and threads of one tree if nothing is declared: parallel builds start some for each processor."""
    return max(_LEAST_PROCESSES, _PROCESSES_EACH * (os.cpu_count() or 1))


@cache
def usual_memory() -> int:
    """Bytes of writable data one process may have if nothing is declared."""
    return max(_LEAST_MEMORY, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MEMORY_SHARE)


def lower(pid: int, limits: dict[int, tuple[int, int]]) -> None:
    """Lower the limits of ``pid`` (never raise them) and let it go first. A process that has just ended needs none."""
    try:
        for number, wanted in limits.items():
            _, top = resource.prlimit(pid, number)
            soft, hard = wanted if top == resource.RLIM_INFINITY else (min(value, top) for value in wanted)
            resource.prlimit(pid, number, (soft, hard))
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(_FIRST_TO_GO), "ascii")
    except (ProcessLookupError, FileNotFoundError):
        return
