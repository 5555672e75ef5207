"""Text from data: Jinja2 in its sandbox, the template language Python users know (architecture §4, ruling 14).

Templates are pure: no file, no environment, no Python attribute that could change anything. They may come from the input,
so what one costs is bounded, too. Names that do not exist render as nothing, at any depth. Nothing is escaped unasked:
``e`` makes foreign text safe for HTML, ``markdown`` for Markdown. ``{% include "name" %}`` inserts a partial.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final

from jinja2 import ChainableUndefined, DictLoader, Template, TemplateSyntaxError, meta

from runtime.blocks.builtin.addressing import Addressing
from runtime.blocks.builtin.template_limits import LimitedSandbox, Purse, purse
from runtime.blocks.contexts import BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockInputError, BlockRuntimeError, BlockValidationError
from runtime.blocks.sanitise import clean_text
from runtime.blocks.values import BlockValue

#: Rendered text is limited to what one frame may hold with room to spare.
MAX_OUTPUT: Final = 4 * 1024 * 1024
#: What makes text into markup: code, emphasis, links, pictures and HTML.
_MARKDOWN: Final = re.compile(r"[\\`*\[<]")


def markdown(text: object) -> str:
    """Text that reads the same in Markdown: one line, its markup escaped."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(text).split()))


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A template, and whether it asks for anything of the data."""

    template: Template
    asks: bool


@lru_cache(maxsize=256)
def _compiled(text: str, partials: tuple[tuple[str, str], ...]) -> _Compiled:
    """Raises `BlockValidationError` ``template.invalid``."""
    environment = LimitedSandbox(
        undefined=ChainableUndefined, autoescape=False, keep_trailing_newline=True, loader=DictLoader(dict(partials))
    )
    environment.filters["markdown"] = markdown
    asks = False
    for name, source in (("", text), *partials):
        where = f"partial {name!r}, " if name else ""
        try:
            tree = environment.parse(source)
            asks = asks or bool(meta.find_undeclared_variables(tree) - environment.globals.keys())
            unknown = {item for item in meta.find_referenced_templates(tree) if item} - dict(partials).keys()
            environment.compile(tree)
        except TemplateSyntaxError as error:
            raise _invalid(f"{where}line {error.lineno}: {error.message}", line=error.lineno) from None
        if unknown:
            raise _invalid(f"{where}there is no partial {min(unknown)!r}")
    return _Compiled(environment.from_string(text), asks)


def _invalid(why: str, **details: Any) -> BlockValidationError:
    return BlockValidationError("template.invalid", why, details=details, effects="none")


class TextTemplate(
    Addressing,
    type_id="template",
    display_name="Template",
    input=multiple(),
    output=once("string"),
    side_effects="none",
):
    """Render text from data with a Jinja2 template."""

    address_field: ClassVar[str] = "template"
    address_keys: ClassVar[tuple[str, ...]] = ("template",)
    address_text: ClassVar[bool] = False
    address_missing: ClassVar[str] = "template.missing_data"
    carries_content: ClassVar[bool] = True

    template: str = field(
        default="",
        metadata={
            "help": "The template text; {{ name }} inserts a value. When silent: the input's 'template', else JSON."
        },
    )
    partials: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Further templates by name, for {% include %}."}
    )
    data: Any = field(default=None, metadata={"help": "The values it may use; the input when silent."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._compiled(self.configured or "")

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The template must be one, and have data if it asks for some."""
        if self.address_from == "input":
            self.address(input)
        if self._compiled(self._text(input)).asks and self._values(input).is_null:
            raise BlockInputError(
                "template.missing_data", "the template names values, but there is no data", effects="none"
            )

    def run(self, input: BlockValue, ctx: BlockingContext) -> str:
        text, values = self._text(input), self._values(input)
        if not text.strip():
            return values.to_json()
        try:
            return _limited(self._compiled(text).template, variables(values))
        except Exception as error:
            told = clean_text(f"{type(error).__name__}: {error}")
            raise BlockRuntimeError("template.render_failed", f"the template failed: {told}", effects="none") from error

    def _compiled(self, text: str) -> _Compiled:
        return _compiled(text, tuple(self.partials.items()))

    def _text(self, input: BlockValue) -> str:
        return self.configured or self.offered(input) or ""

    def _values(self, input: BlockValue) -> BlockValue:
        """The data: as configured, else the input without the template it brought."""
        if self.data is not None:
            return BlockValue.of(self.data)
        if self.offered(input) is None:
            return input
        return BlockValue.of({key: item for key, item in input.expect_map().items() if key != "template"})


def variables(data: object) -> dict[str, Any]:
    """Names a template may use: the members of a map, and ``value`` for the whole."""
    plain = data.to_python() if isinstance(data, BlockValue) else data
    members = {str(key): item for key, item in plain.items()} if isinstance(plain, Mapping) else {}
    return {"value": plain, **members}


def _limited(template: Template, names: Mapping[str, Any]) -> str:
    parts, size = [], 0
    purse.set(Purse())
    for part in template.generate(names):
        size += len(part)
        if size > MAX_OUTPUT:
            raise OverflowError(f"the text exceeds {MAX_OUTPUT} characters")
        parts.append(part)
    return "".join(parts)
