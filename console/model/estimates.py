"""What a mission is expected to take, in the words the launch sheet and ``quarterdeck plan`` show."""

from __future__ import annotations

from typing import Final

from runtime.events.facts import MissionEstimate, StepEstimate

NO_HISTORY: Final = "no history yet; time and cost are not known"
_MINUTE, _HOUR = 60, 3600


def expected_line(found: MissionEstimate) -> str:
    """One line: time, cost and model calls, or that nothing is known."""
    if found.confidence == "none":
        return NO_HISTORY
    time = _around(found.time_ms, found.time_std_ms, single=found.samples == 1)
    return ", ".join((time, _money(found.cost_usd, found.cost_std_usd), _calls(found.llm_calls)))


def confidence_line(found: MissionEstimate) -> str:
    """How far to trust it; '' where there is nothing to trust."""
    if found.confidence == "none":
        return ""
    if found.samples == 0:
        return f"{found.confidence} confidence: a guess from single blocks"
    runs = "1 earlier run" if found.samples == 1 else f"{found.samples} earlier runs"
    return f"{found.confidence} confidence: from {runs}"


def step_cells(step: StepEstimate) -> tuple[str, str, str]:
    """Time, cost and model calls of one block, for a table."""
    if step.samples == 0:
        return ("no history", "", "")
    time = _around(step.time_ms, step.time_std_ms, single=step.samples == 1)
    return (time, _money(step.cost_usd), f"{step.llm_calls:.3g}" if step.llm_calls else "")


def _around(mean: float, deviation: float, *, single: bool) -> str:
    """A single sample says nothing about how far others lie from it."""
    return _time(mean) if single else f"{_time(mean)} ± {_time(deviation)}"


def _time(milliseconds: float) -> str:
    """``40ms``, ``1.2s``, ``45s``, ``3m05s``, ``2h07m``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"


def _money(mean: float, deviation: float = 0.0) -> str:
    """``no cost``, ``$0.12``, ``$0.0031 ± $0.0002``."""
    if mean == 0:
        return "no cost"
    return f"{_dollars(mean)} ± {_dollars(deviation)}" if deviation else _dollars(mean)


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}" if amount >= 0.0001 else "under $0.0001"


def _calls(count: float) -> str:
    if count == 0:
        return "no model calls"
    return "1 model call" if count == 1 else f"{count:.3g} model calls"
