"""The launch sheet: typed inputs of a mission, and for another run of a lineage where it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Checkbox, Input, Label, Select

from console.model.estimates import confidence_line, expected_line
from console.model.home import untrusted_line
from console.model.safe import safe
from console.model.words import status_word
from runtime.events.facts import RunSummary
from runtime.host.api import InputInfo, Launch, MissionInfo, QuarterdeckError, RunStatus

_KINDS = {"integer": "integer", "number": "number"}
FROM_TEXT = "from: finished steps that do not follow it are reused"


@dataclass(frozen=True, slots=True)
class Again:
    """The run whose lineage goes on, the steps it may be forked from, and the one chosen; None is the start."""

    run: RunSummary
    steps: tuple[str, ...]
    step: str | None = None


class LaunchScreen(ModalScreen[None]):
    """One field per declared input; enter starts the run and opens its dashboard. With ``again`` the fields hold the
    inputs of that run, and a choice says from which of its steps the new one starts."""

    HELP = "Fill in the inputs and press ctrl+s (or enter in the last field) to start the run."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("ctrl+s", "start", "Start", id="launch.start"),
    ]

    def __init__(self, mission: MissionInfo, again: Again | None = None) -> None:
        super().__init__()
        self._mission = mission if again is None else replace(mission, inputs=tuple(_refilled(mission, again.run)))
        self._again = again
        self._starting = False

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            verb = "run" if self._again is None else "run again"
            yield Label(safe(f"{verb} {self._mission.name} v{self._mission.version}"), markup=False, classes="title")
            yield from self._heading()
            yield Label("", id="launch-expected", classes="field", markup=False)
            for item in self._mission.inputs:
                required = " (required)" if item.required else ""
                yield Label(
                    safe(f"{item.name}: {item.type}{required}  {item.description}"), markup=False, classes="field"
                )
                yield self._field(item)
            yield Label("", id="launch-problem", classes="problem", markup=False)
            yield Label(self._keys(), markup=False, classes="keys")

    def _heading(self) -> Iterator[Widget]:
        """What the mission is about; for another run, which one it follows and from where."""
        again = self._again
        if again is None:
            yield Label(safe(self._mission.description), markup=False)
            return
        word = status_word(again.run.status, resumable=again.run.resumable)
        yield Label(safe(f"after {again.run.run_id[:8]} ({word}), which stays as it is"), markup=False)
        yield Label(safe(FROM_TEXT), markup=False, classes="field")
        steps = [(Content("the start"), ""), *((Content(safe(step)), step) for step in again.steps)]
        yield Select(steps, id="from-step", value=again.step or "", allow_blank=False)

    def _keys(self) -> str:
        """On a list of choices enter opens it, and some sheets begin with one."""
        begins = self._again is not None or any(item.choices for item in self._mission.inputs[:1])
        return "ctrl+s start   enter opens a list   esc back" if begins else "enter or ctrl+s start   esc back"

    def _field(self, item: InputInfo) -> Input | Checkbox | Select[Any]:
        name = f"input-{item.name}"
        if item.choices:
            options = [(Content(safe(choice)), choice) for choice in item.choices]
            if item.default is None:
                return Select(options, id=name, prompt="choose")
            return Select(options, id=name, value=item.default, allow_blank=False)
        if item.type == "boolean":
            return Checkbox(Content(safe(item.name)), value=bool(item.default), id=name)
        kind = cast("Any", _KINDS.get(item.type, "text"))
        return Input(_default_text(item), id=name, type=kind, valid_empty=True)

    def on_mount(self) -> None:
        fields = self.query("Input, Checkbox, Select")
        if fields:
            fields.first().focus()
        self.run_worker(self._expect, group="expect", exit_on_error=False)

    async def _expect(self) -> None:
        """Say what earlier runs took. Not knowing keeps nobody from starting."""
        from console.app import ConsoleApp

        shown = self.query_one("#launch-expected", Label)
        expected = "expected" if self._again is None else "expected from the start"
        try:
            deck = cast("ConsoleApp", self.app).deck
            untrusted = untrusted_line(await deck.mission(self._mission.path))
            found = await deck.estimate(self._mission.path)
        except QuarterdeckError as error:
            shown.update(safe(f"{expected}: cannot be told: {error.message}"))
            return
        lines = [f"{expected}: {expected_line(found)}", confidence_line(found), *found.notes, untrusted]
        shown.update("\n".join(safe(line) for line in lines if line))

    def _values(self) -> Mapping[str, Any]:
        """What was filled in; empty and untouched fields are left to the mission's defaults."""
        values: dict[str, Any] = {}
        for item in self._mission.inputs:
            field = self.query_one(f"#input-{item.name}")
            if isinstance(field, Checkbox):
                values[item.name] = field.value
            elif isinstance(field, Select):
                if not field.is_blank():
                    values[item.name] = field.value
            elif isinstance(field, Input) and field.value not in self._untouched(item):
                values[item.name] = field.value
        return values

    def _untouched(self, item: InputInfo) -> tuple[str, ...]:
        """Texts that leave a value as it is; emptying the text of an earlier run means empty."""
        return (
            (_default_text(item),) if self._again is not None and item.type == "string" else ("", _default_text(item))
        )

    def action_back(self) -> None:
        self.dismiss(None)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def key_enter(self) -> None:
        if not self._mission.inputs and self._again is None:
            self.action_start()

    def action_start(self) -> None:
        if not self._starting:
            self._starting = True
            self.run_worker(self._start, exclusive=True, group="launch", exit_on_error=False)

    async def _start(self) -> None:
        from console.app import ConsoleApp

        app = cast("ConsoleApp", self.app)
        problem = self.query_one("#launch-problem", Label)
        problem.update("starting …")
        try:
            run: RunSummary = await app.deck.launch(self._intent())
        except QuarterdeckError as error:
            listed = getattr(error, "problems", ())
            problem.update(safe("\n".join(item.message for item in listed) or str(error), lines=True))
            self._starting = False
            return
        if run.status is RunStatus.REFUSED:
            problem.update(safe(f"refused: {run.code} {run.message or ''}"))
            self._starting = False
            return
        # The run is opened by the application: this screen's workers end with it.
        app.open_run(run.run_id)
        self.dismiss(None)

    def _intent(self) -> Launch:
        intent = Launch(path=self._mission.path, inputs=self._values(), trigger="console", directory=str(Path.cwd()))
        if self._again is None:
            return intent
        step = cast("Select[str]", self.query_one("#from-step", Select)).value
        return replace(intent, parent_run_id=self._again.run.run_id, from_step=str(step) or None)


def _refilled(mission: MissionInfo, run: RunSummary) -> Iterator[InputInfo]:
    """The declared inputs with the values of an earlier run in place of their defaults, where those still fit."""
    for item in mission.inputs:
        value = run.inputs.get(item.name, item.default)
        yield replace(item, default=value) if not item.choices or value in item.choices else item


def _default_text(item: InputInfo) -> str:
    """A default as the field shows it: an input field draws its text as it is, so it must be safe."""
    if isinstance(item.default, list | tuple):
        return safe(json.dumps(list(item.default), ensure_ascii=False))
    return "" if item.default is None else safe(item.default)
