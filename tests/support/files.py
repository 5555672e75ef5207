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


def documents(root: Path) -> Path:
    """The repository the tests of operations spec §8 are about; its history is of no interest."""
    for name in ("docs/a.md", "src/x.py", "config/models.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".git").mkdir()
    return root
