"""Themes are files: the bundled folder's, and the operator's own beside their configuration.

A wrong colour in a theme would end a running Textual application when the theme is selected, so each foreign one is
first tried against the live style sheet; one that does not parse is reported by file and left out.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Final

import platformdirs
from textual.app import App
from textual.theme import Theme

from console.assets import bundled

_FIELDS: Final = {item.name for item in dataclasses.fields(Theme)}


def own_folder() -> Path:
    """Where an operator keeps their own themes; one of the same name wins over ours."""
    return platformdirs.user_config_path("quarterdeck") / "themes"


def load_bundled_themes(app: App[Any]) -> list[str]:
    """Register our own themes, before there is a style sheet to try them on: the tests prove them."""
    return _load(app, bundled("themes"), proven=True)


def load_own_themes(app: App[Any]) -> list[str]:
    """Register the operator's themes, once the style sheet is there to try them on."""
    return _load(app, own_folder(), proven=False)


def _load(app: App[Any], folder: Path, *, proven: bool) -> list[str]:
    """One sentence per file that was left out."""
    problems = []
    for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
        try:
            app.register_theme(read_theme(app, path, proven=proven))
        except Exception as error:  # noqa: BLE001 - a theme file may fail in any of Textual's and tomllib's ways
            problems.append(f"theme {path.name} left out: {error}")
    return problems


def read_theme(app: App[Any], path: Path, *, proven: bool = False) -> Theme:
    """Read one theme file and prove that the live style sheet parses with it.

    Parsing takes some forty milliseconds of every start, so the bundled themes, which the tests prove, are not tried.
    Raises ValueError for unknown keys, and whatever tomllib or Textual raise for bad values.
    """
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    if extra := sorted(set(raw) - _FIELDS):
        raise ValueError(f"unknown keys: {', '.join(extra)}")
    theme = Theme(**{"name": path.stem, **raw})
    if proven:
        return theme
    colours = {**app.get_theme_variable_defaults(), **theme.to_color_system().generate(), **theme.variables}
    sheet = app.stylesheet.copy()
    sheet.set_variables(colours)
    sheet.reparse()
    return theme
