"""What a mission file may say: the one model behind the loader, the JSON Schema and the editor's hover help.

Unknown keys are errors everywhere and nothing is coerced: a version must be text, a count a whole number.
Sections about the world around the blocks are in `runtime.missions.sections`. A block's common keys are declared here; its other keys are the parameters of its type and are checked against
`runtime.missions.parameters`. References, links and conditions are checked by the loader, with positions.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from runtime.events.envelope import Lane
from runtime.kernel.model import MAX_TIMEOUT_SECONDS
from runtime.missions.rules import (
    COMPENSATIONS,
    Accepted,
    ActingRole,
    Glob,
    LocalName,
    MissionName,
    Role,
    Tool,
    Usd,
    Version,
    compensation_fits,
    fail,
)
from runtime.missions.sections import (
    AS_TUPLE,
    CommandsSpec,
    Part,
    Prompt,
    ProviderSpec,
    SandboxSpec,
    Seconds,
    WorkspaceSpec,
)
from runtime.missions.sections import LimitsSpec as LimitsSpec

MAX_BLOCKS: Final = 2000
MAX_PARALLEL: Final = 64
MAX_STEPS: Final = 100_000
MAX_ATTEMPTS: Final = 20
MAX_LANE: Final = 4096
#: A mission envelope without ``timeout_seconds`` takes the operation number of ``mission/v1`` (ruling R32).
DEFAULT_TIMEOUT_SECONDS: Final = 600
DEFAULT_DEBOUNCE_MS: Final = 300
MAX_DEBOUNCE_MS: Final = 60_000

_Texts = Annotated[tuple[str, ...], AS_TUPLE]
_Tools = Annotated[tuple[Tool, ...], AS_TUPLE]
_Roles = Annotated[tuple[Role, ...], AS_TUPLE]
_Globs = Annotated[tuple[Glob, ...], AS_TUPLE]
_OperationName = Literal["llm_call", "tool_invoke", "packet_route", "gate_check", "run_tests", "escalate"]


class InputSpec(Part):
    """One value the operator gives at launch."""

    type: Literal["string", "integer", "number", "boolean", "list", "path"] = Field(
        default="string",
        description="Type of the value; a path given at launch starts where the operator is, a default at this file.",
    )
    default: Any = Field(default=None, description="Value used when none is given.")
    required: bool = Field(default=True, description="Must a value be given when there is no default?")
    choices: Annotated[tuple[Any, ...], AS_TUPLE] = Field(default=(), description="The only values allowed.")
    description: str = Field(default="", description="What the value means; shown in the launch form.")

    @model_validator(mode="before")
    @classmethod
    def _default_will_do(cls, data: Any) -> Any:
        """An input with a default need not be given, whatever ``required`` says."""
        if isinstance(data, dict) and data.get("default") is not None and data.get("required", True) is True:
            return {**data, "required": False}
        return data


class EnvelopeSpec(Part):
    """What operations may touch. Every list is exhaustive: an empty one allows nothing."""

    allowed_paths: _Globs | None = Field(
        default=None, description="Path patterns operations may touch, relative to the work tree."
    )
    denied_paths: _Globs | None = Field(
        default=None, description="Path patterns refused even where allowed_paths match."
    )
    allowed_tools: _Tools | None = Field(default=None, description="Tools as 'tool' or 'tool.action'; no wildcards.")
    allowed_roles: _Roles | None = Field(
        default=None, description="Roles blocks may act as or call. Default: those the blocks use."
    )
    allow_ops: Annotated[tuple[_OperationName, ...], AS_TUPLE] | None = Field(
        default=None, description="Operation types allowed. Default: those the blocks use."
    )
    reject_symlinks: bool | None = Field(
        default=None, description="Refuse paths that lead through a symbolic link (default true)."
    )
    max_budget_usd: Usd | None = Field(
        default=None, description="Money paid calls may cost, in US dollars; 0 allows none."
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=MAX_TIMEOUT_SECONDS)] | None = Field(
        default=None, description="Longest time one operation may take (default 600)."
    )


#: Members of the section that are no members of ``envelope/1`` (relaxations 3 and 5).
BESIDE_THE_ENVELOPE: Final = frozenset({"write_paths", "names"})


class MissionEnvelopeSpec(EnvelopeSpec):
    """What the operations of a mission may touch."""

    write_paths: _Globs | None = Field(default=None, description="Narrower patterns for anything but reading.")
    names: Literal["strict", "native"] = Field(
        default="strict",
        description="native: existing files may keep names that are not portable; new ones must be strict.",
    )


class BudgetsSpec(Part):
    """What the whole run may use."""

    tokens: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Tokens of all model calls together.")
    calls: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Model calls.")
    usd: Usd | None = Field(
        default=None, description="Money in US dollars; the envelope's max_budget_usd holds as well."
    )
    time: Seconds | None = Field(default=None, description="Active time of the run in seconds (default 3600).")
    unpriced: Literal["allow", "refuse"] = Field(
        default="refuse", description="May a model without a known price be called?"
    )


class RetrySpec(Part):
    """Repeat a failed attempt, after undoing what it wrote."""

    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = Field(default=3, description="Attempts in all.")
    initial: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Seconds before the first retry.")
    factor: Annotated[float, Field(ge=1)] = Field(default=2.0, description="Growth of the wait from retry to retry.")
    cap: Annotated[float, Field(gt=0)] = Field(default=30.0, description="Longest wait in seconds.")
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, description="Part of the wait that is random.")
    retry_on: _Texts = Field(default=("*",), description="Patterns of error codes worth a retry.")


class BlockSpec(BaseModel):
    """One unit of work. Keys not listed here are parameters of its type, and so is ``each``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    type: str = Field(description="Block type.")
    accept: Annotated[tuple[Accepted, ...], AS_TUPLE] = Field(
        default=(),
        description="Operation failures that are an expected result; the block then yields {ok, code, output}.",
    )
    timeout: Seconds | None = Field(default=None, description="Longest time one attempt may take, in seconds.")
    retry: RetrySpec | None = Field(default=None, description="Repeat failed attempts.")
    fallback: LocalName | None = Field(
        default=None, description="Block that runs instead, on the same input, when this one fails."
    )
    optional: bool = Field(default=False, description="A failure is survived; successors get null.")
    envelope: EnvelopeSpec | None = Field(default=None, description="Narrows the mission's envelope for this block.")
    acting_role: ActingRole | None = Field(default=None, description="Role the block acts as (default runner).")
    lane: Literal["data", "control"] = Field(
        default="data", description="Lane its attempts queue in; control goes first."
    )
    compensation_type: str | None = Field(
        default=None, description="How its operation is undone; default: the tool's own way."
    )
    compensation_command: str | None = Field(default=None, description="Declaration that goes with compensation_type.")
    each: BlockSpec | None = Field(default=None, description="What map_over does for each item: a block without name.")

    @field_validator("compensation_type")
    @classmethod
    def _known_compensation(cls, kind: str | None) -> str | None:
        if kind is not None and kind not in COMPENSATIONS:
            raise fail("COMP_TYPE", f"{kind[:70]!r} is not a compensation: {', '.join(COMPENSATIONS)}")
        return kind

    @field_validator("compensation_command")
    @classmethod
    def _fitting_command(cls, command: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("compensation_type", "none")
        if command is not None and "${" in command:
            raise fail(
                "MISSION_REFERENCE_FORBIDDEN", "a compensation is fixed when the mission is written: no references"
            )
        if command is not None and not compensation_fits(kind or "none", command):
            raise fail("COMP_COMMAND", f"{command[:70]!r} is not a declaration for compensation_type {kind or 'none'}")
        return command

    @model_validator(mode="after")
    def _whole_compensation(self) -> BlockSpec:
        if self.compensation_type not in (None, "none") and self.compensation_command is None:
            raise fail("COMP_COMMAND", f"compensation_type {self.compensation_type} needs a compensation_command")
        return self

    @property
    def params(self) -> dict[str, Any]:
        """The block's parameters as written, but for ``each``."""
        return dict(self.model_extra or {})

    @property
    def with_each(self) -> tuple[BlockSpec, ...]:
        """The block, and what it does for each item."""
        return (self,) if self.each is None else (self, self.each)


class CaseSpec(Part):
    """One case of a branch: 'when' with 'to', or a final 'otherwise'."""

    when: str | None = Field(default=None, description="CEL condition over inputs, outputs and value.")
    to: LocalName | None = Field(default=None, description="Block that follows when the condition holds.")
    otherwise: LocalName | None = Field(default=None, description="Block that follows when no condition held; last.")

    @model_validator(mode="after")
    def _whole(self) -> CaseSpec:
        given = (self.when is not None, self.to is not None, self.otherwise is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise fail("MISSION_BRANCH", "a case is {when: condition, to: block} or {otherwise: block}")
        return self

    @property
    def target(self) -> str:
        return self.to or self.otherwise or ""


class WatchSpec(Part):
    """Start a run when files change. Patterns are relative to the work tree, or to the folder ``from`` copies."""

    paths: _Globs = Field(min_length=1, description="Path patterns watched.")
    exclude: _Globs = Field(
        default=(), description="Path patterns left out, besides version control, caches and editors' temporary files."
    )
    debounce_ms: Annotated[int, Field(ge=0, le=MAX_DEBOUNCE_MS)] = Field(
        default=DEFAULT_DEBOUNCE_MS, description="Quiet time after a change before a run starts."
    )
    overlap: Literal["queue", "preempt", "skip"] = Field(
        default="queue",
        description="A change while a run works: run after it, cancel it and run, or leave the change out.",
    )


class LaneSpec(Part):
    """Bounds of one lane."""

    limit: Annotated[int, Field(ge=1, le=MAX_LANE)] | None = Field(
        default=None, description="Items it holds before it waits."
    )


class LanesSpec(Part):
    """How much each lane holds."""

    control: LaneSpec = Field(default=LaneSpec(), description="Control lane.")
    data: LaneSpec = Field(default=LaneSpec(), description="Data lane.")
    telemetry: LaneSpec = Field(default=LaneSpec(), description="Telemetry lane.")

    def bounds(self) -> dict[Lane, int]:
        """The bounds the mission gives; the plan knows the others."""
        given = {lane: getattr(self, lane.short).limit for lane in Lane}
        return {lane: limit for lane, limit in given.items() if limit is not None}


class MissionSpec(Part):
    """A mission: a graph of blocks whose every side effect runs inside an envelope."""

    mission: MissionName = Field(description="Name of the mission.")
    version: Version = Field(description="Version of this definition, as text.")
    description: str = Field(default="", description="What the mission does, in a sentence.")
    inputs: dict[LocalName, InputSpec] = Field(default_factory=dict, description="Values given at launch.")
    workspace: WorkspaceSpec | None = Field(default=None, description="Files the mission works on.")
    envelope: MissionEnvelopeSpec = Field(
        default=MissionEnvelopeSpec(), description="What operations may touch; nothing when absent."
    )
    sandbox: SandboxSpec = Field(default=SandboxSpec(), description="How processes are confined.")
    provider: ProviderSpec | None = Field(default=None, description="Who answers model calls.")
    commands: CommandsSpec = Field(default=CommandsSpec(), description="Programs the mission may start.")
    prompts: dict[Role, Prompt] = Field(default_factory=dict, description="Role prompts: text, or {file: …}.")
    budgets: BudgetsSpec = Field(default=BudgetsSpec(), description="Limits of the whole run.")
    blocks: dict[LocalName, BlockSpec] = Field(
        min_length=1, max_length=MAX_BLOCKS, description="The units of work by name."
    )
    links: _Texts = Field(
        default=(),
        description="Order of work: 'a -> b -> c'. Several links to one block join there, as a list; written"
        " 'a -> c as x' and 'b -> c as y' they join as a map {x: …, y: …}.",
    )
    branches: dict[LocalName, Annotated[tuple[CaseSpec, ...], AS_TUPLE, Field(min_length=1)]] = Field(
        default_factory=dict, description="Choices by the result of a block; makes the mission routed."
    )
    on_error: dict[LocalName, LocalName] = Field(default_factory=dict, description="Block that observes a failure.")
    outputs: dict[LocalName, Any] = Field(
        default_factory=dict, description="What the run reports: text with references."
    )
    on_failure: Literal["compensate", "keep"] = Field(
        default="compensate", description="Undo the run's writes, or keep them."
    )
    watch: WatchSpec | None = Field(default=None, description="Start a run when files change.")
    lanes: LanesSpec = Field(default=LanesSpec(), description="Bounds of the lanes.")
    profile: Literal["mission/v1", "simple/v1"] = Field(
        default="mission/v1", description="Set of declared default numbers."
    )
    max_parallel: Annotated[int, Field(ge=1, le=MAX_PARALLEL)] = Field(
        default=16, description="Blocks running at once."
    )
    max_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = Field(default=128, description="Steps of a routed mission.")
