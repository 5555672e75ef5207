"""``output.write_file`` and ``mail.write_file``: files in the run's output folder.

Their effect is ``none``. Effects are about the world a run shares with others: the work tree, processes, servers.
The output folder is the run's own record, like an artifact with a name: no other run or process looks into it,
nothing in the work tree changes, and writing the same name again after a crash leaves the same file. So there is
nothing to lock, to announce durably beforehand or to undo, a mission that only reads stays one (ruling R36), and a
recorded replay answers from the receipt without writing. Which tools a mission may use is still the envelope's to say.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from runtime.governance.path_lexical import lexical_finding
from runtime.kernel.canonical import digest_bytes
from runtime.kernel.clock import Clock
from runtime.kernel.errors import Refused
from runtime.kernel.model import Effect, OperationPlan
from runtime.orchestration.handlers.filesystem import MAX_WRITE_BYTES
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.handlers.settings import HandlerSettings
from runtime.orchestration.handlers.threads import finish_in_thread
from runtime.orchestration.mail import MAX_RECIPIENTS, Letter, compose, letter
from runtime.orchestration.operation_ports import Handler, HandlerOutcome, PlanCall, RunCall, Traits
from runtime.orchestration.output_folder import OutputFolder

DEFAULT_SENDER: Final = "Quarterdeck <quarterdeck@localhost>"
_MAIL_SUFFIX: Final = ".eml"


def actions(settings: HandlerSettings) -> dict[str, Handler]:
    """The tool actions of this module; none when the run has no output folder."""
    if settings.output is None:
        return {}
    folder = OutputFolder(settings.output)
    return {
        "output.write_file": WriteOutput(folder),
        "mail.write_file": WriteMail(folder, settings.clock),
    }


class _Action:
    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder

    def traits(self, plan: OperationPlan) -> Traits:
        return Traits(confined=True)

    async def recovered(self, plan: OperationPlan) -> HandlerOutcome | None:
        return None

    async def _write(self, name: str, data: bytes) -> None:
        await finish_in_thread(lambda: self._folder.write(name, data))


class WriteOutput(_Action):
    """``output.write_file``: text under a name. Yields ``path`` (relative to the folder), ``sha256``, ``bytes``."""

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("output.write_file", call.params)
        name, content = _name(params.text("name")), params.text("content").encode()
        params.done()
        if len(content) > MAX_WRITE_BYTES:
            raise Refused("ENV_LIMIT", f"{len(content)} bytes exceed the {MAX_WRITE_BYTES} of one file")
        data = {"path": name, "sha256": digest_bytes(content), "bytes": len(content)}
        return OperationPlan(Effect.NONE, tool="output.write_file", data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        data = call.plan.data
        await self._write(data["path"], str(call.params["content"]).encode())
        return HandlerOutcome(output={name: data[name] for name in ("path", "sha256", "bytes")})


class WriteMail(_Action):
    """``mail.write_file``: a message as a file, ready to be looked at or sent by hand.

    Yields ``path``, ``to`` and ``body_sha256``, which are the same whenever the same is said. The file also says
    when it was written and in which run, so its own digest and message id are evidence.
    """

    def __init__(self, folder: OutputFolder, clock: Clock) -> None:
        super().__init__(folder)
        self._clock = clock

    async def plan(self, call: PlanCall) -> OperationPlan:
        params = Params("mail.write_file", call.params)
        said, name = _letter(params), _mail_name(params, call.operation_id)
        params.done()
        data = {
            "path": name,
            "to": [item.addr_spec for item in said.to],
            "subject": said.subject,
            "body_sha256": digest_bytes(said.body.encode()),
        }
        return OperationPlan(Effect.NONE, tool="mail.write_file", data=data)

    async def run(self, call: RunCall) -> HandlerOutcome:
        said, data = _letter(Params("mail.write_file", call.params)), call.plan.data
        message = compose(said, date=self._clock.now(), message_id=identity_of(call))
        written = message.as_bytes()
        await self._write(data["path"], written)
        evidence = {"message_id": str(message["Message-ID"]), "sha256": digest_bytes(written), "bytes": len(written)}
        return HandlerOutcome(output={key: data[key] for key in ("path", "to", "body_sha256")}, evidence=evidence)


def identity_of(call: RunCall) -> str:
    """What a message's id is made of: the same however often the operation is tried."""
    return hashlib.sha256(f"{call.ctx.run_id_audit}/{call.operation_id}".encode()).hexdigest()[:32]


def _name(text: str) -> str:
    """A name by the same lexical rules as every path. Raises `Refused` with the rule's code."""
    found = lexical_finding(text)
    if found is not None:
        raise Refused(found.code, f"name: {found.text}", hint="give a path relative to the output folder")
    return text


def _mail_name(params: Params, operation_id: str) -> str:
    name = _name(params.text("name", operation_id.replace("~", "-") + _MAIL_SUFFIX))
    if not name.endswith(_MAIL_SUFFIX):
        raise params.bad("name", f"must end in {_MAIL_SUFFIX}")
    return name


def _letter(params: Params) -> Letter:
    to: Any = params.any("to")
    recipients = Params("mail.write_file", {"to": [to] if isinstance(to, str) else to})
    return letter(
        sender=params.text("from", DEFAULT_SENDER),
        to=recipients.texts("to", limit=MAX_RECIPIENTS),
        subject=params.text("subject"),
        body=params.text("body"),
    )
