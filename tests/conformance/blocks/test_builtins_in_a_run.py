"""http_request and send_email inside a governed run: real operations on loopback, and what is safe to repeat (C12)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.host.api import RunStatus
from tests.support.hosting import entries, hosting, run_to_end, write_mission
from tests.support.web_server import PostOffice, Site, answer, serving

MISSION = """\
mission: page
version: "1"
workspace: {kind: none}
sandbox: {hosts: ["127.0.0.1:PORT"]}
envelope: {allowed_paths: [], allowed_tools: [http.request, mail.send]}
blocks:
  get: {type: http_request, url: "http://127.0.0.1:PORT/page", retry: {max_attempts: 2, initial: 0}}
  mail: {type: send_email, to: me@x.example, subject: Hi, retry: {max_attempts: 2, initial: 0}}
links: [get -> mail]
outputs: {mail: "${outputs.mail}"}
"""


class Once(Site):
    """Busy at the first request."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        page = answer("grüße", content_type="text/plain; charset=utf-8")
        self.answers = {"/page": page if self.seen else answer("busy", status="503 Busy")}
        await super().talk(reader, writer)


@pytest.mark.parametrize(
    ("first", "status", "code", "tries"),
    [
        ({"MAIL": "450 later"}, RunStatus.SUCCEEDED, None, 2),
        ({"MAIL": "550 never"}, RunStatus.FAILED, "email.smtp.permanent", 2),
        ({".": ""}, RunStatus.FAILED, "recovery.unsafe_to_retry", 1),
    ],
)
async def test_only_what_was_not_accepted_is_sent_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: dict[str, str],
    status: RunStatus,
    code: str | None,
    tries: int,
) -> None:
    class Post(PostOffice):
        visits = 0

        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.visits += 1
            self.says = first if self.visits == 1 or code else {}
            await super().talk(reader, writer)

    site, post = Once({}), Post()
    async with serving(site.talk) as web, serving(post.talk) as mail:
        settings = {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(mail),
            "SMTP_SECURE": "false",
            "EMAIL_FROM": "deck@x.example",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        async with hosting(tmp_path / "store") as host:
            run = await run_to_end(host, write_mission(tmp_path / "m", MISSION.replace("PORT", str(web))))
            steps = [(item["step_id"], item["attempt"]) for item in await entries(host, run.run_id, "step_finished")]
    assert (run.status, run.code) == (status, code)
    assert steps[:2] == [("get", 1), ("get", 2)], "an answer of 503 is asked for again"
    assert (post.visits, len(site.seen)) == (tries, 2)
    if code is None:
        assert run.outputs == {"mail": {"sent": True, "to": "me@x.example"}}
