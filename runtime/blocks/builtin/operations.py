"""One block type per operation type: its parameters go to ``ctx.operate`` as they are (architecture §7).

The governed runtime decides whether the operation may happen, records it and can undo it; the block adds nothing but
its place in the graph. Inside a run the safety class of an attempt comes from receipts (ruling R14) and a declaration
could only make it worse, so types whose effect depends on their parameters declare none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Final

from runtime.blocks.block import Block
from runtime.blocks.config import ConfigField
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.contracts import multiple, once
from runtime.blocks.values import BlockValue


class OperationBlock(Block, abstract=True, input=multiple(), output=once("map")):
    """Base of the operation blocks. The input value is ignored; parameters say everything.

    ``known`` lists the parameters worth naming in schemas and error messages; handlers check the rest.
    """

    free_form_field: ClassVar[str | None] = "params"
    is_operation: ClassVar[bool] = True
    known: ClassVar[tuple[ConfigField, ...]] = ()

    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def declared_config(cls) -> tuple[ConfigField, ...]:
        return cls.known

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Parameters are checked by the operation's handler, before anything happens."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> BlockValue:
        return await ctx.operate(self.spec.type_id, self.resolved(input, ctx))

    def resolved(self, input: BlockValue, ctx: BlockContext) -> Mapping[str, Any]:
        """The parameters of this attempt. Override to compute them from the input or from ``ctx.state``."""
        return self.params


def _text(name: str, summary: str, *, required: bool = False, choices: tuple[str, ...] = ()) -> ConfigField:
    return ConfigField(name=name, kinds=Kinds.STRING, required=required, summary=summary, choices=choices)


def _texts(name: str, summary: str, *, required: bool = False) -> ConfigField:
    return ConfigField(name=name, kinds=Kinds.LIST, items=Kinds.STRING, required=required, summary=summary)


def _number(name: str, summary: str) -> ConfigField:
    return ConfigField(name=name, kinds=Kinds.NUMBER, summary=summary)


def _any(name: str, summary: str, *, required: bool = False) -> ConfigField:
    return ConfigField(name=name, kinds=Kinds.ANY, required=required, summary=summary)


_MAP_OR_TEXT: Final = Kinds.MAP | Kinds.STRING


class LlmCall(OperationBlock, type_id="llm_call", display_name="Model call", side_effects="idempotent"):
    """Ask a language model; the answer is a map."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _text("prompt", "What the model is asked; the role's prompt alone when silent."),
        _text("role", "Which role's prompt and model to use; the block's acting role when silent."),
        _text("model", "A model name, or 'auto'."),
        _text("provider", "Who must answer; the mission's provider when silent."),
        ConfigField(name="packet", kinds=Kinds.MAP, summary="Structured data sent beside the prompt."),
        ConfigField(
            name="output_schema", kinds=_MAP_OR_TEXT, summary="JSON Schema of the answer, or a file holding it."
        ),
        _number("temperature", "Sampling temperature; 0 by default."),
        ConfigField(name="max_tokens", kinds=Kinds.INT, summary="Upper bound of the answer's length."),
    )


class ToolInvoke(OperationBlock, type_id="tool_invoke", display_name="Tool"):
    """Use one action of a tool: read or write a file, use git, run a command."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _text("tool", "The tool, or 'tool.action'.", required=True),
        _text("action", "The action, when 'tool' does not name it."),
        _text("path", "A file or folder, relative to the workspace."),
        _texts("paths", "Several files, relative to the workspace."),
        _any("content", "What to write."),
        _text("message", "A commit message."),
        ConfigField(
            name="expect_sha256",
            kinds=Kinds.STRING | Kinds.NULL,
            summary="Hash the file must have; null: must not exist.",
        ),
    )


class PacketRoute(OperationBlock, type_id="packet_route", display_name="Route a packet", side_effects="none"):
    """Run a registered, pure transform over a packet."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _text("transform", "The transform's name.", required=True),
        ConfigField(name="input", kinds=_MAP_OR_TEXT, summary="The packet.", required=True),
    )


class GateCheck(OperationBlock, type_id="gate_check", display_name="Gate", side_effects="none"):
    """Let the run continue only if a registered check passes."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _text("check", "The check's name, or 'schema:<NAME>'."),
        _any("condition", "What is checked."),
        _text("on_fail", "What a closed gate does.", choices=("fail", "escalate")),
    )


class RunTests(OperationBlock, type_id="run_tests", display_name="Run tests", side_effects="idempotent"):
    """Run the project's tests; failing tests fail the block."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _texts("test_paths", "Files, folders or 'path::test' to run.", required=True),
        _texts("pytest_args", "Allowed pytest options."),
        ConfigField(name="min_tests", kinds=Kinds.INT, summary="At least this many tests must have run."),
    )


class Escalate(OperationBlock, type_id="escalate", display_name="Escalate", side_effects="idempotent"):
    """Tell the operator about something already decided, without waiting."""

    known: ClassVar[tuple[ConfigField, ...]] = (
        _text("reason", "What the operator should know.", required=True),
        _text("severity", "How urgent it is.", choices=("info", "warning", "critical")),
        _any("context", "Facts shown beside the reason."),
    )
