"""The launch sheet: typed inputs of a mission, and what it may touch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Label, Select

from console.model.safe import safe
from runtime.events.facts import RunSummary
from runtime.host.api import InputInfo, Launch, MissionInfo, QuarterdeckError, RunStatus

_KINDS = {"integer": "integer", "number": "number"}


class LaunchScreen(ModalScreen[None]):
    """One field per declared input; enter starts the run and opens its dashboard."""

    HELP = "Fill in the inputs and press ctrl+s (or enter in the last field) to start the run."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("ctrl+s", "start", "Start", id="launch.start"),
    ]

    def __init__(self, mission: MissionInfo) -> None:
        super().__init__()
        self._mission = mission
        self._starting = False

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Label(safe(f"run {self._mission.name} v{self._mission.version}"), markup=False, classes="title")
            yield Label(safe(self._mission.description), markup=False)
            for item in self._mission.inputs:
                required = " (required)" if item.required else ""
                yield Label(
                    safe(f"{item.name}: {item.type}{required}  {item.description}"), markup=False, classes="field"
                )
                yield self._field(item)
            yield Label("", id="launch-problem", classes="problem", markup=False)
            yield Label("enter or ctrl+s start   esc back", markup=False, classes="keys")

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
            elif isinstance(field, Input) and field.value not in ("", _default_text(item)):
                values[item.name] = field.value
        return values

    def action_back(self) -> None:
        self.dismiss(None)

    @on(Input.Submitted)
    def _submitted(self) -> None:
        self.action_start()

    def key_enter(self) -> None:
        if not self._mission.inputs:
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
            run: RunSummary = await app.deck.launch(
                Launch(path=self._mission.path, inputs=self._values(), trigger="console", directory=str(Path.cwd()))
            )
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


def _default_text(item: InputInfo) -> str:
    """A default as the field shows it: an input field draws its text as it is, so it must be safe."""
    return "" if item.default is None else safe(item.default)
