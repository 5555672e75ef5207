"""The envelope: an empty list allows nothing, deny beats allow, and a verdict holds until the moment of use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.governance.envelope_enforcer import EnvelopeEnforcer, normalise_request
from runtime.kernel.errors import ContractError, ModelError, Refused
from runtime.kernel.model import (
    Access,
    Effect,
    Envelope,
    EnvelopeViolation,
    Operation,
    OperationPlan,
    PlannedPath,
)

from .rig import context

DOCS = Envelope(allowed_paths=["docs/**"])
ALL = Envelope(allowed_paths=["**"])


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in ("docs/a.md", "src/x.py", "config/models.yaml"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def enforcer(repo: Path) -> Iterator[EnvelopeEnforcer]:
    with EnvelopeEnforcer(repo) as made:
        yield made


def code(enforcer: EnvelopeEnforcer, path: object, access: str, stack: Any = DOCS, **options: bool) -> str:
    return enforcer.validate_path_access(path, access, stack, **options).code


# Envelopes


@pytest.mark.parametrize("budget", [True, float("nan"), float("inf"), -1, 0.0000001, 1_000_000.5, "1", None])
def test_what_is_no_sum_of_money_is_refused(budget: Any) -> None:
    with pytest.raises(ModelError, match="ENV_BUDGET"):
        Envelope(max_budget_usd=budget)


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"allow_paths": ["a/**"], "allowed_paths": ["b/**"]}, "ENV_ALIAS_CONFLICT"),
        ({"deny_paths": ["a/**"], "denied_paths": ["b/**"]}, "ENV_ALIAS_CONFLICT"),
        ({"timeout_seconds": 0}, "ENV_TIMEOUT"),
        ({"timeout_seconds": True}, "ENV_TIMEOUT"),
        ({"allowed_paths": "docs"}, "ENV_TYPE"),
        ({"allowed_folders": ["docs"]}, "ENV_UNKNOWN_FIELD"),
        ({"allowed_paths": ["docs/**", "/etc/**"]}, "GLOB_INVALID"),
    ],
)
def test_an_envelope_that_is_none(members: dict[str, Any], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        Envelope(**members)
    assert caught.value.code == code


def test_the_identity_covers_every_member() -> None:
    members: list[dict[str, Any]] = [
        {},
        {"allowed_paths": ["a"]},
        {"denied_paths": ["a"]},
        {"allowed_tools": ["a"]},
        {"allowed_roles": ["a"]},
        {"reject_symlinks": False},
        {"max_budget_usd": 1},
        {"timeout_seconds": 61},
        {"allow_ops": []},
    ]
    assert len({Envelope(**item).envelope_hash for item in members}) == len(members)
    assert Envelope(allow_paths=["b", "a"]).envelope_hash == Envelope(allowed_paths=["a", "b"]).envelope_hash


# Patterns


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("docs/*.md", ["docs/a.md", "docs/.md"], ["docs/x/a.md", "docs/a.MD", "docs"]),
        ("docs/**", ["docs/a", "docs/x/y"], ["docs", "docs_evil/a"]),
        ("docs/**/*.md", ["docs/a.md", "docs/x/y/a.md"], ["docs/a.txt"]),
        ("**/CLAUDE.md", ["CLAUDE.md", "a/b/CLAUDE.md"], ["CLAUDE.md.bak"]),
        ("docs/", ["docs", "docs/x"], ["docsx"]),
        ("*", ["a", ".env"], ["a/b"]),
        ("?", ["é"], ["ab", "/"]),
        ("[!a-c]", ["d"], ["a", "b"]),
        ("[*]", ["*"], ["a"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [path for path in matching if not EnvelopeEnforcer.matches(pattern, path)] == []
    assert [path for path in others if EnvelopeEnforcer.matches(pattern, path)] == []


@pytest.mark.parametrize("pattern", ["/a", "a//b", "a/./b", "../a", "a\\b", "a**", "a\0", "[a", "**/" * 5 + "a"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ModelError, match="GLOB_INVALID"):
        Envelope(allowed_paths=[pattern])


# Names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (None, "PATH_TYPE"),
        ("", "PATH_EMPTY"),
        ("docs/\ud800", "PATH_ENCODING"),
        ("a" * 1025, "PATH_TOO_LONG"),
        ("docs/a\0b", "PATH_NUL"),
        ("docs/a\nb", "PATH_CONTROL"),
        ("docs/a\u202eb", "PATH_INVISIBLE"),
        ("//host/x", "PATH_UNC"),
        ("C:x", "PATH_DRIVE"),
        ("/etc/passwd", "PATH_ABSOLUTE"),
        ("docs\\a.md", "PATH_BACKSLASH"),
        ("docs/../src/x.py", "PATH_TRAVERSAL"),
        ("docs/...", "PATH_TRAVERSAL"),
        ("docs/%2e%2e/x", "PATH_PERCENT"),
        ("docs//a.md", "PATH_NOT_NORMAL"),
        ("docs/./a.md", "PATH_NOT_NORMAL"),
        ("~/x", "PATH_HOME"),
        ("docs/a.md:x", "PATH_STREAM"),
        ("docs/a?", "PATH_RESERVED_CHAR"),
        ("a/" * 64 + "a", "PATH_TOO_DEEP"),
        ("docs/" + "a" * 256, "PATH_COMPONENT_TOO_LONG"),
        ("docs/a.", "PATH_EDGE_CHAR"),
        ("docs/con.md", "PATH_RESERVED_NAME"),
        ("docs/ABCDEF~1.TXT", "PATH_SHORT_NAME"),
        ("docs/\uff0e\uff0e/x", "PATH_CONFUSABLE"),
        ("docs/e\u0301", "PATH_NOT_NFC"),
        (".git/config", "PATH_GIT_INTERNAL"),
        ("docs/.GIT/x", "PATH_GIT_INTERNAL"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("PATH_") else "",
)
def test_names_that_are_refused_as_such(enforcer: EnvelopeEnforcer, path: object, expected: str) -> None:
    for access in ("read", "write"):
        assert code(enforcer, path, access, ALL) == expected


def test_front_ends_may_tidy_and_nothing_else() -> None:
    assert normalise_request("./docs//a.md/") == "docs/a.md"
    assert normalise_request("docs/../a.md") == "docs/../a.md"


# Policy


def test_an_empty_envelope_and_an_empty_stack_allow_nothing(enforcer: EnvelopeEnforcer) -> None:
    for stack in ((), Envelope(), (DOCS, Envelope())):
        assert code(enforcer, "docs/a.md", "read", stack) == "POLICY_NOT_ALLOWED"


def test_an_envelope_on_top_only_narrows(enforcer: EnvelopeEnforcer) -> None:
    assert code(enforcer, "src/x.py", "read", (DOCS, ALL)) == "POLICY_NOT_ALLOWED"
    assert code(enforcer, "docs/a.md", "read", (DOCS, ALL)) == "OK"
    denying = (ALL, Envelope(allowed_paths=["**"], denied_paths=["docs/*.md"]))
    assert code(enforcer, "docs/a.md", "read", denying) == "POLICY_DENIED"


def test_deny_beats_allow_and_ignores_spelling(enforcer: EnvelopeEnforcer) -> None:
    denied = Envelope(allowed_paths=["**"], denied_paths=["DOCS/**"])
    assert code(enforcer, "docs/a.md", "read", denied) == "POLICY_DENIED"
    upper = Envelope(allowed_paths=["DOCS/**"])
    assert code(enforcer, "docs/a.md", "read", upper) == "POLICY_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("path", "access", "expected"),
    [
        ("docs/a.md", "modify", "OK"),
        ("docs/new.md", "create", "OK"),
        ("docs/a.md", "create", "PATH_EXISTS"),
        ("docs/new.md", "modify", "PATH_MISSING"),
        ("docs/A.md", "read", "PATH_CASE_MISMATCH"),
        ("docs/A.md", "write", "PATH_CASE_COLLISION"),
        ("docs/a.md/x", "read", "PATH_NOT_DIRECTORY"),
        ("docs", "read", "PATH_IS_DIRECTORY"),
        ("none/x", "create", "PATH_PARENT_MISSING"),
        ("config/models.yaml", "modify", "SELFMOD_PROTECTED"),
        ("config/models.yaml", "read", "OK"),
        ("config", "delete", "SELFMOD_ANCESTOR"),
        ("STOP_AUTONOMY", "create", "PATH_RUNTIME_RESERVED"),
        ("docs/a.md", "READ", "PATH_OPERATION"),
    ],
)
def test_policy_and_what_is_there(enforcer: EnvelopeEnforcer, path: str, access: str, expected: str) -> None:
    assert code(enforcer, path, access, ALL) == expected


# Operations


@pytest.mark.parametrize(
    ("envelope", "plan", "expected"),
    [
        ({}, {}, "OK"),
        ({"allow_ops": ["gate_check"]}, {}, "ENV_OP"),
        ({"allowed_roles": []}, {}, "ENV_ROLE"),
        ({"allowed_tools": []}, {}, "ENV_TOOL"),
        ({"allowed_tools": ["filesystem.read_file"]}, {}, "ENV_TOOL"),
        ({"allowed_tools": ["filesystem.write_file"]}, {}, "OK"),
        ({"allowed_paths": []}, {}, "POLICY_NOT_ALLOWED"),
        ({}, {"reserve_micros": 1}, "BUDGET_EXCEEDED"),
        ({}, {"reserve_micros": -1}, "BUDGET_PRICE_UNKNOWN"),
        ({}, {"timeout_seconds": 0.0}, "ENV_DEADLINE"),
        ({}, {"paths": tuple(PlannedPath(f"docs/{n}", Access.READ) for n in range(257))}, "ENV_LIMIT"),
    ],
)
def test_operations(
    repo: Path, enforcer: EnvelopeEnforcer, envelope: dict[str, Any], plan: dict[str, Any], expected: str
) -> None:
    open_: dict[str, Any] = {
        "allowed_paths": ["docs/**"],
        "allowed_tools": ["filesystem"],
        "allowed_roles": ["runner"],
        "allow_ops": ["tool_invoke"],
    }
    members: dict[str, Any] = {
        "effect": Effect.WRITE,
        "paths": (PlannedPath("docs/a.md", Access.MODIFY),),
        "tool": "filesystem.write_file",
    }
    verdict = enforcer.validate_operation(
        Operation("s1.0", "tool_invoke", {}),
        context(repo),
        OperationPlan(**{**members, **plan}),
        Envelope(**{**open_, **envelope}),
    )
    assert verdict.code == expected
    assert bool(verdict) is (expected == "OK")


# Links, odd files, and the moment of use


@pytest.mark.parametrize("target", ["a.md", "../src/x.py", "/etc/passwd", "nowhere", "l"])
def test_links_are_refused(repo: Path, enforcer: EnvelopeEnforcer, target: str) -> None:
    (repo / "docs/l").symlink_to(target)
    for access in ("read", "modify", "delete", "create"):
        assert code(enforcer, "docs/l", access) == "PATH_SYMLINK"
    assert not enforcer.check_symlink_safety("docs/l")


@pytest.mark.parametrize(
    ("target", "expected"),
    [("a.md", "OK"), ("../src/x.py", "POLICY_NOT_ALLOWED"), ("/etc/passwd", "PATH_SYMLINK_ESCAPE"), ("l", "PATH_SYMLINK_LOOP")],
)  # fmt: skip
def test_links_that_are_honoured_are_judged_where_they_lead(
    repo: Path, enforcer: EnvelopeEnforcer, target: str, expected: str
) -> None:
    (repo / "docs/l").symlink_to(target)
    loose = Envelope(allowed_paths=["docs/**"], reject_symlinks=False)
    assert code(enforcer, "docs/l", "read", loose) == expected
    assert code(enforcer, "docs/l", "modify", loose) != "OK"


def test_a_parent_that_is_a_link(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    (repo / "docs/out").symlink_to("../src")
    assert code(enforcer, "docs/out/x.py", "read") == "PATH_SYMLINK"


def test_odd_files(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    os.mkfifo(repo / "docs/pipe")
    assert code(enforcer, "docs/pipe", "read") == "PATH_SPECIAL_FILE"
    os.link(repo / "src/x.py", repo / "docs/h")
    assert code(enforcer, "docs/h", "modify") == "PATH_HARDLINK"
    assert code(enforcer, "docs/h", "read") == "OK"
    (repo / "docs/sub/.git").mkdir(parents=True)
    assert code(enforcer, "docs/sub/x", "create") == "PATH_NESTED_REPO"


def test_a_ticket_is_for_one_use(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    with enforcer.authorize("docs/a.md", "modify", DOCS) as ticket:
        written = ticket.write(b"new")
        assert (written.created, (repo / "docs/a.md").read_bytes()) == (False, b"new")
        with pytest.raises(ContractError, match="TICKET_MISUSE"):
            ticket.write(b"again")
    assert [path.name for path in (repo / "docs").iterdir()] == ["a.md"], "nothing temporary is left"


def test_expected_content_is_compared_at_the_moment_of_writing(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    with enforcer.authorize("docs/a.md", "modify", DOCS) as ticket, pytest.raises(Refused, match="TOOL_CONFLICT"):
        ticket.write(b"new", None, "sha256:" + "0" * 64)
    assert (repo / "docs/a.md").read_text() == "docs/a.md"


def test_a_parent_swapped_between_verdict_and_use(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    with enforcer.authorize("docs/a.md", "modify", DOCS) as ticket:
        (repo / "docs").rename(repo / "was_docs")
        (repo / "docs").symlink_to("src")
        (repo / "src/a.md").write_text("untouched")
        with pytest.raises(EnvelopeViolation, match="PATH_RACE"):
            ticket.write(b"new")
    assert (repo / "src/a.md").read_text() == "untouched"


def test_a_file_swapped_for_a_link_between_verdict_and_use(repo: Path, enforcer: EnvelopeEnforcer) -> None:
    with enforcer.authorize("docs/a.md", "read", DOCS) as ticket:
        (repo / "docs/a.md").unlink()
        (repo / "docs/a.md").symlink_to("../src/x.py")
        with pytest.raises(EnvelopeViolation, match="PATH_RACE"):
            ticket.read(100)


@pytest.mark.parametrize("root", ["/", "/proc", "/dev/shm/../../sys", "missing", "file"])
def test_roots_that_are_none(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="ROOT_FORBIDDEN"):
        EnvelopeEnforcer(tmp_path / root)
