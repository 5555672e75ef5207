"""Where the folders shipped beside the code are: inside an installed wheel first, in a checkout second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def bundled(name: str) -> Path:
    """The folder ``name`` (``themes`` or ``sample_missions``). Raises FileNotFoundError when this copy lacks it."""
    for base in (_HERE / "_data", _HERE.parent):
        if (base / name).is_dir():
            return base / name
    raise FileNotFoundError(f"bundled folder {name!r} is missing from this installation")


def mission_folders(chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Where missions are listed from: the folders given, else ``.missions`` and ``missions`` here, then the samples."""
    if chosen:
        return tuple(chosen)
    own = (Path.cwd() / name for name in (".missions", "missions"))
    return (*(str(path) for path in own if path.is_dir()), str(bundled("sample_missions")))
