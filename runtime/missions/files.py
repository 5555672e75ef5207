"""Reading the files of a mission: bounded, regular files only, and never outside the mission's own folder.

The operator's path is followed wherever it leads; what the mission file then names is not the operator's choice and
must stay below the folder the file lies in, after resolving links.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, digest_bytes
from runtime.kernel.errors import Refused
from runtime.missions import yaml_reader
from runtime.missions.problems import MissionInvalid, Report, shown
from runtime.missions.rules import stays_below
from runtime.missions.yaml_reader import Document, Where

FILE_NAME: Final = "mission.yaml"
#: A prompt or a schema is written by hand; recorded answers may be long.
MAX_TEXT_BYTES: Final = 256 * 1024
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file the mission names: its path below the folder, its digest, its bytes, and what they hold (text or JSON)."""

    name: str
    path: Path
    digest: str
    data: bytes
    content: Any = None


def locate(path: Path | str) -> Path:
    """The mission file at ``path``, a file or a folder holding ``mission.yaml``. Raises `MissionInvalid`."""
    chosen = Path(path)
    try:
        chosen = chosen / FILE_NAME if chosen.is_dir() else chosen
        if chosen.exists():
            return chosen
        reason = "there is no such file"
    except (OSError, ValueError) as error:
        reason = _reason(error)
    raise _unreadable(path, "MISSION_NOT_FOUND", reason, f"give a mission file, or a folder holding {FILE_NAME}")


def read_mission(path: Path) -> bytes:
    """The bytes of a mission file, at most one more than the limit. Raises `MissionInvalid`."""
    try:
        return read_bounded(path, yaml_reader.MAX_BYTES)
    except Refused as error:
        raise _unreadable(path, error.code, error.message) from None


def _unreadable(path: Path | str, code: str, reason: str, hint: str = "") -> MissionInvalid:
    report = Report(path)
    report.add(code, f"{shown(str(path), 200)}: {reason}", hint=hint)
    return MissionInvalid(report.problems())


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)


def read_bounded(path: Path, limit: int) -> bytes:
    """Up to ``limit + 1`` bytes of a regular file; never blocks on a pipe or device. Raises `Refused`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refused("MISSION_FILE", "not a regular file")
            return stream.read(limit + 1)
    except (OSError, ValueError) as error:
        raise Refused("MISSION_FILE", f"cannot be read: {_reason(error)}") from None


def inside(directory: Path, name: str) -> Path:
    """The real path of ``name`` below ``directory``. Raises `Refused` ``MISSION_PATH_ESCAPE`` or ``MISSION_FILE``."""
    try:
        root = directory.resolve(strict=True)
        path = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused("MISSION_FILE", f"{shown(name)}: {_reason(error)}") from None
    if not path.is_relative_to(root):
        raise Refused("MISSION_PATH_ESCAPE", f"{shown(name)} leads out of the mission's folder")
    return path


def attach(
    document: Document, directory: Path, data: Mapping[str, Any], recorded: Mapping[str, bytes] | None = None
) -> dict[Where, Attachment]:
    """Read every file the mission names, by the place that names it; problems go to the document's report.

    With ``recorded`` contents by name nothing on this machine is looked at, not even whether a folder is there.
    """
    found: dict[Where, Attachment] = {}
    for where, name, limit, reader in _named_files(data):
        if not stays_below(name) and where[-1] != "output_schema":
            continue  # the model refuses the spelling already
        try:
            path = inside(directory, name) if recorded is None else directory / name
            content = read_bounded(path, limit) if recorded is None else recorded_bytes(recorded, name)
            if len(content) > limit:
                raise Refused("MISSION_FILE", f"{shown(name)} is larger than {limit // 1024} KiB")
            found[where] = Attachment(name, path, digest_bytes(content), content, reader(content, name))
        except Refused as error:
            document.problem(error.code, error.message, where)
    if recorded is None:
        _check_source_folder(document, directory, data)
    return found


def recorded_bytes(recorded: Mapping[str, bytes], name: str) -> bytes:
    """A file as it was. Raises `Refused` ``MISSION_FILE``."""
    content = recorded.get(name)
    if content is None:
        raise Refused("MISSION_FILE", f"{shown(name)}: it was not recorded")
    return content


def _named_files(data: Mapping[str, Any]) -> Iterator[tuple[Where, str, int, Callable[[bytes, str], Any]]]:
    def section(name: str) -> dict[str, Any]:
        value = data.get(name)
        return value if isinstance(value, dict) else {}

    answers = section("provider").get("scripted")
    if isinstance(answers, str):
        yield ("provider", "scripted"), answers, MAX_ANSWER_BYTES, _unread
    for role, prompt in section("prompts").items():
        if isinstance(prompt, dict) and isinstance(prompt.get("file"), str):
            yield ("prompts", role, "file"), prompt["file"], MAX_TEXT_BYTES, _as_text
    for name, block in section("blocks").items():
        each = block.get("each") if isinstance(block, dict) else None
        for where, written in ((("blocks", name), block), (("blocks", name, "each"), each)):
            if isinstance(written, dict) and isinstance(written.get("output_schema"), str):
                yield (*where, "output_schema"), written["output_schema"], MAX_TEXT_BYTES, _as_json


def _unread(content: bytes, name: str) -> None:
    """Answers are read by their provider; here they only count for the hash."""


def _as_text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("MISSION_FILE", f"{shown(name)} is not UTF-8 text") from None


def _as_json(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(_as_text(content, name))
        canonical_bytes(value)
    except (ValueError, RecursionError, CanonicalizationError) as error:
        raise Refused("MISSION_FILE", f"{shown(name)} is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused("MISSION_FILE", f"{shown(name)} must hold a JSON Schema object")
    return value


def _check_source_folder(document: Document, directory: Path, data: Mapping[str, Any]) -> None:
    workspace = data.get("workspace")
    name = workspace.get("from") if isinstance(workspace, dict) else None
    if not isinstance(name, str) or not stays_below(name):
        return
    try:
        if not inside(directory, name).is_dir():
            raise Refused("MISSION_FILE", f"{shown(name)} is not a folder")
    except Refused as error:
        document.problem(error.code, error.message, ("workspace", "from"))
