"""Requests and responses carry metadata nobody can forge (blocks spec §7)."""

from __future__ import annotations

from typing import Any

from runtime.blocks.contexts import BlockContext
from runtime.blocks.envelope import Request
from tests.support.blocks_kit import respond, scope, step


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
