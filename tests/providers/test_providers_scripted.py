"""Recorded answers come in order, per role, and continue where a resumed run left off."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime.governance.secrets import Secrets
from runtime.kernel.clock import ManualClock
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ModelRequest
from runtime.providers.adapters.scripted import ScriptedProvider
from runtime.providers.registry import build_provider


def ask(role: str = "planner") -> ModelRequest:
    return ModelRequest(
        call_id="c1",
        role=role,
        model="auto",
        prompt="p",
        packet={},
        output_schema=None,
        temperature=0.0,
        max_tokens=10,
        timeout=5,
    )


async def test_answers_come_in_order_and_roles_do_not_mix() -> None:
    provider = ScriptedProvider({"planner": ["one", "two"], "critic": ["fine"]})
    texts = [(await provider.complete(ask(role))).text for role in ("planner", "critic", "planner")]
    assert texts == ["one", "fine", "two"]


async def test_values_are_given_as_json_text_and_tokens_default_to_a_known_zero() -> None:
    provider = ScriptedProvider({"planner": [{"b": [1, 2.5], "a": "é"}, {"$answer": {"x": 1}, "tokens": [7, 3]}]})
    seen: list[str] = []
    first = await provider.complete(ask(), seen.append)
    second = await provider.complete(ask())
    assert json.loads(first.text) == {"a": "é", "b": [1, 2.5]}
    assert seen == [first.text]
    assert (first.tokens_in, first.tokens_out) == (0, 0)
    assert (second.text, second.tokens_in, second.tokens_out) == ('{"x": 1}', 7, 3)
    assert second.details == {"role": "planner", "ordinal": 1, "asked": ""}


async def test_a_resumed_run_continues_after_the_answers_already_used() -> None:
    provider = ScriptedProvider({"planner": ["one", "two"]})
    provider.restore("planner", 1)
    assert (await provider.complete(ask())).text == "two"
    with pytest.raises(Refused) as refused:
        await provider.complete(ask())
    assert refused.value.code == "PROVIDER_EXHAUSTED"


async def test_answers_may_depend_on_what_is_asked() -> None:
    provider = ScriptedProvider({"planner": {"salt": ["s1", "s2"], "pepper": ["p1"], "": ["else"]}})

    async def said(prompt: str, /, **packet: str) -> tuple[str, object]:
        reply = await provider.complete(replace(ask(), prompt=prompt, packet=packet))
        return reply.text, reply.details["asked"]

    assert await said("more salt") == ("s1", "salt")
    assert await said("go on", prompt="pepper, or salt") == ("s2", "salt"), "the first of the file decides"
    assert await said("pepper") == ("p1", "pepper")
    assert await said("water") == ("else", "")
    with pytest.raises(Refused, match="PROVIDER_EXHAUSTED"):
        await said("salt")
    provider.restore("planner", 1, "salt")
    assert await said("salt") == ("s2", "salt")
    with pytest.raises(Refused, match=r"PROVIDER_NO_ANSWER.*for this question.*'salt'"):
        await ScriptedProvider({"planner": {"salt": []}}).complete(ask())


async def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"PROVIDER_NO_ANSWER.*critic, planner"):
        await ScriptedProvider({"planner": [], "critic": []}).complete(ask("other"))


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"a": "text"}, "scripted.a"),
        ({"a": {"asked": "text"}}, "scripted.a.asked"),
        ({"a": [{"$answer": "x", "extra": 1}]}, r"scripted.a\[0\]"),
        ({"a": ["x", {"$answer": "x", "tokens": [1]}]}, r"scripted.a\[1\]"),
        ({"a": [{"$answer": "x", "tokens": [True, 1]}]}, r"scripted.a\[0\]"),
    ],
)
def test_malformed_data_is_refused_with_its_place(data: Any, where: str) -> None:
    with pytest.raises(Refused, match=rf"^{where}: PROVIDER_CONFIG"):
        ScriptedProvider(data)


@pytest.mark.parametrize(
    ("declaration", "code"),
    [
        ({}, "PROVIDER_CONFIG"),
        ({"scripted": {}, "openai": {}}, "PROVIDER_CONFIG"),
        ({"oracle": {}}, "PROVIDER_UNKNOWN"),
        ({"scripted": []}, "PROVIDER_CONFIG"),
        ({"openai": {"base_url": "http://x"}}, "PROVIDER_CONFIG"),
        ({"openai": {"base_url": "http://x", "model": "m", "token": "x"}}, "PROVIDER_CONFIG"),
        ({"openai": {"base_url": "http://x", "model": "m", "key": 5}}, "PROVIDER_CONFIG"),
        ({"openai": {"base_url": "http://x", "model": "m", "key": "sk-plain"}}, "SECRET_REFERENCE"),
    ],
)
def test_declarations_are_checked(declaration: Any, code: str) -> None:
    with pytest.raises(Refused) as refused:
        build_provider(declaration, secrets=Secrets({}), clock=ManualClock())
    assert refused.value.code == code
    assert "sk-plain" not in str(refused.value)


def test_both_kinds_can_be_built() -> None:
    scripted = build_provider({"scripted": {"a": ["x"]}}, secrets=Secrets({}), clock=ManualClock())
    endpoint = {"base_url": "http://x", "model": "m", "key": "env://KEY"}
    remote = build_provider({"openai": endpoint}, secrets=Secrets({}), clock=ManualClock())
    assert (scripted.name, remote.name) == ("scripted", "openai")
