"""No built-in touches files, sockets or processes outside an operation, and ``validate`` never does (blocks spec §6.4).

An audit hook sees everything the interpreter opens or starts; a context variable says whose doing it is, in worker
threads too. Every type of the catalogue is run: one without an example below fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext, BlockValidateContext
from runtime.blocks.envelope import Request, Response
from runtime.blocks.fakes import FakeClock
from runtime.blocks.registry import builtin_registry
from runtime.blocks.results import Recurring
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.kernel.ids import SequenceIds
from runtime.kernel.model import OperationResult
from tests.support.blocks_kit import FakeHost, operation

REGISTRY = builtin_registry()
#: Type id → config and input with which the block does all it can.
EXAMPLES: dict[str, tuple[dict[str, Any], object]] = {
    "ai_generate": ({"prompt": "Why?"}, {"a": 1}),
    "approval": ({"message": "Go?"}, 1),
    "burst": ({"items": 3, "telemetry": 3}, None),
    "combine": ({"keys": ["a"]}, 1),
    "conditional": ({"equals": 1}, 1),
    "conventional_commits": ({}, [{"message": "feat: a", "commit": "1"}]),
    "cron": ({"cron": "0 8 * * *"}, None),
    "custom_transform": ({}, 1),
    "deduplicate": ({"key": "a"}, [{"a": 1}, {"a": 1}]),
    "delay": ({"seconds": 1}, 1),
    "echo": ({}, 1),
    "escalate": ({"reason": "look"}, None),
    "file_read": ({"path": "a", "encoding": "cp1252"}, None),
    "file_write": ({"path": "a", "append": True}, "text"),
    "filter": ({"contains": "a"}, ["a"]),
    "gate_check": ({"check": "equals"}, None),
    "http_request": ({"url": "https://x.example"}, None),
    "list_directory": ({"path": "a"}, None),
    "llm_call": ({"prompt": "Why?"}, None),
    "markdown_to_html": ({}, "# a\n\n<b>b</b> [c](https://x.example)"),
    "merge": ({}, "a"),
    "packet_route": ({"transform": "identity", "input": {}}, None),
    "rss_parse": ({}, '<rss version="2.0"><channel><item><link>https://x.example/1</link></item></channel></rss>'),
    "run_tests": ({"test_paths": ["tests"]}, None),
    "select_first": ({}, ["a"]),
    "send_email": ({"to": "me@x.example"}, "text"),
    "split_by_keys": ({"keys": ["a"]}, '{"a": 1}'),
    "split_first": ({}, "a\nb"),
    "split_lines": ({}, "a\nb"),
    "template": ({"template": "{% include 'p' %}", "partials": {"p": "{{ a }}"}}, {"a": 1}),
    "tool_invoke": ({"tool": "filesystem.read_file", "path": "a"}, None),
    "trigger": ({}, None),
}
#: What operations answer, whichever they are.
OUTPUT = {
    "content": "text",
    "encoding": "utf-8",
    "truncated": False,
    "size": 4,
    "sha256": "x",
    "entries": [{"path": "b", "kind": "file"}],
    "status": 200,
    "text": "text",
}
_WATCHED = (
    "open",
    "socket.",
    "subprocess.",
    "os.",
    "shutil.",
    "tempfile.",
    "glob.",
    "pty.",
    "urllib.",
    "http.",
    "smtplib.",
    "ftplib.",
    "sqlite3.",
    "webbrowser.",
)
_acts: ContextVar[list[str] | None] = ContextVar("acts", default=None)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    acts = _acts.get()
    if acts is not None and event.startswith(_WATCHED):
        acts.append(f"{event} {args!r}")


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(_hook)  # for good: there is no way to remove one, so it looks at its variable first


@contextmanager
def watched() -> Iterator[list[str]]:
    """What this context and its worker threads do meanwhile."""
    acts: list[str] = []
    token = _acts.set(acts)
    try:
        yield acts
    finally:
        _acts.reset(token)


class Host(FakeHost):
    """Answers every operation with the same output."""

    async def operate(self, operation_type: str, params: Mapping[str, Any], **options: Any) -> OperationResult:
        self.operations.append((operation_type, dict(params)))
        result = operation()
        object.__setattr__(result, "output", OUTPUT)
        return result


async def run(block: Block, value: object) -> Response:
    """One attempt, and the first item of a stream."""
    scope = Scope(services=Services(clock=FakeClock(), ids=SequenceIds()))
    response = await block.execute(Request(BlockValue.of(value)), host=Host(), scope=scope)
    if isinstance(response.result, Recurring):
        stream = response.result.as_stream()
        await anext(stream)
        await response.result.aclose()
    return response


@pytest.mark.parametrize("type_id", [info.type_id for info in REGISTRY.types()])
async def test_a_built_in_touches_nothing_outside_an_operation(type_id: str) -> None:
    assert type_id in EXAMPLES, f"add an example of {type_id!r} to this file"
    config, value = EXAMPLES[type_id]
    assert (await run(REGISTRY.create(type_id, config), value)).success  # imports what it imports late
    with watched() as acts:
        response = await run(REGISTRY.create(type_id, config), value)
    assert response.success
    assert acts == []


@pytest.mark.parametrize("type_id", [info.type_id for info in REGISTRY.types()])
async def test_validate_touches_nothing_at_all(type_id: str) -> None:
    config, value = EXAMPLES[type_id]
    block = REGISTRY.create(type_id, config)
    judged: list[str] = []
    real = block.validate  # type: ignore[attr-defined]

    def validate(input: BlockValue, ctx: BlockValidateContext) -> object:
        with watched() as acts:
            returned: object = real(input, ctx)
        judged.extend(acts or ["clean"])
        return returned

    object.__setattr__(block, "validate", validate)
    await run(block, value)
    assert judged == ["clean"]


def test_validate_is_given_no_doors() -> None:
    doors = ("services", "operate", "wait", "sleep", "emit", "annotate")
    assert not [name for name in doors if hasattr(BlockValidateContext, name)]


async def test_the_watch_would_notice(tmp_path: Path) -> None:
    place = tmp_path / "x"

    class Threaded(Block):
        """Writes in its thread."""

        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        def run(self, input: BlockValue, ctx: BlockingContext) -> None:
            place.write_text("x")

    class Awaiting(Block):
        """Removes on the loop."""

        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        async def run(self, input: BlockValue, ctx: BlockContext) -> None:
            place.unlink()

    for block, event in ((Threaded(), "open"), (Awaiting(), "os.remove")):
        with watched() as acts:
            assert (await run(block, None)).success
        assert [act for act in acts if act.startswith(event)]


def test_building_services_does_nothing() -> None:
    Services()
    with watched() as acts:
        Scope(services=Services())
    assert acts == []
