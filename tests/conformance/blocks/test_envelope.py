"""Requests and responses carry metadata nobody can forge (blocks spec §7)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.contexts import BlockContext
from runtime.blocks.envelope import Request
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.policies import RepairPolicy, RetryPolicy
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import Recorder, failing, respond, scope, step


async def test_golden_metadata() -> None:
    response = await respond(step("s"))
    assert dict(response.metadata) == {
        "id": "00000000-0000-4000-8000-000000000001",
        "trace_id": "00000000000040008000000000000002",
        "run_id": "00000000-0000-4000-8000-000000000002",
        "span_id": "8000000000000001",
        "block_name": "s",
        "attempt": 1,
        "visit": 1,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "duration_ms": 0.0,
        "side_effect_class": "none",
    }


async def test_a_given_id_survives_and_reserved_keys_cannot_be_forged() -> None:
    def action(value: Any, ctx: BlockContext) -> None:
        ctx.annotate("app.note", {"n": 1})
        ctx.annotate("run_id", "forged")

    request = Request(metadata={"id": "mine", "app.kept": 1})
    response = await step("s", action).execute(request, scope=scope())
    assert response.metadata["id"] == "mine"
    assert response.metadata["app.note"] == {"n": 1}
    assert response.metadata["app.kept"] == 1
    assert response.metadata["run_id"] != "forged"
    assert dict(request.metadata) == {"id": "mine", "app.kept": 1}


RESERVED = (
    "id",
    "trace_id",
    "run_id",
    "span_id",
    "parent_span_id",
    "block_name",
    "node_name",
    "node_path",
    "attempt",
    "visit",
    "created_at",
    "duration_ms",
    "side_effect_class",
)


async def test_a_block_that_tries_to_forge_any_reserved_key_changes_none() -> None:
    def action(value: Any, ctx: BlockContext) -> None:
        for key in (*RESERVED, "phase", "failure_path"):
            ctx.annotate(key, "forged")

    runner = Recorder()
    honest, forging = Workflow("w").add(step("s")), Workflow("w").add(step("s", action))
    await respond(honest, runner=runner)
    await respond(forging, runner=runner)
    first, second = (dict(response.metadata) for response in runner.responses)
    assert first == second
    assert first.keys() == set(RESERVED)


async def test_golden_metadata_of_a_child_and_its_composite() -> None:
    runner = Recorder()
    request = Request(1, metadata={"app.seen": "x", "app.kept": "y"})
    workflow = Workflow("w", propagate=["app.kept"]).link(step("a"), step("b"))
    response = await workflow.execute(request, runner=runner, scope=scope())
    run, trace = "00000000-0000-4000-8000-000000000002", "00000000000040008000000000000002"
    base = {"trace_id": trace, "run_id": run, "attempt": 1, "visit": 1, "created_at": "2026-01-01T00:00:00.000000Z"}
    base |= {"duration_ms": 0.0, "side_effect_class": "none"}
    own = {"id": "00000000-0000-4000-8000-000000000001", "span_id": "8000000000000001", "block_name": "w"}
    ended = {"source": "b", "composite": "w", "last_node": "b", "app.seen": "x", "app.kept": "y"}
    assert dict(response.metadata) == {**base, **own, **ended}
    for number, name, child in zip((3, 4), "ab", runner.responses, strict=True):
        ids = {"id": f"00000000-0000-4000-8000-{number:012}", "span_id": f"8{number:015}"}
        place = {"parent_span_id": own["span_id"], "block_name": name, "node_name": name, "node_path": name}
        assert dict(child.metadata) == {**base, **ids, **place, "app.kept": "y"}


async def test_every_attempt_has_fresh_ids_and_a_bare_repaired_request_gets_the_correlation_keys_back() -> None:
    runner = Recorder()
    bare = RepairPolicy(lambda request, failure: Request("mended", metadata={"run_id": "forged"}))
    block = failing("f", 2).with_recovery({BlockRuntimeError: [RetryPolicy(max_attempts=2), bare]})
    response = await respond(Workflow("w").add(block), runner=runner)
    assert response.success
    told = [call.request.metadata for call in runner.calls]
    assert [item["attempt"] for item in told] == [1, 2, 3]
    assert len({item["id"] for item in told}) == len({item["span_id"] for item in told}) == 3
    for key in ("trace_id", "run_id", "parent_span_id", "node_path"):
        assert len({item[key] for item in told}) == 1
    assert runner.calls[2].request.payload == BlockValue.of("mended")


async def test_a_request_and_a_response_never_change() -> None:
    payload, metadata = {"a": [1]}, {"id": "mine"}
    request = Request(payload, metadata=metadata)  # type: ignore[arg-type]
    payload["a"].append(2)
    metadata["id"] = "other"
    assert (request.payload, request.metadata["id"]) == (BlockValue.of({"a": [1]}), "mine")
    response = await step("s").execute(request, scope=scope())
    for frozen in (request.metadata, request.context, response.metadata):
        with pytest.raises(TypeError):
            frozen["x"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        response.success = False  # type: ignore[misc]
    assert request.with_payload(5).metadata == request.metadata
