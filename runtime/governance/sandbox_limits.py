"""What one child process may use, as the kernel counts it."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

_MIB: Final = 1024 * 1024
#: Private tmpfs mounts live in memory; each is capped.
SCRATCH_BYTES: Final = 512 * _MIB
#: Both streams together; a child that produces more is stopped (reliability §4.1, output flood).
OUTPUT_BYTES: Final = 64 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of every process of a run; None leaves the console's own limit. Core dumps are always off.

    ``processes`` does not bind a child of uid 0: the kernel exempts it.
    """

    file_bytes: int | None = 1024 * _MIB
    open_files: int | None = 4096
    memory_bytes: int | None = None
    processes: int | None = None
    output_bytes: int = OUTPUT_BYTES
    scratch_bytes: int = SCRATCH_BYTES

    def kernel(self) -> dict[int, int]:
        """The limits by ``RLIMIT_*`` number."""
        wanted = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_NOFILE: self.open_files,
            resource.RLIMIT_AS: self.memory_bytes,
            resource.RLIMIT_NPROC: self.processes,
        }
        return {number: value for number, value in wanted.items() if value is not None}


def lower(pid: int, limits: dict[int, int]) -> None:
    """Lower the limits of ``pid`` (never raise them). A process that has just ended needs none."""
    for number, value in limits.items():
        try:
            _, hard = resource.prlimit(pid, number)
            ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, number, (ceiling, ceiling))
        except ProcessLookupError:
            return
