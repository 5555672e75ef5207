"""The small checks single values of a mission file must pass, as validators the models share.

Each raises a `PydanticCustomError` whose type is the problem's stable code in lower case, so that one place (the
loader) turns every structural error, ours or the library's, into a problem with a position.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from runtime.governance.secrets import REFERENCE
from runtime.kernel import globs
from runtime.kernel.errors import ModelError
from runtime.kernel.ids import BLOCK_NAME, NAME, WORD
from runtime.kernel.model import CompensationType, micros
from runtime.kernel.outcomes import acceptable

#: The role of blocks that name none: every capability, still bounded by paths and tools (ruling §9.3).
RUNNER: Final = "runner"
#: Roles a block may act as (operations spec §9.4); ``reviewer_*`` is open ended.
ACTING_ROLES: Final = frozenset({RUNNER, "designer", "council_chair", "builder", "steward", "verifier"})

_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,31}\Z")
_ENVIRONMENT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_ENDPOINT: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})(?::[0-9]{1,5})?\Z")
_PLACEHOLDER: Final = re.compile(r"\$\{([a-z][a-z0-9_]{0,63})\}")
_ACCEPTED: Final = re.compile(r"op\.[a-z][a-z0-9_]{0,63}\Z")

#: How each compensation declaration must begin (operations spec §6.1); the executor checks the rest before it acts.
_COMPENSATION_STARTS: Final = {
    "none": (),
    "git_checkout": ("git", "checkout", "--"),
    "git_reset_head": ("git", "reset", "HEAD"),
    "git_reset_soft": ("git", "reset", "--soft"),
    "git_reset_hard": ("git", "reset", "--hard"),
    "git_clean": ("git", "clean", "-fd"),
    "fs_delete": ("fs_delete",),
    "fs_restore": ("fs_restore",),
}
_CUSTOM_COMMANDS: Final = frozenset(
    {"git checkout -- .", "git reset HEAD", "git reset --soft HEAD~1", "git reset --hard HEAD~1", "git clean -fd"}
)
COMPENSATIONS: Final = tuple(member.value for member in CompensationType)


def fail(code: str, message: str) -> PydanticCustomError:
    """An error with our ``code``; braces in untrusted text are data, not placeholders."""
    return PydanticCustomError(code.lower(), "{text}", {"text": message})


def _form(pattern: re.Pattern[str], what: str, code: str = "MISSION_NAME") -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.match(text):
            raise fail(code, f"{text[:70]!r} is not {what}")
        return text

    return AfterValidator(check)


def _kernel(check: Callable[[str], object] | Callable[[float], object], code: str) -> AfterValidator:
    """A kernel check as a validator: its refusal becomes a problem with ``code``."""

    def validate(value: object) -> object:
        try:
            check(value)  # type: ignore[arg-type]
        except ModelError as error:
            raise fail(code, error.message) from None
        return value

    return AfterValidator(validate)


def placeholders(word: str) -> list[str]:
    """The arguments a word of a command's argv names: ``${name}``."""
    return _PLACEHOLDER.findall(word)


def stays_below(text: str) -> bool:
    """Is ``text`` written as a relative path that cannot leave its folder (links aside)?"""
    return bool(text) and not text.startswith("/") and not {"\\", "\0"} & set(text) and ".." not in text.split("/")


def _relative(text: str) -> str:
    if not stays_below(text):
        raise fail("MISSION_PATH_ESCAPE", f"{text[:70]!r} must be a relative path below the mission's folder")
    return text


def _secret(text: str) -> str:
    if not REFERENCE.fullmatch(text):
        # Not repeated: it may be the secret itself.
        raise fail("MISSION_SECRET", "write a reference, env://NAME or file:///path; values are never written here")
    return text


def _acting_role(text: str) -> str:
    if text not in ACTING_ROLES and not (text.startswith("reviewer_") and WORD.match(text)):
        raise fail(
            "MISSION_ROLE",
            f"{text[:70]!r} is not a role a block can act as: {', '.join(sorted(ACTING_ROLES))} or reviewer_*",
        )
    return text


def _accepted(text: str) -> str:
    if not _ACCEPTED.match(text):
        raise fail("MISSION_ACCEPT", f"{text[:70]!r} is not an operation's failure code such as op.test_failed")
    if not acceptable(text):
        raise fail("MISSION_ACCEPT", f"{text} can never be accepted: it says that the work tree cannot be trusted")
    return text


def _tool(text: str) -> str:
    if not all(WORD.match(part) for part in text.split(".", 1)):
        raise fail("MISSION_TOOL", f"{text[:70]!r} is not of the form tool or tool.action; there are no wildcards")
    return text


def compensation_fits(kind: str, command: str) -> bool:
    """Does the declaration have the shape its type demands? (Never executed by a shell.)"""
    if kind == CompensationType.CUSTOM_VALIDATED.value:
        return command in _CUSTOM_COMMANDS
    if kind == CompensationType.NONE.value:
        return command in ("", "none")
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        return False
    start = _COMPENSATION_STARTS[kind]
    bare = kind in ("git_reset_head", "git_clean")
    return words[: len(start)] == start and (bare or len(words) > len(start))


MissionName = Annotated[str, _form(NAME, "a mission name: lower-case letters, digits, '_', '.', '-', at most 64")]
Version = Annotated[str, _form(_VERSION, "a version such as '1' or '1.2'")]
LocalName = Annotated[str, _form(BLOCK_NAME, "a name: a lower-case letter, then letters, digits or '_', at most 64")]
Role = Annotated[
    str, _form(WORD, "a role: a lower-case letter, then letters, digits or '_', at most 32", "MISSION_ROLE")
]
ActingRole = Annotated[str, AfterValidator(_acting_role)]
Tool = Annotated[str, AfterValidator(_tool)]
Accepted = Annotated[str, AfterValidator(_accepted)]
Glob = Annotated[str, _kernel(globs.check, "GLOB_INVALID")]
Usd = Annotated[float, Field(ge=0), _kernel(micros, "ENV_BUDGET")]
RelativePath = Annotated[str, AfterValidator(_relative)]
SecretReference = Annotated[str, AfterValidator(_secret)]
Endpoint = Annotated[
    str, _form(_ENDPOINT, "an http:// or https:// address without user, query or fragment", "MISSION_ENDPOINT")
]
Host = Annotated[str, _form(_HOST, "a host name, optionally with :port", "MISSION_HOST")]
EnvironmentName = Annotated[str, _form(_ENVIRONMENT_NAME, "the name of an environment variable", "MISSION_SECRET")]
