"""What decides each refusal, and what it would have taken: the rule behind a code, and the remedy, in a mission's terms.

Data only; `runtime.kernel.refusals` fills in what one refusal brings along. A key ending in ``_`` stands for the rest
of its family. A rule that begins with a key of the mission file is written there and can be pointed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Remedy(NamedTuple):
    """``rule`` and ``needed`` are format templates; `runtime.kernel.refusals` names their fields."""

    rule: str
    needed: str


_NEVER: Final = "nothing: {0} are never allowed; {1}"


def _spelling(number: int, what: str, instead: str) -> Remedy:
    """A path that no envelope can allow, by the number of its check in operations spec §8.2."""
    return Remedy(f"path syntax L{number}", _NEVER.format(what, instead))


def _found(number: int, needed: str) -> Remedy:
    """What the disk says, by the number of its check in operations spec §8.5."""
    return Remedy(f"file system F{number}", needed)


_PORTABLE: Final = "use a portable name"
_EXISTING: Final = "use a portable name, or envelope.names: native for a file that exists"
_RELATIVE: Final = "use a path relative to the work tree"

_PATHS: Final = {
    "PATH_TYPE": _spelling(1, "paths that are no text", "give the path as text"),
    "PATH_EMPTY": _spelling(2, "empty paths", "name a file or folder"),
    "PATH_ENCODING": _spelling(3, "paths without a UTF-8 form", _PORTABLE),
    "PATH_TOO_LONG": _spelling(4, "paths of more than 1024 bytes", "use a shorter one"),
    "PATH_NUL": _spelling(5, "NUL characters in paths", _PORTABLE),
    "PATH_CONTROL": _spelling(6, "control characters in paths", _PORTABLE),
    "PATH_INVISIBLE": _spelling(7, "invisible characters in paths", _PORTABLE),
    "PATH_UNC": _spelling(8, "network shares", _RELATIVE),
    "PATH_DRIVE": _spelling(9, "drive letters", _RELATIVE),
    "PATH_ABSOLUTE": _spelling(10, "absolute paths", _RELATIVE),
    "PATH_BACKSLASH": _spelling(11, "backslashes in paths", "separate folders by '/'"),
    "PATH_TRAVERSAL": _spelling(12, "components that begin with '..'", "name the path from the work tree's root"),
    "PATH_PERCENT": _spelling(13, "percent escapes in paths", "write the characters themselves"),
    "PATH_NOT_NORMAL": Remedy("path syntax L14", "the path in normal form: {normal}"),
    "PATH_HOME": _spelling(15, "paths from a home folder", _RELATIVE),
    "PATH_STREAM": _spelling(16, "colons in paths", _EXISTING),
    "PATH_RESERVED_CHAR": _spelling(17, 'the characters < > " | ? * in paths', _EXISTING),
    "PATH_TOO_DEEP": _spelling(18, "paths of more than 64 components", "use a shorter one"),
    "PATH_COMPONENT_TOO_LONG": _spelling(18, "components of more than 255 bytes", "use a shorter name"),
    "PATH_EDGE_CHAR": _spelling(19, "names with spaces or dots at their edges", _EXISTING),
    "PATH_RESERVED_NAME": _spelling(20, "device names", _EXISTING),
    "PATH_SHORT_NAME": _spelling(21, "short-name aliases", _EXISTING),
    "PATH_CONFUSABLE": _spelling(22, "characters that turn into dots or separators", _PORTABLE),
    "PATH_NOT_NFC": _spelling(23, "paths outside Unicode normal form C", "write the path in that form"),
    "PATH_GIT_INTERNAL": _spelling(24, "paths into git's own directory", "use the git tools"),
    "PATH_OPERATION": Remedy("kinds of access", "one of read, list, create, modify, write, delete, execute"),
    "PATH_RUNTIME_RESERVED": Remedy(
        "reserved: {pattern}", "nothing: stopping missions, and the runtime's own files, are the operator's"
    ),
    "PATH_SYMLINK": Remedy(
        "envelope.reject_symlinks",
        "a path without links; envelope.reject_symlinks: false follows links inside the work tree, for reading only",
    ),
    "PATH_SYMLINK_ESCAPE": _found(2, "nothing: no link may lead out of the work tree; name a file inside it"),
    "PATH_SYMLINK_LOOP": _found(2, "a path that leads somewhere within eight links"),
    "PATH_SYMLINK_WRITE": _found(2, "nothing: nobody writes through links; name the file itself"),
    "PATH_NOT_DIRECTORY": _found(3, "a path whose parents are folders"),
    "PATH_PARENT_MISSING": _found(3, "an existing folder for it, or create_parents: true where the tool has it"),
    "PATH_MOUNT": _found(4, "nothing: a path stays in the work tree's own file system"),
    "PATH_NESTED_REPO": _found(5, "nothing: a nested repository is work for a mission of its own"),
    "PATH_SPECIAL_FILE": _found(6, "a regular file; pipes, sockets and devices are never touched"),
    "PATH_SPECIAL_MODE": _found(6, "a file without set-id bits"),
    "PATH_IS_DIRECTORY": _found(6, "a file at that path, or a tool for folders"),
    "PATH_NOT_LINK": _found(6, "a link at that path; only an undo asks for one, and it changed meanwhile"),
    "PATH_MISSING": _found(6, "something at that path"),
    "PATH_EXISTS": _found(6, "a path where nothing stands yet"),
    "PATH_HARDLINK": _found(7, "a file with one name only"),
    "PATH_CASE_COLLISION": _found(8, "a name that differs from its neighbours in more than case"),
    "PATH_CASE_MISMATCH": _found(8, "the name exactly as the folder has it"),
    "PATH_IO": _found(9, "a path the operating system gives access to"),
    "PATH_RACE": _found(9, "a work tree nobody else changes in the same moment"),
}

_ENVELOPE: Final = {
    "POLICY_NOT_ALLOWED": Remedy("envelope.allowed_paths", "add {glob} to {list}"),
    "POLICY_DENIED": Remedy(
        "envelope.denied_paths", "take {pattern} out of {list}: no allowed path outweighs a denied one"
    ),
    "ENV_OP": Remedy("envelope.allow_ops", "add {op} to {list}"),
    "ENV_ROLE": Remedy("envelope.allowed_roles", "add {role} to {list}"),
    "ENV_TOOL": Remedy("envelope.allowed_tools", "add {tool} to {list}"),
    "ENV_DEADLINE": Remedy("budgets.time", "time left: more of budgets.time, or of envelope.timeout_seconds"),
    "ENV_LIMIT": Remedy("limits of one operation", "less at once: split the work into several operations"),
    "ENV_CHANGED": Remedy("envelope", "nothing: the envelope is fixed when the run starts; run the mission again"),
    "ENV_": Remedy("envelope", "an envelope that can be read: `quarterdeck lint` says what is wrong"),
    "ENFORCER_": Remedy("envelope", "a platform and options the enforcer knows"),
    "TICKET_MISUSE": Remedy("path tickets", "a path that is checked again before each use"),
    "GLOB_INVALID": Remedy("envelope", "a valid path pattern"),
    "ROOT_CHANGED": Remedy("workspace", "the work tree the run began with; run the mission again"),
    "ROOT_FORBIDDEN": Remedy("workspace.root", "a work tree that is no system folder and no home folder"),
    "ROOT_MISSING": Remedy("workspace.root", "a work tree that can be opened"),
    "RULE_": Remedy("operator's rules", "nothing in the mission: the operator's rules decide this"),
}

_PROTECTED: Final = "nothing: protected files are edited by people, outside missions"

_PROTECTION: Final = {
    "SELFMOD_ROLE": Remedy("roles: {role}", "a role missions know"),
    "SELFMOD_OPERATION": Remedy("kinds of access", "a kind of access the protection knows"),
    "SELFMOD_OUTSIDE": Remedy(
        "protected: outside the work tree", f"nothing: only the work tree is touched; {_RELATIVE}"
    ),
    "SELFMOD_CONFIG": Remedy("protected paths", "a list of patterns that only adds protection"),
    "SELFMOD_FLOOR": Remedy(
        "protected paths", "everything an earlier run protected, or a floor lowered by the operator"
    ),
    "SELFMOD_SHRINK": Remedy("protected paths", "the patterns the run began with"),
    "SELFMOD_": Remedy("protected: {pattern}", _PROTECTED),
    "BASELINE_": Remedy("governance baseline", "protected files as the baseline lists them; people restore them"),
}

_MONEY: Final = {
    "BUDGET_EXCEEDED": Remedy("envelope.max_budget_usd", "{amount}: raise {list}, or ask for less"),
    "BUDGET_PRICE_UNKNOWN": Remedy("budgets.unpriced", "a model whose price is known, or budgets.unpriced: allow"),
    "BUDGET_": Remedy("budgets", "a call whose cost can be reserved and settled"),
}

_PROCESSES: Final = {
    "NET_": Remedy("sandbox.hosts", "the host in sandbox.hosts; for a command, network: true at it as well"),
    "SANDBOX_UNAVAILABLE": Remedy(
        "sandbox.confinement", "a machine with bubblewrap or user namespaces, or sandbox.confinement: best_effort"
    ),
    "SANDBOX_": Remedy("sandbox", "what the sandbox can give: files inside the work tree, within sandbox.limits"),
    "PROCESS_ARG": Remedy("commands", "an argument of the declared type that does not become an option"),
    "PROCESS_TEMPLATE": Remedy("commands", "a program that is installed, and declared writes that exist"),
    "PROCESS_": Remedy("commands", "a program that starts, and ends with a status of accept_exit"),
    "TEST_ARG": Remedy(
        "test arguments", "test paths below the work tree, and -q, -v, -x, --maxfail, -k or --durations"
    ),
    "TEST_": Remedy("tests", "passing tests, and at least min_tests of them"),
    "PROVIDER_": Remedy("provider", "a provider that answers"),
    "LLM_NO_MODEL": Remedy("provider", "a provider whose models include the one asked for"),
    "LLM_NO_PROMPT": Remedy("prompts", "a prompt for the role: prompts.{role}, or `prompt` at the block"),
    "LLM_OUTPUT_INVALID": Remedy("output_schema", "an answer that fits the output schema"),
    "LLM_PROMPT_HASH": Remedy("governance baseline", "the role prompt the baseline lists"),
}

_WORK: Final = {
    "OP_PARAM_": Remedy(
        "parameters of the tool", "parameters as the tool declares them; `quarterdeck lint` knows them"
    ),
    "OP_CANCELLED": Remedy("cancellation", "a run nobody cancels"),
    "OP_TIMEOUT": Remedy("envelope.timeout_seconds", "more time: envelope.timeout_seconds, or budgets.time"),
    "OP_UNDECLARED_EFFECT": Remedy("plan of the operation", "a plan that names everything the operation changes"),
    "OP_": Remedy("operation", "an operation that can be planned, done and recorded"),
    "RECOVERED": Remedy("recovery", "nothing: the operation had been done before the crash"),
    "IDEMPOTENCY_CONFLICT": Remedy("idempotency", "another operation id for other work"),
    "IDEMPOTENCY_DRIFT": Remedy("idempotency", "the files as the recorded operation left them"),
    "TOOL_CONFLICT": Remedy("expect_sha256", "the content that was expected; read the file again first"),
    "TOOL_UNKNOWN": Remedy("tools", "a tool there is, or a command declared in `commands`"),
    "GIT_MISSING": Remedy("workspace", "git, installed"),
    "GIT_": Remedy("workspace", "a repository and parameters git can work with"),
    "HTTP_URL": Remedy("parameters of the tool", "an absolute http or https URL without user name or password"),
    "HTTP_": Remedy("the server", "a server that answers in time, without an error, within the size of one answer"),
    "MAIL_AUTH": Remedy("environment of the console", "SMTP_USERNAME and SMTP_PASSWORD as the mail server knows them"),
    "MAIL_CONFIG": Remedy(
        "environment of the console", "SMTP_HOST and EMAIL_FROM set where the console runs, and a server with valid TLS"
    ),
    "MAIL_PERMANENT": Remedy("mail server", "recipients and text the mail server takes"),
    "MAIL_TIMEOUT": Remedy("mail server", "a mail server that answers in time"),
    "MAIL_TRANSIENT": Remedy("mail server", "a mail server that is ready; try again later"),
    "MAIL_": Remedy("parameters of the tool", "plain addresses and one-line headers"),
    "ROUTE_": Remedy("transform", "a registered transform, and a packet that fits its schemas"),
    "GATE_NOT_PASSED": Remedy("gate", "a condition that holds"),
    "GATE_": Remedy("gate", "a registered check, and a schema within the supported subset"),
    "REPLAY_MISS": Remedy("recording", "a recording that holds this operation"),
    "COMP_REQUIRED": Remedy("compensation", "compensation_type and compensation_command: how this write is undone"),
    "COMP_NOT_WHITELISTED": Remedy("compensation", "one of the listed undo commands"),
    "COMP_SNAPSHOT_LIMIT": Remedy("compensation", "fewer or smaller files to keep for the undo"),
    "COMP_DRIFT": Remedy("compensation", "the state the undo was recorded for; a person restores it"),
    "COMP_FAILED": Remedy("compensation", "an undo that can be proven; a person looks at the work tree"),
    "COMP_": Remedy("compensation", "a compensation that fits the operation and names all it writes"),
    "STATE_LIMIT": Remedy("workspace", "fewer or smaller files where the operation writes"),
    "STATE_": Remedy("workspace", "files that can be read and stay as they are while they are hashed"),
    "CTX_": Remedy("execution context", "a complete context with a journal"),
    "CANON_": Remedy("canonical form", "values with a canonical form: text, whole numbers, lists and maps of them"),
    "EXTERNAL_MODIFICATION": Remedy("workspace", "a work tree nobody else changes during the run"),
    "RECOVERY_": Remedy("recovery", "a person's decision about what the crash left"),
    "KILL_SWITCH": Remedy("kill switch", "the operator's: remove STOP_AUTONOMY"),
    "HALT_LATCHED": Remedy("halt latch", "the operator's: look at the work tree, then `quarterdeck unlatch`"),
    "LATCH_": Remedy("halt latch", "the operator's: a reason, and a state folder that can be written"),
    "LOCK_": Remedy("work tree lock", "a work tree no other run holds"),
    "REPO_": Remedy("workspace", "a clean repository at its top level, without a merge in progress"),
    "STORE_": Remedy("store", "a store that can be written"),
    "J_": Remedy("journal", "a journal that can be written and is whole"),
    "KEY_": Remedy("journal", "a key only its owner can read"),
}

REMEDIES: Final[Mapping[str, Remedy]] = MappingProxyType(
    {**_PATHS, **_ENVELOPE, **_PROTECTION, **_MONEY, **_PROCESSES, **_WORK}
)


def remedy(code: str) -> Remedy | None:
    """The entry of ``code`` or of its family; the longest one that fits. None for codes of others."""
    if code in REMEDIES:
        return REMEDIES[code]
    families = [name for name in REMEDIES if name.endswith("_") and code.startswith(name)]
    return REMEDIES[max(families, key=len)] if families else None
