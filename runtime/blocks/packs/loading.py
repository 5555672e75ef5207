"""Finding packs and registering what they offer: step by step, the first failure skips the whole pack (blocks spec §20.6).

A pack that is broken, unknown or too late changes nothing except its own absence, and the order is that of names, never
of a file system. Manifests are read freely; code runs only once the digest of the pack's whole folder is trusted
(ruling R43), in this process or behind whatever link the caller makes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from runtime.blocks.block import Block
from runtime.blocks.errors import BlockError
from runtime.blocks.packs.folders import CACHES, PackFolder, read_folder
from runtime.blocks.packs.imports import import_installed, import_symbol, live
from runtime.blocks.packs.links import PackLink
from runtime.blocks.packs.local import LocalLink
from runtime.blocks.packs.manifest import PackError, PackManifest, decode_manifest
from runtime.blocks.packs.members import written
from runtime.blocks.packs.pack import Pack
from runtime.blocks.packs.packed import packed_class
from runtime.blocks.packs.report import FoundPack, PackNote, PluginReport, SkippedPack, Trust, how_to_trust
from runtime.blocks.registry import BlockRegistry, add_former_names
from runtime.blocks.running import Observer
from runtime.blocks.sanitise import clean_text

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["FoundPack", "PluginReport", "SkippedPack", "Trust", "import_pack", "installed_packs", "load_packs"]

#: Entry points of installed packs: ``name = "package.module:PACK"``.
T = TypeVar("T")
#: Runs a pack's code and hands its object to a function; what that raises undoes the import.
Bring = Callable[[Callable[[Any], Any]], Any]
GROUP: Final = "quarterdeck.blocks"


def trust_nobody(digest: str) -> Trust:
    """The answer when there is no list of trusted packs."""
    return Trust.NONE


def installed_packs() -> tuple[EntryPoint, ...]:
    """The entry points of every installed pack. Imports nothing of them."""
    from importlib.metadata import entry_points  # slow to import, and most never ask

    return tuple(entry_points(group=GROUP))


def load_packs(
    registry: BlockRegistry,
    *,
    builtin: Pack | None = None,
    entry_points: Iterable[EntryPoint] = (),
    folders: Sequence[Path] = (),
    trust: Callable[[str], Trust] = trust_nobody,
    link_for: Callable[[FoundPack], PackLink] | None = None,
    byte_path: bool = False,
    observe: Observer | None = None,
    reserved: Collection[str] = (),
) -> PluginReport:
    """Register the types of every pack that can be loaded; blocking, and never raises for a bad pack.

    ``folders`` hold one folder per pack; one that is missing holds none. ``trust`` is asked with a folder's digest.
    ``link_for`` links packs that are trusted to run confined, and may raise `PackError`. ``byte_path`` makes packs of
    this process speak bytes, too, instead of registering their classes as they are. No pack may offer the types that are
    ``reserved``: they mean something already.
    """
    loading = _Loading(registry, trust, link_for, byte_path, observe, frozenset(reserved))
    if builtin is not None:
        loading.builtin(builtin)
        add_former_names(registry)
    for entry_point in sorted(entry_points, key=lambda item: (item.name, item.value)):
        loading.installed(entry_point)
    for folder in folders:
        loading.all_in(folder)
    return PluginReport(tuple(loading.loaded), tuple(loading.skipped), tuple(loading.notes))


def import_pack(folder: Path) -> Any:
    """The pack object of a folder, from the sources as they are now; for workers, whose starter judged the folder.

    Raises `PackError` with the code of the step that failed.
    """
    read = read_folder(folder)
    manifest = read.read_manifest()
    return _imported(read, manifest, lambda pack: pack)


def _places(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (item for item in folder.iterdir() if not item.name.startswith(".") and item.name not in CACHES)
    return sorted((item for item in found if item.is_dir() or item.is_symlink()), key=lambda item: item.name)


def _imported(folder: PackFolder, manifest: PackManifest, use: Callable[[Any], T]) -> T:
    return import_symbol(folder, manifest.module, manifest.symbol, lambda pack: use(live(pack, folder.manifest)))


class _Loading:
    """One call of `load_packs`."""

    def __init__(
        self,
        registry: BlockRegistry,
        trust: Callable[[str], Trust],
        link_for: Callable[[FoundPack], PackLink] | None,
        byte_path: bool,
        observe: Observer | None,
        reserved: frozenset[str],
    ) -> None:
        self.loaded: list[FoundPack] = []
        self.skipped: list[SkippedPack] = []
        self.notes: list[PackNote] = []
        self._registry = registry
        self._trust = trust
        self._link_for = link_for
        self._byte_path = byte_path
        self._observe = observe
        self._reserved = reserved

    # -- the three sources -------------------------------------------------------------------------------------

    def builtin(self, pack: Pack) -> None:
        """The built-ins are part of the program: their code is here already, and needs no trust."""
        found = FoundPack(
            source="builtin", path=Path(__file__).parent, manifest=pack.about, digest="", trust=Trust.IN_PROCESS
        )
        self._guarded(found.path, lambda step: self._admit(step, found, lambda use: use(pack)))

    def installed(self, entry_point: EntryPoint) -> None:
        """An installed package is its own folder. Without a ``pack.bin`` only its code can tell what it holds."""

        def load(step: _Step) -> None:
            folder = read_folder(_top_package(entry_point.module))
            step.digest = folder.digest

            def bring(use: Callable[[Any], Any]) -> Any:
                return use(live(import_installed(entry_point.module, entry_point.attr), folder.manifest))

            if folder.manifest is None and self._trusted(folder) is Trust.IN_PROCESS:
                step.manifest = decode_manifest(bring(lambda pack: pack.manifest()))
            self._judge(step, "entry_point", folder, bring)

        self._guarded(Path(f"{entry_point.name} = {entry_point.value}"), load)

    def all_in(self, folder: Path) -> None:
        """Every pack of a folder, by name."""
        try:
            places = _places(folder)
        except OSError as error:
            text = f"{folder} cannot be listed: {error.strerror}"
            self._skip(str(folder), "plugin.manifest_missing", written(text), _Step())
            return
        for place in places:
            self.folder(place, folder)

    def folder(self, place: Path, inside: Path) -> None:
        """A folder with a ``pack.bin``."""

        def load(step: _Step) -> None:
            folder = read_folder(place, inside=inside, sealed=True)
            step.digest = folder.digest
            self._judge(step, "folder", folder, lambda use: _imported(folder, folder.read_manifest(), use))

        self._guarded(place, load)

    # -- steps -------------------------------------------------------------------------------------------------

    def _guarded(self, path: Path, load: Callable[[_Step], None]) -> None:
        step = _Step()
        try:
            load(step)
        except BlockError as error:
            self._skip(str(path), error.code, error.message, step)

    def _judge(self, step: _Step, source: str, folder: PackFolder, bring: Bring) -> None:
        step.manifest = manifest = step.manifest or folder.read_manifest()
        if self._is_loaded(manifest, folder.digest):
            text = f"{manifest.name} {manifest.version} is loaded already"
            self.notes.append(PackNote(path=str(folder.path), code="plugin.already_loaded", message=text))
            return
        trust = self._trusted(folder)
        found = FoundPack(source=source, path=folder.path, manifest=manifest, digest=folder.digest, trust=trust)
        self._admit(step, found, bring)

    def _trusted(self, folder: PackFolder) -> Trust:
        trust = self._trust(folder.digest)
        if trust is Trust.NONE:
            raise PackError(
                "plugin.untrusted",
                f"nobody trusts {folder.path} as it is ({folder.digest}); {how_to_trust(folder.path)}",
            )
        return trust

    def _is_loaded(self, manifest: PackManifest, digest: str) -> bool:
        told = (manifest.name, manifest.version)
        same = (found for found in self.loaded if (found.manifest.name, found.manifest.version) == told)
        return any((found.digest or _builtin_digest()) == digest for found in same)

    def _admit(self, step: _Step, found: FoundPack, bring: Bring) -> None:
        """Run its code, if that is trusted, and register its types."""
        step.manifest = manifest = found.manifest
        taken = [type_id for type_id in manifest.type_ids if type_id in self._registry or type_id in self._reserved]
        if taken:
            text = f"{', '.join(taken)} is registered already, by {self._owner(taken[0])}; rename one"
            raise PackError("plugin.type_conflict", text)
        if found.trust is Trust.IN_PROCESS:
            bring(lambda pack: self._register(manifest, lambda: self._classes(manifest, pack)))
        elif self._link_for is None:
            raise PackError("plugin.untrusted", f"{found.path} may run confined only, which cannot be done here")
        else:
            link = self._link_for(found)
            self._register(manifest, lambda: _packed(manifest, link))
        self.loaded.append(found)
        self._tell("plugin.loaded", manifest.name, str(found.path), None)

    def _classes(self, manifest: PackManifest, pack: Any) -> Iterable[type[Block]]:
        fast = type(pack) is Pack and not self._byte_path
        return cast(Pack, pack).classes if fast else _packed(manifest, LocalLink(pack))

    def _register(self, manifest: PackManifest, classes: Callable[[], Iterable[type[Block]]]) -> None:
        try:
            for block_class in classes():
                self._registry.register(block_class)
        except Exception as error:
            for type_id in manifest.type_ids:
                self._registry.withdraw(type_id)
            told = clean_text(f"{type(error).__name__}: {error}")
            raise PackError("plugin.register_failed", f"registering its types raised {told}") from error

    def _owner(self, type_id: str) -> str:
        packs = (found.manifest.name for found in self.loaded if type_id in found.manifest.type_ids)
        return next((f"the pack {name!r}" for name in packs), "somebody else")

    def _skip(self, path: str, code: str, message: str, step: _Step) -> None:
        name, type_ids = ("", ()) if step.manifest is None else (step.manifest.name, step.manifest.type_ids)
        path = written(path)
        skipped = SkippedPack(
            path=path, code=code, message=message, name=name, digest=step.digest, type_ids=tuple(type_ids)
        )
        self.skipped.append(skipped)
        for type_id in type_ids:
            if type_id not in self._registry:
                self._registry.note_skipped(type_id, name, code)
        self._tell("plugin.skipped", name, path, code)

    def _tell(self, event: str, pack: str, path: str, code: str | None) -> None:
        if self._observe is not None:
            fields: Mapping[str, Any] = {"pack": pack, "path": path, "code": code}
            self._observe(event, fields)


class _Step:
    """What is known of a pack so far, for its report."""

    def __init__(self) -> None:
        self.manifest: PackManifest | None = None
        self.digest: str | None = None


def _packed(manifest: PackManifest, link: PackLink) -> list[type[Block]]:
    return [packed_class(info, link) for info in manifest.blocks]


def _top_package(module: str) -> Path:
    """The one folder, or the single file, of an installed package; found without importing it."""
    from importlib.util import find_spec  # slow to import, and most never ask

    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError) as error:
        raise PackError("plugin.import_failed", f"the package {top!r} cannot be found: {error}") from error
    if spec is not None and spec.submodule_search_locations:
        first, *more = spec.submodule_search_locations
        if more:
            text = (
                f"the package {top!r} is spread over several folders, {first} and {more[0]}: no digest covers its code"
            )
            raise PackError("plugin.import_failed", text)
        return Path(first).resolve()
    if spec is None or spec.origin is None or not spec.has_location:
        raise PackError("plugin.import_failed", f"there is no package {top!r}")
    return Path(spec.origin).resolve()


def _builtin_digest() -> str:
    from runtime.blocks.packs.export import builtin_digest  # only when somebody brings a copy of the built-ins

    return builtin_digest()
