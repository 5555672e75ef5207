"""G2, names and types: only names that mean one file, and the same one, wherever the bundle is unpacked (§12.3, §13.2)."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from runtime.audit.gate.container import Entry
from runtime.audit.gate.report import Fault
from runtime.governance.path_lexical import lexical_finding

#: Operations spec §12.3.
MAX_PATH_BYTES: Final = 180
MAX_COMPONENT_BYTES: Final = 100
MAX_DEPTH: Final = 16
_COMPONENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z")

#: Bytecode, caches, version control, coverage, environments; compared without case.
_FORBIDDEN_NAMES: Final = frozenset({
    "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".cache", ".git",
    ".hg", ".svn", ".bzr", "cvs", "_darcs", ".gitignore", ".gitattributes", ".gitmodules", ".coverage",
    "coverage.xml", "htmlcov", ".idea", ".vscode", ".ds_store", "__macosx", "thumbs.db", "desktop.ini", ".venv",
    "venv", ".env", "env", "virtualenv", "site-packages", "node_modules",
})  # fmt: skip
#: Bytecode and binaries, droppings, packaging, archives.
_FORBIDDEN_ENDINGS: Final = (
    ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".swp", ".swo", ".orig", ".rej", ".bak", ".tmp", "~", ".cover",
    ".egg-info", ".dist-info", ".egg", ".whl", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz",
    ".txz", ".lzma", ".zst", ".7z", ".rar", ".jar",
)  # fmt: skip
_DOS_DIRECTORY: Final = 0x10
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX


def faults(entries: Sequence[Entry]) -> Iterator[Fault]:
    """Every name and type that must not be in a bundle."""
    for entry in entries:
        directory = entry.raw.endswith(b"/")
        code = path_code(entry.raw[:-1] if directory else entry.raw)
        if code:
            yield Fault(code, entry.name, "no name a bundle may hold")
        yield from _type_faults(entry, directory)
    yield from _clashes([entry.name for entry in entries])


def path_code(raw: bytes) -> str | None:
    """What is wrong with ``raw`` as the name of a file in a bundle: a ``NAME_*`` code, or None."""
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        return "NAME_ENCODING"
    finding = lexical_finding(name)
    if finding is not None:
        return f"NAME_PATH:{finding.code}"
    parts = name.lower().split("/")
    if any(part in _FORBIDDEN_NAMES or part.endswith(_FORBIDDEN_ENDINGS) for part in parts):
        return "NAME_FORBIDDEN"
    short = all(len(part) <= MAX_COMPONENT_BYTES and _COMPONENT.match(part) for part in parts)
    return None if short and len(name) <= MAX_PATH_BYTES and len(parts) <= MAX_DEPTH else "NAME_CHARSET"


def _type_faults(entry: Entry, directory: bool) -> Iterator[Fault]:
    mode = entry.attributes >> 16
    kind = stat.S_IFMT(mode)
    if directory or kind == stat.S_IFDIR or entry.attributes & _DOS_DIRECTORY:
        yield Fault("NAME_DIRECTORY_ENTRY", entry.name, "folders have no entries of their own")
    elif kind == stat.S_IFLNK:
        yield Fault("TYPE_SYMLINK", entry.name, "a link, not a file")
    elif kind not in (0, stat.S_IFREG) or mode & _SET_ID:
        yield Fault("TYPE_SPECIAL", entry.name, f"mode {mode:o} is not that of an ordinary file")


def _clashes(names: Iterable[str]) -> Iterator[Fault]:
    """Two names for one file, or a file where a folder must be, on systems with case or without."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if folded in files:
            code = "NAME_DUPLICATE" if files[folded] == name else "NAME_CASE_COLLISION"
            yield Fault(code, name, "another entry has this name")
        files.setdefault(folded, name)
        for folder in _above(name):
            if folders.setdefault(folder.casefold(), folder) != folder:
                yield Fault("NAME_CASE_COLLISION", name, "its folder is also spelled otherwise")
    for folded in sorted(files.keys() & folders.keys()):
        yield Fault("NAME_PREFIX_CLASH", files[folded], "both a file and a folder")


def _above(name: str) -> Iterator[str]:
    at = name.find("/")
    while at >= 0:
        yield name[:at]
        at = name.find("/", at + 1)
