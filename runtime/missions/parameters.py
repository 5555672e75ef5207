"""Which parameters each operation and tool action takes: what the block registry does not know.

A block hands its parameters to an operation unseen, so a misspelt one would only be refused in the middle of a run.
This table (operations spec §3) lets the loader say it beforehand, and the JSON Schema offer them in an editor.
Where ``references`` is false the value names code, an identity or a file and is fixed when the mission is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.missions.references import has_reference, is_reference

#: Kind of a parameter → the Python types it may have; ``bool`` is never a number.
KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "text": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "map": (dict,),
    "null": (type(None),),
    "any": (str, int, float, bool, list, dict, type(None)),
}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter. ``kinds`` are keys of `KINDS`; ``default`` is for editors, None where there is none to tell."""

    name: str
    kinds: tuple[str, ...]
    description: str
    required: bool = False
    references: bool = True
    choices: tuple[Any, ...] = ()
    default: Any = None

    def fits(self, value: object) -> bool:
        if isinstance(value, bool) and not {"boolean", "any"} & set(self.kinds):
            return False
        return any(isinstance(value, KINDS[kind]) for kind in self.kinds)

    @property
    def expected(self) -> str:
        return " or ".join("whatever is needed" if kind == "any" else kind for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Shape:
    """The parameters of one block type or tool action. ``open`` ones take further keys as they come.

    Each group in ``one_of`` holds spellings of one thing: exactly one is given.
    """

    params: tuple[Param, ...]
    description: str = ""
    open: bool = False
    one_of: tuple[tuple[str, ...], ...] = ()

    def named(self, name: str) -> Param | None:
        return next((param for param in self.params if param.name == name), None)


def _text(name: str, description: str, **options: Any) -> Param:
    return Param(name, ("text",), description, **options)


def _path(description: str = "Path relative to the work tree.") -> Param:
    return _text("path", description, required=True)


_TESTS: Final = (
    Param("test_paths", ("list",), "Test files or folders, each 'path' or 'path::node'.", required=True),
    Param("pytest_args", ("list",), "Extra arguments: -q, -v, -x, --maxfail=N, -k EXPR, --durations=N."),
    Param("min_tests", ("integer",), "Fewest tests that must have run (default 1)."),
)
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_ONLY: Final = Param("paths", ("list",), "Only these paths.")
_STAGED: Final = Param("staged", ("boolean",), "Look at what is staged.")
_PARENTS: Final = Param("create_parents", ("boolean",), "Create missing folders.")
_EXPECT: Final = Param("expect_sha256", ("text", "null"), "Hash the file must have; null: it must not exist.")

#: The six operations are block types of the same id; `tool_invoke` adds those of `ACTIONS`.
OPERATIONS: Final[Mapping[str, Shape]] = {
    "llm_call": Shape(
        (
            _text("role", "Role that is asked (default: the role the block acts as).", references=False),
            _text("prompt", "What is asked."),
            Param("packet", ("map",), "Structured input."),
            _text("model", "Model name, or auto.", references=False),
            _text("provider", "Who must answer; refused when the mission's provider is another.", references=False),
            Param("temperature", ("number",), "Randomness (default 0)."),
            Param("max_tokens", ("integer",), "Longest answer in tokens (default 8192)."),
            Param("output_schema", ("text", "map"), "JSON Schema of the answer, or its file.", references=False),
        ),
        "Ask a model.",
    ),
    "tool_invoke": Shape(
        (
            _text("tool", "Tool, or tool.action.", required=True, references=False),
            _text("action", "Action of the tool.", references=False),
        ),
        "Use a tool.",
    ),
    "packet_route": Shape(
        (
            _text("transform", "Registered transform.", required=True, references=False),
            Param("input", ("map",), "What is transformed.", required=True),
        ),
        "Transform data with a registered pure function.",
    ),
    "gate_check": Shape(
        (
            _text("check", "Registered check, or schema:NAME.", references=False),
            _text("schema", "Other spelling of check.", references=False),
            _text("require", "CEL condition over inputs, outputs and value that must hold.", references=False),
            Param("condition", ("any",), "What is checked."),
            Param("data", ("any",), "Other spelling of condition."),
            _text("on_fail", "What a closed gate does.", choices=("fail", "escalate")),
        ),
        "Stop unless a check holds.",
        one_of=(("check", "schema", "require"),),
    ),
    "run_tests": Shape(_TESTS, "Run tests with pytest, confined, and prove the work tree unchanged."),
    "escalate": Shape(
        (
            _text("reason", "What the operator is told.", required=True),
            _text("severity", "How urgent it is.", choices=("info", "warning", "critical")),
            Param("context", ("map",), "Facts that go with it."),
        ),
        "Tell the operator.",
    ),
}

ACTIONS: Final[Mapping[str, Shape]] = {
    "filesystem.read_file": Shape(
        (_path(), Param("max_bytes", ("integer",), "Most bytes returned, up to 1 MiB.")), "Read a file."
    ),
    "filesystem.read_files": Shape(
        (Param("paths", ("list",), "Up to 64 paths.", required=True),), "Read several files."
    ),
    "filesystem.list_dir": Shape(
        (
            _path(),
            Param("recursive", ("boolean",), "Go into folders."),
            Param("max_entries", ("integer",), "Most entries returned, up to 5000."),
        ),
        "List a folder.",
    ),
    "filesystem.write_file": Shape(
        (
            _path(),
            _text("content", "What the file will hold.", required=True),
            _text("encoding", "How content is written.", choices=("utf-8", "base64")),
            _EXPECT,
            _text("mode", "File mode.", choices=("644", "755")),
            _PARENTS,
        ),
        "Create or replace a file.",
    ),
    "filesystem.delete_file": Shape(
        (_path(), _text("expect_sha256", "Hash the file must have.", required=True)), "Delete a file."
    ),
    "filesystem.make_dir": Shape((_path(), _PARENTS), "Create a folder."),
    "git.status": Shape((), "What has changed."),
    "git.diff": Shape((_ONLY, _STAGED), "The changes."),
    "git.diff_stat": Shape((_ONLY, _STAGED), "Size of the changes."),
    "git.log": Shape(
        (
            _ONLY,
            Param("max", ("integer",), "Most entries returned, up to 5000 (default 20)."),
            _text("since", "Leave out this commit, tag or branch and everything before it; empty: nothing."),
            _text("until", "Start from this commit, tag or branch; empty: HEAD."),
        ),
        "Commits, newest first.",
    ),
    "git.rev_parse_head": Shape((), "The current commit."),
    "git.add": Shape((Param("paths", ("list",), "Paths to stage.", required=True),), "Stage files."),
    "git.commit": Shape((_text("message", "Commit message.", required=True),), "Commit what is staged."),
    "output.write_file": Shape(
        (
            _text("name", "Name in the run's output folder, a relative path.", required=True),
            _text("content", "What the file will hold.", required=True),
        ),
        "Leave a file in the run's output folder; the work tree is not touched.",
    ),
    "mail.write_file": Shape(
        (
            Param("to", ("text", "list"), "An address, or several.", required=True),
            _text("subject", "Subject line.", required=True),
            _text("body", "Plain text of the message.", required=True),
            _text("from", "Address of the sender (default quarterdeck@localhost)."),
            _text("name", "Name in the run's output folder, ending in .eml."),
        ),
        "Write a mail message into the run's output folder; nothing is sent.",
    ),
    "mail.send": Shape(
        (
            Param("to", ("text", "list"), "An address, or several: all of them get it, or none.", required=True),
            _text("body", "Plain text of the message.", required=True),
            _text("subject", "Subject line."),
            Param("name", ("text", "null"), "Display name of the one recipient."),
        ),
        "Send a mail message through the operator's mail server (SMTP_HOST and others in the environment).",
    ),
    "http.request": Shape(
        (
            _text("url", "Absolute http or https URL; its host must be in sandbox.hosts.", required=True),
            _text("method", "What is done (default GET).", choices=METHODS),
            Param("headers", ("map",), "Further headers; env://NAME of a secret of the sandbox becomes its value."),
            Param("body", ("text", "map", "list", "null"), "What is sent: text as it is, anything else as JSON."),
            Param("user_agent", ("text", "null"), "How the request introduces itself."),
            Param("timeout_seconds", ("number",), "Longest time it may take, up to 600 (default 30)."),
        ),
        "Make an HTTP request to a host the mission lists.",
    ),
    "pytest.run": Shape(_TESTS, "As run_tests."),
    "process.run": Shape(
        (_text("template", "Name of one of the mission's commands.", required=True, references=False),),
        "Run one of the mission's commands; its arguments are further keys.",
        open=True,
    ),
}

#: Block types that work through services, with the tool actions behind them (ruling R42).
SERVED: Final[Mapping[str, tuple[str, ...]]] = {
    "file_read": ("filesystem.read_file",),
    "file_write": ("filesystem.write_file", "filesystem.read_file"),
    "list_directory": ("filesystem.list_dir",),
    "http_request": ("http.request",),
    "send_email": ("mail.send",),
}
#: Block types that ask a model.
ASKING: Final = frozenset({"llm_call", "ai_generate"})
#: Blocks made of blocks; the mission builds them itself.
COMPOSITES: Final[Mapping[str, Shape]] = {
    "map_over": Shape(
        (
            Param("items", ("list",), "The list, or a reference to one: at most 1000 items.", required=True),
            Param(
                "each",
                ("map",),
                "What is done for each item: a block without name, in which ${item}, ${item.key} and ${index} may be used.",
                required=True,
            ),
            Param("max_parallel", ("integer",), "Items at work at once (default 8).", references=False),
        ),
        "Do one thing for every item of a list; yields the list of the results, in the same order.",
    ),
    "child_workflow": Shape(
        (
            _text("mission", "The child's mission file, below this file's folder.", required=True, references=False),
            Param("inputs", ("map",), "Values for the child's inputs."),
        ),
        "Run another mission file as one block of this run; yields its outputs as a map.",
    ),
}

TOOLS: Final = tuple(dict.fromkeys(name.partition(".")[0] for name in ACTIONS))
#: The closed set of gates (operations spec §3.4); ``schema:<NAME>`` comes on top.
CHECKS: Final = (
    "equals",
    "non_empty",
    "compare",
    "path_scope",
    "verdict_approved",
    "tests_passed",
    "repo_clean",
    "governance_baseline",
    "budget_available",
)
#: Actions that write into the run's own output folder.
LEAVING: Final = frozenset({"output.write_file", "mail.write_file"})
#: Actions that leave the work tree as it is: they only look at it, or write elsewhere.
READING: Final = LEAVING | {
    "http.request",
    "mail.send",
    "filesystem.read_file",
    "filesystem.read_files",
    "filesystem.list_dir",
    "git.status",
    "git.diff",
    "git.diff_stat",
    "git.log",
    "git.rev_parse_head",
}


@dataclass(frozen=True, slots=True)
class ParamProblem:
    """One wrong parameter: ``key`` points at its name rather than its value; None means the block itself."""

    code: str
    message: str
    name: str | None
    key: bool = False
    known: tuple[str, ...] = ()


def tool_action(params: Mapping[str, Any]) -> str:
    """``tool.action`` of a tool block however it is spelt; '' when it is not text."""
    tool, action = params.get("tool"), params.get("action")
    if not isinstance(tool, str) or not isinstance(action, str | None):
        return ""
    return f"{tool}.{action}" if action else tool


def tool_actions(block_type: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The tool actions a block may perform, its own first; none for blocks that use no tool."""
    if block_type == "tool_invoke":
        return (tool_action(params),)
    actions = SERVED.get(block_type, ())
    return actions if block_type != "file_write" or params.get("append") else actions[:1]


def operation_type(block_type: str) -> str | None:
    """The operation a block of this type is or performs; None for blocks that do nothing outside."""
    if block_type in OPERATIONS:
        return block_type
    return "tool_invoke" if block_type in SERVED else "llm_call" if block_type in ASKING else None


def shape_of(block_type: str, params: Mapping[str, Any], shape: Shape) -> Shape | None:
    """The shape to check ``params`` against: a tool block's depends on its action. None: the action is unknown."""
    if block_type != "tool_invoke":
        return shape
    action = ACTIONS.get(tool_action(params))
    return None if action is None else Shape((*shape.params, *action.params), action.description, open=action.open)


def check(params: Mapping[str, Any], shape: Shape) -> Iterator[ParamProblem]:
    """Everything wrong with ``params``: unknown, missing, of the wrong kind, or a forbidden reference."""
    for name, value in params.items():
        param = shape.named(name)
        if param is not None:
            yield from _check_value(param, value)
        elif not shape.open:
            known = tuple(item.name for item in shape.params)
            yield ParamProblem(
                "MISSION_UNKNOWN_PARAMETER", f"there is no parameter {name[:70]!r} here", name, True, known
            )
    for param in shape.params:
        if param.required and param.name not in params:
            wanted = f"the parameter {param.name!r} is missing: {param.description}"
            yield ParamProblem("MISSION_MISSING_PARAMETER", wanted, None)
    for group in shape.one_of:
        if sum(name in params for name in group) != 1:
            yield ParamProblem("MISSION_MISSING_PARAMETER", f"give exactly one of {', '.join(group)}", None)


def _check_value(param: Param, value: object) -> Iterator[ParamProblem]:
    if has_reference(value) and not param.references:
        message = f"{param.name} is fixed when the mission is written: no references"
        yield ParamProblem("MISSION_REFERENCE_FORBIDDEN", message, param.name)
    elif is_reference(value):
        return
    elif not param.fits(value):
        message = f"{param.name} must be {param.expected}, not {type(value).__name__}"
        yield ParamProblem("MISSION_PARAMETER_TYPE", message, param.name)
    elif param.choices and value not in param.choices and not has_reference(value):
        choices = ", ".join(dict.fromkeys(str(choice) for choice in param.choices))
        yield ParamProblem("MISSION_PARAMETER_TYPE", f"{param.name} must be one of {choices}", param.name)
