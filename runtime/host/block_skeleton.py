"""A first block of one's own: a pack's folder with a block and a test, ready to be changed (blocks spec §20.7)."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Final

from runtime.blocks.packs.export import write_manifest
from runtime.blocks.packs.folders import MANIFEST_FILE
from runtime.kernel.errors import QuarterdeckError
from runtime.missions.types import default_registry, shapes

#: What a type id, a Python module and a folder may all be called.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")

_BLOCK: Final = '''\
"""The block type ``{name}``. What it declares here is all that `quarterdeck` needs to know of it."""

from __future__ import annotations

from dataclasses import field

from runtime.blocks.api import Block, BlockingContext, BlockInputError, BlockValidateContext, BlockValue, Pack, once


class {cls}(Block, type_id="{name}", input=once("string"), output=once("string"), side_effects="none"):
    """Put a text between two marks."""

    mark: str = field(default="*", metadata={{"help": "What stands before and after the text."}})

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Refuse what cannot be worked on. Nothing may be changed here, neither files nor anything else."""
        if not input.text().strip():
            raise BlockInputError("{name}.blank", "there is no text to mark")

    def run(self, input: BlockValue, ctx: BlockingContext) -> str:
        """Do the work. The world is reached through ``ctx`` only: ``ctx.services``, ``ctx.operate``, ``ctx.wait``."""
        return f"{{self.mark}}{{input.text()}}{{self.mark}}"


PACK = Pack("{name}", "1", [{cls}])
'''

_TEST: Final = '''\
"""What ``{name}`` promises. Run with: pytest {folder}"""

from {name} import {cls}

from runtime.blocks.api import run_block_for_test


def test_it_marks_a_text() -> None:
    assert run_block_for_test({cls}(mark="_"), "hello").data.payload == "_hello_"


def test_it_refuses_a_blank_text_before_it_runs() -> None:
    trial = run_block_for_test({cls}(), " ")
    assert (trial.code, trial.metadata["phase"]) == ("{name}.blank", "validate")
'''


def create_block(name: str, folder: Path) -> list[Path]:
    """Write ``blocks/NAME``, a pack with a block and its test, below ``folder``; returns what was created.

    Raises `QuarterdeckError`: ``INIT_NAME`` for a name that cannot be one, and what `write_new` raises.
    """
    if not _NAME.match(name) or keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise QuarterdeckError(
            "INIT_NAME",
            f"{name!r} cannot name a block",
            hint="use lower-case letters, digits and _, beginning with a letter, and no word of Python's own",
        )
    if name in shapes(default_registry()):
        raise QuarterdeckError("INIT_NAME", f"{name} is a block type that is built in", hint="choose another name")
    home = folder / "blocks" / name
    words = {"name": name, "cls": "".join(part.capitalize() for part in name.split("_")), "folder": home.as_posix()}
    files = write_new({home / f"{name}.py": _BLOCK.format(**words), home / f"test_{name}.py": _TEST.format(**words)})
    write_manifest(home, name)
    return [*files, home / MANIFEST_FILE]


def write_new(files: dict[Path, str | bytes]) -> list[Path]:
    """Write files that are not there yet, with their folders; none when one of them is.

    Raises `QuarterdeckError`: ``INIT_EXISTS``, ``INIT_IO``.
    """
    for path in files:
        if path.exists():
            raise QuarterdeckError("INIT_EXISTS", f"{path} exists", hint="choose another folder; init never overwrites")
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise QuarterdeckError("INIT_IO", f"cannot write {error.filename}: {error.strerror}") from None
    return list(files)
