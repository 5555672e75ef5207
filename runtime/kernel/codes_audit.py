"""Codes of bundles, of the audit gate that judges them (operations spec §13), and of texts that are evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

AUDIT: Final[Mapping[str, str]] = {
    "BUNDLE_NOT_CANONICAL": "The archive is not encoded the one way a bundle is.",
    "NOTE_FORMAT": "A text is not a signed checkpoint.",
    "PROOF_FORMAT": "A text is not a proof that an entry is inside a checkpoint.",
    "PROOF_NONE": "No checkpoint covers the entry.",
    "WITNESS_FORMAT": "A text is neither a witness nor a signed checkpoint.",
}
