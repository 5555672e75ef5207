"""Markdown to HTML: CommonMark, a pure function of its text (blocks spec §21)."""

from __future__ import annotations

from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockInputError
from runtime.blocks.values import BlockValue

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_MARKDOWN: Final = 1024 * 1024


class MarkdownToHtml(
    Block, display_name="Markdown to HTML", input=multiple(), output=once("string"), side_effects="none"
):
    """Turn Markdown into HTML; several sources and the elements of a list are one text, line after line."""

    allow_html: bool = field(
        default=True,
        metadata={"help": "Let HTML in the text through; false shows it as text, which foreign text needs."},
    )

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Every value has a text form, or says itself that it has none."""

    def run(self, input: BlockValue, ctx: BlockingContext) -> str:
        parts = input.expect_list() if input.is_list else (input,)
        text = "\n".join(part.text() for part in parts)
        if len(text) > MAX_MARKDOWN:
            raise BlockInputError("transform.invalid_input", f"{len(text)} characters are more than {MAX_MARKDOWN}")
        return str(_renderer(self.allow_html).render(text))


@lru_cache(maxsize=2)
def _renderer(allow_html: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt  # a tenth of a second that missions without Markdown need not wait for

    return MarkdownIt("commonmark", {"html": allow_html})
