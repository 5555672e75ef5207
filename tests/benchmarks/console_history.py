"""Looking back over years: 100,000 runs stored, and a run whose journal has a million entries.

Builds the store once (about two minutes, 1.2 GB), then prints figures as one JSON object: the first paint of the real
command in a pseudo-terminal over that store, over an empty one and of a small Textual application, in turn; and, in
process over the real deck, what opening, sorting, filtering, jumping and paging cost from key to paint.
Run it with ``PYTHONPATH=tests python tests/benchmarks/console_history.py FOLDER [runs] [entries]``; without a folder a
temporary one is used. It is not part of the suite.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pexpect
from benchmarks.history_store import LONG_RUN, SHORT, SHORT_RUN, build
from textual.events import Key

from console.app import ConsoleApp
from console.model.fold import RunState
from console.panels.lines import LinesPanel
from console.screens.journal import JournalScreen
from console.screens.run import RunScreen
from console.screens.runs import RunsScreen
from runtime.host.api import Deck
from runtime.host.thread import open_threaded_deck

SIZE: Final = (180, 50)
STARTS: Final = 7
KEYS: Final = 150
LIMIT: Final = 60.0
CATCHING_UP: Final = 15.0
#: The anchor of first paint: about the least an application of this toolkit can show.
SMALL_APP: Final = """
from textual.app import App
from textual.widgets import DataTable, Footer, Static
class Small(App):
    BINDINGS = [("q", "quit", "Quit")]
    def compose(self):
        yield Static("quarterdeck")
        yield DataTable()
        yield Footer()
    def on_mount(self):
        table = self.query_one(DataTable)
        table.add_columns("run", "mission")
        table.add_rows([("1", "painted")] * 20)
Small().run()
"""


# -- first paint of a real process --------------------------------------------------------------------------------


def first_paint(command: Sequence[str], shows: str) -> float:
    """Milliseconds from starting a process to the terminal having ``shows``."""
    env = {**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"}
    started = time.perf_counter()
    child = pexpect.spawn(command[0], list(command[1:]), dimensions=(40, 120), env=env, timeout=LIMIT)
    child.expect_exact(shows)
    took = (time.perf_counter() - started) * 1000
    child.close(force=True)
    return took


def first_paints(full: Path, small: Path, empty: Path) -> dict[str, Any]:
    """The same starts in turn, so that whatever slows the machine slows them alike. The small store fills the same
    list with its 200 runs: what it takes less than the full one is what size costs."""
    console = [sys.executable, "-m", "console.cli", "--store"]
    starts = {
        "full_store": ([*console, str(full)], "storm"),
        "small_store": ([*console, str(small)], "storm"),
        "empty_store": ([*console, str(empty)], "no runs yet"),
        "small_app": ([sys.executable, "-c", SMALL_APP], "painted"),
    }
    took: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(STARTS):
        for name, (command, shows) in starts.items():
            took[name].append(first_paint(command, shows))
    figures: dict[str, Any] = {f"{name}_ms": round(statistics.median(times)) for name, times in took.items()}
    for other in ("small_store", "empty_store"):
        over = [full - less for full, less in zip(took["full_store"], took[other], strict=True)]
        figures[f"full_over_{other}_ms"] = round(statistics.median(over))
    return figures


# -- in process ---------------------------------------------------------------------------------------------------


class Eye:
    """Sees every frame the application hands to the terminal, and tells when one shows something."""

    def __init__(self, app: ConsoleApp) -> None:
        self._app = app
        self._display = app._display
        self._wanted: Callable[[], bool] = lambda: False
        self._seen = asyncio.Event()
        app._display = self._painted  # type: ignore[method-assign]

    def _painted(self, *args: Any, **kwargs: Any) -> None:
        self._display(*args, **kwargs)
        if self._wanted():
            self._seen.set()

    async def key(self, key: str, shows: Callable[[], bool], character: str | None = None) -> float:
        """Milliseconds from a key to the frame that shows its effect."""
        self._wanted = shows
        self._seen.clear()
        started = time.perf_counter()
        self._app.post_message(Key(key, character or key))
        async with asyncio.timeout(LIMIT):
            await self._seen.wait()
        self._wanted = lambda: False
        return (time.perf_counter() - started) * 1000


def spread(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return {"p50": round(statistics.median(ordered), 1), "p95": round(p95, 1), "max": round(ordered[-1], 1)}


def rss_mib() -> float:
    """What this process has resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_view(panel: LinesPanel) -> bool:
    """Is every row in view there?"""
    first, last = panel.view
    rows = panel._items[first : last + 1]
    return bool(rows) and all(row is not None for row in rows)


async def measure(deck: Deck) -> dict[str, Any]:
    app = ConsoleApp(deck)
    async with app.run_test(size=SIZE) as pilot:
        while app.home.loading:
            await pilot.pause(0.02)
        await pilot.pause(0.2)
        eye = Eye(app)
        return {
            "runs": await runs_figures(app, eye),
            "journal": await journal_figures(app, eye),
            "dashboard": {
                "short_run": await dashboard_figures(app, eye, SHORT_RUN),
                "long_run": await dashboard_figures(app, eye, LONG_RUN),
            },
        }


async def runs_figures(app: ConsoleApp, eye: Eye) -> dict[str, Any]:
    def screen() -> RunsScreen:
        assert isinstance(app.screen, RunsScreen)
        return app.screen

    def there() -> bool:
        return isinstance(app.screen, RunsScreen) and app.screen.pager.known and in_view(app.screen.panel)

    before = rss_mib()
    opened = await eye.key("H", there)
    end = await eye.key("G", lambda: there() and screen().panel.cursor == len(screen().pager.rows) - 1)
    total = len(screen().pager.rows)
    sorts = {}
    for name in ("refused", "time", "status", "mission", "started"):
        screen().picked = name
        query = screen().asked
        sorts[name] = round(await eye.key("O", lambda query=query: there() and screen().asked != query), 1)
        sorts[f"{name} end"] = round(await eye.key("G", lambda: there() and screen().panel.cursor == total - 1), 1)
    typed = []
    await eye.key("slash", lambda: app.focused is not None and app.focused.id == "filter", "/")
    for letter in "mission-07":
        query = screen().asked
        key = "minus" if letter == "-" else letter
        typed.append(await eye.key(key, lambda query=query: there() and screen().asked != query, letter))
    await eye.key("enter", lambda: app.focused is screen().panel, "\r")
    pages = [await eye.key("pagedown", moved(screen().panel)) for _ in range(KEYS // 5)]
    added = rss_mib() - before
    await eye.key("escape", lambda: not screen().asked.filtered)
    await eye.key("escape", lambda: not isinstance(app.screen, RunsScreen))
    return {
        "rows": total,
        "open_ms": round(opened, 1),
        "jump_to_end_ms": round(end, 1),
        "sort_ms": sorts,
        "filter_keystroke_ms": spread(typed),
        "page_down_ms": spread(pages),
        "rss_added_mib": round(added, 1),
    }


def journal_panel(app: ConsoleApp) -> LinesPanel:
    return app.screen.query_one("#journal", LinesPanel)


def moved(panel: LinesPanel) -> Callable[[], bool]:
    """Is the cursor elsewhere, with all rows in view there?"""
    before = panel.cursor
    return lambda: panel.cursor != before and in_view(panel)


async def journal_figures(app: ConsoleApp, eye: Eye) -> dict[str, Any]:
    def panel() -> LinesPanel:
        return journal_panel(app)

    def there() -> bool:
        return isinstance(app.screen, JournalScreen) and in_view(panel())

    before = rss_mib()
    run = next(run for run in app.home.recent() if run.run_id == LONG_RUN)
    app.call_later(app.open_journal, run)
    opened = await eye.key("f12", lambda: there() and panel().cursor == run.entries - 1)
    top = await eye.key("g", lambda: there() and panel().cursor == 0)
    down = [await eye.key("pagedown", moved(panel())) for _ in range(KEYS)]
    end = await eye.key("G", lambda: there() and panel().cursor == run.entries - 1)
    up = [await eye.key("pageup", moved(panel())) for _ in range(KEYS)]
    added = rss_mib() - before
    filters = {}
    for text in ("denied", "receipt", "step_3"):
        await eye.key("slash", lambda: app.focused is not None and app.focused.id == "filter", "/")
        for letter in text:
            app.post_message(Key("underscore" if letter == "_" else letter, letter))
        filters[text] = round(await eye.key("enter", lambda: filtered(app), "\r"), 1)
        await eye.key("escape", lambda: there() and not journal_of(app).filter)
    await eye.key("escape", lambda: not isinstance(app.screen, JournalScreen))
    return {
        "rows": run.entries,
        "open_ms": round(opened, 1),
        "top_ms": round(top, 1),
        "end_ms": round(end, 1),
        "page_down_ms": spread(down),
        "page_up_ms": spread(up),
        "filter_ms": filters,
        "rss_added_mib": round(added, 1),
    }


def journal_of(app: ConsoleApp) -> JournalScreen:
    assert isinstance(app.screen, JournalScreen)
    return app.screen


def filtered(app: ConsoleApp) -> bool:
    """Does the journal show what its new filter lets through, or that there is nothing?"""
    screen = journal_of(app)
    if not screen.filter:
        return False
    if screen.filter.step is not None:
        return bool(screen._found)
    return screen.pager.known and (not screen.pager.rows or in_view(screen.panel))


async def dashboard_figures(app: ConsoleApp, eye: Eye, run_id: str) -> dict[str, Any]:
    def there() -> bool:
        return isinstance(app.screen, RunScreen) and in_view(journal_panel(app))

    app.call_later(app.open_run, run_id)
    opened = await eye.key("f12", there)
    state = app.opened
    assert isinstance(state, RunState)
    panel = journal_panel(app)
    begun, folded = time.perf_counter(), state.last_seq
    keys, lag = [], []
    up = True
    while time.perf_counter() - begun < CATCHING_UP and len(keys) < KEYS:
        keys.append(await eye.key("k" if up else "j", moved(panel)))
        up = not up
        asleep = time.perf_counter()
        await asyncio.sleep(0.02)
        lag.append((time.perf_counter() - asleep - 0.02) * 1000)
    rate = (state.last_seq - folded) / (time.perf_counter() - begun)
    figures = {
        "open_ms": round(opened, 1),
        "key_ms": spread(keys),
        "loop_lag_ms": spread(lag),
        "entries_folded": state.last_seq + 1,
        "rss_mib": round(rss_mib()),
    }
    catching_up = {"folded_per_second": round(rate), "still_catching_up": state.missing} if folded + 1 < rate else {}
    await eye.key("escape", lambda: not isinstance(app.screen, RunScreen))
    return figures | catching_up


@contextlib.contextmanager
def folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="history-") as made:
        yield Path(made)


def main(arguments: Sequence[str]) -> None:
    runs, entries = (int(item) for item in (*arguments[1:], *("100000", "1000000")[len(arguments[1:]) :]))
    with folder(arguments[0] if arguments else None) as root:
        full = build(root / "full", runs=runs, entries=entries)
        small = build(root / "small", runs=200, entries=SHORT)
        empty = build(root / "empty", runs=0, entries=0)
        figures: dict[str, Any] = {"build_s": round(full.seconds, 1), "store_mib": full.state.db.stat().st_size >> 20}
        figures["first_paint"] = first_paints(full.state.root, small.state.root, empty.state.root)
        begun = time.perf_counter()
        with open_threaded_deck(str(full.state.root)) as deck:
            figures["open_store_ms"] = round((time.perf_counter() - begun) * 1000)
            figures |= asyncio.run(measure(deck))
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
