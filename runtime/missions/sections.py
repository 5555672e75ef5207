"""The parts of a mission file about the world around its blocks: files, confinement, model provider, programs, prompts."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from runtime.kernel.ids import BLOCK_NAME
from runtime.kernel.model import MAX_TIMEOUT_SECONDS
from runtime.missions.rules import (
    Endpoint,
    EnvironmentName,
    Host,
    LocalName,
    RelativePath,
    SecretReference,
    fail,
    placeholders,
)

#: Lists arrive as YAML sequences; records keep them as tuples. Strictness still holds for the items.
AS_TUPLE: Final = Field(strict=False)
#: Variables processes may be handed.
MAX_SECRETS: Final = 64
Seconds = Annotated[float, Field(gt=0, le=MAX_TIMEOUT_SECONDS)]


class Part(BaseModel):
    """Base of every section: unknown keys are errors, nothing is coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WorkspaceSpec(Part):
    """Which files the mission works on."""

    kind: Literal["none", "folder", "git"] | None = Field(
        default=None, description="Default: what the root turns out to be."
    )
    root: str | None = Field(default=None, description="Work on this folder itself; may be '${inputs.name}'.")
    from_: RelativePath | None = Field(default=None, alias="from", description="Work on a private copy of this folder.")
    init_git: bool = Field(default=False, description="Make the private copy a git repository with a baseline commit.")
    isolated: bool = Field(default=False, description="Work in a separate git worktree of the repository.")

    @model_validator(mode="after")
    def _one_source(self) -> WorkspaceSpec:
        if self.from_ is not None and (self.root is not None or self.isolated):
            raise fail(
                "MISSION_WORKSPACE", "'from' makes a private copy and cannot be combined with 'root' or 'isolated'"
            )
        if self.init_git and self.from_ is None:
            raise fail("MISSION_WORKSPACE", "'init_git' only makes sense for a private copy: add 'from'")
        if self.kind == "none" and (self.root or self.from_ or self.isolated):
            raise fail("MISSION_WORKSPACE", "kind 'none' has no files: remove the other keys or the kind")
        return self


class LimitsSpec(Part):
    """What confined processes may use: of memory, time and files each one, of processes all those of one operation."""

    memory_mb: Annotated[int, Field(ge=16)] | None = Field(
        default=None, description="Address space in MiB; by default half the machine's memory, as data."
    )
    processes: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Processes and threads; 512 by default."
    )
    cpu_seconds: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Processor time in seconds; by default only the operation's own time counts."
    )
    file_mb: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Largest file written, in MiB.")
    open_files: Annotated[int, Field(ge=16)] | None = Field(default=None, description="Open files.")


class SandboxSpec(Part):
    """How processes are confined by the kernel."""

    confinement: Literal["required", "best_effort"] = Field(
        default="required", description="Refuse to run processes unconfined, or use the best available and say so."
    )
    hosts: Annotated[tuple[Host, ...], AS_TUPLE] = Field(
        default=(),
        description="Hosts that requests, and processes through the sandbox's proxy, may reach, as name or name:port "
        "(80 and 443 unless given); none by default. A name must lead to a public address, or the address be listed too.",
    )
    scratch: Annotated[tuple[RelativePath, ...], AS_TUPLE] = Field(
        default=(), description="Paths that are private and empty for each process."
    )
    secrets: Annotated[
        Annotated[tuple[EnvironmentName, ...], AS_TUPLE, Field(max_length=MAX_SECRETS), Tag("secret names")]
        | Annotated[dict[EnvironmentName, SecretReference], Field(max_length=MAX_SECRETS), Tag("secret references")],
        Discriminator(lambda value: "secret references" if isinstance(value, dict) else "secret names"),
    ] = Field(
        default=(),
        description="Variables handed to processes, and what headers of requests may refer to: names taken from the "
        "environment, or NAME: env://… | file://….",
    )
    limits: LimitsSpec = Field(default=LimitsSpec(), description="What one process may use.")

    @property
    def references(self) -> dict[str, str]:
        """Each variable processes get, and where its value is found."""
        given = self.secrets
        return dict(given) if isinstance(given, dict) else {name: f"env://{name}" for name in given}


class OpenAiSpec(Part):
    """An OpenAI-compatible endpoint."""

    base_url: Endpoint = Field(description="Address up to and without '/chat/completions'.")
    model: str = Field(min_length=1, description="Model name sent to the endpoint.")
    key: SecretReference | None = Field(default=None, description="Where the key is found: env://NAME or file://PATH.")


class ProviderSpec(Part):
    """Who answers model calls. Exactly one."""

    scripted: RelativePath | None = Field(default=None, description="File with recorded answers, in order, per role.")
    openai: OpenAiSpec | None = Field(default=None, description="An OpenAI-compatible endpoint.")

    @model_validator(mode="after")
    def _exactly_one(self) -> ProviderSpec:
        if (self.scripted is None) == (self.openai is None):
            raise fail("MISSION_PROVIDER", "name exactly one provider: 'scripted' or 'openai'")
        return self


_ArgumentType = Literal["string", "integer", "number", "boolean", "path"]


class ArgumentSpec(Part):
    """One argument of a command."""

    type: _ArgumentType = Field(description="Type of its value; a path is checked like any other path.")
    default: Any = Field(default=None, description="Value used when the block gives none.")
    choices: Annotated[tuple[Any, ...], AS_TUPLE] = Field(default=(), description="The only values allowed.")


_Argument = Annotated[
    Annotated[_ArgumentType, Tag("argument type")] | Annotated[ArgumentSpec, Tag("argument")],
    Discriminator(lambda value: "argument type" if isinstance(value, str) else "argument"),
]


class CommandSpec(Part):
    """A program blocks may run by name through process.run."""

    argv: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AS_TUPLE] = Field(
        min_length=1, description="Program, then its arguments; '${name}' stands for the argument of that name."
    )
    args: dict[LocalName, _Argument] = Field(default_factory=dict, description="Types of the arguments argv uses.")
    writes: Annotated[tuple[RelativePath, ...], AS_TUPLE] = Field(
        default=(), description="Files and folders the program may write; they must exist."
    )
    env: dict[str, str] = Field(default_factory=dict, description="Further environment variables.")
    timeout_seconds: Seconds | None = Field(default=None, description="Longest time it may run, in seconds.")
    network: bool = Field(default=False, description="May it reach the hosts of the sandbox?")
    stop_grace: Annotated[float, Field(ge=0, le=60)] = Field(
        default=0.0, description="Seconds it gets to end by itself when stopped."
    )
    accept_exit: Annotated[tuple[int, ...], AS_TUPLE] = Field(default=(0,), description="Exit statuses of success.")

    @model_validator(mode="after")
    def _declared_arguments(self) -> CommandSpec:
        if placeholders(self.argv[0]):
            raise fail("MISSION_COMMAND_ARGS", "the program itself cannot be an argument")
        used = {name for word in self.argv for name in placeholders(word)}
        if used != set(self.args):
            odd = ", ".join(sorted(used ^ set(self.args)))
            raise fail("MISSION_COMMAND_ARGS", f"'args' must declare exactly what argv uses as ${{name}}: {odd}")
        return self


class CommandsSpec(BaseModel):
    """Programs the mission may start; every key but ``python`` names one."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, CommandSpec] = Field(init=False)
    python: str | None = Field(default=None, description="Interpreter for tests; default .venv/bin/python, else ours.")

    @model_validator(mode="after")
    def _names(self) -> CommandsSpec:
        for name in self.templates:
            if not BLOCK_NAME.match(name):
                raise fail("MISSION_NAME", f"{name[:70]!r} is not a command name: a lower-case letter, then [a-z0-9_]")
        return self

    @property
    def templates(self) -> dict[str, dict[str, Any]]:
        """Each command as written, plain values only: what ``process.run`` is set up with."""
        return {name: item.model_dump(exclude_unset=True) for name, item in self.__pydantic_extra__.items()}


class PromptFile(Part):
    """A role prompt kept in its own file."""

    file: RelativePath = Field(description="File below the mission's folder.")


Prompt = Annotated[
    Annotated[str, Tag("prompt text")] | Annotated[PromptFile, Tag("prompt file")],
    Discriminator(lambda value: "prompt text" if isinstance(value, str) else "prompt file"),
]
