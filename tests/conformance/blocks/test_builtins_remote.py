"""http_request, send_email and ai_generate: success, every code, every ``address_from``, and when they are tried again."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.envelope import Response
from runtime.blocks.errors import BlockRuntimeError, OperationFailed
from runtime.blocks.fakes import FakeAi, FakeClock, FakeHttp, FakeMailer
from runtime.blocks.registry import builtin_registry
from runtime.blocks.running import Scope
from runtime.blocks.services import AiAnswer, AiRequest, HttpAnswer, Mail, Services
from tests.support.blocks_kit import respond, single

REGISTRY = builtin_registry()
URL = "https://x.example/a"


async def answer(services: Services, type_id: str, value: object = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value, scope=Scope(services=services))


async def recovered(services: Services, type_id: str, value: object = None, **config: Any) -> Response:
    """The block inside a workflow, which carries out what it declares."""
    return await respond(single(REGISTRY.create(type_id, config)), value, scope=Scope(services=services))


# -- http_request ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ({"url": f" {URL}\n"}, None),
        ({"url": URL}, [1, 2]),
        ({}, URL),
        ({}, {"url": f" {URL} "}),
        ({"url": "other", "address_from": "input"}, URL),
        ({"url": URL, "address_from": "config"}, "other"),
    ],
)
async def test_fetching(config: dict[str, Any], value: object) -> None:
    http = FakeHttp({URL: "page"})
    response = await answer(Services(http=http), "http_request", value, user_agent="deck", **config)
    assert response.data.to_python() == "page"
    assert http.requests == [(URL, "deck")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "http.auth.401"),
        (403, "http.forbidden.403"),
        (429, "http.rate_limited.429"),
        (500, "http.server_error.5xx"),
        (599, "http.server_error.5xx"),
        (404, "http.invalid_request"),
        (304, "http.invalid_request"),
    ],
)
async def test_a_status_that_is_no_success_fails(status: int, code: str) -> None:
    response = await answer(Services(http=FakeHttp({URL: status})), "http_request", url=URL)
    assert response.error is not None
    assert (response.code, response.error.provider_status) == (code, str(status))
    assert response.details["url"].payload == URL


@pytest.mark.parametrize("code", ["http.timeout", "http.connect_failed", "http.invalid_request"])
async def test_a_request_that_gets_no_answer_fails(code: str) -> None:
    http = FakeHttp({URL: BlockRuntimeError(code, "no answer")})
    assert (await answer(Services(http=http), "http_request", url=URL)).code == code


@pytest.mark.parametrize(("config", "value"), [({}, ""), ({}, {}), ({"url": URL, "address_from": "input"}, {"a": 1})])
async def test_an_address_is_required(config: dict[str, Any], value: object) -> None:
    assert (await answer(Services(http=FakeHttp({})), "http_request", value, **config)).code == "input.url_required"


async def test_fetching_is_tried_again_with_growing_pauses() -> None:
    clock, busy = FakeClock(), BlockRuntimeError("http.connect_failed", "refused")
    http = FakeHttp({URL: [503, busy, HttpAnswer(204, "")]})
    response = await recovered(Services(http=http, clock=clock), "http_request", url=URL)
    assert response.data.to_python() == ""
    first, second = clock.slept
    assert 0.8 <= first <= 1.2
    assert 1.6 <= second <= 2.4
    http = FakeHttp({URL: [429, 429, 429, "late"]})
    assert (await recovered(Services(http=http, clock=clock), "http_request", url=URL)).code == "http.rate_limited.429"
    http = FakeHttp({URL: [403, "never asked"]})
    assert (await recovered(Services(http=http, clock=clock), "http_request", url=URL)).code == "http.forbidden.403"
    assert len(http.requests) == 1


# -- send_email -----------------------------------------------------------------------------------------------------

ME = "me@x.example"


@pytest.mark.parametrize(
    ("config", "value", "mail"),
    [
        ({"to": ME, "subject": "S"}, "text", Mail(to=ME, subject="S", body="text")),
        ({"to": ME}, None, Mail(to=ME)),
        ({"to": ME}, ["a", 1, {"b": 2}], Mail(to=ME, body='a\n1\n{"b":2}')),
        ({"to": ME, "subject": "S"}, {"n": 1}, Mail(to=ME, subject="S", body='{"n":1}')),
        (
            {"to": ME, "subject": "S"},
            {"to": "you@x.example", "name": "Me", "subject": "T", "body": "B"},
            Mail(to=ME, subject="T", body="B", name="Me"),
        ),
        ({}, {"email": f" {ME} ", "to": "", "body": ""}, Mail(to=ME)),
        ({"to": "you@x.example", "address_from": "input"}, {"to": ME, "body": "B"}, Mail(to=ME, body="B")),
        ({"to": ME, "address_from": "config"}, {"to": "you@x.example", "body": "B"}, Mail(to=ME, body="B")),
        ({"to": ME}, {"body": 5}, Mail(to=ME, body='{"body":5}')),
    ],
)
async def test_sending(config: dict[str, Any], value: object, mail: Mail) -> None:
    mailer = FakeMailer()
    response = await answer(Services(mailer=mailer), "send_email", value, **config)
    assert mailer.sent == [mail]
    assert response.data.to_python() == {"sent": True, "to": ME}, "the body is never echoed"


@pytest.mark.parametrize(
    ("config", "value", "code"),
    [
        ({}, "text", "input.recipient_required"),
        ({}, {"to": 5}, "input.recipient_required"),
        ({"to": ME, "address_from": "input"}, None, "input.recipient_required"),
        ({"to": ME}, 5, "input.kind_mismatch"),
    ],
)
async def test_a_recipient_is_required(config: dict[str, Any], value: object, code: str) -> None:
    mailer = FakeMailer()
    response = await answer(Services(mailer=mailer), "send_email", value, **config)
    assert (response.code, mailer.sent) == (code, [])


@pytest.mark.parametrize(
    "code",
    ["email.config", "email.smtp.auth_failed", "email.smtp.timeout", "email.smtp.transient", "email.smtp.permanent"],
)
async def test_what_the_mail_server_says_comes_through(code: str) -> None:
    mailer = FakeMailer([BlockRuntimeError(code, "no", provider_status="450", effects="none")])
    response = await answer(Services(mailer=mailer), "send_email", "x", to=ME)
    assert response.error is not None
    assert (response.code, response.error.effects, response.error.provider_status) == (code, "none", "450")


def transient(effects: str) -> BlockRuntimeError:
    return BlockRuntimeError("email.smtp.transient", "later", effects=effects)


async def test_a_mail_is_sent_again_only_if_nothing_was_accepted() -> None:
    mailer, clock = FakeMailer([transient("none"), transient("none"), transient("none")]), FakeClock()
    assert (await recovered(Services(mailer=mailer, clock=clock), "send_email", "x", to=ME)).success
    assert (len(mailer.sent), len(clock.slept)) == (1, 3)
    mailer = FakeMailer([transient("none"), transient("unknown")])
    response = await recovered(Services(mailer=mailer, clock=clock), "send_email", "x", to=ME)
    assert (response.code, mailer.sent) == ("recovery.unsafe_to_retry", [])


# -- ai_generate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value", "prompt", "data"),
    [
        ({"prompt": "Say"}, {"a": 1, "prompt": "kept"}, "Say", {"a": 1, "prompt": "kept"}),
        ({"prompt": "Say"}, "text", "Say", {"input": "text"}),
        ({"prompt": "Say"}, ["a", 1], "Say", {"items": ["a", 1]}),
        ({"prompt": "Say"}, None, "Say", {}),
        ({}, "Why?", "Why?", {}),
        ({"prompt": " "}, {"prompt": "Why?", "a": 1}, "Why?", {"a": 1}),
        ({"prompt": "Say", "address_from": "input"}, {"prompt": "Why?"}, "Why?", {}),
        ({"prompt": "Say", "address_from": "config"}, {"prompt": "Why?"}, "Say", {"prompt": "Why?"}),
    ],
)
async def test_asking_a_model(config: dict[str, Any], value: object, prompt: str, data: dict[str, Any]) -> None:
    ai = FakeAi(["because"])
    config |= {"model": "m", "provider": "p", "api_key_env": "KEY"}
    response = await answer(Services(ai=ai), "ai_generate", value, **config)
    assert response.data.to_python() == "because"
    assert ai.requests == [AiRequest(provider="p", model="m", prompt=prompt, data=data, key_name="KEY")]


@pytest.mark.parametrize(
    ("config", "value"),
    [({}, " "), ({}, {"prompt": ""}), ({}, None), ({}, ["a"]), ({"prompt": "x", "address_from": "input"}, {})],
)
async def test_a_prompt_is_required(config: dict[str, Any], value: object) -> None:
    assert (await answer(Services(ai=FakeAi()), "ai_generate", value, **config)).code == "input.prompt_required"


async def test_usage_is_told_with_the_response() -> None:
    ai = FakeAi([AiAnswer(text="x", model="m-1", tokens_in=7, tokens_out=2, calls=2)])
    metadata = (await answer(Services(ai=ai), "ai_generate", "Why?")).metadata
    told = {key: value for key, value in metadata.items() if key.startswith("ai.")}
    assert told == {"ai.model": "m-1", "ai.tokens_in": 7, "ai.tokens_out": 2, "ai.calls": 2}


@pytest.mark.parametrize(
    "code",
    ["ai.auth", "ai.rate_limited", "ai.timeout", "ai.provider_5xx", "ai.invalid_response", "ai.unsupported_provider"],
)
async def test_what_the_provider_says_comes_through_and_is_not_tried_again(code: str) -> None:
    ai, clock = FakeAi([BlockRuntimeError(code, "no"), "never asked"]), FakeClock()
    assert (await recovered(Services(ai=ai, clock=clock), "ai_generate", "Why?")).code == code
    assert (len(ai.requests), clock.slept) == (1, [])


async def test_an_answer_without_text_is_no_answer() -> None:
    assert (await answer(Services(ai=FakeAi([" \n"])), "ai_generate", "Why?")).code == "ai.invalid_response"


def test_errors_of_operations_know_what_they_left_behind() -> None:
    assert OperationFailed("op.mail_transient", "no", effects="none").effects == "none"
