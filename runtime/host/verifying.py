"""Checking a journal on disk while its run goes on."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from runtime.events.facts import Verification
from runtime.host.live_run import LiveRun
from runtime.kernel.clock import Clock
from runtime.kernel.errors import StorageError

#: A live journal is verified again at most this often, in seconds, and never more than a tenth of the time.
VERIFY_SECONDS: Final = 2.0
_VERIFY_SHARE: Final = 10
_LOG: Final = logging.getLogger(__name__)


async def verify_live(
    run: LiveRun,
    *,
    clock: Clock,
    going: Callable[[], bool],
    verify: Callable[[], Awaitable[Verification]],
    show: Callable[[Verification], None],
) -> None:
    """Check the chain whenever it has grown, as long as ``going``, never taking more than a tenth of the time.

    ``verify`` reads what is on disk; when the store cannot be read there are no verdicts any more.
    """
    checked = -1
    pause = VERIFY_SECONDS / 4
    while going():
        await clock.sleep(pause)
        entries = run.prepared.journal.entries
        if entries == checked or not going():
            continue
        try:
            verdict = await verify()
        except StorageError as error:
            _LOG.warning("run %s cannot be verified now: %s", run.run_id, error)
            return
        show(verdict)
        checked = entries
        pause = max(VERIFY_SECONDS, verdict.duration_ms / 1000 * _VERIFY_SHARE)
