"""Who signs and who remembers, as an operator asks it: for ``quarterdeck key`` and ``doctor``. Needs no deck, writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.events.facts import SinkState
from runtime.host.api import Check, Health
from runtime.host.evidence_file import Evidence, SinkSpec, load_evidence
from runtime.host.opening import state_dir
from runtime.host.signing import check_secret, trusted_keys
from runtime.host.sinks.anchor_log import AnchorLogSink
from runtime.host.sinks.building import sink_of
from runtime.host.sinks.port import Sink
from runtime.kernel.errors import QuarterdeckError, StorageError
from runtime.orchestration.checkpoints import ORIGIN
from runtime.storage.checkpoints import named
from runtime.storage.journals import STORE_JOURNAL
from runtime.storage.layout import StateDir
from runtime.storage.store import Store

#: How long one sink may take to answer, in seconds.
_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReport:
    """``key`` is the verifier key in force, empty before the first signature; ``words`` its fingerprint. ``retired`` are keys
    that stay trusted for what they signed. ``sinks`` say what each remembers of the store's own journal."""

    key: str
    words: str
    signer: str
    folder: str
    retired: tuple[str, ...] = ()
    sinks: tuple[SinkState, ...] = ()


async def key_report(store: str | None = None) -> KeyReport:
    """Raises `Refused` ``KEY_DAMAGED``, ``EVIDENCE_INVALID``."""
    state = state_dir(store)
    evidence = await asyncio.to_thread(load_evidence, state)
    keys = await asyncio.to_thread(trusted_keys, state)
    origin = await _origin(state)
    sinks = [await _state_of(sink_of(spec, state), origin) for spec in evidence.sinks]
    return KeyReport(
        key=keys[0].text if keys else "",
        words=keys[0].words if keys else "",
        signer="the store's own key" if evidence.signer is None else evidence.signer.command[0],
        folder=str(state.keys),
        retired=tuple(key.text for key in keys[1:]),
        sinks=tuple(sinks),
    )


async def evidence_checks(state: StateDir) -> tuple[Check, ...]:
    """Rows for ``doctor``: the key, the file, and each sink."""
    try:
        evidence = await asyncio.to_thread(load_evidence, state)
    except QuarterdeckError as error:
        return (await asyncio.to_thread(_key_check, state, Evidence()), _failed("evidence file", error))
    checks = [await asyncio.to_thread(_key_check, state, evidence)]
    if state.evidence.exists():
        told = (
            f"{state.evidence}: {len(evidence.sinks)} sinks, trailer in commits {'on' if evidence.trailer else 'off'}"
        )
        checks.append(Check(name="evidence file", status=Health.OK, detail=told))
    origin = await _origin(state)
    for spec in evidence.sinks:
        found = await _state_of(sink_of(spec, state), origin)
        same = await asyncio.to_thread(_beside, spec, state)
        if found.trouble:
            fix = "make it reachable; until then copies stay behind"
            checks.append(Check(name="sink", status=Health.FAIL, detail=f"{found.name}: {found.trouble}", fix=fix))
        elif same:
            told = f"{found.name} is on the same disk as the store: whoever restores one restores both"
            checks.append(
                Check(name="sink", status=Health.WARN, detail=told, fix="use another mount, account or machine")
            )
        else:
            told = "nothing yet" if found.size is None else f"{found.size} entries"
            checks.append(Check(name="sink", status=Health.OK, detail=f"{found.name}: {told} of the store's journal"))
    return tuple(checks)


def _key_check(state: StateDir, evidence: Evidence) -> Check:
    try:
        if evidence.signer is None:
            check_secret(state)
        keys = trusted_keys(state)
    except QuarterdeckError as error:
        return _failed("signing key", error)
    if evidence.signer is not None:
        return Check(name="signing key", status=Health.OK, detail=f"{evidence.signer.command[0]} signs")
    told = f"{keys[0].words}, in {state.keys}" if keys else "made with the first checkpoint"
    return Check(name="signing key", status=Health.OK, detail=told)


def _failed(name: str, error: QuarterdeckError) -> Check:
    where = f"{error.where}: " if error.where else ""
    return Check(name=name, status=Health.FAIL, detail=f"{where}{error.message}", fix=error.hint or "")


async def _origin(state: StateDir) -> str:
    """The store's own journal as sinks know it; a name no journal has where there is no store yet."""
    try:
        store = await Store.observe(state)
    except StorageError:
        return f"{ORIGIN}/{STORE_JOURNAL}"
    try:
        return f"{ORIGIN}/{named(STORE_JOURNAL, await store.checkpoints.store_id())}"
    finally:
        await store.close()


async def _state_of(sink: Sink, origin: str) -> SinkState:
    try:
        async with asyncio.timeout(_SECONDS):
            if isinstance(sink, AnchorLogSink):
                return SinkState(name=sink.name, size=await sink.anchored(origin.partition("/")[2]))
            note = await sink.newest(origin)
    except QuarterdeckError as error:
        return SinkState(name=sink.name, trouble=error.message)
    except TimeoutError:
        return SinkState(name=sink.name, trouble=f"no answer within {_SECONDS:g} s")
    return SinkState(name=sink.name, size=None if note is None else note.checkpoint.size)


def _beside(spec: SinkSpec, state: StateDir) -> bool:
    """Is this sink on the file system of the state folder?"""
    place = spec.file or spec.git or (str(Path(spec.anchors).parent) if spec.anchors else None)
    try:
        return place is not None and Path(place).stat().st_dev == state.root.stat().st_dev
    except OSError:
        return False
