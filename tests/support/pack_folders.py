"""Packs as folders for tests: written from a text, sealed with the manifest the text tells."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from runtime.blocks.packs.export import write_manifest

TEXT = '''
from runtime.blocks.block import Block
from runtime.blocks.packs.pack import Pack


class Say(Block, type_id="{type_id}", display_name="Say", side_effects="none", inline=True):
    """Say a word."""

    word: str = "{word}"

    def validate(self, input, ctx):
        pass

    def run(self, input, ctx):
        return self.word + "!"


PACK = Pack("{name}", "{version}", [Say], module="{module}")
'''


def pack_text(name: str, *, type_id: str = "", word: str = "", version: str = "1", module: str = "") -> str:
    """The source of a pack with one block type, ``<name>_say`` by default, which says ``word`` or the name."""
    return TEXT.format(
        name=name, type_id=type_id or f"{name}_say", word=word or name, version=version, module=module or name
    )


def write_pack(folder: Path, name: str, text: str = "", **facts: Any) -> Path:
    """A sealed pack in ``folder/name``; ``text`` overrides its source."""
    place = folder / name
    place.mkdir(parents=True)
    (place / f"{name}.py").write_text(textwrap.dedent(text) or pack_text(name, **facts))
    write_manifest(place, name)
    return place
