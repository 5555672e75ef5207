"""What a template may cost: Jinja2's sandbox keeps templates from doing harm, this keeps them from doing much.

Jinja2 works in single long steps that nothing can interrupt: a text of a billion characters from ``center``, a number
that squares itself in a loop, a list that holds itself twice, forty times over. So whatever multiplies is paid for
before it happens, from one purse per rendering. Nothing is computed while a template is compiled, and nothing is drawn
by lot: the same data give the same text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, ItemsView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from typing import Any, Final

from jinja2 import nodes
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context

#: Longest text or list that ``*`` may build inside an expression.
MAX_REPEAT: Final = 100_000
#: Turns all loops of one rendering may take together, calls of macros included: a second or two of work.
MAX_TURNS: Final = 250_000
#: Characters and elements all steps of one rendering may make together, intermediate ones included.
MAX_WORK: Final = 64 * 1024 * 1024
#: What looking at one value costs, in characters: it takes as long as copying some. Two million values are a second or two.
_LOOK: Final = 32
#: Digits of whole numbers, in bits.
_MAX_BITS: Final = 1024
#: Widths in a format, which say how long the text becomes: of ``%`` and of ``{}``; those from outside are ``*`` and ``{``.
_WIDTHS: Final = re.compile(
    r"%(?:\([^)]*\))?[-+ #0]*(\*|\d+)?(?:\.(\*|\d+))?|\{[^{}]*:[^{}0-9]*(\{|\d+)(?:\.(\{|\d+))?"
)
#: Wrapping and linking look at each character many times.
_SLOW: Final = 200
_NO_COST: Final = frozenset(
    {"count", "d", "default", "first", "last", "length", "map", "reject", "rejectattr", "select"}
)
_LOOPS: Final = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)


class Purse:
    """What is left for one rendering."""

    __slots__ = ("turns", "work")

    def __init__(self) -> None:
        self.turns, self.work = MAX_TURNS, MAX_WORK

    def turn(self, work: int) -> None:
        """One more turn of a loop, whose body has so many characters and steps."""
        self.turns -= 1
        if self.turns < 0:
            raise OverflowError(f"loops are limited to {MAX_TURNS} turns")
        self.pay(work)

    def pay(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise OverflowError(f"a template may make {MAX_WORK} characters in all")


purse: ContextVar[Purse] = ContextVar("purse")


def pay(work: int) -> None:
    purse.get().pay(work)


def weight(value: object) -> int:
    """Characters and elements of a value written out; what stands in it twice counts twice. Raises `OverflowError`."""
    total, limit, waiting = 0, purse.get().work, [value]
    while waiting:
        item = waiting.pop()
        total += _own(item)
        if total > limit:
            pay(total)
        if isinstance(item, Mapping):
            waiting += (*item.keys(), *item.values())
        elif isinstance(item, list | tuple | set | frozenset | ValuesView | ItemsView):
            waiting += item
    return total


def _own(item: object) -> int:
    if isinstance(item, int):
        return _LOOK + item.bit_length() // 3
    if isinstance(item, Namespace):
        return _LOOK + weight(
            object.__getattribute__(item, "__dict__")
        )  # its own look-up finds what templates put there
    return _LOOK + (len(item) if isinstance(item, Sized) else 0)


class LimitedSandbox(ImmutableSandboxedEnvironment):
    """The stock sandbox with a `purse`, which whoever renders fills first."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(optimized=False, finalize=_finalized, **options)
        self.filters = {name: _paid(name, function) for name, function in FILTERS.items() if name != "random"}
        self.filters["paid"] = _whole
        del self.globals["lipsum"]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise OverflowError("the power operator is not available in templates")
        if operator == "*" and _product(left, right) > MAX_REPEAT:
            raise OverflowError(f"repetition is limited to {MAX_REPEAT} elements")
        if operator == "%" and isinstance(left, str):
            _pay_format(left, right)
        if operator in "+*" and (isinstance(left, Sized) or isinstance(right, Sized)):
            pay(_product(left, right) if operator == "*" else _size(left) + _size(right))
        found = super().call_binop(context, operator, left, right)
        if isinstance(found, int) and found.bit_length() > _MAX_BITS:
            raise OverflowError(f"whole numbers are limited to {_MAX_BITS} bits")
        return found

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str | list | tuple):
            if __obj.__name__ == "join" and args:
                args = ([*args[0]], *args[1:])
            _pay_method(__obj.__name__, owner, [*args, *named.values()])
        found = super().call(__context, __obj, *args, **named)
        if isinstance(found, range):
            pay(len(found))
        return found

    def turn(self, work: int) -> None:
        """What every turn of a loop, and every call of a macro, calls first."""
        purse.get().turn(work)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for parts in [*tree.find_all(nodes.Concat)]:
            parts.nodes = [nodes.Filter(node, "paid", [], [], None, None, lineno=parts.lineno) for node in parts.nodes]
        repeated: list[Any] = [tree, *tree.find_all(_LOOPS)]
        for found in repeated:
            cost = nodes.Const(_cost(found))
            call = nodes.Call(nodes.EnvironmentAttribute("turn"), [cost], [], None, None)
            found.body.insert(0, nodes.ExprStmt(call).set_lineno(found.lineno))
        tree.set_environment(self)
        return tree


def _cost(node: nodes.Node) -> int:
    """Steps and text of a body, each loop inside it once."""
    return sum(1 + len(getattr(item, "data", "")) for item in node.find_all(nodes.Node))


def _whole(value: Any) -> Any:
    """A part of what ``~`` puts together."""
    pay(weight(value))
    return value


@pass_context
def _finalized(context: Context, value: Any) -> Any:
    """What every ``{{ }}`` goes through on its way out; nothing with a context is computed beforehand."""
    return _whole(value)


def _size(value: object) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _product(left: Any, right: Any) -> int:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            return len(sequence) * count
    return 0


# -- filters and methods ---------------------------------------------------------------------------------------


def _paid(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, paid for before it works."""
    if name in _NO_COST:
        return function
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def paid(*args: Any, **named: Any) -> Any:
        value, *more = args[skipped:]
        if not isinstance(value, Sized) and hasattr(value, "__iter__"):
            value = list(value)  # what a chain of filters gives, once
        _pay_filter(name, value, [*more, *named.values()])
        return function(*args[:skipped], value, *more, **named)

    return paid


def _pay_filter(name: str, value: Any, more: list[Any]) -> None:
    if name == "format":
        _pay_format(str(value), more)
    if name == "sum" and any(isinstance(item, list | tuple) for item in more):
        raise OverflowError("sum adds numbers")
    text, widths = weight(value), [item for item in more if isinstance(item, int) and item > 0]
    if name in ("indent", "tojson"):
        # An indentation may be a text, too, and stands before each line or element.
        text += (text if name == "tojson" else str(value).count("\n") + 1) * max([*widths, *map(_size, more), 0])
    elif name in ("center", "batch", "slice"):
        text += sum(widths)
    elif name == "round":
        text += sum(widths) ** 2  # it computes a power of ten
    elif name == "replace" and len(more) > 1:
        text += _replaced(str(value), str(more[0]), str(more[1]))
    elif name == "join":
        text += _size(value) * max(map(_size, more), default=0)
    elif name in ("wordwrap", "urlize"):
        text *= _SLOW + max(map(_size, more), default=0)
    pay(text)


def _pay_method(name: str, owner: Any, more: list[Any]) -> None:
    """A method of a text or list."""
    size, widths = len(owner), sum(item for item in more if isinstance(item, int) and item > 0)
    if name in ("format", "format_map"):
        _pay_format(owner, more)
    elif name == "replace" and len(more) > 1:
        pay(_replaced(owner, str(more[0]), str(more[1])))
    elif name == "join":
        pay(weight(more[0]) + size * len(more[0]))
    elif name == "translate":
        pay(size * weight(more))
    elif name in ("center", "expandtabs", "ljust", "rjust", "zfill"):
        pay(widths * (size if name == "expandtabs" else 1))
    pay(size)


def _pay_format(text: str, values: object) -> None:
    widths = [width for found in _WIDTHS.findall(text) for width in found if width]
    if any(not width.isdecimal() or len(width) > len(str(MAX_WORK)) for width in widths):
        raise OverflowError("a format says its widths itself, and no long ones")
    pay(len(text) + sum(map(int, widths)) + (text.count("%") + text.count("{")) * weight(values))


def _replaced(text: str, old: str, new: str) -> int:
    return text.count(old) * len(new)
