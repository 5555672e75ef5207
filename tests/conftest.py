"""Shared by every test: one event loop flavour, and screenshots that only change when the screen does."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_textual_snapshot as plugin
import time_machine
from hypothesis import settings

# A law holds or it does not; how long one example takes depends on what else the machine does.
settings.register_profile("quarterdeck", deadline=None)
settings.load_profile("quarterdeck")

# The snapshot plugin writes content-hash ids and web-font links; both would rewrite every line on any change.
_UID = re.compile(r"\bterminal-\d+-([\w-]+)")
_FONT = re.compile(r"@font-face\s*\{[^}]*\}\s*")


def _clean(svg: str) -> str:
    return _FONT.sub("", _UID.sub(r"terminal-\1", svg))


class CleanSvg(plugin.SVGImageExtension):
    """The plugin's SVG files without volatile parts."""

    file_extension = "svg"

    def serialize(self, data: Any, **kwargs: Any) -> str:
        return _clean(super().serialize(data, **kwargs))

    def read_snapshot_data_from_location(self, **kwargs: Any) -> Any:
        data = super().read_snapshot_data_from_location(**kwargs)
        return _clean(data) if isinstance(data, str) else data


plugin.SVGImageExtension = CleanSvg


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Freeze what screens draw of the time, and remove settings that change the picture."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TEXTUAL_THEME", raising=False)
    with time_machine.travel(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), tick=False):
        yield
