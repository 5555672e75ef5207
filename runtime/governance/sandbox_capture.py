"""What is kept of a child's output: everything is counted and hashed, only the two ends are stored."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

_STATUS_CHUNK: Final = 64 * 1024


class Capture:
    """One output stream: digest and length of all of it, the first and the last ``cap`` bytes."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._head = bytearray()
        self._tail = bytearray()
        self._digest = hashlib.sha256()
        self.count = 0

    def add(self, chunk: bytes) -> None:
        self.count += len(chunk)
        self._digest.update(chunk)
        room = self._cap - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        # Cutting only at twice the cap keeps the cost per byte constant.
        if len(self._tail) > 2 * self._cap:
            del self._tail[: len(self._tail) - self._cap]

    @property
    def sha256(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    @property
    def left_out(self) -> int:
        """Bytes in the middle that are not kept."""
        return max(0, self.count - 2 * self._cap)

    def body(self) -> bytes:
        """Head and tail, with a line between them where something was left out."""
        tail = bytes(self._tail[-self._cap :]) if self._cap else b""
        if not self.left_out:
            return bytes(self._head) + tail
        return bytes(self._head) + b"\n[... %d bytes left out ...]\n" % self.left_out + tail


class StatusReader:
    """JSON lines from the starter. They arrive over several reads and may be cut anywhere."""

    def __init__(self, descriptor: int, on_document: Callable[[Mapping[str, Any]], None]) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._on_document = on_document
        self._pending = b""

    def drain(self) -> bool:
        """Hand over every complete line now available; False once the other side has closed."""
        while True:
            try:
                chunk = os.read(self._descriptor, _STATUS_CHUNK)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            *lines, self._pending = (self._pending + chunk).split(b"\n")
            for line in filter(None, lines):
                self._on_document(json.loads(line))
