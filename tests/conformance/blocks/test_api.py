"""What an author imports: one module, light, and enough for a small program of blocks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from runtime.blocks import api
from runtime.blocks.api import (
    BlockInputError,
    BlockRuntimeError,
    DebugPolicy,
    FakeFiles,
    Services,
    Workflow,
    block,
    case,
    map_over,
    once,
    otherwise,
    run_block_for_test,
    when,
)


def test_it_brings_no_library_of_a_built_in_block() -> None:
    """Every worker of a pack imports it."""
    code = f"import sys, {api.__name__}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    libraries = {name for name in told.split() if not name.startswith("_")} - sys.stdlib_module_names
    assert "runtime" in libraries
    assert not libraries & {"jinja2", "feedparser", "croniter", "jsonschema", "pydantic", "textual", "aiohttp", "httpx"}
    assert all(hasattr(api, name) for name in api.__all__)


@block(input=once("string"), output=once("string"), side_effects="none")
def shout(text: Any, *, mark: str = "!") -> str:
    """Say a text louder."""
    return str(text.as_string).upper() + mark


@shout.validator
def something(text: Any) -> None:
    if not text.as_string:
        raise BlockInputError("shout.blank", "there is nothing to say")


@block(input=once("list"), output=once("map"), side_effects="none")
def count(texts: Any) -> dict[str, Any]:
    """Say whether there is much."""
    said = texts.expect_list()
    return {"size": "much" if len(said) > 1 else "little", "first": said[0]}


@block(input=once("map"), output=once("string"), side_effects="none")
def tell(found: Any, *, more: str = "") -> str:
    """Tell the first, and that there is more."""
    return str(found["first"].as_string) + more


def test_a_small_program_needs_no_other_module() -> None:
    much = tell(more=" …")
    flow = Workflow("loud").link(map_over(shout(), name="each"), count()).configure(much, name="much")
    flow.branch("count", when(case(key="size", equals="much"), much), otherwise(tell()))
    assert flow.issues() == ()
    assert run_block_for_test(flow, ["a", "b"]).data.payload == "A! …"
    assert run_block_for_test(flow, ["a"]).data.payload == "A!"
    assert run_block_for_test(flow, ["a", ""]).code == "shout.blank"
    assert flow.estimate_execution().expected_llm_calls == 0


def test_a_breakpoint_mends_what_a_fake_lacks() -> None:
    files = FakeFiles()

    @block(
        output=once("string"),
        side_effects="idempotent",
        recovery={BlockRuntimeError: [DebugPolicy(hook=lambda session: mend())]},
    )
    async def read(path: Any, ctx: Any) -> str:
        """Read a file."""
        return str((await ctx.services.files.read(path.text())).decode())

    def mend() -> str:
        files.contents["a.txt"] = b"there"
        return "resume"

    assert (
        run_block_for_test(Workflow("w").add(read()), "a.txt", services=Services(files=files)).data.payload == "there"
    )
