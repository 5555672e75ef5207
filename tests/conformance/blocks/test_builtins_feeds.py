"""Feeds read without trust, items kept once, commits grouped: pure blocks over foreign text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.blocks.builtin import feeds
from runtime.blocks.builtin.commits import KINDS, summarised
from runtime.blocks.builtin.template import markdown
from runtime.blocks.envelope import Response
from runtime.blocks.registry import builtin_registry
from tests.support.blocks_kit import respond

REGISTRY = builtin_registry()


async def answer(type_id: str, value: object = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value)


def rss(items: str, head: str = "") -> str:
    return f'{head}<rss version="2.0"><channel><title>Gazette</title>{items}</channel></rss>'


ATOM = """\
<?xml version="1.0" encoding="iso-8859-1"?>
<feed xmlns="http://www.w3.org/2005/Atom"><title>Blög</title>
<entry><id>urn:1</id><title>One</title><link href="https://x.example/1"/><updated>2026-02-03T10:00:00+02:00</updated>
<content type="html">&lt;b&gt;long&lt;/b&gt;</content></entry>
<entry><title>Two</title><published>2026-02-01T00:00:00Z</published><updated>2026-02-09T00:00:00Z</updated>
<summary>short</summary><content>long</content></entry>
</feed>"""


async def test_rss_and_atom_become_the_same_kind_of_items() -> None:
    item = (
        "<item><guid isPermaLink='false'>g1</guid><link>https://x.example/a</link><title>é &amp;amp; &lt;b&gt;</title>"
        "<description>&lt;script&gt;</description><pubDate>Tue, 03 Feb 2026 10:00:00 +0200</pubDate></item><item/>"
    )
    read = (
        await answer("rss_parse", "\ufeff\n" + rss(item, '<?xml version="1.0" encoding="latin-1"?>'))
    ).data.to_python()
    assert read[0] == {
        "id": "g1",
        "url": "https://x.example/a",
        "title": "é &amp; <b>",
        "source": "Gazette",
        "published_at": "2026-02-03T08:00:00Z",
        "snippet": "<script>",
    }
    assert read[1] == {"id": "", "url": "", "title": "", "source": "Gazette", "published_at": None, "snippet": ""}
    one, two = (await answer("rss_parse", text=ATOM)).data.to_python()
    assert (one["id"], one["url"], one["source"]) == ("urn:1", "https://x.example/1", "Blög")
    assert (one["published_at"], one["snippet"]) == ("2026-02-03T08:00:00Z", "<b>long</b>")
    assert (two["id"], two["published_at"], two["snippet"]) == ("Two", "2026-02-01T00:00:00Z", "short")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no element found"),
        ("/etc/passwd", "not well-formed"),
        ("http://127.0.0.1:9/feed", "not well-formed"),
        ("<html><body/></html>", "no RSS or Atom feed"),
        (rss("<item>"), "mismatched tag"),
        (rss("<x:y/>"), "unbound prefix"),
        (rss("<title>&nbsp;</title>"), "undefined entity"),
        (rss("", '<!DOCTYPE rss SYSTEM "file:///etc/passwd">'), "document type"),
        (rss("<title>&a;</title>", '<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), "document type"),
        (rss("<a>" * 101 + "</a>" * 101), "nested more than 100"),
        (rss("<title>\0</title>"), "not well-formed"),
    ],
)
async def test_what_is_no_feed_or_would_fetch_something_is_refused(text: str, why: str) -> None:
    response = await answer("rss_parse", text)
    assert response.code == "transform.parse_failed"
    assert why in response.message


async def test_feeds_and_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MAX_ITEMS", 2)
    assert (await answer("rss_parse", rss("<item/>" * 3))).code == "transform.invalid_input"
    assert (await answer("deduplicate", [{"k": 1}] * 3, key="k")).code == "transform.invalid_input"
    monkeypatch.setattr(feeds, "MAX_FEED_BYTES", 100)
    assert (await answer("rss_parse", rss("é" * 50))).code == "transform.invalid_input"


async def test_each_item_is_kept_once_in_order() -> None:
    items = [{"id": 1, "n": "a"}, {"id": True}, {"id": 1, "n": "b"}, {"n": "c"}, {"id": "x"}, {"n": "d"}, {"id": None}]
    kept = (await answer("deduplicate", items, key="id")).data.to_python()
    assert kept == [items[0], items[1], items[3], items[4], items[5], items[6]], "1 is not true, and none is no value"
    assert (await answer("deduplicate", key="id", items=items, seen=[1, "x"])).data.to_python() == [
        {"id": True}, {"n": "c"}, {"n": "d"}, {"id": None}
    ]  # fmt: skip
    assert (await answer("deduplicate", ["text"], key="id")).code == "input.element_kind"
    assert (await answer("deduplicate", "text", key="id")).code == "input.kind_mismatch"


@given(st.lists(st.sampled_from(["a", "b", "c", "d"])), st.sets(st.sampled_from(["a", "b"])))
async def test_deduplication_is_the_first_of_each_and_changes_nothing_twice(ids: list[str], seen: set[str]) -> None:
    items = [{"id": name, "n": number} for number, name in enumerate(ids)]
    once = (await answer("deduplicate", items, key="id", seen=sorted(seen))).data
    assert [item["id"] for item in once.to_python()] == [name for name in dict.fromkeys(ids) if name not in seen]
    assert (await answer("deduplicate", once, key="id")).data == once


def commit(subject: str, author: str = "Ada", parents: int = 1) -> dict[str, Any]:
    return {"commit": "c" * 40, "parents": ["p"] * parents, "author": author, "subject": subject}


async def test_commits_are_grouped_by_what_they_say_they_are() -> None:
    commits = [
        commit("feat(console)!: keys: all of them"),
        commit("Merge branch 'x'", "Bob", parents=2),
        commit("Fix: a thing", "Bob"),
        commit("fixed: not a kind"),
        commit("docs:"),
        commit("", "Bob", parents=0),
        commit("bugfix:\ttabs", "Zoë"),
    ]
    found = (await answer("conventional_commits", commits=commits)).data.to_python()
    assert (found["changes"], found["merges"]) == (6, 1)
    assert [(group["kind"], [item["text"] for item in group["commits"]]) for group in found["groups"]] == [
        ("feat", ["keys: all of them"]),
        ("fix", ["a thing", "tabs"]),
        ("other", ["fixed: not a kind", "docs:", ""]),
    ]
    assert [(item["scope"], item["breaking"]) for item in found["breaking"]] == [("console", True)]
    assert found["authors"] == [
        {"name": "Ada", "commits": 3}, {"name": "Bob", "commits": 2}, {"name": "Zoë", "commits": 1}
    ]  # fmt: skip
    assert (await answer("conventional_commits", commits=["x"])).code == "input.element_kind"


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(0, 3))))
def test_no_commit_is_lost(subjects: list[tuple[str, int]]) -> None:
    found = summarised([commit(text, parents=parents) for text, parents in subjects])
    listed = [item for group in found["groups"] for item in group["commits"]]
    assert len(listed) == found["changes"] == sum(item["commits"] for item in found["authors"])
    assert found["changes"] + found["merges"] == len(subjects)
    assert all(group["kind"] in KINDS for group in found["groups"])


def test_foreign_text_is_shown_in_markdown_and_never_read_as_it() -> None:
    hostile = "<img onerror=x> [a](javascript:b) `code` **bold**\n# heading \\"
    assert markdown(hostile) == r"\<img onerror=x> \[a](javascript:b) \`code\` \*\*bold\*\* # heading " + "\\\\"
