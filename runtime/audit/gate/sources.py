"""G8, second half: Python that compiles and needs nothing but itself, told from syntax trees; nothing is imported."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from runtime.audit.gate.layout import TESTS
from runtime.audit.gate.limits import SOURCE
from runtime.audit.gate.report import Fault

_PACKAGE: Final = "runtime"
_SCRIPTS: Final = "scripts/"
_CONFTEST: Final = "conftest.py"
#: Functions that import what their first argument names.
_IMPORTERS: Final = frozenset({"import_module", "__import__"})


@dataclass(frozen=True, slots=True)
class _Bundled:
    """The modules a bundle holds; ``trees`` has the syntax trees of those that could be parsed."""

    names: Collection[str]
    trees: Mapping[str, ast.Module] = field(repr=False)

    def path(self, module: str) -> str | None:
        """The file of ``module``, of a package its ``__init__``; None when the bundle does not hold it."""
        plain = module.replace(".", "/")
        return next((path for path in (f"{plain}/__init__.py", f"{plain}.py") if path in self.names), None)

    def offers(self, module: str, name: str) -> bool:
        """Can ``name`` come out of ``module``? A plain module is taken at its word, a package is looked into."""
        path = self.path(module)
        if name == "*" or self.path(f"{module}.{name}") or path is None or not path.endswith("__init__.py"):
            return True
        return path not in self.trees or name in _defined(self.trees[path])


def conftest_faults(names: Collection[str]) -> Iterator[Fault]:
    """A `conftest.py` decides which tests run, so it stands where its tests stand."""
    for name in sorted(names):
        if name.rpartition("/")[2].lower() == _CONFTEST and not name.startswith(TESTS):
            yield Fault("CONFTEST_PLACE", name, f"conftest.py belongs below {TESTS}")


def faults(bodies: Mapping[str, bytes], names: Collection[str]) -> Iterator[Fault]:
    """Files that do not compile, and imports of what neither the bundle nor the standard library holds."""
    trees: dict[str, ast.Module] = {}
    for name, body in sorted(bodies.items()):
        if name.endswith(SOURCE):
            tree = _tree(body)
            if tree is None:
                yield Fault("PY_SYNTAX", name, "does not compile")
            else:
                trees[name] = tree
    bundled = _Bundled(frozenset(names), trees)
    for name, tree in trees.items():
        for line, wanted in _missing(name, tree, bundled):
            yield Fault("IMPORT_CLOSURE", name, f"line {line} imports {wanted}, which a bundle does not carry")


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


def _missing(path: str, tree: ast.Module, bundled: _Bundled) -> Iterator[tuple[int, str]]:
    """Line and name of each import that leads out of the bundle."""
    for line, module, members in imports(path, tree):
        if not _there(path, module, bundled):
            yield line, module or "beyond its package"
        elif module.partition(".")[0] == _PACKAGE:
            yield from ((line, f"{module}.{name}") for name in members if not bundled.offers(module, name))


def _there(path: str, module: str, bundled: _Bundled) -> bool:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if top == "pytest":
        return path.startswith(TESTS)
    if top == _PACKAGE:
        return bundled.path(module) is not None
    # A script finds what lies beside it.
    return path.startswith(_SCRIPTS) and f"{_SCRIPTS}{module}{SOURCE}" in bundled.names


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Line, absolute module and imported names of every import, wherever it stands. A relative import that leaves its
    package has the module ``""``."""
    package = path.removesuffix(SOURCE).split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: max(0, len(package) + 1 - node.level)] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            members = tuple(alias.name for alias in node.names)
            yield node.lineno, module if above or not node.level else "", members
        elif isinstance(node, ast.Call) and _called(node) in _IMPORTERS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, ()


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _defined(tree: ast.Module) -> frozenset[str]:
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
