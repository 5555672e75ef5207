"""One proof: an entry, the way to the root of the tree, the checkpoint that signs it; to copy or to save."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from console.model.proof import proof_name, proof_rows
from console.model.rows import piece
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen, as_it_is, content
from console.screens.dialogs import AskScreen
from runtime.events.facts import Proof, RunSummary


class ProofScreen(DeckScreen):
    """A proof that holds without this store: its text is all that somebody else needs, besides the key."""

    HELP = (
        "That this entry is inside the checkpoint: hashing the leaf with each step in turn gives the root that was signed."
        " c copies the text of the proof (C2SP tlog-proof), s saves it; whoever has it needs nothing of this store."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy", id="proof.copy"),
        Binding("s", "save", "Save …", id="proof.save"),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def __init__(self, run: RunSummary, proof: Proof) -> None:
        super().__init__()
        self.run = run
        self.proof = proof

    def body(self) -> ComposeResult:
        yield LinesPanel(id="proof")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#proof").focus()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    def draw(self) -> None:
        panel, proof = self.query_one("#proof", LinesPanel), self.proof
        head = piece(f"proof {self.run.run_id[:8]} {self.run.mission} #{proof.seq:04d}  ")
        told = piece("✓ holds", "good") if proof.holds else piece("✗ does not hold", "bad")
        panel.border_title = content((head, told))  # type: ignore[assignment]
        panel.set_class(not proof.holds, "-broken")
        panel.set_class(proof.holds, "-good")
        width = panel.scrollable_content_region.width
        panel.show(proof_rows(proof, width), as_it_is, mark=width)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(safe(self.proof.text, lines=True))
        self.notify("the proof was handed to the terminal's clipboard", markup=False)

    def action_save(self) -> None:
        hint = proof_name(self.proof)
        ask = AskScreen("save the proof in which new file?", hint, _is_name)
        self.app.push_screen(ask, self._save_as)

    def _save_as(self, name: str | None) -> None:
        if name is not None:
            target = name or proof_name(self.proof)
            self.run_worker(partial(self._write, target), group="save", exclusive=True, exit_on_error=False)

    async def _write(self, name: str) -> None:
        try:
            await asyncio.to_thread(_write_new, Path(name), self.proof.text)
        except (OSError, ValueError) as error:
            why = "it exists already" if isinstance(error, FileExistsError) else str(error)
            self.notify(safe(f"{name}: {why}"), title="not saved", severity="error", markup=False)
            return
        self.notify(safe(f"saved in {name}"), title="proof", markup=False)

    def action_back(self) -> None:
        self.app.pop_screen()


def _is_name(text: str) -> str | None:
    return "that is a folder" if text.endswith("/") else None


def _write_new(path: Path, text: str) -> None:
    """Raises `FileExistsError` rather than replace anything, `OSError`, and `ValueError` for a name with a NUL."""
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
