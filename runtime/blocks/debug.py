"""A look at a failed node: see what went wrong, mend the ledger or the payload, run it again or give up (spec §14.4).

The hook is code of whoever runs the workflow. It runs on the loop, so a plain function must be quick; an ``async`` one
may take its time. What the failed attempt left behind is undone before the hook looks, as before a retry (ruling R14).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from runtime.blocks.effects import SideEffects
from runtime.blocks.envelope import Request, Response
from runtime.blocks.errors import LedgerOwnershipError, RecoveryError, engine_error
from runtime.blocks.ledger import LedgerView
from runtime.blocks.policies import PRE_NODE, DebugAction, DebugHook, DebugPolicy
from runtime.blocks.sanitise import clean_text
from runtime.blocks.setbacks import repair_failed, setback, unsafe
from runtime.blocks.values import BlockValue

if TYPE_CHECKING:
    from runtime.blocks.visit import Visit

#: Metadata of a response whose ledger was rolled back although the failed attempt may have changed the world.
EXTERNAL_EFFECTS: Final = "recovery.external_effects"
#: Questions one hook may ask before it decides; a host may answer at once, and then nothing else would end it.
MAX_WAITS: Final = 100
_REFUSED: Final = "recovery.rollback_unsafe"


class DebugSession:
    """What a debug hook may see and do; closed once the hook has decided.

    ``failure`` is the response of the failed attempt, ``request`` what it was given, ``ledger`` a read-only view. Set
    ``prompt``, ``kinds`` and ``choices`` before returning ``wait``; the answer is in ``answer`` when the hook is asked
    again.
    """

    def __init__(self, visit: Visit, policy: DebugPolicy, effect: SideEffects) -> None:
        self._visit = visit
        self._policy = policy
        self._open = True
        self.failure = visit.last
        self.request: Request = visit.request
        self._effect = effect
        self.changed = False  # the ledger, by this session
        self.external_effects = False
        self.prompt = f"{visit.path} failed with {visit.last.code}; go on?"
        self.kinds: Sequence[str] = ()
        self.choices: Sequence[str] = ()
        self.answer: BlockValue | None = None
        self.payload: BlockValue | None = None

    @property
    def side_effects(self) -> SideEffects:
        """What is left of the failed attempt, after what could be undone was."""
        return self._effect

    @property
    def ledger(self) -> LedgerView:
        return self._visit.ledger

    def rollback(self, checkpoint: str | None = None, *, logical_only: bool = False) -> None:
        """Restore the ledger, and nothing else, to a checkpoint; None means the policy's ``rollback_to``.

        Raises `RecoveryError` ``recovery.rollback_unsafe`` after a non-idempotent attempt unless ``logical_only``,
        and `BlockRuntimeError` ``ledger.unknown_checkpoint``, also for one of a level that has ended.
        """
        self._check()
        if self._effect is SideEffects.NON_IDEMPOTENT and not logical_only:
            raise engine_error(
                RecoveryError,
                _REFUSED,
                f"{self._visit.path} may have changed something a rollback does not take back;"
                " pass logical_only=True to restore the ledger all the same",
                details={"side_effect_class": self._effect.value, "failure_code": self.failure.code},
            )
        wanted = checkpoint or self._policy.rollback_to
        remain = self._effect is not SideEffects.NONE
        self._visit.roll_back(self._visit.checkpoint if wanted == PRE_NODE else wanted, external_effects=remain)
        self.changed = True
        self.external_effects = self.external_effects or remain

    def patch(self, key: str, value: object) -> None:
        """Store a value in the ledger under ``key``, with source ``$recovery``."""
        self._check()
        self._visit.patch(key, BlockValue.of(value))
        self.changed = True

    def replace_payload(self, value: object) -> None:
        """Give the resumed attempt another input."""
        self._check()
        self.payload = BlockValue.of(value)

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        if not self._open:
            raise LedgerOwnershipError("runtime.ledger_not_owner", "this debug session is over")


async def debug(visit: Visit, policy: DebugPolicy, failure: Response) -> Response:
    """Apply one debug policy to a failed visit; ``failure`` is what the policies before it left."""
    if policy.hook is None:
        return _breakpoint(visit)
    session = DebugSession(visit, policy, await visit.effective())
    try:
        resume = await _consult(visit, session, policy.hook)
    except Exception as error:  # noqa: BLE001 - whatever a hook raises is its failure, not the run's
        if isinstance(error, RecoveryError) and error.code == _REFUSED:
            return _noted(session, setback(visit, _REFUSED, error.message, {**error.details, **_original(visit)}))
        name = getattr(policy.hook, "__name__", type(policy.hook).__name__)
        why = f"{type(error).__name__}: {clean_text(str(error))}"
        return _noted(session, repair_failed(visit, name, why, failure, stage="debug"))
    finally:
        session.close()
    if not resume:
        return _noted(session, _breakpoint(visit))
    if await visit.effective() is SideEffects.NON_IDEMPOTENT:
        return _noted(session, unsafe(visit, "debug"))
    visit.renew(session.payload, fresh=session.changed)
    return _noted(session, await visit.attempt_once())


async def _consult(visit: Visit, session: DebugSession, hook: DebugHook) -> bool:
    """Ask the hook until it decides; True to resume."""
    for _ in range(MAX_WAITS + 1):
        said = hook(session)
        action = DebugAction(await said if inspect.isawaitable(said) else said)
        if action is not DebugAction.WAIT:
            return action is DebugAction.RESUME
        session.answer = await visit.ask(session.prompt, session.kinds, session.choices)
    raise RecoveryError("recovery.repair_failed", f"it asked {MAX_WAITS} times and did not decide")


def _breakpoint(visit: Visit) -> Response:
    text = f"{visit.node.name} stopped at a debug breakpoint: {visit.last.message or visit.last.code}"
    return setback(visit, "recovery.debug_breakpoint", text, _original(visit))


def _original(visit: Visit) -> dict[str, object]:
    # Details in full: a later repair reads them, and they are redacted when the response leaves (ruling R46).
    return {"original_error": {**visit.last.record(), "details": visit.last.details}}


def _noted(session: DebugSession, response: Response) -> Response:
    return response.with_metadata(**{EXTERNAL_EFFECTS: "remain"}) if session.external_effects else response
