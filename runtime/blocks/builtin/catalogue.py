"""The built-in block types a mission file may name: the first pack, loaded like every other (blocks spec §20.1).

`map_input` takes a function and is for library use only.
"""

from __future__ import annotations

from typing import Final

from runtime.blocks.block import Block
from runtime.blocks.builtin.approval import Approval
from runtime.blocks.builtin.burst import Burst
from runtime.blocks.builtin.choosing import Conditional, Filter
from runtime.blocks.builtin.commits import ConventionalCommits
from runtime.blocks.builtin.cron import Cron
from runtime.blocks.builtin.feeds import Deduplicate, RssParse
from runtime.blocks.builtin.files import FileRead, FileWrite, ListDirectory
from runtime.blocks.builtin.markdown import MarkdownToHtml
from runtime.blocks.builtin.operations import Escalate, GateCheck, LlmCall, PacketRoute, RunTests, ToolInvoke
from runtime.blocks.builtin.remote import AiGenerate, HttpRequest, SendEmail
from runtime.blocks.builtin.shaping import (
    Combine,
    Delay,
    Echo,
    Merge,
    SelectFirst,
    SplitByKeys,
    SplitFirst,
    SplitLines,
    Trigger,
)
from runtime.blocks.builtin.template import TextTemplate
from runtime.blocks.builtin.transform import CustomTransform
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
    Cron,
    FileRead,
    FileWrite,
    ListDirectory,
    HttpRequest,
    SendEmail,
    AiGenerate,
    SplitByKeys,
    SplitFirst,
    Merge,
    Filter,
    Conditional,
    Trigger,
    MarkdownToHtml,
    CustomTransform,
)

BUILTIN: Final = Pack("builtin", "1", BUILTINS, module="builtin.catalogue", symbol="BUILTIN")
