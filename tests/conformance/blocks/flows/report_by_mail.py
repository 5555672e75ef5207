"""Reference flow ii: read a file, trim it, mail it — two links, of which the first names the entry."""

from __future__ import annotations

from runtime.blocks.builtin.files import FileRead
from runtime.blocks.builtin.remote import SendEmail
from runtime.blocks.builtin.shaping import map_input
from runtime.blocks.contracts import once
from runtime.blocks.workflow import Workflow


def report_by_mail(path: str, to: str) -> Workflow:
    """Mails the file's text without the white space around it."""
    read = FileRead(path=path)
    trim = map_input(
        lambda text: text.expect_string().strip(), name="trim", input=once("string"), output=once("string")
    )
    mail = SendEmail(to=to, subject="Report")
    return Workflow("report_by_mail").link(read, trim).link(trim, mail)
