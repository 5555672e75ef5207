"""A pack of blocks with every habit authors have. Also copied into folders as it is: it imports the runtime only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import field
from typing import Any, Literal

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple, once, recurring
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import (
    BlockInputError,
    BlockRuntimeError,
    BlockSkip,
    BlockTimeout,
    BlockValidationError,
)
from runtime.blocks.packs.pack import Pack
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.results import Multiple, Once, Recurring
from runtime.blocks.services import AiRequest, Mail
from runtime.blocks.values import BlockValue


class _Any(Block, abstract=True, input=multiple(), side_effects="none"):
    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Anything goes."""


class Where(_Any, reads=("total",), inline=True, output=once("map")):
    """Tell everything the context knows."""

    label: str = field(default="here", metadata={"help": "A label."})
    mood: Literal["calm", "loud"] = "calm"
    token: str | None = field(default=None, metadata={"secret": True})

    def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, Any]:
        names = ("block_name", "node_name", "node_path", "workflow_id", "run_id", "trace_id", "span_id")
        ctx.annotate("demo.label", self.label)
        ctx.annotate("forged", 1)
        ctx.log_info("seen", {"label": self.label})
        return {
            **{name: getattr(ctx, name) for name in names},
            "numbers": [ctx.attempt, ctx.visit, ctx.tick],
            "sources": list(ctx.sources),
            "joined": ctx.joined,
            "state": dict(ctx.state),
            "config": dict(ctx.config),
            "error": None if ctx.error is None else dict(ctx.error),
            "cancelled": ctx.cancelled,
            "bounded": ctx.deadline is not None,
            "draw": ctx.services.random.random(),
            "env": dict(ctx.services.env),
            "input": input,
        }


class Threaded(_Any):
    """Use the blocking calls from a thread."""

    def run(self, input: BlockValue, ctx: BlockingContext) -> object:
        ctx.log_warn("from a thread", input)
        ctx.annotate("demo.thread", True)
        ctx.sleep(2.5)
        ctx.emit("data", {"kept": input})
        ctx.emit("telemetry", "shown")
        ctx.services.files.write("out/a.txt", input.text().encode())
        ctx.services.files.write("out/a.txt", b"!", append=True)
        page = ctx.services.http.get("https://example.org/", user_agent="demo")
        ctx.services.mailer.send(Mail(to="a@example.org", subject="s", body="b"))
        return [
            ctx.services.files.read("out/a.txt"),
            ctx.services.files.list("out"),
            page.status,
            page.text,
            ctx.services.clock.now().isoformat(),
            ctx.services.ai.generate(AiRequest(prompt="p", data={"x": 1})).text,
        ]


class Asks(_Any):
    """Operate and wait; while waiting no deadline runs."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> object:
        ctx.log_debug("asking", {1, 2})
        await ctx.wait("are you there?")
        answer = await ctx.wait("go on?", kinds=("string",), choices=("yes", "no"), subject=input)
        output = await ctx.operate(
            "tool_invoke", {"tool": "x.y", "value": input.to_python()}, key="k", compensation=("custom", "z")
        )
        return [answer, output]


class Rows(_Any, output=multiple("int")):
    """Return several values."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> Multiple:
        return Multiple(range(input.as_int or 0))

    @property
    def output_count(self) -> int | None:
        return 2


class Ticks(_Any, output=recurring("int")):
    """Stream, and fail at 3."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> AsyncIterator[int]:
        for number in range(input.as_int or 0):
            before = ctx.services.clock.now()
            await ctx.sleep(60)
            if ctx.services.clock.now() <= before:
                raise BlockRuntimeError("demo.time", "time stands still")
            if number == 3:
                raise BlockRuntimeError("demo.third", "the third one fails", effects="none")
            yield number


class Opened(_Any, output=recurring("int"), inline=True):
    """Open a stream by hand."""

    def run(self, input: BlockValue, ctx: BlockContext) -> Recurring:
        async def numbers() -> AsyncIterator[int]:
            yield 7

        if input.is_null:
            raise BlockInputError("demo.nothing", "there is nothing to open")
        return Recurring(numbers())


class Sized(_Any, retry=RetryPolicy.exponential(2, 0.5), timeout=1.5, inline=True):
    """Contracts and class depend on config."""

    as_bytes: bool = False

    @property
    def input_contract(self) -> BlockValueContract:
        return once("bytes") if self.as_bytes else once("string")

    @property
    def output_contract(self) -> BlockValueContract:
        return once("bytes") if self.as_bytes else once("string")

    @property
    def config_side_effects(self) -> SideEffects | None:
        return SideEffects.IDEMPOTENT if self.as_bytes else SideEffects.NONE

    def run(self, input: BlockValue, ctx: BlockContext) -> BlockValue:
        return input


class Picky(_Any, inline=True):
    """Refuse, each in its way."""

    how: str = "raise"

    def __post_init__(self) -> None:
        if self.how == "config":
            raise BlockValidationError("validation.bad_config", "this cannot be", details={"how": self.how})
        if self.how == "type":
            raise TypeError("of another type, please")
        if self.how == "odd":
            raise KeyError("odd")

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> object:  # type: ignore[override]
        if self.how == "return":
            return False
        if self.how == "crash":
            raise KeyError("crash")
        if self.how == "raise":
            raise BlockInputError("demo.refused", f"not at {ctx.node_name or ctx.block_name}", effects="none")
        return None

    def run(self, input: BlockValue, ctx: BlockContext) -> object:
        if self.how == "set":
            return {1, 2}
        if self.how == "stream":
            return _numbers()
        return Multiple([1]) if self.how == "mode" else Once(1)


async def _numbers() -> AsyncIterator[int]:
    yield 1


class Fails(_Any, side_effects="idempotent", inline=True):
    """Raise whatever is asked for."""

    how: str

    def run(self, input: BlockValue, ctx: BlockContext) -> object:
        raise self._errors()[self.how]

    def _errors(self) -> dict[str, Exception]:
        cause = ValueError("the cause")
        chained = RuntimeError("the effect")
        chained.__cause__ = cause
        full: dict[str, Any] = {
            "details": {"list": [1, 2.5, None], "raw": b"\x00"},
            "domain": "custom",
            "provider_status": "503",
            "retry_disposition": "manual",
            "severity": "critical",
            "effects": "none",
        }
        errors: dict[str, Exception] = {
            "input": BlockInputError("demo.input", "wrong"),
            "validation": BlockValidationError("demo.rule", "wrong"),
            "runtime": BlockRuntimeError("demo.work", "wrong", **full),
            "timeout": BlockTimeout("runtime.timeout", "late"),
            "skip": BlockSkip("nothing", code="skip.quiet", details={"seen": 3}),
            "other": chained,
            "silent": RuntimeError(),
        }
        return errors


BLOCKS = (Where, Threaded, Asks, Rows, Ticks, Opened, Sized, Picky, Fails)
PACK = Pack("samples", "1.2", BLOCKS, module="samples")
