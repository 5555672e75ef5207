"""Everything an author of blocks and workflows imports, in one place; each name is documented where it is defined.

::

    from runtime.blocks.api import Block, Pack, Workflow, block, once, run_block_for_test
"""

from runtime.blocks.block import Block
from runtime.blocks.conditions import case, otherwise, when
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import multiple, once, recurring
from runtime.blocks.envelope import Response
from runtime.blocks.errors import (
    BlockDefinitionError,
    BlockError,
    BlockInputError,
    BlockRuntimeError,
    BlockSkip,
    BlockTimeout,
    BlockValidationError,
    OperationFailed,
    WorkflowRunFailed,
    WorkflowValidationFailed,
    WorkflowWiringError,
)
from runtime.blocks.fakes import FakeAi, FakeClock, FakeFiles, FakeHttp, FakeMailer
from runtime.blocks.function import block
from runtime.blocks.map_over import map_over
from runtime.blocks.packs.pack import Pack
from runtime.blocks.policies import BubblePolicy, DebugAction, DebugPolicy, RepairPolicy, RetryPolicy
from runtime.blocks.results import Multiple, Once, Recurring
from runtime.blocks.services import AiAnswer, AiRequest, HttpAnswer, Mail, Services
from runtime.blocks.testing import run_block_for_test
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow

__all__ = [
    "AiAnswer",
    "AiRequest",
    "Block",
    "BlockContext",
    "BlockDefinitionError",
    "BlockError",
    "BlockInputError",
    "BlockRuntimeError",
    "BlockSkip",
    "BlockTimeout",
    "BlockValidateContext",
    "BlockValidationError",
    "BlockValue",
    "BlockingContext",
    "BubblePolicy",
    "DebugAction",
    "DebugPolicy",
    "FakeAi",
    "FakeClock",
    "FakeFiles",
    "FakeHttp",
    "FakeMailer",
    "HttpAnswer",
    "Mail",
    "Multiple",
    "Once",
    "OperationFailed",
    "Pack",
    "Recurring",
    "RepairPolicy",
    "Response",
    "RetryPolicy",
    "Services",
    "Workflow",
    "WorkflowRunFailed",
    "WorkflowValidationFailed",
    "WorkflowWiringError",
    "block",
    "case",
    "map_over",
    "multiple",
    "once",
    "otherwise",
    "recurring",
    "run_block_for_test",
    "when",
]
