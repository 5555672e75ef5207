"""The five reference flows, as an author would write them (`flows/`), on fake services (blocks spec §24)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.builtin.cron import Cron
from runtime.blocks.errors import WorkflowValidationFailed
from runtime.blocks.fakes import FakeClock, FakeFiles, FakeHttp, FakeMailer
from runtime.blocks.running import Scope
from runtime.blocks.services import Mail, Services
from runtime.kernel.ids import SequenceIds
from tests.conformance.blocks.flows.feed_digest import feed_digest
from tests.conformance.blocks.flows.mail_block import Remind
from tests.conformance.blocks.flows.page_by_mail import page_by_mail
from tests.conformance.blocks.flows.refused import announce_then_filter
from tests.conformance.blocks.flows.report_by_mail import report_by_mail
from tests.support.blocks_kit import respond

ME = "me@x.example"
URL = "https://x.example/feed"


def scope(**services: Any) -> Scope:
    return Scope(services=Services(clock=FakeClock(), ids=SequenceIds(), **services))


# -- i ----------------------------------------------------------------------------------------------------------------


async def test_an_author_writes_config_and_two_methods() -> None:
    mailer = FakeMailer()
    block = Remind(sender_name="Quarterdeck")
    response = await respond(block, {"email": ME, "what": "The tide."}, scope=scope(mailer=mailer))
    assert response.data.text() == ME
    assert mailer.sent == [Mail(to=ME, subject="Reminder", body="Hello,\n\nThe tide.\n\nQuarterdeck")]
    refused = await respond(block, {"what": "The tide."}, scope=scope(mailer=mailer))
    assert (refused.code, refused.metadata["phase"], len(mailer.sent)) == (
        "input.recipient_required",
        "validate",
        1,
    )


# -- ii ---------------------------------------------------------------------------------------------------------------


async def test_a_file_is_trimmed_and_mailed() -> None:
    mailer, files = FakeMailer(), FakeFiles({"notes/today.md": "\n  All well. \n"})
    workflow = report_by_mail("notes/today.md", ME)
    report = await workflow.run_async(scope=scope(mailer=mailer, files=files))
    assert report.response.data.to_python() == {"sent": True, "to": ME}
    assert mailer.sent == [Mail(to=ME, subject="Report", body="All well.")]
    missing = await respond(report_by_mail("nope", ME), scope=scope(mailer=mailer, files=files))
    assert (missing.code, len(mailer.sent)) == ("file.not_found", 1)


# -- iii --------------------------------------------------------------------------------------------------------------


async def test_a_refused_graph_mails_nothing() -> None:
    mailer = FakeMailer()
    workflow = announce_then_filter(ME)
    with pytest.raises(WorkflowValidationFailed) as caught:
        workflow.validate()
    assert [issue.code for issue in caught.value.issues] == ["validation.kind_mismatch"]
    response = await respond(workflow, "anything", scope=scope(mailer=mailer))
    assert (response.success, response.metadata["phase"], mailer.sent) == (False, "plan", [])


# -- iv ---------------------------------------------------------------------------------------------------------------


def at_eight() -> Block:
    return Cron(cron="0 8 * * *")


async def test_a_page_is_mailed_on_schedule_and_failures_are_logged_in_one_place() -> None:
    clock, mailer, files = FakeClock(), FakeMailer(), FakeFiles()
    http = FakeHttp({URL: ["Fair winds", 404, "Calm"]})
    schedule = at_eight()
    workflow = page_by_mail(schedule, URL, ME, "errors.log")
    services = Services(clock=clock, ids=SequenceIds(), files=files, http=http, mailer=mailer)
    response = await respond(workflow, scope=Scope(services=services))
    assert response.code == "http.invalid_request", "a failed tick ends the stream"
    assert mailer.sent == [Mail(to=ME, subject="The page", body="Today:\n\nFair winds")]
    assert clock.now().isoformat() == "2026-01-02T08:00:00+00:00"
    assert files.text("errors.log") == "http_request: http.invalid_request\n"


# -- v ----------------------------------------------------------------------------------------------------------------


def feed(*names: str) -> str:
    items = "".join(
        f"<item><guid>{name}</guid><title>{name.title()}</title><link>https://x.example/{name}</link></item>"
        for name in names
    )
    return f'<rss version="2.0"><channel><title>News</title>{items}</channel></rss>'


async def test_a_digest_mails_what_is_new_and_skips_when_nothing_is() -> None:
    mailer, files = FakeMailer(), FakeFiles({"audit.log": "before\n"})
    http = FakeHttp({URL: [feed("one", "two", "one"), feed("two", "three"), feed("three"), 503, 503, 503]})
    services = scope(mailer=mailer, files=files, http=http)
    workflow = feed_digest(URL, ME, "seen.txt", "audit.log")

    first = await respond(workflow, scope=services)
    assert first.success
    assert first.data.to_python() == {"sent": True, "to": ME}
    assert mailer.sent[0].body == "* One <https://x.example/one>\n* Two <https://x.example/two>\n"

    assert (await respond(workflow, scope=services)).success
    assert mailer.sent[1].body == "* Three <https://x.example/three>\n"
    assert files.text("seen.txt") == "one\ntwo\nthree\n"

    nothing = await respond(workflow, scope=services)
    assert (nothing.skipped, nothing.code) == (True, "skip.no_new_items")
    broken = await respond(workflow, scope=services)
    assert broken.code == "http.server_error.5xx"
    assert len(mailer.sent) == 2
    assert files.text("audit.log") == "before\n2 new\n1 new\n"
