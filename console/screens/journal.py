"""The whole journal of a run, however long: only the pages looked at are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from console.model import entries, rows, verdicts
from console.model.entries import MATCHES, SLICE, Filter, Shown
from console.model.fold import JournalRow
from console.model.reasons import journal_reason
from console.model.rows import Row, piece
from console.model.safe import safe
from console.panels.lines import LinesPanel
from console.screens.base import DeckScreen, content, title_room
from console.screens.paging import Pager
from runtime.events.facts import EntryAppended, JournalVerified, RunChanged, RunSummary, StreamEvent, Verification

#: Journals up to this length are verified when they are opened; longer ones on `V`, as it takes seconds.
VERIFIED_ON_OPEN: Final = 20_000
_PAGE: Final = 500  # matches taken from one slice of a search at a time
_FILTER_HINT: Final = "a step, or part of a kind: receipt, denied, signal …"
_SEEK_HINT: Final = "number of an entry"


class JournalScreen(DeckScreen):
    """Every entry of one journal, in order; its title tells the last verdicts on it. ``at`` is the entry to begin with."""

    HELP = (
        "One run's journal. / shows entries of a step or of some kinds, S goes to a number, G to the newest and stays"
        " there; entries that are not to be trusted are red, ┊ marks those after the newest checkpoint. o proves one."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="journal.filter"),
        Binding("S", "seek", "Seek", id="journal.seek"),
        Binding("V", "verdicts", "Verify", id="run.verify"),
        Binding("o", "proof", "Proof", id="journal.proof"),
        Binding("ctrl+r", "reload", "Reload", show=False, id="journal.reload"),
        Binding("escape,q", "back", "Back", id="run.back"),
    ]

    def __init__(self, run: RunSummary, at: int | None = None) -> None:
        super().__init__()
        self.run = run
        self._at = at
        self.verdict: Verification | None = None
        self.filter = Filter()
        self.pager: Pager[Shown] = Pager(self, "journal", count=self._count, fetch=self._fetch, shown=self._rows_came)
        self._found: list[JournalRow] = []
        self._searched = -1
        self._newest = run.entries
        self._seeking = False
        self._checking = False

    def body(self) -> ComposeResult:
        yield Input(placeholder=_FILTER_HINT, id="filter", select_on_focus=False)
        yield LinesPanel(id="journal", selectable=True, follow=True, empty="reading …")

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.panel.focus()
        opened = self.console_app.opened
        if opened is not None and opened.run.run_id == self.run.run_id:
            self.verdict = opened.verification
        super().on_mount()
        self.call_after_refresh(self.pager.look)  # what is in view is known once it has a place
        if self.verdict is None and self._ended and self.run.entries <= VERIFIED_ON_OPEN:
            self.run_worker(self._verify, exclusive=True, group="verify", exit_on_error=False)

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    @property
    def panel(self) -> LinesPanel:
        return self.query_one("#journal", LinesPanel)

    @property
    def _ended(self) -> bool:
        return self.run.status.terminal or self.run.resumable

    # -- what the store is asked --------------------------------------------------------------------------------

    async def _count(self) -> int:
        deck, run_id = self.console_app.deck, self.run.run_id
        if self.filter.kinds:
            return await deck.count_entries(run_id, kinds=self.filter.kinds)
        self.run = await deck.find(run_id)
        return max(self.run.entries, self._newest)

    async def _fetch(self, offset: int, limit: int) -> Sequence[Shown]:
        deck, run_id = self.console_app.deck, self.run.run_id
        if self.filter.kinds:
            kinds = self.filter.kinds
            return entries.shown_rows(await deck.entries(run_id, kinds=kinds, offset=offset, limit=limit))
        total = max(self.run.entries, self._newest)
        found = await deck.entries(run_id, after=offset - 1, limit=limit)
        written = found[-1].seq + 1 if found else offset
        return entries.placed(found, offset, min(limit, total - offset), total if self._ended else written)

    async def _search(self) -> None:
        """Look for a step's entries, some thousand at a time, and show them as they are found."""
        deck, run_id, wanted = self.console_app.deck, self.run.run_id, self.filter

        async def search() -> None:
            while self._searched < self._newest - 1 and len(self._found) < MATCHES:
                until = min(self._searched + SLICE, self._newest - 1)
                found = await deck.entries(
                    run_id, after=self._searched, until=until, kinds=wanted.kinds, step=wanted.step, limit=_PAGE
                )
                self._found += entries.shown_rows(found)
                # A full page may have left some of the slice; the next one goes on behind what it gave.
                self._searched = found[-1].seq if len(found) == _PAGE else until
                self.redraw()

        await self.console_app.guarded(search)

    def hear(self, events: Sequence[StreamEvent]) -> None:
        before = self._newest
        for event in events:
            match event:
                case EntryAppended() if event.run_id == self.run.run_id:
                    self._newest = max(self._newest, event.seq + 1)
                case RunChanged() if event.run.run_id == self.run.run_id:
                    self.run, self._newest = event.run, max(self._newest, event.run.entries)
                case JournalVerified() if event.verification.run_id == self.run.run_id:
                    self.verdict = event.verification
                case _:
                    pass
        if self._newest != before:
            self._look_again()

    def _look_again(self) -> None:
        if self.filter.step is None:
            self.pager.changed()
        else:
            self.run_worker(self._search, group="search", exclusive=True, exit_on_error=False)

    def show_only(self, wanted: Filter) -> None:
        """Show what a filter lets through: kinds from the newest on, a step's entries as they are found."""
        if wanted == self.filter:
            return
        self.workers.cancel_group(self, "search")
        self.filter, self._found, self._searched = wanted, [], -1
        if wanted.step is None:
            self.panel.follow()
            self.pager.restart()
        else:
            self.panel.action_jump(0)
            self._look_again()
        self.redraw()

    # -- drawing ------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        panel = self.panel
        role = verdicts.title_role(self.verdict)
        panel.border_title = content(self._title())  # type: ignore[assignment]
        panel.border_subtitle = self._progress()
        panel.set_class(role == "bad", "-broken")
        panel.set_class(role == "good", "-good")
        width = panel.content_size.width
        look = rows.JournalLook.of(self.verdict, width)
        draw = partial(entries.entry_row, look=look)
        mark = (look, self.filter)
        if self.filter.step is not None:
            panel.show(self._found, draw, mark=(mark, len(self._found)), empty=self._empty())
        else:
            panel.show(self.pager.rows, draw, mark=(mark, self.pager.rows.revision), empty=self._empty())

    def _title(self) -> Row:
        only = f"  only {self.filter.words()}" if self.filter else ""
        head = piece(f"journal {self.run.run_id[:8]} {self.run.mission}{only}  ")
        if self._checking:
            return (head, piece("checking …", "dim"))
        return (head, *verdicts.title_row(self.verdict, self._newest, title_room(self.panel) - len(head[0])))

    def _rows_came(self) -> None:
        """Draw; the first time rows are there, at the entry this was opened for."""
        self.redraw()
        if self._at is not None and self.pager.known and len(self.pager.rows):
            at, self._at = self._at, None
            self.call_after_refresh(self._go_to, at)

    def _progress(self) -> str:
        if self.filter.step is not None:
            looked = min(self._searched + 1, self._newest)
            more = f" · the first {MATCHES:,}" if len(self._found) >= MATCHES else ""
            return f"{len(self._found):,} found in {looked:,} of {self._newest:,}{more}"
        return f"{len(self.pager.rows):,} entries" if self.pager.known else ""

    def _empty(self) -> str:
        if self.pager.failed:
            return "could not be read; ctrl+r tries again"
        if self.filter.step is not None:
            done = self._searched >= self._newest - 1
            return "no entry matches; esc shows all" if done else "searching …"
        if not self.pager.known:
            return "reading …"
        return "no entry matches; esc shows all" if self.filter else "this run has no journal: it was refused"

    # -- actions ------------------------------------------------------------------------------------------------

    def off_here(self, action: str, choice: str) -> str | None:
        return journal_reason(action, self._newest)

    def action_verdicts(self) -> None:
        self.console_app.evidence.show(self.run)

    def action_proof(self) -> None:
        """Prove the selected entry."""
        if self.panel.item is not None:
            self.console_app.evidence.prove(self.run, self.panel.item.seq)

    async def _verify(self) -> None:
        self._checking = True
        self.redraw()
        try:
            await self.console_app.guarded(lambda: self.console_app.evidence.verify(self.run.run_id))
        finally:
            self._checking = False
        self.redraw()

    def action_filter(self) -> None:
        self._ask(seeking=False)

    def action_seek(self) -> None:
        self._ask(seeking=True)

    def _ask(self, *, seeking: bool) -> None:
        box = self.query_one("#filter", Input)
        self._seeking = seeking
        box.placeholder = _SEEK_HINT if seeking else _FILTER_HINT
        box.value, box.display = "", True
        box.focus()

    def action_reload(self) -> None:
        self.pager.restart()
        self.redraw()

    def action_back(self) -> None:
        """Close the box, then show everything, then leave."""
        if self.query_one("#filter").display:
            self._close_box()
        elif self.filter:
            self.show_only(Filter())
        else:
            self.app.pop_screen()

    def _close_box(self) -> None:
        self.query_one("#filter").display = False
        self.panel.focus()

    # -- messages -----------------------------------------------------------------------------------------------

    @on(Input.Submitted, "#filter")
    def _typed(self, event: Input.Submitted) -> None:
        self._close_box()
        if self._seeking:
            self._seek(event.value.strip().lstrip("#"))
            return
        work = partial(self.console_app.guarded, partial(self._filter_by, event.value))
        self.run_worker(work, group="filter", exclusive=True, exit_on_error=False)

    async def _filter_by(self, text: str) -> None:
        nodes = await self.console_app.deck.nodes(self.run.run_id)
        wanted = entries.read_filter(text, {node.node_id for node in nodes})
        if isinstance(wanted, Filter):
            self.show_only(wanted)
        else:
            self.notify(safe(wanted), title="filter", severity="warning", markup=False)

    def _seek(self, text: str) -> None:
        if not text.isdecimal() or int(text) >= self._newest:
            message = f"{text!r} is no entry: they are numbered 0 to {self._newest - 1}"
            self.notify(safe(message), title="seek", severity="warning", markup=False)
            return
        self.go_to(int(text))

    def go_to(self, seq: int) -> None:
        """Show the entry of that number among all others."""
        self.show_only(Filter())
        self.call_after_refresh(self._go_to, seq)

    def _go_to(self, seq: int) -> None:
        self.panel.reveal(seq)

    @on(LinesPanel.Viewed)
    def _viewed(self) -> None:
        self.pager.look()

    @on(LinesPanel.Chosen)
    def _chosen(self, event: LinesPanel.Chosen) -> None:
        if event.item is not None:
            self.console_app.open_entry(self.run.run_id, event.item.seq)
