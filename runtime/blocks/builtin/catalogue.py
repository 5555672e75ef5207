"""The built-in block types a mission file may name: the first pack, loaded like every other (blocks spec §20.1).

`map_input` takes a function and is for library use only.
"""

from __future__ import annotations

from typing import Final

from runtime.blocks.block import Block
from runtime.blocks.builtin.approval import Approval
from runtime.blocks.builtin.burst import Burst
from runtime.blocks.builtin.commits import ConventionalCommits
from runtime.blocks.builtin.feeds import Deduplicate, RssParse
from runtime.blocks.builtin.operations import Escalate, GateCheck, LlmCall, PacketRoute, RunTests, ToolInvoke
from runtime.blocks.builtin.shaping import Combine, Delay, Echo, SelectFirst, SplitLines
from runtime.blocks.builtin.template import TextTemplate
from runtime.blocks.packs.pack import Pack

BUILTINS: Final[tuple[type[Block], ...]] = (
    LlmCall,
    ToolInvoke,
    PacketRoute,
    GateCheck,
    RunTests,
    Escalate,
    Approval,
    TextTemplate,
    RssParse,
    Deduplicate,
    ConventionalCommits,
    Combine,
    Echo,
    Delay,
    Burst,
    SelectFirst,
    SplitLines,
)

BUILTIN: Final = Pack("builtin", "1", BUILTINS, module="builtin.catalogue", symbol="BUILTIN")
