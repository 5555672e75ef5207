"""Reading, writing and listing files through ``ctx.services.files``; in a run, files of the work tree (ruling R42)."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from runtime.blocks.builtin.addressing import Addressing
from runtime.blocks.contexts import BlockContext
from runtime.blocks.contracts import BlockValueContract, once
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.values import BlockValue


class _Path(Addressing, abstract=True):
    address_field: ClassVar[str] = "path"
    address_keys: ClassVar[tuple[str, ...]] = ("path",)
    address_missing: ClassVar[str] = "input.path_required"

    path: str = field(default="", metadata={"help": "Path relative to the workspace; the input's when silent."})


class FileRead(
    _Path, display_name="Read a file", input=once("string", "map"), output=once("string", "bytes"), side_effects="none"
):
    """Read a whole file as text, or as bytes."""

    encoding: str = field(default="utf-8", metadata={"help": "How the file's text is encoded."})
    as_bytes: bool = field(default=False, metadata={"help": "Hand the bytes on as they are."})

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            b" ".decode(self.encoding)
        except LookupError:
            raise self.bad_config(f"there is no text encoding {self.encoding!r}") from None
        except ValueError:
            pass  # known, but one byte is no character of it

    @property
    def output_contract(self) -> BlockValueContract:
        return once("bytes" if self.as_bytes else "string")

    async def run(self, input: BlockValue, ctx: BlockContext) -> str | bytes:
        path = self.address(input)
        data = await ctx.services.files.read(path)
        if self.as_bytes:
            return data
        try:
            return data.decode(self.encoding)
        except ValueError as error:
            raise BlockRuntimeError(
                "file.decode_failed", f"{path} is not text in {self.encoding}: {error}", effects="none"
            ) from None


class FileWrite(_Path, display_name="Write a file", input=once("string", "bytes", "map"), output=once("null")):
    """Write the input into a file, replacing it in one step or adding to its end."""

    address_text: ClassVar[bool] = False
    carries_content: ClassVar[bool] = True

    append: bool = field(default=False, metadata={"help": "Add to the end instead of replacing the file."})

    @property
    def config_side_effects(self) -> SideEffects:
        return SideEffects.NON_IDEMPOTENT if self.append else SideEffects.IDEMPOTENT

    async def run(self, input: BlockValue, ctx: BlockContext) -> None:
        await ctx.services.files.write(self.address(input), _content(input), append=self.append)


def _content(value: BlockValue) -> bytes:
    if value.is_map:
        value = value.get("content", value)
    raw = value.as_bytes
    if raw is not None:
        return raw
    text = value.as_string
    return (value.to_json() if text is None else text).encode()


class ListDirectory(
    _Path, display_name="List a folder", input=once("string", "map"), output=once("list"), side_effects="none"
):
    """List what stands in a folder: full paths in ascending order, files and folders alike."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> list[str]:
        return await ctx.services.files.list(self.address(input))
