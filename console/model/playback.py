"""Playing a replay: recorded pauses between entries, scaled by a speed and never longer than `LONGEST_PAUSE`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

#: Times the recorded speed; None: one entry per tick, whatever lay between them.
SPEEDS: Final[tuple[int | None, ...]] = (1, 4, 16, 64, None)
LONGEST_PAUSE: Final = 1.0
#: Entries one call goes over at most, so that a tick stays short however many were written at once.
MOST_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Playback:
    """Whether and how fast a replay plays. ``since``: the clock time, in seconds, of coming to the position."""

    playing: bool = False
    speed: int = 0
    since: float = 0.0

    @property
    def factor(self) -> int | None:
        return SPEEDS[self.speed]

    def toggled(self, now: float) -> Playback:
        return replace(self, playing=not self.playing, since=now)

    def faster(self, step: int) -> Playback:
        """Another speed; the ends of the scale stay."""
        return replace(self, speed=max(0, min(self.speed + step, len(SPEEDS) - 1)))


def advance(
    play: Playback, now: float, position: int, last: int, time: Callable[[int], float | None]
) -> tuple[Playback, int]:
    """Where playing has come to by ``now``. ``time`` gives the recorded time of an entry in seconds, None when it is
    not read yet: playing then holds, and does not catch up. At ``last`` it stops."""
    for _ in range(MOST_AT_ONCE):
        if not play.playing or position >= last:
            return replace(play, playing=False), position
        if play.factor is None:
            return replace(play, since=now), position + 1
        pause = recorded_pause(position, time)
        if pause is None:
            return replace(play, since=now), position
        played = min(pause / play.factor, LONGEST_PAUSE)
        if now - play.since < played:
            return play, position
        play, position = replace(play, since=play.since + played), position + 1
    return replace(play, since=now), position


def recorded_pause(position: int, time: Callable[[int], float | None]) -> float | None:
    """Seconds between an entry and the next; 0 when the clock went backwards, None while one of them is not read."""
    here, then = time(position), time(position + 1)
    return max(0.0, then - here) if here is not None and then is not None else None


def shortened(play: Playback, position: int, time: Callable[[int], float | None]) -> float | None:
    """The recorded pause after ``position``, in seconds, when playing shortens it; else None."""
    pause = recorded_pause(position, time)
    if not play.playing or play.factor is None or pause is None or pause / play.factor <= LONGEST_PAUSE:
        return None
    return pause
