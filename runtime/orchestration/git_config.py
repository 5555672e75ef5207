"""Which configuration our git calls run under: none of the machine's, a few values of the operator's, all of ours.

A repository is input. Its configuration can name programs that git would run (filters, drivers, monitors), so it
is read first and refused until the operator accepts exactly that configuration. Hooks and editors are common and
harmless once neutralised, so they are only noted (rulings, relaxation 4). Nothing is inherited from the
environment: an inherited ``GIT_DIR`` would point every check at another repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.kernel.canonical import digest

#: Where git finds its own helpers' tools; never the operator's PATH.
SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_NOWHERE: Final = "/nonexistent"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSettings:
    """The values read once from the operator's configuration and passed to every call."""

    name: str = "Quarterdeck"
    email: str = "quarterdeck@localhost"
    excludes_file: str | None = None
    autocrlf: str | None = None


OUR_SETTINGS: Final = GitSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class GitConfigReport:
    """The repository's own configuration: its digest, what would run programs, what was merely neutralised."""

    digest: str
    unsafe: tuple[str, ...]
    notes: tuple[str, ...]
    includes: bool


#: Configuration that holds for every call and outranks the repository's.
OPTIONS: Final[tuple[tuple[str, str], ...]] = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.pager", "cat"),
    ("core.editor", "false"),
    ("core.sshCommand", "false"),
    ("core.quotePath", "false"),
    ("credential.helper", ""),
    ("protocol.allow", "never"),
    ("submodule.recurse", "false"),
    ("commit.gpgSign", "false"),
    ("tag.gpgSign", "false"),
    ("log.showSignature", "false"),
    ("diff.renames", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
)

#: Keys by which commands we use would run a program; sub-sections are any text. Helpers for the network, signing
#: and editing are not among them: those commands are never used, and their switches are off.
_RUNS_PROGRAMS: Final = re.compile(
    r"(?:filter\..*\.(?:clean|smudge|process)"
    r"|core\.sshcommand"
    r"|diff\.external"
    r"|diff\..*\.(?:command|textconv)"
    r"|merge\..*\.driver)\Z",
    re.DOTALL,
)
_FSMONITOR: Final = "core.fsmonitor"
#: ``core.fsmonitor`` is a program unless it reads as a boolean.
_BOOLEANS: Final = frozenset({"", "true", "false", "yes", "no", "on", "off", "1", "0"})
_NEUTRALISED: Final = frozenset({"core.hookspath", "core.editor", "sequence.editor", "core.pager"})
#: Their content is not in the file whose change is watched for, so it is read again every time.
_INCLUDES: Final = ("include.", "includeif.")


def environment(root: Path) -> dict[str, str]:
    """The whole environment of a sanitised call in ``root``; git looks for no repository above it."""
    return {
        "PATH": SYSTEM_PATH,
        "HOME": _NOWHERE,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(root.parent),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "GIT_EDITOR": "false",
        "GIT_SEQUENCE_EDITOR": "false",
        "GIT_PAGER": "cat",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }


def operator_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the operator's configuration is read: theirs for finding files, ours otherwise."""
    found = {name: environ[name] for name in ("HOME", "XDG_CONFIG_HOME") if environ.get(name)}
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "HOME": _NOWHERE, **found}


def options(settings: GitSettings, trusted: Iterable[Path]) -> list[str]:
    """The ``-c`` arguments of every call. ``trusted`` are the folders whose owner does not matter."""
    values = [*OPTIONS, ("user.name", settings.name), ("user.email", settings.email)]
    if settings.excludes_file is not None:
        values.append(("core.excludesFile", settings.excludes_file))
    if settings.autocrlf is not None:
        values.append(("core.autocrlf", settings.autocrlf))
    values.extend(("safe.directory", str(folder)) for folder in dict.fromkeys(trusted))
    return [part for key, value in values for part in ("-c", f"{key}={value}")]


def parse_config(listing: bytes) -> list[tuple[str, str, str]]:
    """``(scope, key, value)`` triples of ``config --list --show-scope -z``; a key without value reads as ``true``."""
    fields = listing.decode("utf-8", "backslashreplace").split("\0")[:-1]
    triples = []
    for scope, pair in zip(fields[::2], fields[1::2], strict=True):
        key, separator, value = pair.partition("\n")
        triples.append((scope, key, value if separator else "true"))
    return triples


def settings_from(triples: Iterable[tuple[str, str, str]], environ: Mapping[str, str]) -> GitSettings:
    """The effective values: git lists scopes from weak to strong, so the last one wins."""
    values = {key.lower(): value for _, key, value in triples}
    excludes = values.get("core.excludesfile")
    return GitSettings(
        name=values.get("user.name") or OUR_SETTINGS.name,
        email=values.get("user.email") or OUR_SETTINGS.email,
        excludes_file=_expanded(excludes, environ) if excludes else _default_excludes(environ),
        autocrlf=values.get("core.autocrlf"),
    )


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME")
    return f"{home}/{path[2:]}" if home and path.startswith("~/") else path


def _config_home(environ: Mapping[str, str]) -> Path | None:
    if environ.get("XDG_CONFIG_HOME"):
        return Path(environ["XDG_CONFIG_HOME"])
    return Path(environ["HOME"]) / ".config" if environ.get("HOME") else None


def _default_excludes(environ: Mapping[str, str]) -> str | None:
    """Git's default place for personal ignore rules, which it would no longer find without a home."""
    base = _config_home(environ)
    return str(base / "git" / "ignore") if base is not None and (base / "git" / "ignore").is_file() else None


def operator_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The operator's configuration files that exist, for a confined process to be shown."""
    base = _config_home(environ)
    candidates = [Path(environ["HOME"]) / ".gitconfig"] if environ.get("HOME") else []
    if base is not None:
        candidates.append(base / "git")
    return tuple(path for path in candidates if path.exists())


def report(triples: Iterable[tuple[str, str, str]]) -> GitConfigReport:
    """Judge the repository's own configuration."""
    own = [triple for triple in triples if triple[0] in ("local", "worktree")]
    return GitConfigReport(
        digest=digest({"schema": "git-config/1", "entries": [list(triple) for triple in own]}),
        unsafe=tuple(sorted({key for _, key, value in own if _runs_programs(key.lower(), value)})),
        notes=tuple(sorted({key for _, key, _ in own if key.lower() in _NEUTRALISED})),
        includes=any(key.lower().startswith(_INCLUDES) for _, key, _ in own),
    )


def _runs_programs(key: str, value: str) -> bool:
    if key == _FSMONITOR:
        return value.lower() not in _BOOLEANS
    return _RUNS_PROGRAMS.match(key) is not None
