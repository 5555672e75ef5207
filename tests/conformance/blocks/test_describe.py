"""A workflow as data and as pictures: nothing in a picture but inert text (blocks spec §9.1)."""

from __future__ import annotations

import re

from runtime.blocks.conditions import case, otherwise, when
from runtime.blocks.contracts import multiple, once
from runtime.blocks.describe import mermaid, text
from runtime.blocks.map_over import map_over
from runtime.blocks.workflow import Workflow
from tests.support.blocks_kit import failing, step


def nested() -> Workflow:
    inner = Workflow("inner").link(step("in", gives=once("int")), step("out"))
    workflow = Workflow("w").link(step("a"), step("m", gives=multiple("string")), inner, pick=None)
    return workflow.link("m", step("b")).on_error("a", step("h")).add(step("f")).configure("b", fallback="f")


def picked() -> Workflow:
    deal = step("deal", gives=multiple("string"))
    return Workflow("w").link(deal, step("x"), pick=1).link(deal, step("y"), pick=0)


def routed() -> Workflow:
    odd = case(key='say "hi"]|--> #end\n    n0 --> n0\x1b[31m', contains="`<b>")
    return Workflow("r").branch(step("a"), when(odd, step("b")), otherwise(step("c"))).link("b", "a")


def test_describe_is_plain_data() -> None:
    inner = Workflow("inner").add(step("s", gives=once("int"), effects="idempotent"))
    workflow = Workflow("w").link(step("a"), inner).on_error("a", failing("h"))
    workflow.configure("a", accept=["op.test_failed"], timeout=3, lane="ControlLane")
    picture = workflow.describe()
    assert picture["discipline"] == "dataflow"
    assert [node["name"] for node in picture["nodes"]] == ["a", "inner", "h"]
    first, nested, _ = picture["nodes"]
    assert (first["output"], first["timeout"], first["lane"]) == ("once map", 3, "ControlLane")
    assert (nested["type"], nested["output"], nested["side_effects"]) == ("workflow", "once int", "idempotent")
    assert nested["workflow"]["nodes"][0]["name"] == "s"
    routed = Workflow("r").branch(step("a"), when(lambda response: True, step("b")), otherwise("b"))
    assert routed.describe()["branches"]["a"][1] == {"condition": "default", "target": "b"}


def test_a_workflow_that_contains_itself_can_still_be_described() -> None:
    outer, inner = Workflow("outer"), Workflow("inner")
    outer.link(step("s"), inner.add(outer))
    assert [issue["code"] for issue in outer.describe()["issues"]] == ["graph.recursive_workflow"]
    assert "graph.recursive_workflow at inner/outer" in text(outer.describe())


def test_the_text_shows_every_node_with_its_contracts_and_where_it_leads() -> None:
    assert (
        text(nested().describe())
        == """\
w: dataflow, multiple any -> once any
  * a [step] multiple any -> once any
      --> m
      ..> h (on error)
  - m [step] multiple any -> multiple string
      --> inner
      --> b
  - inner [workflow] multiple any -> once any
      | * in [step] multiple any -> once int
      |     --> out
      | - out [step] multiple any -> once any
  - b [step] multiple any -> once any
      ..> f (fallback)
  - h [step] multiple any -> once any
  - f [step] multiple any -> once any
"""
    )


def test_the_mermaid_chart_has_made_up_ids_and_subgraphs() -> None:
    assert (
        mermaid(nested().describe())
        == """\
flowchart TD
    n0(["a<br>step"])
    n1["m<br>step"]
    subgraph n2["inner"]
        n2_0(["in<br>step"])
        n2_1["out<br>step"]
        n2_0 --> n2_1
    end
    n3["b<br>step"]
    n4["h<br>step"]
    n5["f<br>step"]
    n0 --> n1
    n1 --> n2
    n1 --> n3
    n0 -.->|"on error"| n4
    n3 -.->|"fallback"| n5
"""
    )
    assert 'n0 -->|"pick 1"| n1' in mermaid(picked().describe())


def test_named_links_say_their_name() -> None:
    one, other, joined = step("one"), step("other"), step("joined")
    workflow = Workflow("w").link(step("start"), one).link(one, joined, as_="x")
    workflow.link("start", other).link(other, joined, as_="y")
    drawn = mermaid(workflow.describe())
    assert '-->|"as x"|' in drawn
    assert '-->|"as y"|' in drawn
    assert [link["as"] for link in workflow.describe()["links"]] == [None, "x", None, "y"]


def test_what_maps_says_so_and_how_many_at_once() -> None:
    workflow = Workflow("w").link(step("a"), map_over(step("s"), name="many", max_parallel=3))
    assert "  - many [map_over, 3 at once] once list -> once list\n      | * each [step]" in text(workflow.describe())
    assert 'subgraph n1["many<br>map_over#44; 3 at once"]' in mermaid(workflow.describe())


def test_foreign_text_cannot_leave_its_label() -> None:
    chart, lines = mermaid(routed().describe()), text(routed().describe())
    label = next(re.finditer(r'n0 -->\|"(.*)"\| n1\n', chart))[1]
    assert re.fullmatch(r"[A-Za-z0-9 _.=-]*", re.sub(r"#\d+;", "", label))
    assert "#34;hi#34;" in label
    assert len(chart.splitlines()) == 1 + 3 + 3
    assert "\x1b" not in lines + chart
    assert "\\u001b[31m" in lines
    assert len(lines.splitlines()) == 1 + 3 + 3


def test_labels_are_cut_and_links_into_nothing_are_left_out_of_the_chart() -> None:
    workflow = Workflow("w" * 500).link(step("a"), "gone")
    assert "gone" not in mermaid(workflow.describe())
    shown = text(workflow.describe())
    assert "--> gone" in shown
    assert "error graph.unknown_target at a: a link leads to 'gone'" in shown
    assert len(shown.splitlines()[0]) < 300
