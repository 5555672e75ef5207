"""One refused operation as the console tells it: its line, its full story, and what a filter finds it by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from console.model.rows import Row
from console.model.violations import Columns, matches, violation_details, violation_row
from runtime.events.facts import violation

ENTRY = {
    "step_id": "fetch",
    "operation_id": "fetch.0",
    "code": "NET_HOST_DENIED",
    "reason": "evil.example is not listed",
    "attempted": "evil.example:443",
    "needed": "sandbox.hosts: [evil.example]",
    "during": True,
}
REFUSED = violation("8b3f0000", 7, "2026-01-02T00:00:00.000000Z", ENTRY, mission="mirror")


def text(rows: list[Row]) -> str:
    return "\n".join("".join(part for part, _ in row) for row in rows)


def test_what_a_running_operation_was_refused_is_told_like_any_other() -> None:
    line = text([violation_row(REFUSED, Columns.of([REFUSED]))])
    assert line.split() == ["✗", "fetch", "NET_HOST_DENIED", "evil.example:443", "sandbox.hosts"]
    told = text(violation_details(replace(REFUSED, outcome="went_on")))
    for part in (
        "attempted  evil.example:443",
        "refused by sandbox.hosts",
        "needed     sandbox.hosts: [evil.example]",
        "became     the operation went on without it",
        "operation  fetch.0 (while it ran)",
    ):
        assert part in told


@pytest.mark.parametrize("wanted", ["", "mirror", "FETCH", "net_", "evil.example", "sandbox.hosts", "8b3f"])
def test_a_filter_finds_what_the_line_shows(wanted: str) -> None:
    assert matches(REFUSED, wanted)
    assert not matches(REFUSED, wanted + "?")
