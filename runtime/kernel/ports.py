"""The few protocols by which floors meet without importing each other (rulings R10, R12).

The host injects implementations; tests inject fakes. Nothing here has behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runtime.kernel.redaction import Redactor


class Durable(Protocol):
    """A promise that something appended is on disk. Awaiting it twice is fine; it raises if the commit failed."""

    def __await__(self) -> Generator[Any, None, None]: ...


class Settled:
    """A `Durable` that has already happened."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield  # makes this an (empty) generator


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One journal row as the store holds it: ``body`` are the hashed canonical bytes, the rest index columns."""

    seq: int
    kind: str
    at: str
    prev_entry_hash: str
    entry_hash: str
    body: bytes


class JournalStore(Protocol):
    """Append-only storage of one journal. ``append`` never blocks and keeps call order."""

    def append(self, entry: StoredEntry) -> Durable: ...


class ArtifactStore(Protocol):
    """Content-addressed bodies. A ``put`` is durable no later than any journal entry appended after it."""

    def put(self, data: bytes) -> str:
        """Keep ``data`` and return its ``sha256:…`` digest."""
        ...

    async def get(self, digest: str) -> bytes | None:
        """The body, verified against its digest, or None when it is not stored."""
        ...

    async def flush(self) -> None:
        """Wait until everything put so far is on disk; raises what it failed with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Something a running process tried and was not granted.

    ``attempted`` is what it wanted, ``needed`` what the mission would have to declare for it; both are for reading.
    """

    code: str
    message: str
    attempted: str
    needed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One confined child process (operations spec §3.5, reliability §2.6, rulings R48, R49).

    ``argv[0]`` is an absolute path. ``env`` is the whole environment. ``writable`` are absolute paths the child may
    write (this operation's plan ∩ envelope), ``scratch`` absolute paths backed by private tmpfs, ``readable``
    further absolute read-only roots (interpreter, virtual environment); ``root`` is the work tree, read-only unless
    listed. ``hosts`` are the only ones a confined child may reach, as ``name`` (ports 80 and 443) or ``name:port``, and
    only over HTTP or a tunnel through the proxy its environment names; none when empty. ``output_cap`` is the head and
    the tail kept per stream, in bytes each. ``channel`` is a descriptor that becomes the child's standard input in the
    place of ``stdin``: with one end of a socket pair there, child and caller talk while it runs. It stays the caller's.
    What the child prints passes ``redactor`` before it is counted, hashed, kept or shown.
    """

    argv: Sequence[str]
    cwd: Path
    root: Path
    env: Mapping[str, str]
    writable: Sequence[Path] = ()
    readable: Sequence[Path] = ()
    scratch: Sequence[Path] = ()
    hosts: Sequence[str] = ()
    stdin: bytes = b""
    channel: int | None = None
    timeout: float = 60.0
    output_cap: int = 1024 * 1024
    stop_grace: float = 0.0
    redactor: Redactor = field(default_factory=Redactor)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """How a child ended. ``exit_code`` is negative for a signal; ``*_bytes`` count everything produced.

    ``notes`` say what else an operator should know, which hosts were reached among it; ``denials`` are the hosts it
    asked for and was refused, each once.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    stdout_sha256: str
    stderr_sha256: str
    timed_out: bool
    duration: float
    tier: str
    notes: tuple[str, ...] = ()
    denials: tuple[Denial, ...] = ()


class ProcessRunner(Protocol):
    """Runs children on the runtime loop; cancelling the call kills the whole tree before it returns (ruling R31)."""

    @property
    def tier(self) -> str:
        """``A`` bwrap, ``B`` own launcher, ``C`` partial, ``D`` unconfined."""
        ...

    async def run(self, spec: ProcessSpec, on_output: Callable[[str, bytes], None] | None = None) -> ProcessResult:
        """Run to the end. ``on_output(stream, chunk)`` sees bytes as they arrive (lossy tail for the screen).

        Raises `Refused` ``SANDBOX_UNAVAILABLE`` when confinement is required and cannot be had,
        ``PROCESS_SPAWN`` when the program cannot be started.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One model call as an adapter sees it."""

    call_id: str
    role: str
    model: str
    prompt: str
    packet: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    temperature: float
    max_tokens: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """What a provider answered. Token counts are None when the provider did not say."""

    text: str
    model: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_ms: float = 0.0
    provider: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class ModelProvider(Protocol):
    """A source of model answers."""

    name: str

    async def complete(self, request: ModelRequest, on_delta: Callable[[str], None] | None = None) -> ModelReply:
        """Raises `Refused` with a ``PROVIDER_*`` code on failure."""
        ...
