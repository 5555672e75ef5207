"""Files for tests, in one line each."""

from __future__ import annotations

from pathlib import Path


def put(root: Path, path: str, text: str = "", mode: int = 0o644) -> Path:
    """Write ``text`` at ``path`` below ``root``, folders included."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file
