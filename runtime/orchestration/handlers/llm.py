"""``llm_call``: one question to a model, paid for before it is asked and checked before it is believed.

The worst case is reserved while planning and settled from the usage the provider reports; missing usage charges the
whole reservation. Request and response are kept as artifacts with secrets removed. What a model answers is data: it
becomes params of later operations only by passing every check again (operations spec §3.1).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from runtime.kernel.canonical import MAX_INT, canonical_bytes, digest, digest_bytes
from runtime.kernel.errors import QuarterdeckError, Refused
from runtime.kernel.ids import WORD
from runtime.kernel.model import MICROS, Effect, OperationPlan
from runtime.kernel.ports import ModelProvider, ModelReply, ModelRequest
from runtime.kernel.redaction import KEY_LIKE
from runtime.orchestration.handlers import schema_subset
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import ModelSettings, Price
from runtime.orchestration.operation_ports import EscalationNote, HandlerOutcome, PlanCall, RunCall, Traits, store

#: Rulings §9.3: the role of blocks that name none.
DEFAULT_ROLE: Final = "runner"
#: One retry on an answer that does not fit the schema (operations spec §3.1, ruling R15: a provider attempt).
ATTEMPTS: Final = 2
MAX_TEMPERATURE: Final = 2.0
#: Failures in which the provider certainly did no work.
UNBILLED: Final = frozenset(
    {"REPLAY_MISS", "PROVIDER_NO_ANSWER", "PROVIDER_EXHAUSTED", "PROVIDER_AUTH", "PROVIDER_RATE_LIMITED"}
)
_FENCE: Final = re.compile(r"\A\s*```[a-zA-Z]*\n(.*?)\n?```\s*\Z", re.DOTALL)


@dataclass(slots=True)
class _Usage:
    """What the attempts of one call used; ``known`` is lost as soon as one reply does not say."""

    tokens_in: int = 0
    tokens_out: int = 0
    known: bool = True
    replies: list[dict[str, Any]] = field(default_factory=list)

    def add(self, reply: ModelReply) -> None:
        if reply.tokens_in is None or reply.tokens_out is None:
            self.known = False
        self.tokens_in += reply.tokens_in or 0
        self.tokens_out += reply.tokens_out or 0
        self.replies.append(
            {
                "model": reply.model,
                "provider": reply.provider,
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
                "latency_ms": round(reply.latency_ms),
                "text_hash": digest_bytes(reply.text.encode("utf-8", "replace")),
                "details": dict(reply.details),
            }
        )


class LlmHandler:
    """Effect ``external``."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        data = self._read(call)
        if self._settings.provider is None:
            raise Refused("LLM_NO_MODEL", "the mission names no provider", hint="add provider: to the mission")
        price = self._price(data["model"])
        tries = ATTEMPTS if data["output_schema"] is not None else 1
        # A token is at least one byte, so bytes are the worst case of tokens.
        tokens_in = tries * len(canonical_bytes([data["prompt"], data["packet"]]))
        tokens_out = tries * data["max_tokens"]
        micros = 0 if price is None else _cost(price, tokens_in, tokens_out)
        if not 0 <= micros <= MAX_INT:
            raise Refused("BUDGET_EXCEEDED", "the worst case of this call has no price that could be paid")
        return OperationPlan(
            Effect.EXTERNAL,
            role=data["role"],
            reserve_micros=micros,
            reserve_tokens=tokens_in + tokens_out,
            data={
                "model": data["model"],
                "selection": "primary" if data["asked"] == "auto" else "named",
                "prompt_hash": digest_bytes(data["prompt"].encode()),
                "packet_hash": digest(data["packet"]),
                "call_id": self._call_id(call, data),
            },
        )

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = self._read(PlanCall(operation_id=call.operation_id, params=call.params, ctx=call.ctx))
        provider = self._settings.provider
        if provider is None:
            raise Refused("LLM_NO_MODEL", "the mission names no provider")
        usage = _Usage()
        request = _store(call, "llm-request/1", data)
        packet, text, wrong = dict(data["packet"]), "", [""]
        try:
            for _ in range(ATTEMPTS if data["output_schema"] is not None else 1):
                reply = await self._ask(provider, call, data, packet)
                usage.add(reply)
                text = reply.text
                output, wrong = _parsed(text, data["output_schema"])
                if not wrong:
                    break
                packet = {**data["packet"], "invalid_answer": wrong}
        except QuarterdeckError as error:
            return self._failed(call, usage, request, error)
        response = _store(call, "llm-response/1", {"text": text})
        evidence = {**call.plan.data, "request": request, "response": response, "replies": usage.replies}
        cost, tokens, notes = self._charge(call, usage)
        if wrong:
            message = f"the answer does not fit output_schema: {'; '.join(wrong)}"
            return HandlerOutcome(
                output={"text": text}, evidence=evidence, code="LLM_OUTPUT_INVALID", message=message,
                cost_micros=cost, tokens=tokens, notes=notes,
            )  # fmt: skip
        return HandlerOutcome(output=output, evidence=evidence, cost_micros=cost, tokens=tokens, notes=notes)

    def _read(self, call: PlanCall) -> dict[str, Any]:
        settings, params = self._settings, Params("llm_call", call.params)
        role = params.text("role", call.ctx.acting_role or DEFAULT_ROLE)
        if not WORD.match(role):
            raise params.bad("role", "is not a role name")
        asked = params.text("model", "auto")
        packet = params.mapping("packet", {})
        prompt = params.text("prompt", "")
        wanted = params.text("provider", "")
        if wanted and settings.provider is not None and wanted != settings.provider.name:
            hint = f"the mission's provider is {settings.provider.name!r}; leave provider out to ask whoever it is"
            raise Refused("LLM_NO_MODEL", f"the block asks the provider {wanted!r}, which is not here", hint=hint)
        own = settings.prompts.get(role)
        if own is None and not prompt:
            raise Refused("LLM_NO_PROMPT", f"role {role!r} has no prompt", hint="add it to prompts:, or give prompt")
        if own is not None and prompt:
            packet = {**packet, "prompt": prompt}
        data = {
            "role": role,
            "asked": asked,
            "model": settings.model if asked == "auto" else asked,
            "prompt": prompt if own is None else own,
            "packet": packet,
            "temperature": params.number("temperature", 0.0, low=0.0, high=MAX_TEMPERATURE),
            "max_tokens": params.integer("max_tokens", settings.max_tokens, low=1, high=settings.max_tokens),
            "output_schema": self._schema(params),
        }
        params.done()
        return data

    def _schema(self, params: Params) -> dict[str, Any] | None:
        given: Any = params.any("output_schema", None)
        if isinstance(given, str):
            if given not in self._settings.schemas:
                raise params.bad("output_schema", f"names {given!r}, which the mission does not have")
            given = dict(self._settings.schemas[given])
        if given is not None:
            schema_subset.check_schema(given, where="output_schema")
        return None if given is None else dict(given)

    def _price(self, model: str) -> Price | None:
        price = self._settings.prices.get(model)
        if price is None and not self._settings.free and not self._settings.unpriced:
            hint = (
                "declare it under prices: in rules.yaml of the state folder, 0 included;"
                " or let the mission set budgets.unpriced: allow with a token budget"
            )
            raise Refused("BUDGET_PRICE_UNKNOWN", f"model {model!r} has no declared price", hint=hint)
        return None if self._settings.free else price

    def _call_id(self, call: PlanCall, data: Mapping[str, Any]) -> str:
        return digest(
            {
                "schema": "call-id/1",
                "run_id": call.ctx.run_id,
                "role": data["role"],
                "prompt_hash": digest_bytes(data["prompt"].encode()),
                "packet_hash": digest(data["packet"]),
                "model": data["model"],
                "params": {name: data[name] for name in ("temperature", "max_tokens", "output_schema")},
            }
        )

    async def _ask(
        self, provider: ModelProvider, call: RunCall, data: Mapping[str, Any], packet: Mapping[str, Any]
    ) -> ModelReply:
        request = ModelRequest(
            call_id=call.plan.data["call_id"],
            role=data["role"],
            model=data["model"],
            prompt=data["prompt"],
            packet=packet,
            output_schema=data["output_schema"],
            temperature=data["temperature"],
            max_tokens=data["max_tokens"],
            timeout=min(self._settings.timeout, call.timeout),
        )
        clean, tail = call.redactor, call.on_output
        deltas = clean.texts()

        def show(text: str) -> None:
            if tail is not None and text:
                tail("model", text)

        reply = await provider.complete(request, None if tail is None else lambda text: show(deltas.feed(text)))
        show(deltas.flush())
        return replace(
            reply, text=clean.text(reply.text), model=clean.text(reply.model), details=clean.value(reply.details)
        )

    def _failed(self, call: RunCall, usage: _Usage, request: str, error: QuarterdeckError) -> HandlerOutcome:
        evidence = {**call.plan.data, "request": request, "replies": usage.replies}
        if error.code in UNBILLED and not usage.replies:
            return HandlerOutcome(code=error.code, message=error.message, evidence=evidence)
        usage.known = False
        cost, tokens, notes = self._charge(call, usage)
        return HandlerOutcome(
            code=error.code, message=error.message, evidence=evidence, cost_micros=cost, tokens=tokens, notes=notes
        )

    def _charge(self, call: RunCall, usage: _Usage) -> tuple[int | None, int | None, tuple[EscalationNote, ...]]:
        """What to settle: the reported usage, or everything when it is not known (rulings §9.9)."""
        if usage.known:
            price = self._price(call.plan.data["model"])
            cost = 0 if price is None else _cost(price, usage.tokens_in, usage.tokens_out)
            return cost, usage.tokens_in + usage.tokens_out, ()
        if call.plan.reserve_micros == 0:
            return 0, 0 if self._settings.free else None, ()
        charged = call.plan.reserve_micros
        note = EscalationNote.about(
            "BUDGET_COST_UNKNOWN",
            f"the provider did not say what the call cost; the reserved {charged / MICROS:g} USD are charged",
            "warning",
            operation_id=call.operation_id,
            charged_micros=charged,
        )
        return None, None, (note,)


def _store(call: RunCall, schema: str, record: Mapping[str, Any]) -> str:
    return store(call.artifacts, {**_redacted(call.redactor.value(dict(record))), "schema": schema})


def _cost(price: Price, tokens_in: int, tokens_out: int) -> int:
    """Micro-USD, rounded up."""
    return -(-(tokens_in * price.per_million_in + tokens_out * price.per_million_out) // MICROS)


def _parsed(text: str, schema: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
    """The output value of an answer, and what is wrong with it.

    Without a schema the answer is ``{text}``. With one, a valid object is the output itself, any other valid value
    ``{value}``. One surrounding code fence is tolerated: many models add it whatever they are told.
    """
    if schema is None:
        return {"text": text}, []
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
        canonical_bytes(value)
    except ValueError as error:
        return {}, [f"$: is not JSON ({type(error).__name__})"]
    except RecursionError:
        return {}, ["$: is nested too deeply"]
    wrong = schema_subset.errors(schema, value)
    return (value if isinstance(value, dict) else {"value": value}), wrong


def _redacted(value: Any) -> Any:
    """Without keys of well-known forms, whoever's they are; known secrets are gone already."""
    if isinstance(value, str):
        return KEY_LIKE.sub("[secret removed]", value)
    if isinstance(value, dict):
        return {_redacted(key): _redacted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    return value
