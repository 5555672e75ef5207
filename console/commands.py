"""The palette: every key action by name, missions to launch and runs to open.

Textual reads the palette's texts as markup, and ends when it is malformed; everything here is therefore handed over
as content, with the description as its second line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.fuzzy import Matcher

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
            yield DiscoveryHit(_described(Content(name), help_text), run, text=name)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, help_text, run in self._commands():
            score = matcher.match(name)
            if score > 0:
                yield Hit(score, _described(_highlighted(matcher, name), help_text), run, text=name)

    def _commands(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        app = cast("ConsoleApp", self.app)
        yield from self._screen_actions()
        for mission in app.home.missions:
            if not mission.problems and not app.home.read_only:
                launch = partial(app.push_screen, LaunchScreen(mission))
                yield safe(f"launch {mission.name}"), safe(mission.description), launch
        for run in app.home.recent()[:_RUNS_OFFERED]:
            word = status_word(run.status, resumable=run.resumable)
            yield safe(f"open run {run.run_id[:8]} {run.mission}"), word, partial(app.open_run, run.run_id)

    def _screen_actions(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        screen = self.screen
        if not isinstance(screen, DeckScreen):
            return
        for active in screen.active_bindings.values():
            binding = active.binding
            if active.node is screen and binding.description and active.enabled:
                yield binding.description, f"key {binding.key}", partial(screen.run_action, binding.action)


def _highlighted(matcher: Matcher, name: str) -> Content:
    """The name with the matched letters marked."""
    marked = Content(name)
    for offset in matcher.fuzzy_search.match(matcher.query, name)[1]:
        marked = marked.stylize(matcher.match_style, offset, offset + 1)
    return marked


def _described(name: Content, description: str) -> Content:
    return Content.assemble(name, "\n", (description, "dim")) if description else name
