"""What ``run_tests`` and ``process.run`` share: a private scratch folder, capped texts, and how a run is reported."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from runtime.kernel.ports import ArtifactStore, ProcessResult
from runtime.orchestration.operation_ports import OnOutput

#: What of a stream goes into an output value, head and tail together; the artifact holds what was captured.
MAX_TEXT: Final = 64 * 1024
_CHUNK: Final = 1024 * 1024


@asynccontextmanager
async def scratch(parent: Path) -> AsyncIterator[Path]:
    """A fresh private folder below ``parent``; gone afterwards, with everything a child left in it."""
    await asyncio.to_thread(parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="run-", dir=parent))
    try:
        yield folder
    finally:
        await asyncio.to_thread(_remove, folder)


def _remove(folder: Path) -> None:
    """Blocking. A child may have taken away our permission on its folders, so that is given back first."""
    _open_up(folder)
    shutil.rmtree(folder)


def _open_up(folder: Path) -> None:
    folder.chmod(0o700)
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            _open_up(child)


def tail_of(data: bytes, limit: int = MAX_TEXT) -> str:
    """``data`` as text, the middle left out when it is longer than ``limit`` bytes."""
    if len(data) <= limit:
        return data.decode("utf-8", "replace")
    half = limit // 2
    left_out = len(data) - 2 * half
    head, tail = data[:half].decode("utf-8", "replace"), data[-half:].decode("utf-8", "replace")
    return f"{head}\n… {left_out} bytes left out …\n{tail}"


def forwarder(on_output: OnOutput | None) -> Callable[[str, bytes], None] | None:
    """The live tail for a runner: bytes become text, invalid ones a replacement mark."""
    if on_output is None:
        return None
    return lambda stream, chunk: on_output(stream, chunk.decode("utf-8", "replace"))


def captured(result: ProcessResult, artifacts: ArtifactStore) -> dict[str, Any]:
    """The output members every process result has."""
    return {
        "exit_code": result.exit_code,
        "stdout": tail_of(result.stdout),
        "stderr": tail_of(result.stderr),
        "stdout_artifact": artifacts.put(result.stdout),
        "stderr_artifact": artifacts.put(result.stderr),
    }


def witnessed(result: ProcessResult) -> dict[str, Any]:
    """The evidence every process result has."""
    return {
        "tier": result.tier,
        "notes": list(result.notes),
        "stdout_sha256": result.stdout_sha256,
        "stderr_sha256": result.stderr_sha256,
        "stdout_bytes": result.stdout_bytes,
        "stderr_bytes": result.stderr_bytes,
        "timed_out": result.timed_out,
    }


def program_digest(program: Path) -> str:
    """The digest of an executable, following links: what will really run (ruling R50). Blocking."""
    hasher = hashlib.sha256()
    with program.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()
