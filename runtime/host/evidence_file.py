"""``evidence.yaml`` of the state folder: who signs checkpoints, where copies go, and whether commits name their journal.

Read by the same strict reader as missions and rules. A sink that is ignored is worse than a run that waits, so a file that is
not right refuses every launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from runtime.host.rulebook import file_content, first_problem
from runtime.kernel.errors import JournalError, Refused
from runtime.missions.problems import MissionInvalid
from runtime.missions.rules import fail
from runtime.missions.sections import AS_TUPLE, Part
from runtime.missions.structure import checked
from runtime.missions.yaml_reader import read
from runtime.orchestration.checkpoints import VerifierKey
from runtime.storage.layout import StateDir

CODE: Final = "EVIDENCE_INVALID"
MAX_SINKS: Final = 8
_DEFAULT_REF: Final = "refs/notes/quarterdeck"

_Command = Annotated[tuple[str, ...], AS_TUPLE, Field(min_length=1, max_length=64)]


def _absolute(name: str, path: str | None) -> None:
    if path is not None and not Path(path).is_absolute():
        raise fail("MISSION_VALUE", f"{name} is an absolute path; {path!r} is not")


class SignerSpec(Part):
    """A program that signs, and the public key it signs with."""

    command: _Command
    key: str = Field(description="C2SP verifier key: name+id+base64.")

    @model_validator(mode="after")
    def _fits(self) -> SignerSpec:
        _absolute("command", self.command[0])
        try:
            VerifierKey.parse(self.key)
        except JournalError as error:
            raise fail("MISSION_VALUE", error.message) from None
        return self


class SinkSpec(Part):
    """One place: ``file``, ``git``, ``command`` or ``anchors``."""

    file: str | None = None
    git: str | None = None
    ref: str = Field(default=_DEFAULT_REF, pattern=r"^refs/(notes|tags|quarterdeck)/[A-Za-z0-9_][A-Za-z0-9_-]{0,200}$")
    command: _Command | None = None
    newest: _Command | None = None
    anchors: str | None = None
    key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kinds = [name for name in ("file", "git", "command", "anchors") if name in data]
        if len(kinds) != 1:
            raise fail("MISSION_VALUE", "a sink is one of file, git, command or anchors")
        allowed = {"file": set(), "git": {"ref"}, "command": {"newest"}, "anchors": {"key"}}[kinds[0]]
        odd = sorted(set(data) - allowed - set(kinds))
        if odd:
            raise fail("MISSION_VALUE", f"{odd[0]} does not belong to a sink of kind {kinds[0]}")
        if kinds[0] == "anchors" and "key" not in data:
            raise fail("MISSION_VALUE", "an anchor log needs its key: a private file of 32 bytes")
        return data

    @model_validator(mode="after")
    def _absolutes(self) -> SinkSpec:
        programs = [command[0] for command in (self.command, self.newest) if command]
        for name, path in [("file", self.file), ("git", self.git), ("anchors", self.anchors), ("key", self.key)]:
            _absolute(name, path)
        for path in programs:
            _absolute("command", path)
        return self


class EvidenceSpec(Part):
    """The whole file."""

    signer: SignerSpec | None = None
    sinks: Annotated[tuple[SinkSpec, ...], AS_TUPLE, Field(max_length=MAX_SINKS)] = ()
    trailer: bool = False


@dataclass(frozen=True, slots=True)
class SignerChoice:
    """The program that signs, and its public key."""

    command: tuple[str, ...]
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the file says; the defaults without one."""

    signer: SignerChoice | None = None
    sinks: tuple[SinkSpec, ...] = ()
    trailer: bool = False

    def check_in_force(self, path: Path, since: Evidence | None) -> None:
        """Signer and sinks are taken when a store is opened (``since``; None when the file was not right then). Raises
        `Refused` ``EVIDENCE_CHANGED`` when these are others: they would be ignored until it is opened again."""
        if since is None or (self.signer, self.sinks) != (since.signer, since.sinks):
            raise Refused(
                "EVIDENCE_CHANGED",
                "signer or sinks are not those this process began with",
                where=str(path),
                hint="close the console or command that holds the store, and open it again",
            )


def load_evidence(state: StateDir) -> Evidence:
    """Raises `Refused` ``EVIDENCE_INVALID`` naming file, line and column."""
    path = state.evidence
    source = file_content(path, CODE, ours=True)
    if source is None:
        return Evidence()
    try:
        document = read(source, path)
        if document.data is None and not document.report.failed:
            return Evidence()
        spec = checked(document, EvidenceSpec)
        document.report.raise_if_failed()
        if spec is None:
            raise MissionInvalid(document.report.problems())
    except MissionInvalid as invalid:
        raise first_problem(invalid.problems, CODE) from None
    signer = None if spec.signer is None else SignerChoice(spec.signer.command, VerifierKey.parse(spec.signer.key))
    return Evidence(signer, spec.sinks, spec.trailer)
