"""A real `RuntimeHost` on a temporary store, with missions written on the spot and no confinement to detect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from runtime.events.facts import Escalation, RunSummary
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.host.api import Launch, RunStatus
from runtime.host.live_run import LiveRun
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.clock import Clock, SystemClock
from runtime.kernel.ids import SystemIds
from runtime.storage.layout import StateDir

T = TypeVar("T")

#: Generous: two loaded cores. A healthy wait ends in a fraction of it.
PATIENCE: Final = 20.0
_LOOK: Final = 0.002


@asynccontextmanager
async def hosting(
    folder: Path, *, clock: Clock | None = None, sandbox: Sandbox | None = None, **evidence: Any
) -> AsyncIterator[RuntimeHost]:
    """Hold the store in ``folder``; closed at the end, whatever happened. Unconfined without a ``sandbox``.

    ``evidence`` may be a ``signer`` and ``sinks``.
    """
    host = await open_host(folder, clock=clock, sandbox=sandbox, **evidence)
    try:
        yield host
    finally:
        await host.close()


async def open_host(
    folder: Path, *, clock: Clock | None = None, sandbox: Sandbox | None = None, **evidence: Any
) -> RuntimeHost:
    clock = clock or SystemClock()
    sandbox = sandbox or Sandbox(Unconfined(), confinement="best_effort", clock=clock)
    return await RuntimeHost.open(
        StateDir(folder), missions=(), clock=clock, ids=SystemIds(), sandbox=sandbox, **evidence
    )


def write_mission(folder: Path, text: str, files: Mapping[str, str] | None = None) -> str:
    """A mission folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mission.yaml").write_text(text, encoding="utf-8")
    for name, content in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return str(folder)


HEAD: Final = """\
mission: {name}
version: "1"
workspace: {{kind: none}}
envelope: {{allowed_paths: [], allowed_tools: []}}
"""


def plain(folder: Path, blocks: str, links: str = "[]", *, name: str = "plain", more: str = "") -> str:
    """A mission without files: ``blocks`` as indented YAML."""
    return write_mission(folder, f"{HEAD.format(name=name)}{more}blocks:\n{blocks}\nlinks: {links}\n")


def asking(folder: Path, *, after: str = "  said: {type: template, template: done}") -> str:
    """Asks, then says something."""
    blocks = "  ask: {type: approval, message: Really?}\n" + after
    return plain(folder, blocks, "[ask -> said]", name="asking")


WRITING: Final = """\
mission: writing
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: [made, "made/**"], allowed_tools: [filesystem.write_file, filesystem.make_dir]}
ON_FAILURE
blocks:
  folder: {type: tool_invoke, tool: filesystem.make_dir, path: made}
  one: {type: tool_invoke, tool: filesystem.write_file, path: made/one, content: "1"}
  ask: {type: approval, message: Go on?}
  two: {type: tool_invoke, tool: filesystem.write_file, path: made/two, content: "2"}
links:
  - folder -> one -> ask -> two
"""


def writing(folder: Path, *, on_failure: str = "compensate") -> str:
    """Writes, asks, writes again, in a folder given as input ``root``."""
    return write_mission(folder, WRITING.replace("ON_FAILURE", f"on_failure: {on_failure}"))


async def until(look: Callable[[], T | None], what: str = "it") -> T:
    """Look until there is something to see."""
    async with asyncio.timeout(PATIENCE):
        while not (found := look()):
            await asyncio.sleep(_LOOK)
        return found


def live(host: RuntimeHost, run_id: str) -> LiveRun:
    """The host's own record of a run it works on."""
    return host._runs[run_id]


def open_questions(host: RuntimeHost, run_id: str) -> Sequence[Escalation]:
    """What a run asks now; nothing once it has ended."""
    run = host._runs.get(run_id)
    return () if run is None else run.parts.questions.open


async def question(host: RuntimeHost, run_id: str) -> Escalation:
    """The open question of a live run, waited for."""
    return (await until(lambda: live(host, run_id).parts.questions.open))[0]


async def run_to_end(host: RuntimeHost, path: str, **members: Any) -> RunSummary:
    """Launch and wait. Nothing waits for ever."""
    begun = await host.launch(Launch(path=path, **members))
    if begun.status is RunStatus.REFUSED:
        return begun
    async with asyncio.timeout(PATIENCE):
        return await host.wait(begun.run_id)


async def kinds(host: RuntimeHost, run_id: str) -> list[str]:
    """The kinds of a journal's entries, in order."""
    return [entry.kind for entry in await host.entries(run_id, limit=2000)]


async def entries(host: RuntimeHost, run_id: str, kind: str) -> list[Mapping[str, Any]]:
    return [item.entry for item in await host.entries(run_id, limit=2000) if item.kind == kind]
