"""Help for the screen below: every key, what it does, and why some are off just now."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Label, Static

from console.model.rows import Row, piece
from console.screens.base import block

_GLOSSARY = (
    ("mission", "a graph of blocks with an envelope"),
    ("envelope", "what operations may touch; deny beats allow"),
    ("receipt", "proof of one operation: state before and after"),
    ("turn", "one run of the graph: open, active, commit or abort, close"),
    ("lane", "Control before Data before Telemetry; each bounded"),
    ("fence", "after cancel nothing of the run is shown or started"),
    ("resumable", "a run nobody holds any more; r continues it"),
)
_GLYPHS = (
    ("✓", "done, proven", "good"),
    ("▲", "refused or failed as the mission expected", "warn"),
    ("✗", "failed or refused", "bad"),
    ("●", "running", "accent"),
    ("◐", "waiting for you", "warn"),
    ("◌", "resumable", "warn"),
    ("↶", "undone", "warn"),
    ("⊘", "cancelled", "warn"),
    ("○", "not started", "dim"),
)


class HelpScreen(ModalScreen[None]):
    """All keys of the screen it was opened over."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "close", "Close")]

    def __init__(self, over: Screen[Any]) -> None:
        super().__init__()
        self._over = over

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Label("help", markup=False, classes="title")
            yield Static(block(self._rows()), markup=False)

    def _rows(self) -> list[Row]:
        rows: list[Row] = [(piece(getattr(self._over, "HELP", "")),), ()]
        rows.extend(self._key_rows())
        rows.extend([(), (piece("glyphs", "accent"),)])
        rows.extend((piece(f"  {glyph}  ", role), piece(meaning)) for glyph, meaning, role in _GLYPHS)  # type: ignore[arg-type]
        rows.extend([(), (piece("words", "accent"),)])
        rows.extend((piece(f"  {word:<11}"), piece(meaning, "dim")) for word, meaning in _GLOSSARY)
        return rows

    def _key_rows(self) -> list[Row]:
        """Keys of the screen and of the application; an action that is off now says so."""
        rows: list[Row] = [(piece("keys", "accent"),)]
        seen: set[str] = set()
        for active in self._over.active_bindings.values():
            binding = active.binding
            if not binding.description or binding.action in seen or active.node not in (self._over, self.app):
                continue
            seen.add(binding.action)
            key = binding.key_display or self.app.get_key_display(binding)
            note = piece("" if active.enabled else "   off now", "dim")
            rows.append(
                (piece(f"  {key:<10}", "accent" if active.enabled else "dim"), piece(binding.description), note)
            )
        rows.append((piece(f"  {'j k g G':<10}", "accent"), piece("move in a panel")))
        return rows

    def action_close(self) -> None:
        self.dismiss(None)
