"""What a list of commits says about a release: a pure block behind release notes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Final

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import BlockValueContract, multiple, once
from runtime.blocks.errors import BlockInputError
from runtime.blocks.values import BlockValue

MAX_COMMITS: Final = 10_000
#: Groups in the order notes list them, each with the prefixes people write; what fits none is ``other``.
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "feat": ("feat", "feature"),
    "fix": ("fix", "bugfix", "hotfix"),
    "perf": ("perf",),
    "docs": ("docs", "doc"),
    "upkeep": ("build", "chore", "ci", "refactor", "revert", "style", "test", "tests"),
    "other": (),
}
_KIND_OF: Final = {prefix: kind for kind, prefixes in KINDS.items() for prefix in prefixes}
#: ``feat(console)!: say why``
_CONVENTIONAL: Final = re.compile(r"([A-Za-z]+)(?:\(([^()]*)\))?(!)?:\s+(\S.*)\Z", re.DOTALL)


class ConventionalCommits(
    Block, display_name="Group commits", input=multiple(), output=once("map"), side_effects="none", inline=True
):
    """Group commits as git.log lists them by their prefix (``feat: …``); merges and authors are counted."""

    commits: Any = field(default=None, metadata={"help": "The commits; the input when silent."})

    @property
    def input_contract(self) -> BlockValueContract:
        return once("list") if self.commits is None else multiple()

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """The kind gate says everything there is to check."""

    def run(self, input: BlockValue, ctx: BlockContext) -> dict[str, Any]:
        found = (input if self.commits is None else BlockValue.of(self.commits)).expect_list()
        if len(found) > MAX_COMMITS:
            raise BlockInputError("transform.invalid_input", f"{len(found)} commits are more than {MAX_COMMITS}")
        if not all(item.is_map for item in found):
            raise BlockInputError("input.element_kind", "every element must be a map as git.log gives it")
        return summarised([item.to_python() for item in found])


def summarised(commits: list[dict[str, Any]]) -> dict[str, Any]:
    """``changes`` and ``merges`` (counts), ``groups`` (kind and commits, empty ones left out), ``breaking`` (the
    commits marked ``!``) and ``authors`` (name and commits, the busiest first)."""
    changes = [_change(item) for item in commits if len(item.get("parents") or ()) < 2]
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for change in changes:
        by_kind[change["kind"]].append(change)
    authors = Counter(change["author"] for change in changes)
    return {
        "changes": len(changes),
        "merges": len(commits) - len(changes),
        "groups": [{"kind": kind, "commits": listed} for kind, listed in by_kind.items() if listed],
        "breaking": [change for change in changes if change["breaking"]],
        "authors": [
            {"name": name, "commits": count}
            for name, count in sorted(authors.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


def _change(commit: Mapping[str, Any]) -> dict[str, Any]:
    subject = str(commit.get("subject") or "").strip()
    parts = _CONVENTIONAL.match(subject)
    kind = _KIND_OF.get(parts[1].lower()) if parts is not None else None
    conventional = parts if kind is not None else None
    return {
        "commit": str(commit.get("commit") or ""),
        "author": str(commit.get("author") or ""),
        "kind": kind or "other",
        "scope": (conventional[2] or "") if conventional is not None else "",
        "breaking": conventional is not None and conventional[3] is not None,
        "text": conventional[4] if conventional is not None else subject,
    }
