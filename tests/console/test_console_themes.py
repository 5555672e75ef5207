"""Themes are files: readable in every text role, and a broken one is named and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fake_deck import FakeDeck
from textual.color import Color

from console import themes
from console.app import ConsoleApp
from console.assets import bundled

TEXT_ROLES = ("foreground", "primary", "secondary", "success", "warning", "error")
BACKGROUNDS = ("background", "surface", "panel")
READABLE = 4.5  # WCAG 2.2, level AA, for text of ordinary size
NAMES = sorted(path.stem for path in bundled("themes").glob("*.toml"))


@pytest.fixture
def own_themes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(themes, "own_folder", lambda: tmp_path)
    return tmp_path


def ratio(one: Color, other: Color) -> float:
    """WCAG contrast ratio."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: Color) -> float:
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


async def colours(name: str) -> dict[str, Color]:
    app = ConsoleApp(FakeDeck(), theme=name)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.theme == name
        return {key: Color.parse(value) for key, value in app.theme_variables.items() if value.startswith("#")}


@pytest.mark.parametrize("name", NAMES)
async def test_every_text_role_is_readable(name: str) -> None:
    """Also dim text, which is the foreground at 70 %, and rows under the cursor."""
    found = await colours(name)
    for below in BACKGROUNDS:
        dim = found[below].blend(found["foreground"], 0.7)
        for role, colour in [("dim", dim), *((role, found[role]) for role in TEXT_ROLES)]:
            contrast = ratio(colour, found[below])
            assert contrast >= READABLE, f"{name}: {role} on {below} is {contrast:.2f}"
    assert ratio(found["block-cursor-foreground"], found["block-cursor-background"]) >= READABLE


@pytest.mark.parametrize("name", NAMES)
async def test_states_differ_without_red_and_green(name: str) -> None:
    """Good and bad must differ in lightness or in blue, which the common colour deficiencies still see."""
    found = await colours(name)
    good, bad = found["success"], found["error"]
    assert abs(good.brightness - bad.brightness) > 0.08 or abs(good.b - bad.b) > 40


def test_no_colour_is_written_down_outside_the_themes() -> None:
    for sheet in Path(themes.__file__).parent.rglob("*.tcss"):
        assert "#" not in "".join(part.split("{")[1] for part in sheet.read_text().split("}") if "{" in part), sheet


BROKEN = {
    "colour": 'primary = "notacolour"',
    "key": 'primary = "#112233"\ncolour = "red"',
    "syntax": "primary = ",
    "missing": "dark = true",
    "type": "primary = 7",
    "variable": 'primary = "#112233"\n[variables]\nborder = "$$nothing"',
}


async def test_broken_theme_files_are_named_and_left_out(own_themes: Path) -> None:
    for name, text in BROKEN.items():
        (own_themes / f"{name}.toml").write_text(text)
    (own_themes / "mine.toml").write_text('primary = "#80b0ff"')
    app = ConsoleApp(FakeDeck(), theme="mine")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        shown = " ".join(str(item.message) for item in app._notifications)
        assert [name for name in BROKEN if f"theme {name}.toml left out" not in shown] == []
        assert app.theme == "mine"
        assert not {*BROKEN} & {*app.available_themes}


async def test_an_unknown_theme_falls_back(own_themes: Path) -> None:
    app: Any = ConsoleApp(FakeDeck(), theme="nope")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert app.theme == "night-watch"
        assert any("nope" in str(item.message) for item in app._notifications)
