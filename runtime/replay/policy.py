"""Which differences make a comparison fail (turn runtime §3.27, fail policy).

Some differences are known in advance: two runs that commit get two commit names. Whoever compares may expect a
difference by class and scope; an expectation that does not come true fails as well, because then something else
changed. Authority is never negotiable, another order needs approval on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from runtime.events.facts import Divergence
from runtime.kernel.errors import Refused

PLAN: Final = "PLAN_DIVERGENCE"
OUTCOME: Final = "OUTCOME_DIVERGENCE"
ORDERING: Final = "ORDERING_DIVERGENCE"
PROVIDER: Final = "PROVIDER_CHOICE_DIVERGENCE"
AUTHORITY: Final = "AUTHORITY_DIVERGENCE"
TIMING: Final = "TIMING_DIVERGENCE"
#: Worst first: how a step with several is shown.
CLASSES: Final = (AUTHORITY, PLAN, PROVIDER, OUTCOME, ORDERING, TIMING)
#: Latencies of model calls have thresholds of their own; a tolerance does not excuse them.
_STRICT_SCOPES: Final = ("invocation_latency_final:", "invocation_latency_total:")
_SUFFIX: Final = "_DIVERGENCE"


@dataclass(frozen=True, slots=True)
class Expected:
    """A difference somebody knows about. ``scope`` empty: wherever it appears."""

    kind: str
    scope: str = ""
    approved: bool = False

    @classmethod
    def parse(cls, text: str) -> Expected:
        """``CLASS`` or ``CLASS@SCOPE``, as an operator writes it; what an operator writes counts as approved.

        The class may leave out ``_DIVERGENCE`` and be lower case. Raises `Refused` ``REPLAY_EXPECTED``.
        """
        name, _, scope = text.partition("@")
        kind = name.strip().upper().removesuffix(_SUFFIX) + _SUFFIX
        if kind not in CLASSES:
            known = ", ".join(item.removesuffix(_SUFFIX).lower() for item in CLASSES)
            raise Refused("REPLAY_EXPECTED", f"{text!r} names no class of difference", hint=f"classes: {known}")
        return cls(kind, scope.strip(), approved=True)

    def covers(self, found: Divergence) -> bool:
        """Is this the difference that was expected?"""
        return found.kind == self.kind and self.scope in ("", found.scope)


@dataclass(frozen=True, slots=True)
class FailPolicy:
    """``tolerance_ms`` None: timing is not compared at all. A negative one counts as 0."""

    expected: tuple[Expected, ...] = ()
    tolerance_ms: int | None = None

    @property
    def tolerance(self) -> int:
        return max(0, self.tolerance_ms or 0)

    def failing(self, found: Sequence[Divergence]) -> tuple[Divergence, ...]:
        """The differences that fail the comparison."""
        return tuple(item for item in found if self._fails(item))

    def missing(self, found: Sequence[Divergence]) -> tuple[Expected, ...]:
        """Expected differences that did not appear; each fails the comparison."""
        return tuple(item for item in self.expected if not any(item.covers(other) for other in found))

    def _fails(self, found: Divergence) -> bool:
        matching = [item for item in self.expected if item.covers(found)]
        if found.kind in (PLAN, OUTCOME, PROVIDER):
            return not matching
        if found.kind == ORDERING:
            return not any(item.approved for item in matching)
        if found.kind == TIMING:
            late = found.diff_ms is None or found.diff_ms > self.tolerance
            return late or found.scope.startswith(_STRICT_SCOPES)
        return True  # authority, and whatever has no name here
