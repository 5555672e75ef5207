"""What a refusal says for itself: the rule, what was attempted, and what would have been needed."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.events.facts import violation
from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.codes_host import HOST
from runtime.kernel.codes_operations import OPERATIONS
from runtime.kernel.refusals import Tried, why
from runtime.kernel.remedies import REMEDIES, remedy

#: Codes of the host family that an operation can end on.
_OF_THE_WORLD = ("NET_", "PROCESS_", "PROVIDER_", "RULE_", "SANDBOX_", "STORE_")
REFUSING = sorted({*OPERATIONS, *(code for code in HOST if code.startswith(_OF_THE_WORLD))})


def test_every_code_that_can_refuse_says_what_decided_and_what_was_needed() -> None:
    assert [code for code in REFUSING if remedy(code) is None] == []
    for code in REFUSING:
        for told in (
            why(code, {}, Tried()),
            violation("r", 1, "", {"code": code, "step_id": "s", "operation_id": "o"}),
        ):
            words = (told.rule, told.attempted, told.needed)
            assert all(words), code
            assert not any(mark in text for text in words for mark in "{}"), code


def test_every_remedy_is_of_a_code() -> None:
    assert [code for code in REMEDIES if not code.endswith("_") and code not in REFUSING] == []


WRITE = {"tool": "filesystem.write_file", "path": "src/app.py", "content": "never told"}


@pytest.mark.parametrize(
    ("code", "evidence", "tried", "expected"),
    [
        (
            "POLICY_NOT_ALLOWED",
            {"requested_path": "src/[a].py", "operation": "modify", "rule": "envelope.allowed_paths"},
            Tried(type="tool_invoke", params=WRITE),
            (
                "envelope.allowed_paths",
                "modify src/[a].py with filesystem.write_file",
                'add "src/[[]a].py" to envelope.allowed_paths',
            ),
        ),
        (
            "POLICY_NOT_ALLOWED",
            {
                "requested_path": "out/.quarterdeck-tree",
                "operation": "write",
                "rule": "step envelope.allowed_paths",
            },
            Tried(type="tool_invoke", params={"tool": "process", "action": "run", "template": "make"}),
            (
                "step envelope.allowed_paths",
                "write out with process.run",
                'add "out/**" to the block\'s envelope.allowed_paths',
            ),
        ),
        (
            "POLICY_DENIED",
            {"requested_path": "docs/SECRET/k", "operation": "read", "rule": "envelope.denied_paths: docs/secret/**"},
            Tried(),
            (
                "envelope.denied_paths: docs/secret/**",
                "read docs/SECRET/k",
                'take "docs/secret/**" out of envelope.denied_paths: no allowed path outweighs a denied one',
            ),
        ),
        (
            "SELFMOD_PROTECTED",
            {"requested_path": "a/CLAUDE.md", "operation": "create", "matching_patterns": ["**/CLAUDE.md"]},
            Tried(type="tool_invoke", params=WRITE),
            (
                "protected: **/CLAUDE.md",
                "create a/CLAUDE.md with filesystem.write_file",
                "nothing: protected files are edited by people, outside missions",
            ),
        ),
        (
            "ENV_TOOL",
            {"operation": "tool_invoke", "tool": "git.add", "rule": "envelope.allowed_tools"},
            Tried(type="tool_invoke", params={"tool": "git.add", "paths": ["a", "b", "c"]}),
            ("envelope.allowed_tools", "git.add a and 2 more", "add git.add to envelope.allowed_tools"),
        ),
        (
            "BUDGET_EXCEEDED",
            {"reserve_micros": 1_250_000, "rule": "budgets.usd"},
            Tried(type="llm_call", params={"role": "reader"}, micros=1_250_000),
            ("budgets.usd", "llm_call asking reader for up to $1.25", "$1.25: raise budgets.usd, or ask for less"),
        ),
        (
            "NET_HOST_DENIED",
            {"attempted": "evil.example:443", "needed": "sandbox.hosts: [evil.example]"},
            Tried(type="tool_invoke"),
            ("sandbox.hosts", "evil.example:443", "sandbox.hosts: [evil.example]"),
        ),
        (
            "RULE_DENIED",
            {"rule": "no pushes on fridays", "position": "rules.yaml:3:5"},
            Tried(type="tool_invoke", params={"tool": "git.commit"}),
            (
                "rules.yaml:3:5 no pushes on fridays",
                "git.commit",
                "nothing in the mission: the operator's rules decide this",
            ),
        ),
        (
            "PACK_SAYS_NO",
            {},
            Tried(type="tool_invoke", params={"tool": "pack.act", "path": "/etc/pass\nwd{x}"}),
            ("the code itself", "pack.act <absolute>/pass\\nwd{x}", "whatever its author says of the code"),
        ),
    ],
)
def test_the_words_of_a_refusal(
    code: str, evidence: dict[str, Any], tried: Tried, expected: tuple[str, str, str]
) -> None:
    told = why(code, evidence, tried)
    assert (told.rule, told.attempted, told.needed) == expected


def test_words_can_always_be_recorded() -> None:
    hostile: list[Any] = ["\ud800", "x" * 10_000, {"a": 1}, 7, None, "\x1b[2J\u202e", ["\udfff"]]
    for value in hostile:
        told = why(
            "ENV_TOOL", {"operation": value, "normal_form": value}, Tried(params={"path": value, "paths": value})
        )
        canonical_bytes([told.rule, told.attempted, told.needed])


def test_an_entry_without_the_words_gets_those_that_follow_from_the_rest() -> None:
    entry = {"code": "PATH_ABSOLUTE", "step_id": "a", "operation_id": "a.0", "path": "<absolute>/x"}
    found = violation("run", 4, "now", entry, mission="m")
    assert (found.rule, found.attempted) == ("path syntax L10", "<absolute>/x")
    assert found.needed == "nothing: absolute paths are never allowed; use a path relative to the work tree"
    assert violation("run", 4, "now", {**entry, "rule": "of old", "during": True}).rule == "of old"
