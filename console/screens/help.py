"""Help for the screen below: every key, what it does, and why some are off just now."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from console.model.rows import Row, piece
from console.panels.keys import bindings_of
from console.screens.base import DeckScreen, block

_GLOSSARY = (
    ("mission", "a graph of blocks with an envelope"),
    ("envelope", "what operations may touch; deny beats allow"),
    ("receipt", "proof of one operation: state before and after"),
    ("turn", "one run of the graph: open, active, commit or abort, close"),
    ("lane", "Control before Data before Telemetry; each bounded"),
    ("fence", "after cancel nothing of the run is shown or started"),
    ("checkpoint", "a signed note of how long a journal was, and of its hash"),
    ("witness", "whoever keeps a checkpoint outside the store"),
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
    ("↺", "taken over from an earlier run", "good"),
    ("⊘", "cancelled", "warn"),
    ("○", "not started, not judged", "dim"),
    ("┊", "entry after the newest checkpoint", "dim"),
)
_EVERYWHERE = (
    ("j k g G", "move in a panel; G follows the newest"),
    ("h l", "look left and right in a panel"),
    ("enter", "open what the cursor is on"),
    ("tab", "next panel"),
    ("ctrl+p", "command palette"),
    ("ctrl+c", "copy what is selected with the mouse"),
)


class HelpScreen(ModalScreen[None]):
    """All keys of the screen it was opened over."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "close", "Close")]

    def __init__(self, over: DeckScreen) -> None:
        super().__init__()
        self._over = over

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Label("help", markup=False, classes="title")
            yield Static(block(self._rows()), markup=False)

    def _rows(self) -> list[Row]:
        rows: list[Row] = [(piece(self._over.HELP),), ()]
        rows.extend(self._key_rows())
        rows.extend([(), (piece("glyphs", "accent"),)])
        rows.extend((piece(f"  {glyph}  ", role), piece(meaning)) for glyph, meaning, role in _GLYPHS)  # type: ignore[arg-type]
        rows.extend([(), (piece("words", "accent"),)])
        rows.extend((piece(f"  {word:<11}"), piece(meaning, "dim")) for word, meaning in _GLOSSARY)
        return rows

    def _key_rows(self) -> list[Row]:
        """Keys of the screen and of the application; an action that is off now says why."""
        rows: list[Row] = [(piece("keys", "accent"),)]
        seen: set[str] = set()
        for active in bindings_of(self._over):
            binding = active.binding
            listed = binding.id is not None and active.node in (self._over, self.app)
            if not binding.description or binding.action in seen or not listed:
                continue
            seen.add(binding.action)
            rows.append(self._key_row(binding, enabled=active.enabled))
        rows.extend((piece(f"  {keys:<10}", "accent"), piece(meaning)) for keys, meaning in _EVERYWHERE)
        return rows

    def _key_row(self, binding: Binding, *, enabled: bool) -> Row:
        key = binding.key_display or self.app.get_key_display(binding)
        name, _, rest = binding.action.partition("(")
        reason = None if enabled else self._over.off(name, rest.rstrip(")").strip("'"))
        note = piece(f"   off: {reason}" if reason else "", "dim")
        return (piece(f"  {key:<10}", "accent" if enabled else "dim"), piece(binding.description), note)

    def action_close(self) -> None:
        self.dismiss(None)
