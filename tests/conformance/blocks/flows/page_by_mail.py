"""Reference flow iv: on a schedule, fetch a page, render it and mail it; what fails is logged by one nested workflow."""

from __future__ import annotations

from runtime.blocks.block import Block
from runtime.blocks.builtin.files import FileWrite
from runtime.blocks.builtin.remote import HttpRequest, SendEmail
from runtime.blocks.builtin.template import TextTemplate
from runtime.blocks.workflow import Workflow


def error_log(path: str) -> Workflow:
    """Adds one line per failure to a file."""
    line = TextTemplate(template="{{ block_id }}: {{ code }}\n")
    return Workflow("error_log").link(line, FileWrite(path=path, append=True))


def page_by_mail(schedule: Block, url: str, to: str, log: str) -> Workflow:
    """``schedule`` gives a value whenever it is time, such as a ``cron`` block."""
    fetch = HttpRequest(url=url)
    render = TextTemplate(template="Today:\n\n{{ value }}")
    mail = SendEmail(to=to, subject="The page")
    failed = error_log(log)
    flow = Workflow("page_by_mail").link(schedule, fetch, render, mail)
    for step in (fetch, render, mail):
        flow.on_error(step, failed)
    return flow
