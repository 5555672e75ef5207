"""Running a pack's code in this process: from the bytes that were digested, under a name of its own (blocks spec §20.6).

``sys.path`` stays as it is, no bytecode is read or written, and two packs can hold modules of the same name. Inside a
pack, modules find each other by relative imports; compiled extensions are not loaded.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, TypeVar, cast

from runtime.blocks.packs.folders import PackFolder
from runtime.blocks.packs.manifest import ABI, PackError
from runtime.blocks.sanitise import clean_text

T = TypeVar("T")
#: Methods a pack object must have (`runtime.blocks.packs.pack`).
METHODS: Final = ("abi_version", "manifest", "create", "validate", "run", "drop")
PREFIX: Final = "quarterdeck_pack_"
_NUMBERS: Final = itertools.count(1)


def import_symbol(folder: PackFolder, module: str, symbol: str, accept: Callable[[object], T]) -> T:
    """Import ``module`` of a pack and return what ``accept`` makes of the object it calls ``symbol``.

    Raises `PackError` ``plugin.import_failed`` for anything its code raised, `SystemExit` included;
    ``plugin.missing_symbol``, and what ``accept`` raises. Nothing of a refused import stays behind.
    """
    root = f"{PREFIX}{folder.digest.removeprefix('sha256:')[:12]}_{next(_NUMBERS)}"
    _FINDER.folders[root] = folder
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    try:
        return accept(symbol_of(_guarded(f"{root}.{module}"), symbol))
    except PackError:
        del _FINDER.folders[root]
        for name in [name for name in sys.modules if name.partition(".")[0] == root]:
            del sys.modules[name]
        raise


def import_installed(module: str, symbol: str) -> object:
    """Import a pack that is installed, by its ordinary name; raises as `import_symbol`."""
    return symbol_of(_guarded(module), symbol)


def symbol_of(module: ModuleType, symbol: str) -> object:
    """Raises `PackError` ``plugin.missing_symbol``."""
    if symbol not in vars(module):
        raise PackError("plugin.missing_symbol", f"{module.__name__.partition('.')[2]} defines no {symbol!r}")
    return vars(module)[symbol]


def live(pack: Any, manifest: bytes | None = None) -> Any:
    """The pack object, if it has its methods and tells what its file told.

    Raises `PackError` ``plugin.missing_symbol``, ``plugin.manifest_mismatch``.
    """
    lacking = [name for name in METHODS if not callable(getattr(pack, name, None))]
    if lacking:
        raise PackError("plugin.missing_symbol", f"the pack object has no method {', '.join(lacking)}")
    try:
        version, told = pack.abi_version(), pack.manifest()
    except (Exception, SystemExit) as error:
        told = clean_text(f"{type(error).__name__}: {error}")
        raise PackError("plugin.manifest_mismatch", f"asking the pack for its manifest raised {told}") from error
    if version != ABI or (manifest is not None and told != manifest):
        raise PackError(
            "plugin.manifest_mismatch",
            "the code tells another manifest than pack.bin; its author makes it anew with: quarterdeck packs build",
        )
    return pack


def _guarded(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        told = clean_text(f"{type(error).__name__}: {error}")
        raise PackError("plugin.import_failed", f"importing it raised {told}") from error


class _Finder:
    """Finds modules below the private names of packs, and nothing else."""

    def __init__(self) -> None:
        self.folders: dict[str, PackFolder] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, rest = fullname.partition(".")
        folder = self.folders.get(root)
        if folder is None:
            return None
        place = f"{rest.replace('.', '/')}/" if rest else ""
        for name in (f"{place}__init__.py", f"{place[:-1]}.py"):
            if name in folder.sources:
                return _spec(fullname, folder, name)
        return _spec(fullname, folder, None) if not rest or _is_namespace(folder, place) else None


def _is_namespace(folder: PackFolder, place: str) -> bool:
    return any(name.startswith(place) for name in folder.sources)


def _spec(fullname: str, folder: PackFolder, name: str | None) -> ModuleSpec:
    origin = None if name is None else str(folder.path / name)
    is_package = name is None or name.rpartition("/")[2] == "__init__.py"
    spec = ModuleSpec(fullname, cast(Any, _Loader(folder, name)), origin=origin, is_package=is_package)
    spec.has_location = origin is not None
    return spec


class _Loader:
    """Compiles a module from the bytes that were digested; a folder without ``__init__.py`` is an empty module."""

    def __init__(self, folder: PackFolder, name: str | None) -> None:
        self._source = b"" if name is None else folder.sources[name]
        self._path = str(folder.path / (name or ""))

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self._source, self._path, "exec", dont_inherit=True)
        exec(code, vars(module))

    def get_source(self, fullname: str) -> str:
        """For tracebacks."""
        return self._source.decode(errors="replace")


_FINDER: Final = _Finder()
