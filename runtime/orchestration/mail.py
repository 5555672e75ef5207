"""Composing mail: one message by RFC 5322, whether it is written to a file or sent (ruling R42).

Subject and addresses come from models, feeds and templates. A line break in one of them would begin a header of its
own, so they are checked before the library sees them and read back from the finished bytes: a message that does not
say what it was asked to say is never handed out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final, cast

from runtime.kernel.errors import Refused

MAX_RECIPIENTS: Final = 50
MAX_SUBJECT: Final = 500
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_ADDRESS: Final = 320
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_SPEC: Final = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~-]+)*@{_LABEL}(?:\.{_LABEL})*"
#: Our own pattern: the library's reader of addresses is made for mail that exists, and some texts make it fail.
_MAILBOX: Final = re.compile(rf"\s*(?:(?P<bare>{_SPEC})|(?P<name>[^<>]*)<(?P<angled>{_SPEC})>)\s*\Z")
#: Lines end in CRLF, and the body is encoded so that every server takes it.
_POLICY: Final = SMTP.clone(cte_type="7bit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What a message says; made by `letter`, which has checked it."""

    sender: Address
    to: tuple[Address, ...]
    subject: str
    body: str


def letter(*, sender: str, to: Sequence[str], subject: str, body: str) -> Letter:
    """Check the parts of a message; each text of ``to`` is ``ada@example.org`` or ``Ada <ada@example.org>``.

    Raises `Refused`: ``MAIL_ADDRESS``, ``MAIL_HEADER`` (a line break or control character), ``ENV_LIMIT``.
    """
    if len(subject) > MAX_SUBJECT or len(body.encode()) > MAX_BODY_BYTES or len(to) > MAX_RECIPIENTS:
        wanted = f"{MAX_RECIPIENTS} recipients, {MAX_SUBJECT} characters of subject and {MAX_BODY_BYTES} bytes of body"
        raise Refused("ENV_LIMIT", f"a message has at most {wanted}")
    if not to:
        raise Refused("MAIL_ADDRESS", "the message has no recipient")
    return Letter(
        sender=_address("from", sender), to=tuple(_address("to", item) for item in to),
        subject=_one_line("subject", subject), body=body,
    )  # fmt: skip


def compose(said: Letter, *, date: datetime, message_id: str) -> EmailMessage:
    """The finished message. ``message_id`` is unique text of letters and digits; the sender's domain is added.

    Raises `Refused` ``MAIL_HEADER`` when the bytes would not read back as what was asked for.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = said.sender
    message["To"] = said.to
    message["Subject"] = said.subject
    message["Date"] = date
    message["Message-ID"] = f"<{message_id}@{said.sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(said.body)
    _check(said, message)
    return message


def _check(said: Letter, message: EmailMessage) -> None:
    """Folding and encoding have their own surprises, of which only a lost space in a long subject is harmless."""
    read = message_from_bytes(message.as_bytes(), policy=_POLICY)
    names = [name.lower() for name in read]
    same = (
        _specs(read, "From") == [said.sender.addr_spec]
        and _specs(read, "To") == [item.addr_spec for item in said.to]
        and "".join(str(read["Subject"]).split()) == "".join(said.subject.split())
        and len(names) == len(set(names))
        and names == [name.lower() for name in message]
    )
    if not same:
        raise Refused("MAIL_HEADER", "subject or addresses cannot be written as mail headers without changing them")


def _specs(message: EmailMessage, name: str) -> list[str]:
    return [item.addr_spec for item in cast("AddressHeader", message[name]).addresses]


def _one_line(name: str, text: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs") for char in text):
        raise Refused("MAIL_HEADER", f"{name} holds a line break or control character", hint="keep it on one line")
    return text


def _address(name: str, text: str) -> Address:
    """Exactly one mailbox with a plain address. The display name may hold any text of one line."""
    found = _MAILBOX.match(_one_line(name, text)) if len(text) <= MAX_ADDRESS else None
    if found is None:
        wanted = "one address such as ada@example.org or Ada <ada@example.org>"
        raise Refused("MAIL_ADDRESS", f"{name}: {text[:70]!r} is not {wanted}")
    return Address(display_name=(found["name"] or "").strip(' "'), addr_spec=found["bare"] or found["angled"])
