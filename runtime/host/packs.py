"""Packs as faces see them: what lies in a folder, what would be loaded of it, and why the rest would not.

Listing reads manifests and the store's journal, and runs nothing. Verifying also imports what is trusted, in a confined
process. Nothing here becomes the holder of a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from runtime.blocks.errors import BlockError
from runtime.blocks.packs.folders import MANIFEST_FILE, read_folder
from runtime.blocks.packs.manifest import PackManifest
from runtime.blocks.packs.members import written
from runtime.blocks.packs.report import FoundPack, SkippedPack, Trust
from runtime.execution.pack_process import ProcessLink
from runtime.execution.pack_worker import PackPlace
from runtime.governance.sandbox import Sandbox
from runtime.host.api import Problem
from runtime.host.authoring import lint_mission
from runtime.host.opening import state_dir
from runtime.host.pack_trust import PackTrust, read_trust
from runtime.kernel.clock import SystemClock
from runtime.kernel.errors import QuarterdeckError, Refused, StorageError
from runtime.missions.packs import BLOCKS, has_packs, types_in
from runtime.storage.store import Store

#: A manifest that was damaged, or made for another program or for other code.
_MANIFEST: Final = frozenset(
    {
        *("plugin.bad_magic", "plugin.truncated", "plugin.checksum", "plugin.bad_encoding", "plugin.bad_frame"),
        *("plugin.abi_mismatch", "plugin.manifest_invalid"),
    }
)


#: What is found a second time is there: no failure.
_ALREADY: Final = "plugin.already_loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PackFacts:
    """One pack. ``name``, ``version`` and ``types`` are empty when its manifest cannot be read, and ``digest`` when its
    folder cannot; ``code`` and ``message`` say why a pack is not loaded, or that it is there already. ``trust``
    is none, confined or in_process."""

    path: str
    name: str = ""
    version: str = ""
    digest: str = ""
    types: tuple[str, ...] = ()
    trust: str = Trust.NONE.value
    code: str | None = None
    message: str = ""

    @property
    def loaded(self) -> bool:
        return self.code in (None, _ALREADY)


def look_at(folder: Path) -> PackFacts:
    """The pack in ``folder``, nobody's trust considered. Raises `Refused` with the ``plugin.*`` code of a broken one."""
    try:
        read = read_folder(folder)
        manifest = read.read_manifest()
    except BlockError as error:
        raise _refused(error, folder, remedy(error.code, written(str(folder)))) from None
    return PackFacts(
        path=str(folder),
        name=manifest.name,
        version=manifest.version,
        digest=read.digest,
        types=manifest.type_ids,
    )


def build_pack(folder: Path, module: str | None = None, symbol: str | None = None) -> PackFacts:
    """Write the manifest of the pack in ``folder`` anew; returns what it is then. Runs its code: for its author.

    ``module`` and ``symbol`` are those of the manifest that is there; without one that can be read, the module is called
    like the folder and the symbol ``PACK``. Raises `Refused` with a ``plugin.*`` or ``definition.*`` code for code that
    is no pack, `QuarterdeckError` ``PACK_BUILD`` when nothing can be written.
    """
    from runtime.blocks.packs.export import write_manifest  # reads the sources of the built-ins

    try:
        known = _written(folder)
        module = module or (folder.name.replace("-", "_") if known is None else known.module)
        write_manifest(folder, module, symbol or ("PACK" if known is None else known.symbol))
    except BlockError as error:
        hint = "--module and --symbol say where the pack object is" if error.code == "plugin.missing_symbol" else ""
        raise _refused(error, folder, hint) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise QuarterdeckError("PACK_BUILD", f"cannot write {error.filename or folder}: {why}") from None
    return look_at(folder)


def _written(folder: Path) -> PackManifest | None:
    """The manifest that is there, if it can be read: a broken one is what building mends."""
    read = read_folder(folder)
    try:
        return None if read.manifest is None else read.read_manifest()
    except BlockError:
        return None


def remedy(code: str, path: str) -> str:
    """What helps against a broken manifest; nothing for other codes."""
    return f"its author makes pack.bin anew with: quarterdeck packs build {path}" if code in _MANIFEST else ""


def _refused(error: BlockError, folder: Path, hint: str) -> Refused:
    place = written(str(folder))
    return Refused(error.code, error.message, where="" if place in error.message else place, hint=hint)


async def list_packs(folder: Path | None, store: str | None) -> tuple[PackFacts, ...]:
    """Installed packs and those in ``folder`` (None: ``blocks`` here), with what would be loaded under today's trust."""
    found, _ = await _listed(folder, store)
    return found


async def verify_packs(folder: Path | None, store: str | None) -> tuple[PackFacts, ...]:
    """The same, with the code of those that are trusted imported in a confined process and held to its manifest."""
    listed, places = await _listed(folder, store)
    if not places:
        return listed
    sandbox = await Sandbox.detect()
    return tuple([await _tried(item, places[item.path], sandbox) if item.path in places else item for item in listed])


def export_packs(folder: Path) -> str:
    """Write the built-in pack into ``folder``; returns its place. Raises `QuarterdeckError` ``PACK_EXPORT``."""
    from runtime.blocks.packs.export import export_builtin  # reads the sources of the built-ins

    try:
        return str(export_builtin(folder))
    except OSError as error:
        why = error.strerror or str(error)
        raise QuarterdeckError("PACK_EXPORT", f"cannot write {error.filename or folder}: {why}") from None


async def lint_trusting(path: Path, store: str | None) -> tuple[Problem, ...]:
    """`lint_mission` with the store's trust, which is looked up only where there may be packs."""
    trust = (await known_trust(store)).of if await asyncio.to_thread(has_packs, path) else None
    return await asyncio.to_thread(lint_mission, path, trust)


async def known_trust(store: str | None) -> PackTrust:
    """Whom the store trusts; nobody when there is none yet. Raises `StorageError`."""
    try:
        observed = await Store.observe(state_dir(store), SystemClock())
    except StorageError as error:
        if error.code != "STORE_MISSING":
            raise
        return PackTrust()
    try:
        return PackTrust(await read_trust(observed))
    finally:
        await observed.close()


async def _listed(folder: Path | None, store: str | None) -> tuple[tuple[PackFacts, ...], dict[str, PackPlace]]:
    """All packs, and the places of those that would be loaded."""
    trust = await known_trust(store)

    def of(digest: str) -> Trust:
        # Trusted with this process or not, nothing is imported here.
        return Trust.NONE if trust.of(digest) is Trust.NONE else Trust.CONFINED

    home, only = _home(folder)
    report = (await asyncio.to_thread(types_in, (home,), trust=of)).report
    loaded = [pack for pack in report.loaded if pack.digest]
    facts = [*(_of_loaded(pack, trust) for pack in loaded), *(_of_skipped(pack, trust) for pack in report.skipped)]
    facts += [
        PackFacts(path=note.path, name=Path(note.path).name, code=note.code, message=note.message)
        for note in report.notes
    ]
    wanted = (item for item in facts if only is None or item.path == str(only))
    return _by_path(wanted), {str(pack.path): _place(pack) for pack in loaded}


def _home(folder: Path | None) -> tuple[Path, Path | None]:
    """The folder of packs that is meant, and the one pack of it that is: a pack's own folder and a mission's will do.

    Raises `QuarterdeckError` ``PACK_FOLDER``.
    """
    if folder is None:
        return Path(BLOCKS), None
    if not folder.is_dir():
        raise QuarterdeckError("PACK_FOLDER", f"{folder} is no folder", hint="name a folder of packs, such as blocks")
    if (folder / MANIFEST_FILE).is_file():
        return folder.parent, folder
    beside = folder / BLOCKS
    return (beside if beside.is_dir() and not (beside / MANIFEST_FILE).exists() else folder), None


def _by_path(facts: Iterable[PackFacts]) -> tuple[PackFacts, ...]:
    return tuple(sorted(facts, key=lambda item: item.path))


def _place(pack: FoundPack) -> PackPlace:
    return PackPlace(name=pack.manifest.name, folder=pack.path.absolute(), digest=pack.digest)


def _of_loaded(pack: FoundPack, trust: PackTrust) -> PackFacts:
    about = pack.manifest
    return PackFacts(
        path=str(pack.path),
        name=about.name,
        version=about.version,
        digest=pack.digest,
        types=about.type_ids,
        trust=trust.of(pack.digest).value,
    )


def _of_skipped(pack: SkippedPack, trust: PackTrust) -> PackFacts:
    digest = pack.digest or ""
    return PackFacts(
        path=pack.path,
        name=pack.name,
        digest=digest,
        types=pack.type_ids,
        trust=trust.of(digest).value,
        code=pack.code,
        message=pack.message,
    )


async def _tried(item: PackFacts, place: PackPlace, sandbox: Sandbox) -> PackFacts:
    link = ProcessLink(place, sandbox)
    try:
        await link.check()
    except BlockError as error:
        return replace(item, code=error.code, message=error.message)
    finally:
        await link.close()
    return item
