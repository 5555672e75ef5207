"""Which files a set of modules needs, read from their syntax trees: nothing is imported to find out.

A bundle must run where nothing of ours is installed (operations spec §12.1). So whatever its modules import, at the top
or inside a function, is the standard library or comes along; anything else stops the build, instead of breaking
somewhere else years later. Standard library only.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from runtime.audit.gate.sources import imports
from runtime.kernel.errors import Refused

#: The one package that can come along.
PACKAGE: Final = "runtime"

#: Takes a path below the root and returns the file's bytes, or None when there is no such file.
Look = Callable[[str], bytes | None]


def closure(modules: Iterable[str], look: Look) -> dict[str, bytes]:
    """Every file ``modules`` need, themselves and the ``__init__`` files above them included, by path.

    Raises `Refused`: ``BUNDLE_FILE_MISSING`` for a module of ``modules`` that is not there, ``IMPORT_CLOSURE`` for an
    import that neither comes along nor is the standard library's, ``PY_SYNTAX`` for a file that is no Python.
    """
    found: dict[str, bytes] = {}
    waiting = [name for module in modules for name in _with_parents(module)]
    while waiting:
        module = waiting.pop()
        path, source = _source(module, look)
        if source is None:
            raise Refused("BUNDLE_FILE_MISSING", "a bundle cannot be without this file", where=path)
        if path in found:
            continue
        found[path] = source
        waiting += _needed(path, source, look)
    return found


def _needed(path: str, source: bytes, look: Look) -> Iterator[str]:
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise Refused("PY_SYNTAX", f"is no Python that could be run: {error}", where=path) from error
    for line, name, members in imports(path, tree):
        if name.partition(".")[0] in sys.stdlib_module_names:
            continue
        if name.partition(".")[0] != PACKAGE or _source(name, look)[1] is None:
            raise Refused(
                "IMPORT_CLOSURE",
                f"imports {name or 'beyond its package'}, which a bundle does not carry",
                where=f"{path}:{line}",
                hint="a bundled module uses the standard library and modules of runtime",
            )
        yield from _with_parents(name)
        # What is imported from a package may be one of its modules, or just a name in it.
        yield from (below for member in members if _source(below := f"{name}.{member}", look)[1] is not None)


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _source(module: str, look: Look) -> tuple[str, bytes | None]:
    """Path and bytes of a module; of a package that has none, the path it should have as a plain module."""
    plain = module.replace(".", "/")
    for path in (f"{plain}/__init__.py", f"{plain}.py"):
        source = look(path)
        if source is not None:
            return path, source
    return path, None
