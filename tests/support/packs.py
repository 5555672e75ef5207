"""Packs written on the spot: a healthy one, and one that does what it should not."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from runtime.blocks.packs.manifest import PackManifest, encode_manifest
from runtime.blocks.packs.worker import serve
from runtime.kernel.ports import ProcessResult, ProcessSpec

HEALTHY: Final = '''
import asyncio, os
from runtime.blocks.block import Block
from runtime.blocks.contracts import recurring
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.packs.pack import Pack

ONE = os.urandom(8).hex()

class Shout(Block, type_id="sample_shout"):
    """Says it louder."""
    mark: str = "!"
    def validate(self, input, ctx):
        if input.as_string == "":
            raise BlockRuntimeError("sample.silence", "there is nothing to say")
    async def run(self, input, ctx):
        ctx.annotate("sample.process", ONE)
        ctx.log_info("shouting", {"at": ctx.node_name})
        return input.expect_string().upper() + self.mark

class Reach(Block, type_id="sample_reach"):
    """Performs one operation."""
    path: str
    def validate(self, input, ctx): ...
    async def run(self, input, ctx):
        if self.path == "ask":
            return (await ctx.wait("Which?", choices=["this", "that"])).expect_map()
        answer = await ctx.operate("tool_invoke", {"tool": "filesystem.read_file", "path": self.path})
        return answer

class Flip(Block, type_id="sample_flip", side_effects="none"):
    """Turns a packet's members around."""
    def validate(self, input, ctx): ...
    def run(self, input, ctx):
        flipped = {value: key for key, value in input.to_python().items()}
        return {**flipped, **({"one": ONE + os.urandom(4).hex()} if "vary" in flipped else {})}

class Tick(Block, type_id="sample_tick", output=recurring("int")):
    """Counts up to three."""
    def validate(self, input, ctx): ...
    async def run(self, input, ctx):
        number = input.expect_int()
        while number < 3:
            yield number
            number += 1

PACK = Pack("sample", "1.0", [Shout, Reach, Flip, Tick], module="sample")
'''

HOSTILE: Final = '''
import asyncio, os, socket, struct, sys, time
from pathlib import Path
from runtime.blocks.block import Block
from runtime.blocks.packs.pack import Pack

def line():
    """Our own line to the host, which we were not given."""
    for number in range(3, 64):
        try:
            found = socket.socket(fileno=os.dup(number))
            found.getpeername()
        except OSError:
            continue
        if found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM and number != 0:
            yield found

def tried(*attempts):
    done = []
    for name, attempt in attempts:
        try:
            attempt()
            done.append(name)
        except OSError:
            pass
    return done

class Evil(Block, type_id="evil_do"):
    """Does what it should not."""
    what: str
    target: str = ""
    port: int = 9
    def validate(self, input, ctx): ...
    async def run(self, input, ctx):
        match self.what:
            case "print":
                os.write(1, b"\\x1b]0;owned\\x07 out\\n")
                print("\\x1b[31m err", file=sys.stderr, flush=True)
                sys.stdin.read()
                await ctx.sleep(0.0)
                return "printed"
            case "reach":
                return tried(
                    ("here", lambda: Path(__file__).parent.joinpath("new.py").write_text("x")),
                    ("there", lambda: Path(self.target).write_text("x")),
                    ("secret", lambda: Path(self.target).parent.joinpath("secret").read_text()),
                    ("net", lambda: socket.create_connection(("127.0.0.1", self.port), 1)),
                )
            case "loop":
                if os.fork() == 0:
                    os.setsid()
                    while True: time.sleep(1)
                while True: pass
            case "exit":
                print("good bye", file=sys.stderr, flush=True)
                os._exit(7)
            case "raise":
                raise SystemExit(3)
            case "garbage":
                for found in line(): found.sendall(b"\\x12" + b"nonsense" * 100)
            case "huge":
                for found in line(): found.sendall(struct.pack(">BQI", 17, 1, 2**31))
            case "stray":
                for found in line(): found.sendall(struct.pack(">BQI", 17, 1, 4) + b"BPK2")
        await asyncio.sleep(60)

PACK = Pack("evil", "6.6", [Evil], module="evil")
'''


#: Objects in a pack's place that have its methods and keep none of its promises: what they do when they are run.
BROKEN: Final = {
    "raise RuntimeError('lost')": "plugin.fault",
    "yield b'junk'": "plugin.bad_frame",
    "yield 7": "plugin.bad_frame",
    "yield frame(FrameType.ONCE, bytes([0xc0])); yield frame(FrameType.ONCE, bytes([0xc0]))": "plugin.bad_frame",
}


def broken(doing: str) -> str:
    """The healthy pack with another ``run``."""
    return f"""{HEALTHY}
from runtime.blocks.wire import FrameType, frame

class Broken(Pack):
    async def run(self, handle, value, context, host):
        {doing}
        yield b""

PACK = Broken("sample", "1.0", [Shout, Reach, Flip, Tick], module="sample")
"""


#: Says once it is built that its blocks give streams, of which its manifest knows nothing.
LATE_STREAM: Final = f"""{HEALTHY}
from runtime.blocks.contracts import once
from runtime.blocks.packs.frames import OK, STREAM_END, Effective, effective_frame

class Late(Pack):
    def create(self, request):
        return super().create(request)[0], effective_frame(Effective(input=once(), output=recurring("any")))
    async def run(self, handle, value, context, host):
        yield OK
        yield STREAM_END

PACK = Late("sample", "1.0", [Shout, Reach, Flip, Tick], module="sample")
"""


class InLoop:
    """A `ProcessRunner` that serves a worker's side on this very loop: the same messages, and no process."""

    tier = "A"

    def __init__(self) -> None:
        self.started = 0
        self.going = 0

    async def run(self, spec: ProcessSpec, on_output: Callable[[str, bytes], None] | None = None) -> ProcessResult:
        assert spec.channel is not None
        self.started += 1
        self.going += 1
        try:
            channel = socket.socket(fileno=os.dup(spec.channel))
            await serve(channel, Path(spec.argv[-2]), spec.argv[-1])
        finally:
            self.going -= 1
        nothing = {"stdout": b"", "stderr": b"", "stdout_sha256": "", "stderr_sha256": ""}
        return ProcessResult(
            exit_code=0, stdout_bytes=0, stderr_bytes=0, timed_out=False, duration=0.0, tier=self.tier, **nothing
        )


def write_pack(folder: Path, module: str, source: str, *, code: str | None = None) -> PackManifest:
    """Write a pack whose manifest fits ``source``; ``code`` is what its file holds instead."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifest_of(module, source)
    (folder / "pack.bin").write_bytes(encode_manifest(manifest))
    (folder / f"{module}.py").write_text(source if code is None else code, encoding="utf-8")
    return manifest


def manifest_of(module: str, source: str) -> PackManifest:
    """What the pack in ``source`` says about itself."""
    with _running(module, source) as found:
        about: PackManifest = found["PACK"].about
        return about


@contextmanager
def _running(name: str, source: str) -> Iterator[dict[str, Any]]:
    """The names a source defines; dataclasses look their module up."""
    module = ModuleType(f"test_pack_{name}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, name, "exec"), module.__dict__)
        yield module.__dict__
    finally:
        del sys.modules[module.__name__]
