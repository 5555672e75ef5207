"""Whatever is in a mission file, loading ends within seconds: with a mission, or with what is wrong and where."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.missions.loader import Mission, load_bytes
from runtime.missions.problems import MissionInvalid
from tests.support.mission_texts import COMMANDS, FIX_THE_BUILD, ROUTED, SMALL, codes


def test_a_large_mission_loads_within_seconds() -> None:
    blocks = "\n".join(f"  b{n}: {{type: escalate, reason: '${{outputs.b{n - 1}.x}}'}}" for n in range(1, 1500))
    links = "\n".join(f"  - b{n} -> b{n + 1}" for n in range(1499))
    text = f'mission: big\nversion: "1"\nblocks:\n  b0: {{type: escalate, reason: x}}\n{blocks}\nlinks:\n{links}\n'
    started = time.process_time()
    assert codes(text) == []
    assert time.process_time() - started < 5.0


_KEYS = re.findall(r"[a-z_]+", FIX_THE_BUILD + SMALL + ROUTED)
_WORDS = st.sampled_from(
    sorted({*_KEYS, "${inputs.goal}", "${outputs.read.x}", "read -> write", "op.x", "src/**", "{{x}}"})
)
_TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["blocks", "links", "branches", "on_error", "inputs", "envelope", "outputs",
                                        "provider", "commands", "prompts", "workspace", "mission"]), _TREES))  # fmt: skip
@example({"blocks": {"a": {"type": []}}})
def test_any_tree_loads_or_is_explained(data: dict[str, Any]) -> None:
    _load_or_explain(json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_mission_loads_or_is_explained(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([SMALL, ROUTED, COMMANDS]))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    filling = data.draw(st.text(alphabet="ab: {}[]\n->${}&*'\"\t\x00é", max_size=6))
    _load_or_explain((text[:start] + filling + text[end:]).encode())


def _load_or_explain(source: bytes) -> None:
    try:
        outcome: Mission | MissionInvalid = load_bytes(source, Path("/nonexistent/mission.yaml"))
    except MissionInvalid as invalid:
        outcome = invalid
    if isinstance(outcome, MissionInvalid):
        assert any(item.severity == "error" for item in outcome.problems)
        assert all(item.line >= 1 and item.column >= 1 and item.message for item in outcome.problems)
    else:
        assert outcome.mission_hash.startswith("sha256:")


def _chain(count: int, edges: str, block: str = "{type: escalate, reason: x}") -> str:
    blocks = "".join(f" b{n}: {block}\n" for n in range(count))
    return f'mission: m\nversion: "1"\nblocks:\n{blocks}{edges}'


HOSTILE = {
    "one long link": _chain(2, f"links: ['{'b0 -> b1 -> ' * 20000}b0']\n"),
    "unknown links": _chain(1, f"links: ['{'q -> ' * 40000}b0']\n"),
    "references": _chain(1, "", f"{{type: escalate, reason: '{'${outputs.q}' * 18000}'}}"),
    "unknown sources": _chain(2000, "", "{type: escalate, reason: '${outputs.qq}'}"),
    "unknown keys": _chain(1, "".join(f"k{n}: 1\n" for n in range(9000))),
    "dense": _chain(
        1500,
        "links:\n" + "".join(f" - b{n} -> b{n + step}\n" for step in (1, 2, 3) for n in range(1497)),
        "{type: escalate, reason: '${outputs.b0}'}",
    ),
    "unknown conditions": _chain(
        1500, "branches:\n" + "".join(f" b{n}: [{{when: outputs.zz.ok, to: b0}}]\n" for n in range(1500))
    ),
    "slow globs": _chain(
        1,
        "envelope: {allowed_paths: [" + ", ".join(f"'{'*a' * 200}{n}'" for n in range(200)) + "]}\n",
        "{type: run_tests, test_paths: [" + ", ".join(["'" + "/".join(["a" * 200] * 5) + "'"] * 100) + "]}",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_be_slow_are_answered_within_seconds(name: str) -> None:
    started = time.process_time()
    codes(HOSTILE[name])
    assert time.process_time() - started < 5.0  # 0.1 to 1.5 s alone; generous for a busy machine
