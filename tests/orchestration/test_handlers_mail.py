"""Mail through the operator's server: all of it or none, and every failure says whether the message may be on its way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationResult
from runtime.orchestration.handlers.mail_send import SendMail
from runtime.orchestration.handlers.registry import ToolHandler
from runtime.orchestration.mail_server import mail_server
from tests.support.operation_rig import Rig
from tests.support.web_server import PostOffice, certificate, serving

MAIL: dict[str, Any] = {"to": "ada@example.org", "subject": "News", "body": "Hello.\n.\n"}
PASSWORD = "pass-123456789"


def settings(port: int, **more: str) -> dict[str, str]:
    return {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SMTP_SECURE": "false",
        "EMAIL_FROM": "deck@example.org",
        **more,
    }


def rig_for(
    folder: Path, environ: dict[str, str], tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
) -> Rig:
    root = folder / "tree"
    root.mkdir(exist_ok=True)
    clock = Rig(root).clock
    return Rig(root, extra={"tool_invoke": ToolHandler({"mail.send": SendMail(environ, clock, tls=tls)})})


async def sent(rig: Rig, **params: Any) -> OperationResult:
    return await rig.tool("mail.send", **{**MAIL, **params})


async def test_a_message_is_handed_in_and_its_body_is_in_no_output(tmp_path: Path) -> None:
    office = PostOffice()
    async with serving(office.talk) as port:
        login = {"SMTP_USERNAME": "deck", "SMTP_PASS": PASSWORD, "DEFAULT_SENDER_NAME": "The Deck"}
        rig = rig_for(tmp_path, settings(port, **login))
        result = await sent(rig, name="Ada L.", subject="Grüße")
    assert result.output == {"sent": True, "to": "ada@example.org"}
    assert office.said[-4:] == ["MAIL FROM:<deck@example.org>", "RCPT TO:<ada@example.org>", "DATA", "QUIT"]
    message = message_from_bytes(office.messages[0], policy=policy.default)
    assert (message["From"], message["To"]) == ("The Deck <deck@example.org>", '"Ada L." <ada@example.org>')
    assert message["Subject"] == "Grüße"
    assert result.evidence["details"]["message_id"] == message["Message-ID"]
    assert b"\r\n..\r\n" in office.messages[0], "a line with a dot does not end the message"
    assert "Hello" not in f"{result.output}{result.evidence}"
    assert PASSWORD not in f"{result}{rig.entries()}{rig.artifacts.bodies}"
    assert rig.receipts()[0]["effect"] == "external"


async def test_several_get_it_or_nobody(tmp_path: Path) -> None:
    office = PostOffice()
    both = ["ada@example.org", "Bob <bob@example.org>"]
    async with serving(office.talk) as port:
        rig = rig_for(tmp_path, settings(port))
        assert (await sent(rig, to=both)).output["to"] == ["ada@example.org", "bob@example.org"]
        office.says = {"RCPT": "550 nobody of that name"}
        result = await rig.tool("mail.send", id="s1.1", **{**MAIL, "to": both})
    assert (result.reason_code, result.evidence["details"]["effects"]) == ("MAIL_PERMANENT", "none")
    assert len(office.messages) == 1


@pytest.mark.parametrize(
    ("says", "code", "effects"),
    [
        ({"HELLO": "421 busy"}, "MAIL_TRANSIENT", "none"),
        ({"HELLO": "554 go away"}, "MAIL_PERMANENT", "none"),
        ({"HELLO": ""}, "MAIL_TRANSIENT", "none"),
        ({"AUTH": f"535 who is {PASSWORD}?"}, "MAIL_AUTH", "none"),
        ({"AUTH": "454 later"}, "MAIL_TRANSIENT", "none"),
        ({"MAIL": "450 later"}, "MAIL_TRANSIENT", "none"),
        ({"RCPT": "550 no"}, "MAIL_PERMANENT", "none"),
        ({"DATA": "452 full"}, "MAIL_TRANSIENT", "none"),
        ({".": "554 spam"}, "MAIL_PERMANENT", "none"),
        ({".": "451 later"}, "MAIL_TRANSIENT", "none"),
        ({".": ""}, "MAIL_TRANSIENT", "unknown"),
        ({".": "251 why not"}, "MAIL_PERMANENT", "unknown"),
        ({".": "what?"}, "MAIL_PERMANENT", "unknown"),
        ({"QUIT": "500 what"}, None, "unknown"),
        ({"QUIT": ""}, None, "unknown"),
    ],
)
async def test_each_answer_has_its_code_and_what_it_left(
    tmp_path: Path, says: dict[str, str], code: str | None, effects: str
) -> None:
    office = PostOffice(says=says)
    async with serving(office.talk) as port:
        rig = rig_for(tmp_path, settings(port, SMTP_USERNAME="deck", SMTP_PASSWORD=PASSWORD))
        result = await sent(rig)
    assert (result.reason_code, result.evidence["details"]["effects"]) == (code, effects)
    assert PASSWORD not in f"{result}{rig.entries()}{rig.artifacts.bodies}"


@pytest.mark.parametrize(("command", "effects"), [("EHLO", "none"), ("MAIL", "none"), (".", "unknown")])
async def test_silence_ends_with_the_time_limit(tmp_path: Path, command: str, effects: str) -> None:
    office = PostOffice(says={command: None})
    async with serving(office.talk) as port:
        rig = rig_for(tmp_path, settings(port))
        rig.remaining_seconds = 0.1
        result = await sent(rig)
    assert (result.reason_code, result.evidence["details"]["effects"]) == ("MAIL_TIMEOUT", effects)


async def test_cancelling_hangs_up(tmp_path: Path) -> None:
    office = PostOffice(says={"MAIL": None})
    async with serving(office.talk) as port:
        rig = rig_for(tmp_path, settings(port))
        sending = asyncio.create_task(sent(rig))
        await asyncio.wait_for(office.silent.wait(), 5)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await asyncio.wait_for(office.hung_up.wait(), 5)
    assert rig.receipts()[-1]["reason_code"] == "OP_CANCELLED"


async def test_tls_is_the_default_and_is_not_given_up(tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path, "127.0.0.1")
    secured = PostOffice(offers=("STARTTLS", "AUTH PLAIN"), tls=server)
    async with serving(secured.talk) as port:
        environ = {**settings(port), "SMTP_SECURE": "", "SMTP_USERNAME": "deck", "SMTP_PASSWORD": PASSWORD}
        assert (await sent(rig_for(tmp_path, environ, lambda: trusting))).ok
        strange = await sent(rig_for(tmp_path, environ))
    assert (strange.reason_code, strange.evidence["details"]["effects"]) == ("MAIL_CONFIG", "none")
    assert "certificate" in str(strange.evidence["message"])
    plain = PostOffice()
    async with serving(plain.talk) as port:
        bare = await sent(rig_for(tmp_path, {**settings(port), "SMTP_SECURE": "true"}))
    assert bare.reason_code == "MAIL_CONFIG"
    assert plain.messages == []


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"to": "ada@example.org\r\nBcc: all@example.org"}, "MAIL_HEADER"),
        ({"subject": "Hi\nBcc: all@example.org"}, "MAIL_HEADER"),
        ({"name": "Ada\r\nBcc: all@example.org"}, "MAIL_HEADER"),
        ({"name": "Ada> <eve@example.org"}, "MAIL_ADDRESS"),
        ({"to": "ada"}, "MAIL_ADDRESS"),
        ({"to": "ada@example..org"}, "MAIL_ADDRESS"),
        ({"to": []}, "MAIL_ADDRESS"),
        ({"to": ["ada@example.org"], "name": "Ada"}, "OP_PARAMS"),
        ({"from": "eve@example.org"}, "OP_PARAM_UNKNOWN"),
    ],
)
async def test_what_is_no_message_is_never_begun(tmp_path: Path, params: dict[str, Any], code: str) -> None:
    rig = rig_for(tmp_path, settings(1))
    assert (await sent(rig, **params)).reason_code == code
    assert "operation_started" not in rig.kinds()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SMTP_HOST": ""}, "SMTP_HOST"),
        ({"EMAIL_FROM": " "}, "EMAIL_FROM"),
        ({"SMTP_PORT": "smtp"}, "SMTP_PORT"),
        ({"SMTP_PORT": "70000"}, "SMTP_PORT"),
        ({"SMTP_SECURE": "maybe"}, "SMTP_SECURE"),
        ({"SMTP_USERNAME": "deck"}, "SMTP_PASSWORD"),
        ({"SMTP_PASS": PASSWORD}, "SMTP_USERNAME"),
    ],
)
def test_settings_that_do_not_make_a_server(changes: dict[str, str], named: str) -> None:
    with pytest.raises(Refused, match=named) as caught:
        mail_server({**settings(25), **changes})
    assert caught.value.code == "MAIL_CONFIG"
    assert PASSWORD not in str(caught.value)


def test_settings_have_a_second_name_and_defaults() -> None:
    found = mail_server({"SMTP": "mail.example.org", "DEFAULT_SENDER": "deck@example.org", "EMAIL_FROM_NAME": "Deck"})
    assert (str(found), found.sender, found.tls) == ("mail.example.org:587", "Deck <deck@example.org>", True)
