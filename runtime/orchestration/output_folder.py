"""The run's output folder: where a mission leaves files that are not part of the tree it works on.

It lies in the state folder under the run's id, so no two runs share it, nobody's files are in it, and nothing in it
is ever governed, locked or undone. What is there is kept, whatever becomes of the run, like an artifact with a name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from runtime.governance.path_io import fill, temporary_file
from runtime.kernel.errors import Refused

#: What one run may leave: files, and bytes in all. One file is bounded like any written file.
MAX_FILES: Final = 1_000
MAX_TOTAL_BYTES: Final = 64 * 1024 * 1024
_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_OPEN_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutputFolder:
    """The folder at ``path``; it and the folder above it (the run's own) are made with the first file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, data: bytes) -> None:
        """Put ``data`` under ``name``, a relative path in normal form, at once or not at all. Blocking.

        A file of that name is replaced: a repeated or resumed step writes what it wrote before. Links are never
        followed. Raises `Refused`: ``ENV_LIMIT`` when the run would leave too much, ``PATH_IO``.
        """
        *folders, last = name.split("/")
        try:
            self._check_room(name, len(data))
            with self._opened(folders) as parent:
                with temporary_file(parent, last) as (temporary, file):
                    fill(file, data, _FILE_MODE, None)
                    os.rename(temporary, last, src_dir_fd=parent, dst_dir_fd=parent)
                os.fsync(parent)
        except OSError as error:
            raise Refused("PATH_IO", f"{name!r} cannot be written: {error.strerror}", where=str(self.path)) from error

    def _check_room(self, name: str, size: int) -> None:
        files, total, own = 1, size, self.path / name
        for folder, _, names in os.walk(self.path):
            for path in (Path(folder, item) for item in names):
                if path != own:
                    files, total = files + 1, total + path.lstat().st_size
        if files > MAX_FILES or total > MAX_TOTAL_BYTES:
            raise Refused(
                "ENV_LIMIT",
                f"{name!r} would make {files} files of {total} bytes; a run may leave {MAX_FILES} of {MAX_TOTAL_BYTES}",
                where=str(self.path),
            )

    @contextmanager
    def _opened(self, folders: Sequence[str]) -> Iterator[int]:
        """A descriptor of the folder below this one, its way made where it is missing."""
        for made in (self.path.parent, self.path):
            made.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        current = os.open(self.path, _OPEN_DIR)
        try:
            for name in folders:
                with suppress(FileExistsError):
                    os.mkdir(name, _FOLDER_MODE, dir_fd=current)
                below = os.open(name, _OPEN_DIR, dir_fd=current)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)
