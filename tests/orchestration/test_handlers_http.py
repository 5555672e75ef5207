"""Requests of the console itself: only to listed hosts, at the address that was judged, bounded, and on record."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.contexts import operation_failure
from runtime.blocks.values import NULL
from runtime.governance.secrets import Secrets
from runtime.kernel.errors import Refused
from runtime.kernel.model import OperationResult
from runtime.kernel.redaction import Redactor
from runtime.orchestration.handlers import http
from runtime.orchestration.handlers.http import HttpRequest
from runtime.orchestration.handlers.registry import ToolHandler
from runtime.orchestration.web import as_text, read_url, redirect_of
from tests.support.operation_rig import Rig
from tests.support.web_server import Site, answer, certificate, serving

TOKEN = "tok-123456789"


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


class Web:
    """A rig whose requests resolve every name to loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tree").mkdir()
        self.redactor = Redactor()
        self.rig = Rig(folder / "tree")

    def open(self, *hosts: str, leads_to: str = "127.0.0.1", tls: Callable[[], ssl.SSLContext] | None = None) -> Web:
        async def resolve(name: str) -> Sequence[str]:
            if name == "lost.example":
                raise OSError
            return [leads_to]

        secrets = Secrets(
            {"TOKEN": TOKEN, "OTHER": "other-secret"}, handed={"T": "env://TOKEN"}, redactor=self.redactor
        )
        request = HttpRequest(hosts, secrets.declared, resolver=resolve, tls=tls)
        self.rig = Rig(
            self.folder / "tree", redactor=self.redactor, extra={"tool_invoke": ToolHandler({"http.request": request})},
        )  # fmt: skip
        return self

    async def ask(self, url: str, **params: Any) -> OperationResult:
        return await self.rig.tool("http.request", url=url, **params)


def details(result: OperationResult) -> Any:
    return result.evidence["details"]


async def test_a_listed_host_is_asked_and_its_answer_is_recorded(web: Web) -> None:
    site = Site({"/feed?q=1": answer("grüße", content_type="text/plain; charset=utf-8", set_cookie="id=secret")})
    async with serving(site.talk) as port:
        web.open(f"site.example:{port}", f"127.0.0.1:{port}")
        result = await web.ask(f"http://site.example:{port}/feed?q=1#part", user_agent="deck", headers={"X-One": "1"})
    assert result.ok
    assert (result.output["status"], result.output["text"]) == (200, "grüße")
    assert result.output["url"] == f"http://site.example:{port}/feed?q=1"
    assert "set-cookie" not in result.output["headers"], "a cookie is a credential"
    ((head, _),) = site.seen
    assert f"host: site.example:{port}\r\n" in head.lower()
    assert "user-agent: deck\r\n" in head.lower()
    assert "x-one: 1\r\n" in head.lower()
    receipt = web.rig.receipts()[0]
    assert (receipt["effect"], receipt["affected_paths"]) == ("external", [])


async def test_a_body_goes_as_it_is_or_as_json(web: Web) -> None:
    site = Site({"/": answer("", "201 Created")})
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}")
        for method, body in (("POST", {"a": ["ü"]}), ("PUT", "plain")):
            assert (
                await web.rig.tool(
                    "http.request", id=f"s1.{len(site.seen)}", url=f"http://127.0.0.1:{port}/", method=method, body=body
                )
            ).ok
    assert [body for _, body in site.seen] == ['{"a":["ü"]}'.encode(), b"plain"]
    assert "content-type: application/json" in site.seen[0][0].lower()


@pytest.mark.parametrize(
    ("hosts", "leads_to", "attempted", "needed"),
    [
        ([], "127.0.0.1", "site.example:{port}", "sandbox.hosts: [site.example:{port}]"),
        (["site.example"], "127.0.0.1", "site.example:{port}", "sandbox.hosts: [site.example:{port}]"),
        (["site.example:{port}"], "127.0.0.1", "site.example:{port}", "sandbox.hosts: [127.0.0.1:{port}]"),
        (["site.example:{port}"], "169.254.169.254", "site.example:{port}", "sandbox.hosts: [169.254.169.254:{port}]"),
    ],
)
async def test_a_host_that_is_not_listed_or_leads_inside_is_never_asked(
    web: Web, hosts: list[str], leads_to: str, attempted: str, needed: str
) -> None:
    site = Site({"/": answer("no")})
    async with serving(site.talk) as port:
        web.open(*(host.format(port=port) for host in hosts), leads_to=leads_to)
        result = await web.ask(f"http://site.example:{port}/")
    assert result.reason_code == "NET_HOST_DENIED"
    (entry,) = [entry for entry in web.rig.entries() if entry["kind"] == "operation_denied"]
    assert (entry["attempted"], entry["needed"]) == (attempted.format(port=port), needed.format(port=port))
    assert site.seen == []


async def test_redirects_are_followed_and_each_is_judged(web: Web) -> None:
    places = {f"/{n}": answer("", "302 Found", location=f"/{n + 1}") for n in range(9)}
    site = Site({**places, "/there": answer("", "301 Moved", location="/9"), "/9": answer("end")})
    async with serving(site.talk) as port:
        places["/out"] = answer("", "307 Temporary Redirect", location=f"http://evil.example:{port}/9")
        places["/name"] = answer("", "302 Found", location=f"http://b.example:{port}/9")
        site.answers = {**site.answers, **places}
        web.open(f"a.example:{port}", f"b.example:{port}", f"127.0.0.1:{port}")
        base, told = f"http://a.example:{port}", {"authorization": "Bearer env://TOKEN"}
        once = await web.rig.tool("http.request", id="s1.1", url=f"{base}/there", headers=told)
        assert (once.output["text"], once.output["url"]) == ("end", f"{base}/9")
        assert TOKEN in site.seen[-1][0], "the same origin is told again"
        other = await web.rig.tool("http.request", id="s1.2", url=f"{base}/name", headers=told)
        assert other.output["url"] == f"http://b.example:{port}/9"
        assert TOKEN not in site.seen[-1][0], "another origin is not"
        denied = await web.rig.tool("http.request", id="s1.3", url=f"{base}/out")
        assert (denied.reason_code, denied.output) == ("NET_HOST_DENIED", {})
        assert details(denied)["hops"] == [f"{base}/out", f"http://evil.example:{port}/9"]
        endless = await web.rig.tool("http.request", id="s1.4", url=f"{base}/0")
        assert endless.reason_code == "HTTP_STATUS"
        assert len(details(endless)["hops"]) == http.MAX_REDIRECTS + 1
        kept = await web.rig.tool("http.request", id="s1.5", url=f"{base}/there", method="POST", body="x")
        assert (kept.ok, kept.output["status"], kept.output["headers"]["location"]) == (True, 301, "/9")


async def test_failures_say_what_they_may_have_left(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1000)
    large = answer(b"x" * 1001)
    site = Site(
        {"/gone": answer("not here", "404 Not Found"), "/large": large, "/cut": large[:200], "/odd": b"what?\r\n\r\n"}
    )
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}", "127.0.0.1:1", "lost.example")
        expected = {
            "/gone": ("HTTP_STATUS", 404, "unknown"),
            "/large": ("HTTP_TOO_LARGE", 200, "unknown"),
            "/cut": ("HTTP_CONNECT", 200, "unknown"),
            "/odd": ("HTTP_CONNECT", None, "unknown"),
            "http://127.0.0.1:1/": ("HTTP_CONNECT", None, "none"),
            "http://lost.example/": ("HTTP_CONNECT", None, "none"),
        }
        for path, (code, status, effects) in expected.items():
            url = path if path.startswith("http") else f"http://127.0.0.1:{port}{path}"
            result = await web.rig.tool("http.request", id=f"s1.{len(web.rig.receipts())}", url=url)
            found = details(result)
            assert (result.reason_code, found["status"], found["effects"]) == (code, status, effects), path
            assert result.output.get("text") == ("not here" if path == "/gone" else None)
            told = operation_failure(result, NULL)
            assert (told.effects, told.provider_status) == (effects, None if status is None else str(status))


async def test_the_whole_request_has_one_time_limit(web: Web) -> None:
    site = Site({})
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}")
        result = await web.ask(f"http://127.0.0.1:{port}/", timeout_seconds=0.1)
        assert (result.reason_code, details(result)["effects"]) == ("HTTP_TIMEOUT", "unknown")
        await asyncio.wait_for(site.ended.wait(), 5)


async def test_cancelling_closes_the_connection_at_once(web: Web) -> None:
    site = Site({})
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}")
        asking = asyncio.create_task(web.ask(f"http://127.0.0.1:{port}/"))
        await asyncio.wait_for(site.asked.wait(), 5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(site.ended.wait(), 5)
    assert web.rig.receipts()[-1]["reason_code"] == "OP_CANCELLED"


async def test_tls_is_checked_against_the_name_and_not_the_address(web: Web, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path, "site.example")
    site = Site({"/": answer("private")})
    async with serving(site.talk, server) as port:
        web.open(f"site.example:{port}", f"other.example:{port}", f"127.0.0.1:{port}", tls=lambda: trusting)
        assert (await web.ask(f"https://site.example:{port}/")).output["text"] == "private"
        wrong = await web.rig.tool("http.request", id="s1.1", url=f"https://other.example:{port}/")
        assert wrong.reason_code == "HTTP_CONNECT"
        assert "certificate is not valid" in str(wrong.evidence["message"])
        web.open(f"site.example:{port}", f"127.0.0.1:{port}")
        unknown = await web.rig.tool("http.request", id="s1.2", url=f"https://site.example:{port}/")
        assert "certificate is not valid" in str(unknown.evidence["message"])
    assert len(site.seen) == 1


async def test_a_secret_is_sent_and_nowhere_written(web: Web) -> None:
    site = Site({"/": answer(f"you said {TOKEN}")})
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}")
        told = {"authorization": "Bearer env://TOKEN"}
        result = await web.ask(f"http://127.0.0.1:{port}/", headers=told)
        assert f"authorization: bearer {TOKEN}" in site.seen[0][0].lower()
        assert TOKEN not in f"{result}{web.rig.entries()}{web.rig.artifacts.bodies}"
        stolen = await web.rig.tool(
            "http.request", id="s1.1", url=f"http://127.0.0.1:{port}/", headers={"x": "env://OTHER"}
        )
        assert stolen.reason_code == "SECRET_REFERENCE", "what the mission does not declare is not its to send"
    assert len(site.seen) == 1


async def test_no_proxy_of_the_environment_is_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site({"/": answer("direct")})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(site.talk) as port:
        web.open(f"127.0.0.1:{port}")
        assert (await web.ask(f"http://127.0.0.1:{port}/")).output["text"] == "direct"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"url": "ftp://site.example/"}, "HTTP_URL"),
        ({"url": "http://ada:pa55@site.example/"}, "HTTP_URL"),
        ({"url": "http://site.example\\@evil.example/"}, "HTTP_URL"),
        ({"url": "http://site.example/a b"}, "HTTP_URL"),
        ({"url": "http://[::1/"}, "HTTP_URL"),
        ({"url": "http:///path"}, "HTTP_URL"),
        ({"url": "http://münchen.example/"}, "HTTP_URL"),
        ({"url": "site.example"}, "HTTP_URL"),
        ({"headers": {"Host": "evil.example"}}, "OP_PARAMS"),
        ({"headers": {"transfer-encoding": "chunked"}}, "OP_PARAMS"),
        ({"headers": {"x": "1\r\ny: 2"}}, "OP_PARAMS"),
        ({"headers": {"x y": "1"}}, "OP_PARAMS"),
        ({"headers": {"x": "1", "X": "2"}}, "OP_PARAMS"),
        ({"user_agent": "a\nb: c"}, "OP_PARAMS"),
        ({"method": "TRACE"}, "OP_PARAMS"),
        ({"body": "x"}, "OP_PARAMS"),
        ({"timeout_seconds": 0}, "OP_PARAMS"),
        ({"follow": True}, "OP_PARAM_UNKNOWN"),
    ],
)
async def test_what_is_no_request_is_refused_before_anything_is_done(
    web: Web, params: dict[str, Any], code: str
) -> None:
    web.open("site.example", "evil.example")
    result = await web.ask(**{"url": "http://site.example/", **params})
    assert result.reason_code == code
    assert "operation_started" not in web.rig.kinds()
    assert "pa55" not in str(result.evidence)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b", "https://a.example/b"),
        ("c?d", "https://a.example/x/c?d"),
        ("//b.example:8443/", "https://b.example:8443/"),
        (None, None),
    ],
)
def test_where_a_redirect_leads(location: str | None, expected: str | None) -> None:
    found = redirect_of(302, "GET", read_url("https://A.example:443/x/y"), location)
    assert (None if found is None else str(found)) == expected


@pytest.mark.parametrize("location", ["http://a.example/", "javascript:1", "//ada:x@a.example/", "https://[x/"])
def test_where_no_redirect_may_lead(location: str) -> None:
    with pytest.raises(Refused) as caught:
        redirect_of(302, "GET", read_url("https://a.example/"), location)
    assert caught.value.code == "HTTP_URL"


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"\xef\xbb\xbfhi", "", "hi"),
        (b"\0\1", "", None),
        (b"{}", "image/png", None),
        ("ü".encode("latin-1"), "text/html; charset=ISO-8859-1", "ü"),
        (
            "<?xml version='1.0' encoding='windows-1252'?>€".encode("cp1252"),
            "application/atom+xml",
            "<?xml version='1.0' encoding='windows-1252'?>€",
        ),
        (b"\xff", "application/json", "\ufffd"),
        ("ü".encode(), "text/plain; charset=unicode_escape", "ü"),
        ("ü".encode(), "text/plain; charset=zip", "ü"),
    ],
)
def test_text_is_read_by_the_charset_it_names(body: bytes, kind: str, text: str | None) -> None:
    assert as_text(body, kind) == text
