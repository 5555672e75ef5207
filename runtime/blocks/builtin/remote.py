"""A page, a mail, an answer: blocks that reach other systems through ``ctx.services`` (blocks spec §21.3).

What they declare about repeating is carried out by the workflow around them. A model call declares nothing: it is
retried where it is made (ruling R15).
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, Final

from runtime.blocks.builtin.addressing import Addressing
from runtime.blocks.contexts import BlockContext
from runtime.blocks.contracts import multiple, once
from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.faults import http_status
from runtime.blocks.policies import RetryPolicy
from runtime.blocks.services import AiAnswer, AiRequest, Mail
from runtime.blocks.values import BlockValue

_SECONDS: Final = 30.0
_MODEL_SECONDS: Final = 120.0
_HTTP_AGAIN: Final = (
    "http.rate_limited.429",
    "http.server_error.5xx",
    "http.timeout",
    "http.connect_failed",
    "runtime.timeout",
)
_MAIL_AGAIN: Final = ("email.smtp.timeout", "email.smtp.transient", "runtime.timeout")


class HttpRequest(
    Addressing,
    display_name="Fetch a page",
    input=once("string", "map"),
    output=once("string"),
    side_effects="idempotent",
    timeout=_SECONDS,
    retry=RetryPolicy.exponential(2, 1.0, retry_on=_HTTP_AGAIN),
):
    """Get the text at an address; an answer that is no success fails the block."""

    address_field: ClassVar[str] = "url"
    address_keys: ClassVar[tuple[str, ...]] = ("url",)
    address_missing: ClassVar[str] = "input.url_required"

    url: str = field(default="", metadata={"help": "The address; the input's when silent."})
    user_agent: str | None = field(default=None, metadata={"help": "What the request says about who asks."})

    async def run(self, input: BlockValue, ctx: BlockContext) -> str:
        url = self.address(input).strip()
        answer = await ctx.services.http.get(url, user_agent=self.user_agent)
        if not 200 <= answer.status <= 299:
            raise http_status(answer.status, {"url": url})
        return answer.text


class SendEmail(
    Addressing,
    display_name="Send a mail",
    input=once("string", "map", "list", "null"),
    output=once("map"),
    side_effects="non_idempotent",
    timeout=_SECONDS,
    retry=RetryPolicy.exponential(3, 1.0, retry_on=_MAIL_AGAIN),
):
    """Send the input as a mail. It is tried again only when the server certainly accepted nothing."""

    address_field: ClassVar[str] = "to"
    address_keys: ClassVar[tuple[str, ...]] = ("to", "email")
    address_text: ClassVar[bool] = False
    address_missing: ClassVar[str] = "input.recipient_required"
    carries_content: ClassVar[bool] = True

    to: str = field(default="", metadata={"help": "The recipient; the input's 'to' or 'email' when silent."})
    subject: str = field(default="", metadata={"help": "The subject; the input's 'subject' comes first."})

    async def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, Any]:
        to = self.address(input).strip()
        subject = _member(input, "subject")
        mail = Mail(
            to=to,
            subject=self.subject if subject is None else subject,
            body=_body(input),
            name=_member(input, "name"),
        )
        await ctx.services.mailer.send(mail)
        return {"sent": True, "to": to}


def _member(input: BlockValue, key: str) -> str | None:
    found = input.get(key)
    return None if found is None else found.as_string


def _body(input: BlockValue) -> str:
    if input.is_map:
        body = _member(input, "body")
        return input.to_json() if body is None else body
    if input.is_list:
        return "\n".join(item.text() for item in input.expect_list())
    return input.text()


class AiGenerate(
    Addressing,
    display_name="Ask a model",
    input=multiple("string", "map", "list", "null"),
    output=once("string"),
    side_effects="idempotent",
    timeout=_MODEL_SECONDS,
):
    """Ask a language model about the input; the answer is text."""

    address_field: ClassVar[str] = "prompt"
    address_keys: ClassVar[tuple[str, ...]] = ("prompt",)
    address_missing: ClassVar[str] = "input.prompt_required"
    carries_content: ClassVar[bool] = True

    provider: str | None = field(
        default=None, metadata={"help": "Who must answer; the mission's provider when silent."}
    )
    model: str | None = field(default=None, metadata={"help": "Which model; the provider's own when silent."})
    prompt: str = field(default="", metadata={"help": "What is asked; the input's text or 'prompt' when silent."})
    api_key_env: str | None = field(
        default=None,
        metadata={"help": "Variable holding the key, for library use: in a mission the provider names it."},
    )

    async def run(self, input: BlockValue, ctx: BlockContext) -> str:
        request = AiRequest(
            provider=self.provider,
            model=self.model,
            prompt=self.address(input),
            data=self._data(input),
            key_name=self.api_key_env,
        )
        answer = await ctx.services.ai.generate(request)
        for key, value in _usage(answer):
            ctx.annotate(key, value)
        if not answer.text.strip():
            raise BlockRuntimeError("ai.invalid_response", "the model answered with no text")
        return answer.text

    def _data(self, input: BlockValue) -> dict[str, Any]:
        """What goes with the prompt: the input without the part that was the prompt."""
        asked = self.configured is None
        if input.is_map:
            return {
                key: item.to_python() for key, item in input.expect_map().items() if not (asked and key == "prompt")
            }
        if input.is_list:
            return {"items": input.to_python()}
        return {} if asked or input.is_null else {"input": input.text()}


def _usage(answer: AiAnswer) -> list[tuple[str, object]]:
    told = {
        "ai.model": answer.model,
        "ai.tokens_in": answer.tokens_in,
        "ai.tokens_out": answer.tokens_out,
        "ai.calls": answer.calls,
    }
    return [(key, value) for key, value in told.items() if value is not None]
