"""``mail.send``: one plain-text message through the operator's own mail server (ruling R42, blocks spec §21.3).

The server is the operator's choice (`mail_server`), so ``sandbox.hosts`` says nothing about it. Whether a mission may
send at all is the envelope's word (``mail.send`` in ``allowed_tools``), to whom is the mission's, and an operator who
wants to see each message first has a rule ask about the tool. All recipients get the message, or none.

The outcome's evidence says whether a failure may have left something: ``effects`` is ``none`` until the server has
been told the message, ``unknown`` when the connection was lost before it answered. The body stays out of outputs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import Clock
from runtime.kernel.model import Effect, OperationPlan
from runtime.kernel.redaction import MIN_SECRET
from runtime.orchestration.handlers.output import identity_of
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.mail import MAX_RECIPIENTS, Letter, compose, letter
from runtime.orchestration.mail_server import MailFailed, MailServer, hand_in, mail_server
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits

TOOL: Final = "mail.send"
#: Seconds for the whole conversation; the envelope may give less.
SECONDS: Final = 60.0


def actions(settings: HandlerSettings) -> dict[str, Handler]:
    """The tool action of this module."""
    return {TOOL: SendMail(settings.environ, settings.clock)}


class SendMail:
    """Effect ``external``. ``environ`` is asked anew for each message."""

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Clock,
        *,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._environ = environ
        self._clock = clock
        self._tls = tls

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(keeps_time=True, confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def plan(self, call: PlanCall) -> OperationPlan:
        server = mail_server(self._environ)
        params = Params(TOOL, call.params)
        said = _letter(params, server)
        params.done()
        data = {
            "to": _addresses(said),
            "from": said.sender.addr_spec,
            "subject": said.subject,
            "body_sha256": digest_bytes(said.body.encode()),
            "server": str(server),
        }
        return OperationPlan(Effect.EXTERNAL, tool=TOOL, timeout_seconds=SECONDS, data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        server = mail_server(self._environ)
        if len(server.password) >= MIN_SECRET:
            await asyncio.to_thread(call.redactor.learn, "SMTP_PASSWORD", server.password)
        said = _letter(Params(TOOL, call.params), server)
        message = compose(said, date=self._clock.now(), message_id=identity_of(call))
        evidence = {"message_id": str(message["Message-ID"]), "server": str(server), "to": _addresses(said)}
        try:
            answer = await hand_in(
                server, message.as_bytes(), sender=said.sender.addr_spec, to=_addresses(said), seconds=call.timeout,
                tls=self._tls,
            )  # fmt: skip
        except MailFailed as failed:
            effects = "unknown" if failed.taken else "none"
            return HandlerOutcome(code=failed.code, message=failed.message, evidence={**evidence, "effects": effects})
        to = _addresses(said)
        output = {"sent": True, "to": to[0] if isinstance(call.params["to"], str) else to}
        return HandlerOutcome(output=output, evidence={**evidence, "answer": answer, "effects": "unknown"})


def _addresses(said: Letter) -> list[str]:
    return [item.addr_spec for item in said.to]


def _letter(params: Params, server: MailServer) -> Letter:
    """Raises `Refused`: ``OP_PARAMS``, ``MAIL_ADDRESS``, ``MAIL_HEADER``, ``ENV_LIMIT``."""
    to: Any = params.any("to")
    name: Any = params.any("name", None)
    if name is not None and not (isinstance(name, str) and isinstance(to, str)):
        raise params.bad("name", "is the display name, a text, of one recipient")
    several = [f"{name} <{to}>" if name else to] if isinstance(to, str) else to
    return letter(
        sender=server.sender,
        to=Params(TOOL, {"to": several}).texts("to", limit=MAX_RECIPIENTS),
        subject=params.text("subject", ""),
        body=params.text("body"),
    )
