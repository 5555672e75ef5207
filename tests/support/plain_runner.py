"""A `ProcessRunner` without confinement, for tests that need real programs but no sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessResult, ProcessSpec


@dataclass(slots=True)
class _Capture:
    """Head and tail of one stream, with the hash of all of it."""

    cap: int
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    total: int = 0
    sha: hashlib._Hash = field(default_factory=hashlib.sha256)

    def take(self, chunk: bytes) -> None:
        self.sha.update(chunk)
        self.total += len(chunk)
        room = self.cap - len(self.head)
        self.head += chunk[:room]
        self.tail += chunk[room:]
        del self.tail[: max(0, len(self.tail) - self.cap)]

    @property
    def data(self) -> bytes:
        return bytes(self.head + self.tail)


class PlainRunner:
    """Spawns in an own session and kills the whole group on timeout and cancellation. Remembers every spec."""

    tier = "D"

    def __init__(self) -> None:
        self.specs: list[ProcessSpec] = []

    async def run(self, spec: ProcessSpec, on_output: Callable[[str, bytes], None] | None = None) -> ProcessResult:
        self.specs.append(spec)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            child = await asyncio.create_subprocess_exec(
                *spec.argv,
                cwd=spec.cwd,
                env=dict(spec.env),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Refused("PROCESS_SPAWN", f"{Path(spec.argv[0]).name} cannot be started: {error.strerror}") from error
        out, err = _Capture(spec.output_cap), _Capture(spec.output_cap)
        timed_out = False
        try:
            async with asyncio.timeout(spec.timeout):
                await asyncio.gather(
                    _feed(child.stdin, spec.stdin),
                    _drain(child.stdout, out, "stdout", on_output),
                    _drain(child.stderr, err, "stderr", on_output),
                )
                await child.wait()
        except TimeoutError:
            timed_out = True
        finally:
            await _kill(child)
        code = child.returncode if child.returncode is not None else -signal.SIGKILL
        return ProcessResult(
            exit_code=code,
            stdout=out.data,
            stderr=err.data,
            stdout_bytes=out.total,
            stderr_bytes=err.total,
            stdout_sha256=out.sha.hexdigest(),
            stderr_sha256=err.sha.hexdigest(),
            timed_out=timed_out,
            duration=loop.time() - began,
            tier=self.tier,
        )


async def _feed(pipe: asyncio.StreamWriter | None, data: bytes) -> None:
    assert pipe is not None
    try:
        pipe.write(data)
        await pipe.drain()
    except (BrokenPipeError, ConnectionResetError):
        return  # the child needs no input; what it thinks of that shows in its exit code
    finally:
        pipe.close()


async def _drain(
    pipe: asyncio.StreamReader | None,
    capture: _Capture,
    stream: str,
    on_output: Callable[[str, bytes], None] | None,
) -> None:
    assert pipe is not None
    while chunk := await pipe.read(65536):
        capture.take(chunk)
        if on_output is not None:
            on_output(stream, chunk)


async def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
