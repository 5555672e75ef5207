"""Codes of bundles and of the audit gate that judges them (operations spec §13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

AUDIT: Final[Mapping[str, str]] = {
    "BUNDLE_NOT_CANONICAL": "The archive is not encoded the one way a bundle is.",
}
