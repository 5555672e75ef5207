"""``llm_call``: paid before asked, checked before believed (operations spec §3.1, §10.7, rulings §9.9)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import Envelope
from runtime.kernel.ports import ModelReply, ModelRequest
from runtime.orchestration.budget import Limits
from runtime.orchestration.handlers.settings import ModelSettings, Price
from tests.support.operation_rig import OPEN, Rig

SCHEMA = {
    "type": "object",
    "required": ["path"],
    "properties": {"path": {"type": "string"}},
    "additionalProperties": False,
}


class Model:
    """Answers in order; remembers what it was asked."""

    name = "fake"

    def __init__(self, *answers: str | Exception, usage: tuple[int, int] | None = (10, 5)) -> None:
        self.answers = list(answers)
        self.usage = usage
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest, on_delta: Callable[[str], None] | None = None) -> ModelReply:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if on_delta is not None:
            on_delta(answer)
        tokens = self.usage or (None, None)
        return ModelReply(text=answer, model="m-1", tokens_in=tokens[0], tokens_out=tokens[1], provider=self.name)


def rig_with(tmp_path: Path, model: Model | None, **settings: Any) -> Rig:
    (tmp_path / "tree").mkdir()
    members: dict[str, Any] = {"model": "m", "prices": {"m": Price(1_000_000, 2_000_000)}, "max_tokens": 100}
    return Rig(tmp_path / "tree", models=ModelSettings(provider=model, **{**members, **settings}))


async def test_plain_answers_are_text(tmp_path: Path) -> None:
    model, tail = Model("hello"), []
    rig = rig_with(tmp_path, model)
    result = await rig.do("llm_call", {"prompt": "hi"}, on_output=lambda stream, text: tail.append((stream, text)))
    assert result.output == {"text": "hello"}
    assert tail == [("model", "hello")]
    request = model.requests[0]
    assert (request.role, request.model, request.prompt, dict(request.packet)) == ("runner", "m", "hi", {})
    assert rig.kinds() == ["budget", "operation_started", "budget", "receipt"]
    receipt = result.receipt
    assert receipt is not None
    assert (receipt.cost_micros, rig.budget.spent_micros, rig.budget.spent_tokens) == (20, 20, 15)
    assert receipt.effect == "external"
    assert receipt.pre_workspace is None


async def test_an_object_that_fits_the_schema_is_the_output(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model('```json\n{"path": "a.txt"}\n```'), schemas={"patch": SCHEMA})
    result = await rig.do("llm_call", {"prompt": "hi", "output_schema": "patch"})
    assert result.output == {"path": "a.txt"}


async def test_other_values_are_wrapped(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model("[1, 2]"))
    result = await rig.do("llm_call", {"prompt": "hi", "output_schema": {"type": "array"}})
    assert result.output == {"value": [1, 2]}


async def test_one_more_try_for_an_invalid_answer_and_then_failure(tmp_path: Path) -> None:
    model = Model("no json", '{"path": 1}', '{"path": "x"}')
    rig = rig_with(tmp_path, model)
    result = await rig.do("llm_call", {"prompt": "hi", "output_schema": SCHEMA})
    assert result.reason_code == "LLM_OUTPUT_INVALID"
    assert result.output == {"text": '{"path": 1}'}
    assert len(model.requests) == 2
    assert "not JSON" in model.requests[1].packet["invalid_answer"][0]
    assert rig.budget.spent_micros == 40  # both tries were paid


async def test_a_second_try_may_succeed(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model("NaN", '{"path": "x"}'))
    assert (await rig.do("llm_call", {"prompt": "hi", "output_schema": SCHEMA})).output == {"path": "x"}


async def test_a_replay_miss_costs_nothing(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model(Refused("REPLAY_MISS", "not recorded")))
    result = await rig.do("llm_call", {"prompt": "hi"})
    assert result.reason_code == "REPLAY_MISS"
    assert rig.budget.spent_micros == 0


async def test_a_provider_that_breaks_off_may_have_cost_everything(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model(Refused("PROVIDER_TIMEOUT", "too slow")))
    result = await rig.do("llm_call", {"prompt": "hi"})
    assert result.reason_code == "PROVIDER_TIMEOUT"
    assert rig.budget.spent_micros > 100


async def test_money_is_reserved_before_the_call(tmp_path: Path) -> None:
    model = Model("never asked")
    rig = rig_with(tmp_path, model)
    rig.limits = Limits(micros=100)
    rig.__post_init__()
    result = await rig.do("llm_call", {"prompt": "hi"})
    assert result.reason_code == "BUDGET_EXCEEDED"
    assert model.requests == []
    assert rig.budget.remaining_micros == 100


async def test_a_step_envelope_may_allow_less_money(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model("x"))
    poor = Envelope(allowed_roles=["runner"], max_budget_usd=0.0001)
    assert (await rig.do("llm_call", {"prompt": "hi"}, stack=(OPEN, poor))).reason_code == "BUDGET_EXCEEDED"


async def test_a_model_without_a_price(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model("x", "y"), prices={})
    assert (await rig.do("llm_call", {"prompt": "hi"})).reason_code == "BUDGET_PRICE_UNKNOWN"
    rig.models = replace(rig.models, unpriced=True)
    rig.__post_init__()
    assert (await rig.do("llm_call", {"prompt": "hi"})).ok


async def test_free_providers_need_no_money(tmp_path: Path) -> None:
    rig = rig_with(tmp_path, Model("x", usage=None), prices={}, free=True)
    rig.limits = Limits()
    rig.__post_init__()
    assert (await rig.do("llm_call", {"prompt": "hi"})).ok
    assert rig.budget.spent_tokens == 0


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, "LLM_NO_PROMPT"),
        ({"prompt": "x", "role": "Runner"}, "OP_PARAMS"),
        ({"prompt": "x", "role": "stranger"}, "ENV_ROLE"),
        ({"prompt": "x", "max_tokens": 101}, "OP_PARAMS"),
        ({"prompt": "x", "temperature": 3}, "OP_PARAMS"),
        ({"prompt": "x", "output_schema": "none"}, "OP_PARAMS"),
        ({"prompt": "x", "output_schema": {"oneOf": []}}, "GATE_SCHEMA_UNSUPPORTED"),
        ({"prompt": "x", "tools": []}, "OP_PARAM_UNKNOWN"),
    ],
)
async def test_calls_that_are_refused(tmp_path: Path, params: dict[str, Any], code: str) -> None:
    model = Model("x")
    rig = rig_with(tmp_path, model)
    assert (await rig.do("llm_call", params)).reason_code == code
    assert model.requests == []


async def test_without_a_provider_there_is_no_model(tmp_path: Path) -> None:
    assert (await rig_with(tmp_path, None).do("llm_call", {"prompt": "x"})).reason_code == "LLM_NO_MODEL"


async def test_a_role_prompt_comes_first_and_the_question_is_data(tmp_path: Path) -> None:
    model = Model("x")
    rig = rig_with(tmp_path, model, prompts={"runner": "You repair code."})
    await rig.do("llm_call", {"prompt": "fix it", "packet": {"log": "red"}})
    assert model.requests[0].prompt == "You repair code."
    assert dict(model.requests[0].packet) == {"log": "red", "prompt": "fix it"}


async def test_secrets_are_not_kept(tmp_path: Path) -> None:
    key = "sk-" + "a1" * 20
    rig = rig_with(tmp_path, Model(f"your key is {key}, the password hunter2"), prompts={"runner": "hunter2?"})
    rig.redactor.learn("PASSWORD", "hunter2")
    tail: list[str] = []
    result = await rig.do("llm_call", {"prompt": "hi"}, on_output=lambda _, text: tail.append(text))
    kept = [json.loads(rig.artifacts.bodies[result.evidence["details"][name]]) for name in ("request", "response")]
    assert kept[0]["prompt"] == "<secret:PASSWORD>?"
    assert key not in json.dumps(kept)
    assert kept[1] == {
        "schema": "llm-response/1",
        "text": "your key is [secret removed], the password <secret:PASSWORD>",
    }
    assert result.evidence["details"]["replies"][0]["text_hash"] == digest_bytes(result.output["text"].encode())
    assert result.output["text"] == "".join(tail) == f"your key is {key}, the password <secret:PASSWORD>"


async def test_the_call_id_names_the_question_and_not_the_occasion(tmp_path: Path) -> None:
    model = Model("a", "b", "c")
    rig = rig_with(tmp_path, model)
    for index, prompt in enumerate(("same", "same", "other")):
        await rig.do("llm_call", {"prompt": prompt}, id=f"s1.{index}")
    first, second, third = [request.call_id for request in model.requests]
    assert first == second != third
