"""The palette: every key action by name, missions to launch and runs to open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from console.model.safe import safe
from console.model.words import status_word
from console.screens.base import DeckScreen
from console.screens.launch import LaunchScreen

if TYPE_CHECKING:
    from console.app import ConsoleApp

_RUNS_OFFERED = 50


class DeckCommands(Provider):
    """Commands of the visible screen, then missions, then runs."""

    async def discover(self) -> Hits:
        for name, help_text, run in self._commands():
            yield DiscoveryHit(name, run, help=help_text)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, help_text, run in self._commands():
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, matcher.highlight(name), run, help=help_text)

    def _commands(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        app = cast("ConsoleApp", self.app)
        yield from self._screen_actions()
        for mission in app.home.missions:
            if not mission.problems:
                yield (
                    safe(f"launch {mission.name}"),
                    safe(mission.description),
                    lambda mission=mission: app.may_write() and app.push_screen(LaunchScreen(mission)),
                )
        for run in app.home.recent()[:_RUNS_OFFERED]:
            word = status_word(run.status, resumable=run.resumable)
            yield (
                safe(f"open run {run.run_id[:8]} {run.mission}"),
                safe(word),
                lambda run_id=run.run_id: app.open_run(run_id),
            )

    def _screen_actions(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        screen = self.screen
        if not isinstance(screen, DeckScreen):
            return
        for active in screen.active_bindings.values():
            binding = active.binding
            if active.node is screen and binding.description and active.enabled:
                action = binding.action
                yield binding.description, f"key {binding.key}", lambda action=action: screen.run_action(action)
