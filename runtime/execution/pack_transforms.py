"""Blocks of packs as transforms of ``packet_route``: pure functions of a packet, in a process that can be killed (R44).

A block qualifies when it says that it has no side effects and needs no config. It gets the packet as its input and
no attempt to work for, so whatever it wants from the world is refused. That holds for packs trusted with this
process, too: only a process of its own can be stopped when it does not end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request
from runtime.blocks.packs.links import PackLink
from runtime.blocks.packs.manifest import PackBlockInfo
from runtime.blocks.packs.packed import packed_class
from runtime.blocks.values import BlockValue
from runtime.kernel.errors import Refused
from runtime.orchestration.handlers.routes import OBJECT, Transform


def is_transform(about: PackBlockInfo) -> bool:
    """May ``packet_route`` name this type?"""
    return about.side_effects is SideEffects.NONE and not any(field.required for field in about.config)


def pack_transform(about: PackBlockInfo, link: PackLink) -> Transform:
    """The transform of one block type. It fails with ``ROUTE_OUTPUT`` when the block fails."""
    block_class = packed_class(about, link)

    async def run(packet: dict[str, Any], told: Mapping[str, str]) -> Any:
        response = await block_class().execute(Request(BlockValue.of(packet)))
        if not response.success:
            raise Refused("ROUTE_OUTPUT", f"{about.type_id} gave nothing: {response.message or response.code}")
        return response.data.to_python()

    return Transform(name=about.type_id, version=about.version, function=run, input_schema=OBJECT, output_schema=OBJECT)
