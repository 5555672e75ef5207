"""G8, second half: Python that compiles and needs nothing but itself, told from syntax trees; nothing is imported."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from runtime.audit.gate.layout import TESTS
from runtime.audit.gate.limits import SOURCE
from runtime.audit.gate.report import Fault, shown

_PACKAGE: Final = "runtime"
_SCRIPTS: Final = "scripts/"
_CONFTEST: Final = "conftest.py"
_INIT: Final = "/__init__.py"
#: Functions that import what their first argument names.
_IMPORTERS: Final = frozenset({"import_module", "__import__"})


#: What a file imports: absolute module and names taken from it, with the line where it first does.
_Imports = Mapping[tuple[str, tuple[str, ...]], int]


@dataclass(frozen=True, slots=True)
class _Bundled:
    """The files of a bundle, and the names that the ``__init__`` files among them bind."""

    files: Collection[str]
    offered: Mapping[str, frozenset[str]]

    def path(self, module: str) -> str | None:
        """The file of ``module``, of a package its ``__init__``; None when the bundle does not hold it."""
        plain = module.replace(".", "/")
        return next((path for path in (f"{plain}/__init__.py", f"{plain}.py") if path in self.files), None)

    def offers(self, module: str, name: str) -> bool:
        """Can ``name`` come out of ``module``? A plain module is taken at its word, a package is looked into."""
        path = self.path(module)
        if name == "*" or path is None or path not in self.offered:
            return True
        return name in self.offered[path] or self.path(f"{module}.{name}") is not None


def conftest_faults(names: Collection[str]) -> Iterator[Fault]:
    """A `conftest.py` decides which tests run, so it stands where its tests stand."""
    for name in sorted(names):
        if name.rpartition("/")[2].lower() == _CONFTEST and not name.startswith(TESTS):
            yield Fault("CONFTEST_PLACE", name, f"conftest.py belongs below {TESTS}")


def faults(bodies: Mapping[str, bytes], names: Collection[str]) -> Iterator[Fault]:
    """Files that do not compile, and imports of what neither the bundle nor the standard library holds."""
    wanted_by: dict[str, _Imports] = {}
    offered: dict[str, frozenset[str]] = {}
    for name, body in sorted(bodies.items()):
        if not name.endswith(SOURCE):
            continue
        tree = _tree(body)  # no longer kept than needed: it has a few hundred times the size of its source
        if tree is None:
            yield Fault("PY_SYNTAX", name, "does not compile")
            continue
        wanted_by[name] = imports(name, tree)
        if name.endswith(_INIT):
            offered[name] = _bound(tree)
    bundled = _Bundled(frozenset(names), offered)
    for name, found in wanted_by.items():
        for wanted, line in _missing(name, found, bundled):
            yield Fault("IMPORT_CLOSURE", name, f"line {line} imports {shown(wanted)}, which a bundle does not carry")


def _tree(source: bytes) -> ast.Module | None:
    """The syntax tree, or None for source that does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A tree alone would let through what only the compiler refuses, such as a return outside a function.
            compile(source, "<bundle>", "exec", dont_inherit=True)
            return ast.parse(source)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _missing(path: str, found: _Imports, bundled: _Bundled) -> Iterator[tuple[str, int]]:
    """Name and line of each import that leads out of the bundle."""
    for (module, members), line in found.items():
        if not _there(path, module, bundled):
            yield module or "beyond its package", line
        elif module.partition(".")[0] == _PACKAGE:
            yield from ((f"{module}.{name}", line) for name in members if not bundled.offers(module, name))


def _there(path: str, module: str, bundled: _Bundled) -> bool:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if top == "pytest":
        return path.startswith(TESTS)
    if top == _PACKAGE:
        return bundled.path(module) is not None
    # A script finds what lies beside it.
    return path.startswith(_SCRIPTS) and f"{_SCRIPTS}{module}{SOURCE}" in bundled.files


def imports(path: str, tree: ast.Module) -> _Imports:
    """Every import, wherever it stands. A relative one that leaves its package has the module ``""``."""
    package = path.removesuffix(SOURCE).split("/")[:-1]
    found: dict[tuple[str, tuple[str, ...]], int] = {}
    for node in ast.walk(tree):
        for module, members, line in _import(package, node):
            found.setdefault((module, members), line)
    return found


def _import(package: list[str], node: ast.AST) -> Iterator[tuple[str, tuple[str, ...], int]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, (), node.lineno) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: max(0, len(package) + 1 - node.level)] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield module if above or not node.level else "", tuple(alias.name for alias in node.names), node.lineno
    elif isinstance(node, ast.Call) and _called(node) in _IMPORTERS and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value, (), node.lineno


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _bound(tree: ast.Module) -> frozenset[str]:
    """Names a package's `__init__` binds somewhere; generous, because importing it is tried later."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return frozenset(found | {"__file__", "__name__", "__path__"})
