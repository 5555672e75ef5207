"""What makes a turn repeatable: its seed, its ordering rule, and the list of everything that was not determined.

The context follows from the plan hash and the epoch alone, so a replay under the recorded plan gets the same one
(turn runtime §3.8, ruling R6).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from runtime.kernel.errors import ContractError

BASE_MARKERS: Final = ("runtime_sequence", "event_id")
MERGE_RULE_ID: Final = "default-merge-rule"
MERGE_RULE_VERSION: Final = "v1.0.0"
_RULE_VERSION: Final = re.compile(r"v?\d+\.\d+(?:\.\d+)?\Z")
_MASK: Final = 2**63 - 1
#: Ledger entries kept per turn; more are counted, so that their absence shows.
MAX_LEDGER: Final = 4096


class Source(Enum):
    """Where something undetermined came from."""

    EXTERNAL_CALL = "external_call"
    SYSTEM_TIME = "system_time"
    RANDOM = "random"
    OPERATOR_OVERRIDE = "operator_override"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class NondeterministicInput:
    """Something a decision depended on that the plan does not fix, and where its evidence is."""

    input_key: str
    source: Source
    evidence_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeterminismContext:
    """Seed and ordering of one turn. Raises `ContractError` when a member is out of range."""

    seed: int
    nondeterministic_inputs: tuple[NondeterministicInput, ...]
    ordering_markers: tuple[str, ...] = BASE_MARKERS
    merge_rule_id: str = MERGE_RULE_ID
    merge_rule_version: str = MERGE_RULE_VERSION

    def __post_init__(self) -> None:
        markers = self.ordering_markers
        if not 0 <= self.seed <= _MASK:
            raise _error(f"the seed must have at most 63 bits, not {self.seed}")
        if not markers or not all(markers) or len(set(markers)) != len(markers):
            raise _error(f"ordering markers must be unique and not empty: {markers}")
        if not self.merge_rule_id or not _RULE_VERSION.match(self.merge_rule_version):
            raise _error(f"merge rule {self.merge_rule_id!r} {self.merge_rule_version!r} is malformed")

    def stream(self, stream_id: str) -> random.Random:
        """A repeatable random stream for one declared use."""
        digest = hashlib.sha256(stream_id.encode()).digest()
        return random.Random(self.seed ^ (int.from_bytes(digest[:8], "big") & _MASK))

    def record(self) -> dict[str, Any]:
        """The journalled object; the seed exceeds canonical integers and is spelled in decimal (ruling R40)."""
        return {
            "seed": {"$int": str(self.seed)},
            "ordering_markers": list(self.ordering_markers),
            "merge_rule_id": self.merge_rule_id,
            "merge_rule_version": self.merge_rule_version,
            "nondeterministic_inputs": [
                {"input_key": item.input_key, "source": item.source.value, "evidence_ref": item.evidence_ref}
                for item in self.nondeterministic_inputs
            ],
        }


def seed_of(plan_hash: str, authority_epoch: int) -> int:
    """63 bits from plan hash and epoch; raises `ContractError` for an empty hash or a negative epoch."""
    if not plan_hash or authority_epoch < 0:
        raise _error(f"a seed needs a plan hash and an epoch, not {plan_hash!r}, {authority_epoch}")
    digest = hashlib.sha256(f"{plan_hash}|{authority_epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & _MASK


def issue(plan_hash: str, authority_epoch: int) -> DeterminismContext:
    """The determinism context of a frozen plan; its ledger starts with the plan itself."""
    seed = seed_of(plan_hash, authority_epoch)
    first = NondeterministicInput("plan_hash", Source.OTHER, plan_hash)
    return DeterminismContext(seed=seed, nondeterministic_inputs=(first,))


class Ordered(Protocol):
    """Anything with a place in the session's order."""

    @property
    def runtime_sequence(self) -> int: ...

    @property
    def event_id(self) -> str: ...


OrderedT = TypeVar("OrderedT", bound=Ordered)


def merged(events: Iterable[OrderedT]) -> list[OrderedT]:
    """``default-merge-rule v1.0.0``: by runtime sequence, ties by event id; arrival never matters."""
    return sorted(events, key=lambda event: (event.runtime_sequence, event.event_id))


class Ledger:
    """Grows during a turn: every provider answer, clock read or operator answer that influenced a decision."""

    def __init__(self, context: DeterminismContext) -> None:
        self._entries = list(context.nondeterministic_inputs)
        self.left_out = 0

    @property
    def entries(self) -> tuple[NondeterministicInput, ...]:
        return tuple(self._entries)

    def note(self, input_key: str, source: Source, evidence_ref: str) -> None:
        """Record one undetermined input; beyond the bound it is only counted."""
        if not input_key or not evidence_ref:
            raise _error("a ledger entry needs a key and a reference to its evidence")
        if len(self._entries) >= MAX_LEDGER:
            self.left_out += 1
            return
        self._entries.append(NondeterministicInput(input_key, source, evidence_ref))


def _error(message: str) -> ContractError:
    return ContractError("schema_validation_error", message)
