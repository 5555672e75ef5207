"""``gate_check``, ``packet_route``, ``escalate`` and the schema subset (operations spec §3.3, §3.4, §3.6)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kernel.errors import Refused
from runtime.kernel.model import Envelope, OperationStatus
from runtime.missions.parameters import CHECKS
from runtime.orchestration.handlers import schema_subset
from runtime.orchestration.handlers.routes import BUILT_IN, LIMIT_SECONDS, RouteHandler, Transform
from runtime.orchestration.handlers.settings import ModelSettings
from tests.support.operation_rig import OPEN, Rig
from tests.support.repositories import repository

COUNT = itertools.count()
PATCH = {
    "type": "object",
    "required": ["path"],
    "additionalProperties": False,
    "properties": {"path": {"type": "string"}},
}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    git = repository(tmp_path / "tree")
    return Rig(tmp_path / "tree", git=git, models=ModelSettings(schemas={"patch": PATCH, "odd": {"oneOf": []}}))


@pytest.mark.parametrize(
    ("check", "condition", "passes"),
    [
        ("non_empty", {"x": 1}, True),
        ("non_empty", {"x": 0, "y": False}, True),
        ("non_empty", {"x": ""}, False),
        ("non_empty", {}, False),
        ("equals", {"left": 1, "right": 1}, True),
        ("equals", {"left": 1, "right": True}, False),
        ("equals", {"left": 1}, False),
        ("compare", {"left": 2, "op": "gt", "right": 1}, True),
        ("compare", {"left": "2", "op": "gt", "right": 1}, False),
        ("compare", {"left": "a", "op": "in", "right": ["a"]}, True),
        ("compare", {"left": "a", "op": "not_in", "right": "abc"}, False),
        ("compare", {"left": 1, "op": "__eq__", "right": 1}, False),
        ("compare", {"left": True, "op": "eq", "right": True, "text": "inputs.n > 1"}, True),
        ("compare", {"left": False, "op": "eq", "right": True, "text": "inputs.n > 1"}, False),
        ("compare", {"left": 1, "op": "eq", "right": 1, "more": 1}, False),
        ("verdict_approved", {"verdict": "approved"}, True),
        ("verdict_approved", {"verdict": "rejected"}, False),
        ("verdict_approved", {"verdict": "approved' or '1'=='1"}, False),
        ("verdict_approved", {"verdicts": {"a": "approved", "b": "approved", "c": "rejected"}}, False),
        ("verdict_approved", {"verdicts": []}, False),
        ("verdict_approved", {}, False),
        ("tests_passed", {"passed": True, "executed": 1, "failures": 0, "errors": 0}, True),
        ("tests_passed", {"passed": True, "executed": 0, "failures": 0, "errors": 0}, False),
        ("tests_passed", {"passed": 1, "executed": 1, "failures": 0, "errors": 0}, False),
        ("path_scope", {"paths": ["new.txt"]}, True),
        ("path_scope", {"paths": ["docs/secret/x"]}, False),
        ("path_scope", {"paths": []}, False),
        ("repo_clean", {}, True),
        ("budget_available", {"micros": 1_000_000}, True),
        ("budget_available", {"micros": 1_000_001}, False),
        ("schema:patch", {"path": "x"}, True),
        ("schema:patch", {"path": 1}, False),
        ("schema:patch", {"path": "x", "more": 1}, False),
    ],
)
async def test_gates(rig: Rig, check: str, condition: Any, passes: bool) -> None:
    result = await rig.do("gate_check", {"check": check, "condition": condition})
    assert result.output["passed"] is passes
    assert bool(result.output["errors"]) is not passes
    assert result.reason_code == (None if passes else "GATE_NOT_PASSED")
    assert result.status is (OperationStatus.SUCCESS if passes else OperationStatus.FAILED)


@pytest.mark.parametrize("check", CHECKS)
async def test_every_gate_a_mission_may_name_exists(rig: Rig, check: str) -> None:
    assert (await rig.do("gate_check", {"check": check})).reason_code != "GATE_UNKNOWN"


async def test_a_dirty_tree_is_not_clean(rig: Rig) -> None:
    (rig.root / "x").touch()
    assert (await rig.do("gate_check", {"check": "repo_clean"})).output["errors"] == ["x has changes"]


async def test_the_governance_baseline_is_compared_when_there_is_one(rig: Rig) -> None:
    assert (await rig.do("gate_check", {"check": "governance_baseline"})).ok
    (rig.root / "config").mkdir()
    (rig.root / "config/governance_baseline.txt").write_text("0" * 64 + "  a.txt\n")
    result = await rig.do("gate_check", {"check": "governance_baseline"}, id="s1.1")
    assert result.output["errors"][0].startswith("BASELINE_")


async def test_gate_aliases_escalation_and_unsupported_schemas(rig: Rig) -> None:
    result = await rig.do("gate_check", {"schema": "non_empty", "data": {"x": None}, "on_fail": "escalate"})
    assert (result.status, result.reason_code) == (OperationStatus.ESCALATED, "GATE_NOT_PASSED")
    odd = await rig.do("gate_check", {"check": "schema:odd", "condition": {}}, id="s1.1")
    assert odd.reason_code == "GATE_SCHEMA_UNSUPPORTED"


@pytest.mark.parametrize(
    ("transform", "packet", "output"),
    [
        ("identity", {"a": [1]}, {"a": [1]}),
        ("pick", {"from": {"a": 1, "b": 2}, "keys": ["b", "c"]}, {"b": 2}),
        ("rename", {"from": {"a": 1, "b": 2}, "names": {"a": "x"}}, {"x": 1, "b": 2}),
        ("merge", {"parts": [{"a": 1}, {"a": 2, "b": 3}]}, {"a": 2, "b": 3}),
        ("sort_lines", {"text": "b\na\nb\n", "unique": True}, {"text": "a\nb"}),
    ],
)
async def test_transforms(rig: Rig, transform: str, packet: dict[str, Any], output: dict[str, Any]) -> None:
    result = await rig.do("packet_route", {"transform": transform, "input": packet})
    assert result.output == output
    assert result.receipt is not None
    assert result.receipt.effect == "none"


NAMES = [f"name {number:05}" for number in range(9_000)]
#: About as much as params may hold.
LARGEST: dict[str, dict[str, Any]] = {
    "identity": {"list": [[number] for number in range(30_000)]},
    "pick": {"from": dict.fromkeys(NAMES, 0), "keys": NAMES[::-1]},
    "rename": {"from": dict.fromkeys(NAMES[:6000], 0), "names": dict(zip(NAMES[:6000], NAMES[3000:], strict=True))},
    "merge": {"parts": [{name: 0} for name in NAMES]},
    "sort_lines": {"text": "\n".join(NAMES[::-1]), "unique": True},
}


@pytest.mark.parametrize("name", BUILT_IN)
async def test_no_transform_takes_long_over_the_largest_packet(rig: Rig, name: str) -> None:
    """They run in a thread, which nobody could kill: each must end by itself, and well within its limit."""
    began = time.process_time()  # its own time: what else the machine does is no fault of the transform
    assert (await rig.do("packet_route", {"transform": name, "input": LARGEST[name]})).ok
    assert time.process_time() - began < LIMIT_SECONDS / 2


def transform(function: Any) -> dict[str, Transform]:
    shape = {"type": "object"}
    return {"t": Transform(name="t", version="1", function=function, input_schema=shape, output_schema=shape)}


@pytest.mark.parametrize(
    ("function", "code"),
    [
        (lambda packet, about: [1], "ROUTE_OUTPUT"),
        (lambda packet, about: 1 / 0, "OP_FAILED"),
    ],
)
async def test_transforms_that_misbehave(rig: Rig, function: Any, code: str) -> None:
    rig.extra = {"packet_route": RouteHandler(transform(function))}
    rig.__post_init__()
    assert (await rig.do("packet_route", {"transform": "t", "input": {}})).reason_code == code


async def test_a_transform_works_on_a_copy_and_knows_little(rig: Rig) -> None:
    seen: list[Mapping[str, str]] = []

    def greedy(packet: dict[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
        seen.append(about)
        packet["list"].append(1)
        return packet

    rig.extra = {"packet_route": RouteHandler(transform(greedy))}
    rig.__post_init__()
    result = await rig.do("packet_route", {"transform": "t", "input": {"list": []}})
    assert result.output == {"list": [1]}
    assert seen[0].keys() == {"run_id", "mission_id", "step_id", "mission_type"}
    assert (await rig.do("packet_route", {"transform": "none", "input": {}}, id="s1.1")).reason_code == "ROUTE_UNKNOWN"


async def test_a_packet_of_the_wrong_shape(rig: Rig) -> None:
    assert (await rig.do("packet_route", {"transform": "pick", "input": {}})).reason_code == "ROUTE_INPUT"


async def test_escalating_is_always_possible(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    rig = Rig(tmp_path / "tree", envelope=Envelope())
    result = await rig.do("escalate", {"reason": "look here", "severity": "critical", "context": {"n": 1}})
    assert (result.status, result.reason_code) == (OperationStatus.ESCALATED, None)
    assert rig.kinds() == ["operation_started", "escalation", "receipt"]
    entry = rig.entries()[2]
    assert (entry["escalation_id"], entry["severity"], entry["blocking"]) == ("s1.0.escalation", "critical", False)
    assert result.output["escalation_id"] == "s1.0.escalation"
    again = await rig.do("escalate", {"reason": "look here", "severity": "critical", "context": {"n": 1}})
    assert again.replayed
    assert (await rig.do("escalate", {"reason": "x", "severity": "loud"}, id="s1.1")).reason_code == "OP_PARAMS"
    assert OPEN.allow_ops is None


# the schema subset


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": []},
        {"type": "text"},
        {"properties": {"a": {"format": "date"}}},
        {"items": {"$ref": "#"}},
        {"pattern": "("},
        {"pattern": "a" * 201},
        {"minLength": -1},
        {"minimum": "1"},
        {"required": "a"},
        {"additionalProperties": 1},
        [],
    ],
)
def test_unsupported_schemas_are_refused(schema: Any) -> None:
    with pytest.raises(Refused, match="GATE_SCHEMA_UNSUPPORTED"):
        schema_subset.check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, 1, True),
        ({"type": "integer"}, 2.0, 2.5),
        ({"type": ["string", "null"]}, None, 1),
        ({"const": 1}, 1, True),
        ({"enum": ["a", [1]]}, [1], [True]),
        ({"minLength": 2, "maxLength": 3}, "ab", "a"),
        ({"minItems": 1, "items": {"type": "string"}}, ["a"], [1]),
        ({"minItems": 1}, [0], []),
        ({"minimum": 1, "maximum": 2}, 1.5, 3),
        ({"pattern": "^a+$"}, "aa", "ab"),
        ({"additionalProperties": {"type": "integer"}}, {"x": 1}, {"x": "1"}),
    ],
)
def test_every_keyword_bites(schema: dict[str, Any], good: Any, bad: Any) -> None:
    schema_subset.check_schema(schema)
    assert schema_subset.errors(schema, good) == []
    assert schema_subset.errors(schema, bad)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner), max_leaves=10))  # fmt: skip
def test_the_empty_schema_accepts_everything(value: Any) -> None:
    assert schema_subset.errors({}, value) == []
