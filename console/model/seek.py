"""What an operator may type to go somewhere in a run: an entry, a time, a span of time, a step."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from console.model.replay import Replay

HINT: Final = "417 or #417, +30s, -1m30s, 12:04:07, or a step"

_ENTRY: Final = re.compile(r"#?(\d{1,12})")
_SPAN: Final = re.compile(r"([+-])(?=\d)(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s?)?")
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_DAY: Final = timedelta(days=1)


def seek(replay: Replay, text: str) -> None:
    """Go where ``text`` says. Raises ValueError, saying what was expected, and then the position stays."""
    wanted = text.strip()
    if found := _ENTRY.fullmatch(wanted):
        replay.seek(_entry(replay, int(found[1])))
    elif found := _SPAN.fullmatch(wanted):
        replay.seek_time(_now(replay) + _seconds(found))
    elif found := _CLOCK.fullmatch(wanted):
        replay.seek_time(_clock(replay, int(found[1]), int(found[2]), int(found[3] or 0)))
    elif not wanted or wanted[0] in "+-#" or wanted[0].isdigit():
        raise ValueError(f"{wanted!r} is no place in a run; type {HINT}")
    else:
        replay.seek(_step(replay, wanted))


def _entry(replay: Replay, seq: int) -> int:
    if seq > replay.last:
        raise ValueError(f"there is no entry {seq}: the journal has 0 to {replay.last}")
    return seq


def _now(replay: Replay) -> float:
    now = replay.time(replay.here)
    if now is None:
        raise ValueError("the time here is not read yet; wait a moment, or type an entry number")
    return now


def _seconds(found: re.Match[str]) -> float:
    sign, hours, minutes, seconds = found.groups()
    span = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return span if sign == "+" else -span


def _clock(replay: Replay, hour: int, minute: int, second: int) -> float:
    """The first time the run's clock (UTC) shows this, to the end of that second."""
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"{hour:02d}:{minute:02d}:{second:02d} is no time of day")
    if replay.began is None:
        raise ValueError("the run's first entry is not read yet; wait a moment")
    began = datetime.fromtimestamp(replay.began, UTC).replace(microsecond=0)
    wanted = began.replace(hour=hour, minute=minute, second=second)
    if wanted < began:
        wanted += _DAY
    return wanted.timestamp() + 0.999999


def _step(replay: Replay, name: str) -> int:
    found = replay.starts.get(name)
    if found is not None:
        return found
    known = list(dict.fromkeys((*replay.view.steps, *replay.starts)))
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or known[:5]
        raise ValueError(f"there is no step {name!r}; there is {', '.join(near)}" if near else f"no step {name!r}")
    if replay.scanned < replay.readable:
        raise ValueError(f"{name} has not begun in the {replay.scanned:,} entries read so far; try again soon")
    raise ValueError(f"{name} never began in this run")
