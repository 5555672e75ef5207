"""Codes of bundles and of the audit gate that judges them (operations spec §13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

AUDIT: Final[Mapping[str, str]] = {
    "BUNDLE_ARTIFACT": "A body in a bundle is not the one its name says.",
    "BUNDLE_EXISTS": "There is a file of this name already; a bundle never replaces one.",
    "BUNDLE_FILE_KIND": "Only regular files go into a bundle, each under one name.",
    "BUNDLE_FILE_MISSING": "A file that a bundle cannot be without is missing.",
    "BUNDLE_IO": "A file could not be read or written while a bundle was built.",
    "BUNDLE_KIND": "There is no such kind of content to withhold.",
    "BUNDLE_LIVE": "The run to hand on has not ended.",
    "BUNDLE_MANIFEST": "An extracted bundle is not what its manifest says any more.",
    "BUNDLE_NOT_A_RUN": "The bundle holds no run.",
    "BUNDLE_NOT_CANONICAL": "The archive is not encoded the one way a bundle is.",
    "BUNDLE_RECORD": "What the run ran from is not stored, so it cannot be handed on.",
    "BUNDLE_REFUSED": "The audit gate refuses the bundle that was built.",
    "BUNDLE_RUN": "The run data in a bundle is malformed or contradicts itself.",
    "BUNDLE_STATEMENT": "The signed statement in a bundle does not hold.",
    "BUNDLE_TOO_LARGE": "What should go into the bundle exceeds its limits.",
    "IMPORT_CLOSURE": "Bundled code imports something that is not in the bundle.",
    "PY_SYNTAX": "A Python file does not compile.",
}
