"""Block types by id: one owner per id, aliases, types whose pack was skipped (blocks spec §22)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.errors import RegistryError
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.values import BlockValue
from tests.support.mission_texts import SMALL, found


class Size(str, Enum):  # noqa: UP042 - the older spelling must work too
    BIG = "big"
    SMALL = "small"


class Say(Block, type_id="say"):
    """Says."""

    size: Size | None = None
    sizes: tuple[str, ...] = ()

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    def run(self, input: BlockValue, ctx: Any) -> None: ...


class Louder(Say, type_id="say"):
    """Says it louder."""


def filled() -> BlockRegistry:
    registry = BlockRegistry()
    registry.register(Say)
    registry.alias("tell", "say")
    return registry


REFUSED: dict[str, tuple[Callable[[BlockRegistry], None], str]] = {
    "the same class again": (lambda known: known.register(Say), "registry.duplicate_type_id"),
    "another class of that id": (lambda known: known.register(Louder), "registry.duplicate_type_id"),
    "an alias of a taken id": (lambda known: known.alias("say", "say"), "registry.duplicate_type_id"),
    "an alias twice": (lambda known: known.alias("tell", "say"), "registry.duplicate_type_id"),
    "an alias of nothing": (lambda known: known.alias("new", "nothing"), "registry.unknown_name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_id_has_one_owner(name: str) -> None:
    act, code = REFUSED[name]
    known = filled()
    with pytest.raises(RegistryError) as caught:
        act(known)
    assert caught.value.code == code
    assert type(known.create("say", {})) is Say


def test_an_override_says_on_purpose_that_it_replaces() -> None:
    known = filled()
    known.override(Louder)
    assert type(known.create("say", {})) is type(known.create("tell", {})) is Louder
    assert [info.summary for info in known.types()] == ["Says it louder."]


def test_an_alias_is_a_further_name_and_no_further_type() -> None:
    known = filled()
    assert "tell" in known
    assert known.info("tell") is known.info("say")
    assert [info.type_id for info in known.types()] == ["say"]
    assert known.problems("tell", {"size": 5})[0].field == "size"
    assert builtin_registry().aliases()["template_handlebars"] == "template"


def test_a_type_named_like_an_alias_takes_its_place_only_on_purpose() -> None:
    class Tell(Say, type_id="tell"): ...

    known = filled()
    with pytest.raises(RegistryError, match=r"registry\.duplicate_type_id"):
        known.register(Tell)
    known.override(Tell)
    assert (known.info("tell").display_name, known.aliases()) == ("Tell", {})


def test_who_asks_for_a_type_of_a_skipped_pack_is_told_which_and_why() -> None:
    known = filled()
    known.note_skipped("shout", "noise", "plugin.checksum")
    assert known.skipped("shout") == ("noise", "plugin.checksum")
    with pytest.raises(RegistryError, match=r"in the pack 'noise', which was skipped: plugin\.checksum"):
        known.create("shout", {})
    known.note_skipped("say", "noise", "plugin.checksum")
    assert known.skipped("say") is None  # a healthy pack has it


def test_config_that_travelled_as_plain_values_is_what_the_class_declares() -> None:
    made = filled().create("say", {"size": "big", "sizes": ["a"]})
    assert (made.config()["size"], made.config()["sizes"]) == (Size.BIG, ("a",))
    assert filled().create("say", {"size": None}).config()["size"] is None


def test_a_mission_may_use_an_alias_which_is_judged_like_its_type() -> None:
    text = SMALL.replace("blocks:", 'blocks:\n  a: {type: template_handlebars, template: "hi"}', 1)
    told = [item.code for item in found(text) if item.severity == "error"]
    plain = text.replace("template_handlebars", "template")
    assert told == [item.code for item in found(plain) if item.severity == "error"]
    assert "validation.block_unavailable" not in told
    for spelling in (text, plain):
        referring = spelling.replace('"hi"', '"${inputs.x}"')
        assert len([item for item in found(referring) if item.severity == "error"]) > len(told)
