"""The form of the operator's rules file: closed keys, every value with its position (ruling R9, relaxations 8 and 9).

Read like a mission file, by the same strict reader. The file belongs to the operator: no mission can name it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from runtime.missions.problems import MissionInvalid
from runtime.missions.rules import Glob, Tool, Usd, fail
from runtime.missions.sections import AS_TUPLE, Part
from runtime.missions.structure import checked
from runtime.missions.yaml_reader import Document, read

FILE_NAME: Final = "rules.yaml"
#: More than anybody keeps in mind; each is looked at for every operation.
MAX_RULES: Final = 256
_MAX_REASON: Final = 200

_OperationName = Literal["llm_call", "tool_invoke", "packet_route", "gate_check", "run_tests", "escalate"]


class RuleSpec(Part):
    """One rule; the first that fits an operation decides."""

    do: Literal["ask", "allow", "deny"] = Field(description="What becomes of the operation.")
    tool: Tool | None = Field(default=None, description="A tool, or tool.action.")
    op: _OperationName | None = Field(default=None, description="An operation type.")
    mission: Glob | None = Field(default=None, description="A pattern of mission names.")
    paths: Annotated[tuple[Glob, ...], AS_TUPLE] | None = Field(
        default=None, description="Patterns of the paths the operation would touch."
    )
    reason: Annotated[str, Field(max_length=_MAX_REASON)] = Field(default="", description="Why, shown to people.")

    @model_validator(mode="before")
    @classmethod
    def _says_what_it_names(cls, data: Any) -> Any:
        empty = [name for name, value in data.items() if value in (None, [])] if isinstance(data, dict) else []
        if empty:
            raise fail("MISSION_VALUE", f"{empty[0]} is empty: leave the key out, or say what the rule is about")
        return data


class PriceSpec(Part):
    """What a model costs, in US dollars per million tokens; 0 is a price."""

    in_: Usd = Field(alias="in", description="Per million tokens sent.")
    out: Usd = Field(description="Per million tokens answered.")


class DaySpec(Part):
    """What all runs of this store may use together."""

    day_usd: Usd | None = Field(default=None, description="US dollars per day (UTC).")


class RulesSpec(Part):
    """The whole file."""

    rules: Annotated[tuple[RuleSpec, ...], AS_TUPLE, Field(max_length=MAX_RULES)] = ()
    open: Annotated[tuple[str, ...], AS_TUPLE] = Field(
        default=(), description="CLAUDE.md and its like that missions may change, by exact path."
    )
    prices: dict[str, PriceSpec] = Field(default_factory=dict)
    budget: DaySpec = DaySpec()


def read_rules(source: bytes, path: Path) -> tuple[RulesSpec, Document]:
    """The file's content and its positions. Raises `MissionInvalid` with everything that is wrong with it."""
    document = read(source, path)
    if document.data is None and not document.report.failed:
        return RulesSpec(), document
    spec = checked(document, RulesSpec)
    document.report.raise_if_failed()
    if spec is None:
        raise MissionInvalid(document.report.problems())
    return spec, document
