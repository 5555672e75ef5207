"""Built-ins that shape, choose and render: pure functions of their input (blocks spec §21)."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.builtin import template_limits
from runtime.blocks.builtin.transform import TRANSFORMS, CustomTransform, TransformRegistry
from runtime.blocks.contracts import once
from runtime.blocks.envelope import Response
from runtime.blocks.errors import BlockInputError, BlockValidationError, RegistryError
from runtime.blocks.fakes import FakeClock
from runtime.blocks.registry import builtin_registry
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import FakeHost, respond, step, tagged

REGISTRY = builtin_registry()


async def answer(type_id: str, value: object = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value)


async def joined(type_id: str, *sources: object, **config: Any) -> Response:
    """The block behind several predecessors, one per value."""
    workflow, start, block = Workflow("w"), step("start"), REGISTRY.create(type_id, config)
    for number, value in enumerate(sources):
        source = step(f"s{number}", lambda _, ctx, value=value: value)
        workflow.link(start, source).link(source, block)
    return await respond(workflow)


ROWS: list[tuple[str, dict[str, Any], object, object]] = [
    ("split_by_keys", {"keys": ["b", "a", "c"]}, {"a": 1, "b": [2]}, [[2], 1, None]),
    ("split_by_keys", {"keys": ["a"]}, '{"a": {"n": 1}}', [{"n": 1}]),
    ("split_by_keys", {"keys": ["a", "b"]}, None, [None, None]),
    ("split_first", {}, "one\ntwo\nthree", {"item": "one", "rest": "two\nthree"}),
    ("split_first", {"delimiter": ", "}, "one, two", {"item": "one", "rest": "two"}),
    ("split_first", {"delimiter": ""}, "one\ntwo", {"item": "one", "rest": "two"}),
    ("split_first", {}, "one", {"item": "one", "rest": ""}),
    ("merge", {}, ["a", "b"], '["a","b"]'),
    ("merge", {}, None, ""),
    ("filter", {"contains": "a"}, ["abc", "b", ["a"], 5], ["abc", ["a"]]),
    ("filter", {"equals": 1}, [1, 1.0, True, "1", 1], [1, 1]),
    ("filter", {"field_equals": {"field": "k.n", "value": 1}}, [{"k": {"n": 1}, "x": 2}, {"k": 1}, 3], [{"k": {"n": 1}, "x": 2}]),
    ("filter", {"field_equals": {"field": "k", "value": None}}, [{"k": None}, {}], [{"k": None}]),
    ("conditional", {"field": "status", "equals": "ok"}, {"status": "ok"}, "then"),
    ("conditional", {"field": "status", "equals": "ok"}, {"status": "no"}, "else"),
    ("conditional", {"field": "status", "equals": "ok"}, {}, "else"),
    ("conditional", {"contains": "err"}, "an error", "then"),
    ("conditional", {"equals": 5}, 5.0, "else"),
    ("markdown_to_html", {}, "# A\n\n*b* <i>c</i>", "<h1>A</h1>\n<p><em>b</em> <i>c</i></p>\n"),
    ("markdown_to_html", {"allow_html": False}, "<i>c</i>", "<p>&lt;i&gt;c&lt;/i&gt;</p>\n"),
    ("markdown_to_html", {}, ["- a", "- b"], "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
    ("markdown_to_html", {}, None, ""),
    ("markdown_to_html", {}, "[x](javascript:alert)", "<p>[x](javascript:alert)</p>\n"),
    ("custom_transform", {}, {"a": 1}, {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("type_id", "config", "value", "data"), ROWS)
async def test_values_are_shaped(type_id: str, config: dict[str, Any], value: object, data: object) -> None:
    assert (await answer(type_id, value, **config)).data.to_python() == data


@pytest.mark.parametrize(
    ("type_id", "config", "value", "code"),
    [
        ("split_by_keys", {"keys": ["a"]}, "{", "input.bad_json"),
        ("split_by_keys", {"keys": ["a"]}, '{"a": NaN}', "input.bad_json"),
        ("split_by_keys", {"keys": ["a"]}, "[" * 100_000, "input.bad_json"),
        ("split_by_keys", {"keys": ["a"]}, "[1]", "input.not_object"),
        ("split_by_keys", {"keys": ["a"]}, 1, "input.kind_mismatch"),
        ("filter", {"contains": "a"}, "a", "input.kind_mismatch"),
        ("merge", {}, b"\xff", "input.not_text"),
        ("select_first", {"strategy": "last"}, [], "input.empty_list"),
        ("markdown_to_html", {}, b"\xff", "input.not_text"),
        ("markdown_to_html", {}, "x" * (1024 * 1024 + 1), "transform.invalid_input"),
    ],
)
async def test_values_that_cannot_be_shaped(type_id: str, config: dict[str, Any], value: object, code: str) -> None:
    assert (await answer(type_id, value, **config)).code == code


@pytest.mark.parametrize(
    ("type_id", "config"),
    [
        ("filter", {}),
        ("filter", {"contains": "a", "equals": 1}),
        ("filter", {"field_equals": {"field": "a"}}),
        ("filter", {"field_equals": {"field": 1, "value": 2}}),
        ("conditional", {}),
        ("conditional", {"field": "a", "equals": 1, "contains": "a"}),
        ("custom_transform", {"transform": "nobody"}),
        ("approval", {"message": "Go?", "fields": {"": "Which?"}}),
    ],
)
def test_config_that_says_nothing_is_refused(type_id: str, config: dict[str, Any]) -> None:
    with pytest.raises(BlockValidationError) as caught:
        REGISTRY.create(type_id, config)
    assert caught.value.code == "validation.bad_config"


async def test_joined_sources_are_told_from_a_list() -> None:
    assert (await joined("merge", "a", ["b", 1], separator="+")).data.text() == 'a+["b",1]'
    assert (await joined("markdown_to_html", "# a", {"b": 1})).data.text() == "<h1>a</h1>\n<p>{&quot;b&quot;:1}</p>\n"
    assert (await joined("combine", "a", "b", "c", keys=["x", "y"])).data.to_python() == {"x": "a", "y": "b"}


async def test_split_by_keys_feeds_one_successor_per_key() -> None:
    split = REGISTRY.create("split_by_keys", {"keys": ["a", "b"]})
    assert split.output_count == 2
    workflow, merge = Workflow("w"), REGISTRY.create("combine", {"keys": ["left", "right"]})
    for name in ("left", "right"):
        echo = REGISTRY.create("echo", {}).named(name)
        workflow.link(split, echo).link(echo, merge)
    assert (await respond(workflow, {"b": 2, "a": 1})).data.to_python() == {"left": "1", "right": "2"}
    workflow.link(split, tagged("third"))
    assert [issue.code for issue in workflow.plan().errors] == ["validation.fanout_mismatch"]


async def test_a_trigger_tells_the_time() -> None:
    scope = Scope(services=Services(clock=FakeClock()))
    response = await respond(REGISTRY.create("trigger", {}), {"ignored": 1}, scope=scope)
    assert response.data.text() == "2026-01-01T00:00:00.000000Z"


# -- custom_transform -----------------------------------------------------------------------------------------------


def refuse(value: BlockValue) -> object:
    raise BlockInputError("input.not_object", "no")


async def test_functions_come_from_a_registry_of_ones_own() -> None:
    mine = TransformRegistry()
    mine.register("upper", lambda value: value.text().upper())
    mine.register("broken", lambda value: 1 / 0)
    mine.register("refuse", refuse)
    with pytest.raises(RegistryError, match=r"registry\.reserved_name"):
        mine.register("upper", refuse)
    registry = builtin_registry()
    registry.override(CustomTransform.using(mine))
    upper = registry.create("custom_transform", {"transform": "upper"})
    assert (await respond(upper, "a")).data.text() == "A"
    for name, code in (("broken", "transform.execution_failed"), ("refuse", "input.not_object")):
        assert (await respond(registry.create("custom_transform", {"transform": name}))).code == code
    assert TRANSFORMS.names == ("identity",), "the process's own registry is another"
    mine.clear()
    assert mine.names == ("identity",)
    assert (await respond(upper, "a")).code == "validation.bad_config"


# -- template -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value", "text"),
    [
        ({"template": "{{ n }}", "address_from": "config"}, {"template": "{{ x }}", "n": 1}, "1"),
        ({"template": "{{ n }}"}, {"template": "[{{ template }}]", "n": 1}, "1"),
        ({}, {"template": "[{{ template }}{{ n }}]", "n": 1}, "[1]"),
        ({"template": "no", "address_from": "input"}, {"template": "{{ n }}", "n": 1}, "1"),
        ({}, {"n": 1}, '{"n":1}'),
        ({"template": " "}, ["a"], '["a"]'),
        ({"template": "plain"}, None, "plain"),
        ({"template": "{% for i in range(3) %}{{ i }}{% endfor %}"}, None, "012"),
        ({"template": "{% include 'head' %}!", "partials": {"head": "Hi {{ n }}"}}, {"n": 1}, "Hi 1!"),
        ({"template": "{{ n|e }}"}, {"n": "<b>"}, "&lt;b&gt;"),
        ({"template": "{{ unknown.deeper }}|"}, {"n": 1}, "|"),
    ],
)
async def test_templates(config: dict[str, Any], value: object, text: str) -> None:
    for type_id in ("template", "template_handlebars"):
        assert (await answer(type_id, value, **config)).data.text() == text


@pytest.mark.parametrize(
    ("config", "value", "code"),
    [
        ({"template": "{{ n }}"}, None, "template.missing_data"),
        ({"template": "{% include 'p' %}", "partials": {"p": "{{ n }}"}}, None, "template.missing_data"),
        ({"address_from": "input"}, {"n": 1}, "template.missing_data"),
        ({}, {"template": "{% if %}"}, "template.invalid"),
        ({}, {"template": "{{ n|nosuch }}", "n": 1}, "template.invalid"),
        ({"template": "{{ 1 / n }}"}, {"n": 0}, "template.render_failed"),
        ({"template": "{% include 'p' %}", "partials": {"p": "{% include 'p' %}"}}, {}, "template.render_failed"),
        ({}, {"template": "{% include n %}", "n": "/etc/passwd"}, "template.render_failed"),
    ],
)
async def test_templates_refused(config: dict[str, Any], value: object, code: str) -> None:
    response = await answer("template", value, **config)
    assert response.error is not None
    assert (response.code, response.error.effects) == (code, "none")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"template": "{% include 'nobody' %}"}, "no partial 'nobody'"),
        ({"template": "a", "partials": {"p": "\n{% if %}"}}, "partial 'p', line 2"),
    ],
)
def test_partials_are_checked_when_the_block_is_made(config: dict[str, Any], told: str) -> None:
    with pytest.raises(BlockValidationError, match=told) as caught:
        REGISTRY.create("template", config)
    assert caught.value.code == "template.invalid"


async def test_a_template_of_the_input_cannot_run_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_TURNS", 1000)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    for template in (
        loops,
        "{% set x %}" + loops + "{% endset %}",
        "{% macro m() %}" + loops + "{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}",
    ):
        response = await answer("template", {"template": template})
        assert response.code == "template.render_failed"
        assert "loops are limited" in response.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a'|center(9999999999) }}",
        "{{ ('a\n' * 40000)|indent(40000)|length }}",
        "{{ [1]|tojson(indent=9999999999) }}",
        "{{ [1]|batch(9999999999, 1)|first }}",
        "{{ 1.5|round(999999999) }}",
        "{{ '%09999999999d' % 1 }}",
        "{{ '%*d'|format(999999999, 1) }}",
        "{{ '{:>9999999999}'.format(1) }}",
        "{{ '{:>{n}}'.format(1, n=9999999999) }}",
        "{{ 'a'.ljust(9999999999) }}",
        "{% set x = 'a' * 99999 %}{{ x.replace('a', x)|length }}",
        "{% set x = 'a' * 99999 %}{{ x|replace('a', x)|length }}",
        "{{ (['a' * 99999] * 1000)|join|length }}",
        "{{ ('b' * 99999).join(['a'] * 1000)|length }}",
        "{{ ([[1] * 1000] * 1000)|sum(start=[])|length }}",
        "{% set n = namespace(x='aa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
        "{% set n = namespace(x='aa') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}",
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n }}",
        "{% set n = namespace(x=99) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "{% set x %}{% for i in range(9999) %}" + "a" * 9999 + "{% endfor %}{% endset %}{{ x|length }}",
    ],
)
async def test_a_template_of_the_input_cannot_grow_for_ever(template: str) -> None:
    """Judged before anything is made: none of these takes a noticeable time, or memory."""
    response = await answer("template", {"template": template})
    assert response.code == "template.render_failed"
    assert "OverflowError" in (response.message or "")


async def test_ordinary_templates_have_room_enough() -> None:
    rows = [{"name": f"n{number}", "price": number / 7} for number in range(5000)]
    template = (
        "{% for row in rows|sort(attribute='name') %}{{ row.name|upper ~ ':' }} {{ '%8.2f'|format(row.price) }}"
        " {{ '{:>4}'.format(loop.index) }} {{ row.name.replace('n', 'N')|e }}\n{% endfor %}"
        "{{ rows|map(attribute='name')|join(', ') }}"
    )
    assert len((await answer("template", {"rows": rows}, template=template)).data.text()) > 100_000


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (f"<author>{'a' * 100_000} (</author>", "a person is named"),
        ("<a " + " ".join(f"a{number}=''" for number in range(1000)) + "/>", "attributes"),
        ("".join(f"<n{number}:a xmlns:n{number}='{number}'/>" for number in range(1000)), "name spaces"),
    ],
)
async def test_a_feed_cannot_occupy_the_program(item: str, told: str) -> None:
    """The feed library would take a minute or more for each of these, and for the first let nobody else work."""
    response = await answer("rss_parse", f"<rss version='2.0'><channel><item>{item}</item></channel></rss>")
    assert (response.code, told in (response.message or "")) == ("transform.parse_failed", True)


async def test_markup_that_is_declared_in_each_item_is_no_burden() -> None:
    item = "<item><author>a@b.c (Ada)</author><description><div xmlns='http://www.w3.org/1999/xhtml'>x</div></description></item>"
    response = await answer("rss_parse", f"<rss version='2.0'><channel>{item * 300}</channel></rss>")
    assert len(response.data.expect_list()) == 300


async def test_a_text_is_not_split_into_any_number_of_outputs() -> None:
    assert (await answer("split_lines", "a\n" * 100_001)).code == "transform.invalid_input"


@pytest.mark.parametrize("drawn", ["{{ [1, 2]|random }}", "{{ lipsum() }}"])
async def test_templates_draw_nothing_by_lot(drawn: str) -> None:
    assert (await answer("template", {"template": drawn})).code in ("template.invalid", "template.render_failed")


# -- approval with a form -------------------------------------------------------------------------------------------


class Operator(FakeHost):
    """Answers one question after the other."""

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.answers = list(answers)

    async def wait(self, prompt: str, **options: Any) -> BlockValue:
        self.questions.append((prompt, (), None))
        return BlockValue.of(self.answers.pop(0))


FORM = {"message": "Publish?", "fields": {"version": "Which one?", "channel": "Where to?"}}


def notes(text: str, choice: str = "approved") -> dict[str, str]:
    return {"choice": choice, "by": "me", "notes": text}


async def test_a_form_is_asked_until_it_is_complete() -> None:
    host = Operator(notes("mood: good; version: 1.2"), notes("channel: beta: two"))
    response = await respond(REGISTRY.create("approval", FORM), host=host)
    assert response.data.to_python() == {
        "approved": True,
        "choice": "approved",
        "notes": "channel: beta: two",
        "fields": {"version": "1.2", "channel": "beta: two"},
    }
    first, second = (prompt for prompt, _, _ in host.questions)
    assert "version: Which one?" in first
    assert "version" not in second
    assert "channel: Where to?" in second


async def test_a_form_answered_at_once_and_one_never_answered() -> None:
    at_once = Operator({"choice": "approved", "fields": {"version": 2, "channel": "beta"}})
    told = (await respond(REGISTRY.create("approval", FORM), host=at_once)).data.to_python()
    assert told["fields"] == {"version": "2", "channel": "beta"}
    response = await respond(REGISTRY.create("approval", FORM), host=Operator(*[notes("version: 1")] * 3))
    assert response.code == "approval.missing"
    assert "channel" in response.message
    refused = await respond(REGISTRY.create("approval", FORM), host=Operator(notes("no time", "rejected")))
    assert refused.code == "approval.refused"


def test_the_form_is_part_of_the_contract() -> None:
    assert REGISTRY.create("approval", FORM).output_contract == once("map")
