"""The controlled thing cannot change its controls, under whatever name, in whatever role."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.governance.protected_set import BUILT_IN, check_floor, floor_digest, load_additions, lowered_floor
from runtime.governance.self_mod_protection import SelfModProtector, check_self_modification, is_protected
from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.model import Access


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in ("config/models.yaml", "docs/a.md", "docs/GEMINI.md", "src/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


# Names


@pytest.mark.parametrize(
    "path",
    [
        "config/models.yaml",
        "config//models.yaml",
        "config/./models.yaml",
        "Config/Models.yaml",
        "config\\models.yaml",
        "config/x/../models.yaml",
        "\uff23onfig/models.yaml",
        "config/agent_roles/designer.md",
        "config/governance_baseline.txt",
        "config/protected_paths.json",
        "./././GEMINI.md",
        "docs/GEMINI.md",
        "docs/.GitIgnore",
        "sub/.git/config",
        "scripts/audit_gate_build_loop_phase2.py",
        "runtime/governance/envelope_enforcer.py",
        "runtime/governance/self_mod_protection.py",
        "runtime/orchestration/operations.py",
        "runtime/orchestration/mission_journal.py",
        "docs/03_runtime/LifeOS_Autonomous_Build_Loop_Architecture_v0.3.md",
        "STOP_AUTONOMY",
    ],
)
def test_protected_in_every_spelling(path: str) -> None:
    assert is_protected(path)
    for role in ("runner", "builder", "steward", "verifier", "designer", "reviewer_security", "council_chair"):
        verdict = check_self_modification(path, role)
        assert verdict.code == "SELFMOD_PROTECTED"
        assert verdict.evidence["matching_patterns"], "known for what it is, not merely odd"
        assert check_self_modification(path, role, "read")


@pytest.mark.parametrize("path", ["", ".", "a\0b", "\ud800", "config/models.yaml ", "config/models.yaml::$DATA"])
def test_what_cannot_be_judged_counts_as_protected(path: str) -> None:
    assert is_protected(path)
    assert not check_self_modification(path, "runner")


@pytest.mark.parametrize(
    "path", ["docs/a.md", "config/other.yaml", "runtime/x.py", "docs/CLAUDE.md.bak", "a/../docs/a"]
)
def test_everything_else_is_free(path: str) -> None:
    assert not is_protected(path)
    assert check_self_modification(path, "runner")


@pytest.mark.parametrize("path", ["/etc/passwd", "C:\\x", "\\\\host\\x", "../x", "a/../../x", None, b"docs/a.md"])
def test_outside_is_never_not_our_concern(path: object) -> None:
    verdict = check_self_modification(path, "runner")
    assert verdict.code == "SELFMOD_OUTSIDE"
    canonical_bytes(dict(verdict.evidence))
    assert "/etc" not in verdict.reason


@pytest.mark.parametrize("path", ["config", "docs", "runtime", "runtime/orchestration", "Config"])
def test_an_ancestor_of_protected_paths_cannot_go(path: str) -> None:
    for operation in ("delete", "rename", "replace"):
        verdict = check_self_modification(path, "runner", operation, target="elsewhere")
        assert verdict.code == "SELFMOD_ANCESTOR"


def test_renaming_and_linking_have_two_sides() -> None:
    for operation in ("rename", "link"):
        assert check_self_modification("docs/a", "runner", operation, target="docs/b")
        assert not check_self_modification("docs/a", "runner", operation, target="config/models.yaml")
        assert not check_self_modification("config/models.yaml", "runner", operation, target="docs/b")
        assert check_self_modification("docs/a", "runner", operation).code == "SELFMOD_OUTSIDE"


# Who asks, and for what


@pytest.mark.parametrize("role", ["", "root", "Builder", "operator", "reviewer_"])
def test_without_a_known_role_nothing_is_allowed(role: str) -> None:
    for operation in ("read", "modify"):
        assert check_self_modification("docs/a.md", role, operation).code == "SELFMOD_ROLE"


def test_an_unknown_operation_is_denied() -> None:
    assert check_self_modification("docs/a.md", "runner", "spine_check").code == "SELFMOD_OPERATION"


def test_reading_is_free(repo: Path) -> None:
    protector = SelfModProtector(repo)
    for access in (Access.READ, Access.LIST, "read", "list"):
        assert protector.validate("config/models.yaml", "verifier", access)


# What the disk says


def test_a_folder_with_a_protected_file_cannot_go(repo: Path) -> None:
    assert SelfModProtector(repo).validate("docs", "runner", Access.DELETE).code == "SELFMOD_ANCESTOR"
    deep = repo / "src/deep"
    deep.mkdir()
    assert SelfModProtector(repo).validate("src", "runner", Access.DELETE)
    (deep / "AGENTS.md").touch()
    assert SelfModProtector(repo).validate("src", "runner", Access.DELETE).code == "SELFMOD_ANCESTOR"


def test_another_name_of_a_protected_file_is_that_file(repo: Path) -> None:
    os.link(repo / "config/models.yaml", repo / "docs/hard")
    (repo / "docs/soft").symlink_to("../config/models.yaml")
    for path in ("docs/hard", "docs/soft"):
        assert SelfModProtector(repo).validate(path, "runner").code == "SELFMOD_ALIAS"
    os.link(repo / "src/x.py", repo / "docs/harmless")
    assert SelfModProtector(repo).validate("docs/harmless", "runner")


def test_a_link_out_and_a_link_in_circles(repo: Path, tmp_path: Path) -> None:
    (repo / "docs/out").symlink_to(tmp_path)
    (repo / "docs/loop").symlink_to("loop")
    assert SelfModProtector(repo).validate("docs/out", "runner").code == "SELFMOD_OUTSIDE"
    assert not SelfModProtector(repo).validate("docs/loop", "runner")


# Upward only


@pytest.mark.parametrize(
    "data", [b'["!config/models.yaml"]', b'{"exclude": ["x"]}', b'"x"', b"[1]", b'["a**"]', b'["/x"]', b"[", b"\xff"]
)
def test_a_configuration_can_only_add(data: bytes) -> None:
    with pytest.raises(Refused, match="SELFMOD_CONFIG"):
        load_additions(data)


def test_additions_add(repo: Path) -> None:
    plain, more = SelfModProtector(repo), SelfModProtector(repo, load_additions(b'["secrets/**"]'))
    assert more.validate("secrets/k", "runner").code == "SELFMOD_PROTECTED"
    assert more.get_protected_paths() == [*BUILT_IN, "secrets/**"]
    assert more.protected_hash != plain.protected_hash


def test_the_list_handed_out_is_a_copy(repo: Path) -> None:
    protector = SelfModProtector(repo)
    before = protector.protected_hash
    protector.get_protected_paths().clear()
    assert protector.is_protected("config/models.yaml")
    assert protector.protected_hash == before


def test_what_was_protected_once_stays_so(repo: Path) -> None:
    protector = SelfModProtector(repo, ["secrets/**"])
    with pytest.raises(Refused, match="SELFMOD_SHRINK"):
        protector.reloaded([])
    floor = [*BUILT_IN, "secrets/**"]
    with pytest.raises(Refused, match="SELFMOD_FLOOR"):
        check_floor(floor, BUILT_IN)
    with pytest.raises(Refused, match="SELFMOD_FLOOR"):
        lowered_floor(floor, [BUILT_IN[0]], floor_digest(floor))
    with pytest.raises(Refused, match="SELFMOD_FLOOR"):
        lowered_floor(floor, ["secrets/**"], "sha256:" + "0" * 64)
    assert set(lowered_floor(floor, ["secrets/**"], floor_digest(floor))) == set(BUILT_IN)
