"""Programs of the operator's that Quarterdeck asks: short, with a limit, and gone with all they started.

They need what missions must not have (keys, a network, other folders), so they are not confined: the operator named them
in a file that only the operator can write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessRunner, ProcessSpec

#: Answers are a signature or a note.
_ANSWER_CAP: Final = 64 * 1024
#: What a program may know of the console's environment.
_PASSED: Final = ("HOME", "PATH", "LANG", "LC_ALL", "SSH_AUTH_SOCK", "GNUPGHOME", "XDG_RUNTIME_DIR")
_QUOTED: Final = 200


def supervised(clock: Clock) -> ProcessRunner:
    """Runs programs in a group of their own and sweeps every descendant."""
    return Sandbox(Unconfined(), confinement="best_effort", clock=clock)


async def asked(
    runner: ProcessRunner,
    command: Sequence[str],
    text: bytes,
    *,
    folder: Path,
    family: str,
    seconds: float,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """What ``command`` prints when it reads ``text``. ``env`` is its whole environment; None: what programs of the
    operator's may know of ours.

    Raises `Refused` ``<family>_FAILED``, ``<family>_TIMEOUT``.
    """
    spec = ProcessSpec(
        argv=command,
        cwd=folder,
        root=folder,
        env={name: os.environ[name] for name in _PASSED if name in os.environ} if env is None else env,
        stdin=text,
        timeout=seconds,
        output_cap=_ANSWER_CAP,
    )
    try:
        result = await runner.run(spec)
    except Refused as refusal:
        raise Refused(f"{family}_FAILED", f"{command[0]} could not be started: {refusal.message}") from refusal
    if result.timed_out:
        raise Refused(f"{family}_TIMEOUT", f"{command[0]} took longer than {seconds:g} s and was stopped")
    if result.exit_code != 0:
        said = result.stderr.decode("utf-8", "replace").strip()[:_QUOTED]
        raise Refused(
            f"{family}_FAILED",
            f"{command[0]} ended with {result.exit_code}: {said}"
            if said
            else f"{command[0]} ended with {result.exit_code}",
        )
    return result.stdout
