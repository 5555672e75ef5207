"""Runs children of missions behind the strongest wall this machine offers (reliability §2.6, ruling R48).

=====  ==========================================================  ===================
Tier   Mechanism                                                   Shown as
=====  ==========================================================  ===================
A      bubblewrap: private root, all namespaces, no capability     CONFINED
B      the same, made by our own standard-library launcher         CONFINED (fallback)
D      none; only the process tree is kept together                UNCONFINED
=====  ==========================================================  ===================

Both confining tiers also filter system calls (`seccomp`); tier B has file rules of the kernel behind its mounts
(`landlock`). The identity inside is mapped onto our own, root's included: dropping to a spare one would shut out the
interpreters, work trees and scratch folders that lie below a folder of root's own, which is nearly always.

Tier C of the research (file rules without namespaces) is left out: no mission can ask for it since R48 knows only
``required`` and ``best_effort``. A tier counts only after its self-test passed here and now; there is no silent
step down and no environment switch. A confined child never shares the host's network: with ``hosts`` it gets a proxy
to them (`network_proxy`). In tier D nothing is held back, hosts included.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, Self

from runtime.governance.environment import proxied, relocate
from runtime.governance.sandbox_advice import repairs
from runtime.governance.sandbox_backends import Backend, OwnLauncher, Unconfined
from runtime.governance.sandbox_bwrap import Bubblewrap, find_bwrap
from runtime.governance.sandbox_child import Child, Ended, OnOutput, Turn
from runtime.governance.sandbox_limits import Limits
from runtime.governance.sandbox_selftest import SelfTest, probe
from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessResult, ProcessSpec

Confinement = Literal["required", "best_effort"]

_UNCONFINED: Final = "UNCONFINED: nothing but the process tree was held; every file and every host was in reach"


class Sandbox:
    """A `ProcessRunner`. Detect once per machine and start, then take `under` for each mission."""

    def __init__(
        self,
        backend: Backend,
        *,
        confinement: Confinement = "required",
        limits: Limits | None = None,
        clock: Clock | None = None,
        self_tests: Sequence[SelfTest] = (),
    ) -> None:
        self._backend = backend
        self._confinement = confinement
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self.self_tests = tuple(self_tests)

    @classmethod
    async def detect(
        cls,
        confinement: Confinement = "required",
        *,
        limits: Limits | None = None,
        clock: Clock | None = None,
        backends: Sequence[Backend] | None = None,
    ) -> Self:
        """The best tier whose self-test passes. Never raises for a missing tier: `run` refuses, with the reason."""
        clock = clock or SystemClock()
        tests: list[SelfTest] = []
        for backend in confining_backends() if backends is None else backends:
            tests.append(await probe(cls(backend, confinement="best_effort", clock=clock), clock))
            if tests[-1].ok:
                return cls(backend, confinement=confinement, limits=limits, clock=clock, self_tests=tests)
        return cls(Unconfined(), confinement=confinement, limits=limits, clock=clock, self_tests=tests)

    def under(self, confinement: Confinement, limits: Limits | None = None) -> Sandbox:
        """The same wall for one mission's ``sandbox:`` section."""
        return Sandbox(
            self._backend,
            confinement=confinement,
            limits=limits or self._limits,
            clock=self._clock,
            self_tests=self.self_tests,
        )

    @property
    def tier(self) -> str:
        return self._backend.tier

    @property
    def confined(self) -> bool:
        """Does the kernel keep children inside what they were granted?"""
        return self._backend.namespaced

    @property
    def badge(self) -> str:
        """The word operators see."""
        return {"A": "CONFINED", "B": "CONFINED (fallback)"}.get(self.tier, "UNCONFINED")

    @property
    def self_test(self) -> SelfTest | None:
        """The last self-test: the passing one of the tier in use, or the failure that led to tier D."""
        return self.self_tests[-1] if self.self_tests else None

    def record(self) -> dict[str, object]:
        """For the journal: the tier, what holds besides its namespaces, the limits, and every probe; canonicalisable."""
        walls = self._backend.walls(self._limits)
        return {
            "tier": self.tier,
            **walls.record(),
            "limits": self._limits.record(walls.counting),
            "self_tests": [test.record() for test in self.self_tests],
        }

    async def run(self, spec: ProcessSpec, on_output: OnOutput | None = None) -> ProcessResult:
        """See `ProcessRunner.run`. Raises `Refused` ``SANDBOX_UNAVAILABLE``, ``SANDBOX_PATH``, ``PROCESS_SPAWN``.

        Cancelling kills the whole tree before `CancelledError` comes out. An error of ``on_output`` does the same.
        """
        self._admit()
        _check_startable(spec)
        if self.confined:
            env = proxied(spec.env, spec.hosts) if spec.hosts else spec.env
            return await self._run(replace(spec, env=env), on_output)
        with _private_folder() as folder:
            return await self._run(replace(spec, env=relocate(spec.env, folder)), on_output)

    def _admit(self) -> None:
        if self.confined or self._confinement == "best_effort":
            return
        reasons = "; ".join(f"tier {test.tier}: {test.summary}" for test in self.self_tests)
        raise Refused(
            "SANDBOX_UNAVAILABLE",
            f"confinement is required: need A or B, have {self.tier}: {reasons or 'no other tier was tried'}",
            hint="; ".join((*repairs(self.self_tests), "or set 'sandbox: confinement: best_effort'")),
        )

    async def _run(self, spec: ProcessSpec, on_output: OnOutput | None) -> ProcessResult:
        child = Child(spec, self._backend, self._limits, on_output)
        started = self._clock.monotonic()
        ended = await _see_through(child)
        return self._result(child, ended, self._clock.monotonic() - started)

    def _result(self, child: Child, ended: Ended, duration: float) -> ProcessResult:
        stdout, stderr = child.captures[1], child.captures[2]
        return ProcessResult(
            exit_code=ended.exit_code,
            stdout=stdout.body(),
            stderr=stderr.body(),
            stdout_bytes=stdout.count,
            stderr_bytes=stderr.count,
            stdout_sha256=stdout.sha256,
            stderr_sha256=stderr.sha256,
            timed_out=ended.turn is Turn.TIMED_OUT,
            duration=duration,
            tier=self.tier,
            notes=ended.notes if self.confined else (_UNCONFINED, *ended.notes),
            denials=ended.denials,
        )


def confining_backends() -> tuple[Backend, ...]:
    """The tiers to try here, best first."""
    bwrap = find_bwrap()
    return (Bubblewrap(bwrap), OwnLauncher()) if bwrap else (OwnLauncher(),)


async def _see_through(child: Child) -> Ended:
    """Drive ``child`` to its end; a cancellation, however often repeated, becomes a request to stop it first."""
    driving = asyncio.ensure_future(child.run())
    cancelled: asyncio.CancelledError | None = None
    while not driving.done():
        try:
            await asyncio.wait([driving])
        except asyncio.CancelledError as request:
            cancelled = request
            child.stop()
    if cancelled is not None:
        driving.exception()  # a failure to start no longer matters to anyone; retrieving it keeps the log quiet
        raise cancelled
    return driving.result()


def _check_startable(spec: ProcessSpec) -> None:
    program = Path(spec.argv[0]) if spec.argv else Path()
    if not program.is_absolute() or not program.is_file() or not os.access(program, os.X_OK):
        raise Refused("PROCESS_SPAWN", f"{program} is not an executable file", hint="give its absolute path")
    if not spec.cwd.is_absolute():
        raise Refused("PROCESS_SPAWN", f"the working folder {spec.cwd} is not absolute")


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Home and temporary folder of one unconfined child."""
    folder = Path(tempfile.mkdtemp(prefix="quarterdeck-"))
    try:
        (folder / "home").mkdir()
        (folder / "tmp").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
