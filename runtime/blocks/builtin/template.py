"""Text from data: Jinja2 in its sandbox, the template language Python users know (architecture §4, ruling 14).

Templates are pure: no file, no environment, no Python attribute that could change anything. Names that do not exist
render as nothing, at any depth. Nothing is escaped unasked: ``e`` makes foreign text safe for HTML, ``markdown`` for
Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from typing import Any, Final

from jinja2 import ChainableUndefined, Template, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockRuntimeError, BlockValidationError
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import BlockValue

#: Rendered text is limited to what one frame may hold with room to spare.
MAX_OUTPUT: Final = 4 * 1024 * 1024
#: Longest text or list that ``*`` may build inside an expression.
MAX_REPEAT: Final = 100_000


class _Sandbox(ImmutableSandboxedEnvironment):
    """The stock sandbox, which bounds ranges but not repetition and powers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise OverflowError("the power operator is not available in templates")
        if _product(left, right) > MAX_REPEAT:
            raise OverflowError(f"repetition is limited to {MAX_REPEAT} elements")
        return super().call_binop(context, operator, left, right)


def _product(left: Any, right: Any) -> int:
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            return len(sequence) * count
    return 0


#: What makes text into markup: code, emphasis, links, pictures and HTML.
_MARKDOWN: Final = re.compile(r"[\\`*\[<]")


def markdown(text: object) -> str:
    """Text that reads the same in Markdown: one line, its markup escaped."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(text).split()))


_ENVIRONMENT: Final = _Sandbox(undefined=ChainableUndefined, autoescape=False, keep_trailing_newline=True)
_ENVIRONMENT.filters["markdown"] = markdown


@lru_cache(maxsize=256)
def _compiled(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


class TextTemplate(
    Block, type_id="template", display_name="Template", input=multiple(), output=once("string"), side_effects="none"
):
    """Render text from data with a Jinja2 template."""

    template: str = field(metadata={"help": "The template text; {{ name }} inserts a value."})
    data: Any = field(default=None, metadata={"help": "The values it may use; the input when silent."})

    def __post_init__(self) -> None:
        try:
            _compiled(self.template)
        except TemplateSyntaxError as error:
            where = {"line": error.lineno}
            raise BlockValidationError(
                "template.invalid", f"line {error.lineno}: {error.message}", details=where
            ) from None

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Everything can be rendered."""

    def run(self, input: BlockValue, ctx: BlockingContext) -> str:
        try:
            text = _limited(_compiled(self.template), variables(input.to_python() if self.data is None else self.data))
        except Exception as error:
            told = clean_text(f"{type(error).__name__}: {error}")
            raise BlockRuntimeError("template.render_failed", f"the template failed: {told}", effects="none") from error
        return text


def variables(data: object) -> dict[str, Any]:
    """Names a template may use: the members of a map, and ``value`` for the whole."""
    plain = data.to_python() if isinstance(data, BlockValue) else data
    members = {str(key): item for key, item in plain.items()} if isinstance(plain, Mapping) else {}
    return {"value": plain, **members}


def _limited(template: Template, names: Mapping[str, Any]) -> str:
    parts, size = [], 0
    for part in template.generate(names):
        size += len(part)
        if size > MAX_OUTPUT:
            raise OverflowError(f"the text exceeds {MAX_OUTPUT} characters")
        parts.append(part)
    return "".join(parts)
