"""The controlled thing cannot change its controls (operations spec §9; its numbered tests are in conformance/)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.governance.protected_set import (
    BUILT_IN,
    load_additions,
    parse_additions,
)
from runtime.governance.self_mod_protection import SelfModProtector, check_self_modification, is_protected
from runtime.kernel.errors import Refused
from runtime.kernel.model import Access


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in ("config/models.yaml", "docs/a.md", "docs/GEMINI.md", "src/x.py", ".git/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


PROTECTED = [
    "config/agent_roles",
    "config/agent_roles/designer.md",
    "config/governance_baseline.txt",
    "runtime/orchestration/operations.py",
    "docs/03_runtime/LifeOS_Autonomous_Build_Loop_Architecture_v0.3.md",
    "a/b/.GitIgnore",
    ".git/hooks/pre-commit",
    "sub/.git/config",
    "STOP_AUTONOMY",
    "stop_autonomy",
    "\uff23onfig/models.yaml",
    "config\uff0fmodels.yaml",
    "config/models.yaml ",
    "config/models.yaml::$DATA",
    "..",
    "a/../../x",
    "/etc/passwd",
    "",
    ".",
    "a\0b",
    "\ud800",
    None,
    b"docs/a.md",
]


@pytest.mark.parametrize("path", PROTECTED)
def test_protected(path: object) -> None:
    assert is_protected(path)
    assert not check_self_modification(path, "runner")


@pytest.mark.parametrize(
    "path", ["docs/a.md", "config/other.yaml", "runtime/x.py", "docs/CLAUDE.md.bak", "a/../docs/a"]
)
def test_not_protected(path: str) -> None:
    assert not is_protected(path)
    assert check_self_modification(path, "runner")


def test_unknown_operation() -> None:
    assert check_self_modification("docs/a.md", "runner", "spine_check").code == "SELFMOD_OPERATION"


def test_two_sided_operations() -> None:
    for operation in ("rename", "link"):
        assert check_self_modification("docs/a", "runner", operation, target="docs/b")
        assert not check_self_modification("docs/a", "runner", operation, target="config/models.yaml")
        assert not check_self_modification("config/models.yaml", "runner", operation, target="docs/b")
        assert check_self_modification("docs/a", "runner", operation).code == "SELFMOD_OUTSIDE"


@pytest.mark.parametrize(
    "data",
    [
        b'{"allow": ["x"]}',
        b'"secrets/**"',
        b"[1]",
        b'["a**"]',
        b'["/abs"]',
        b"[",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_bad_configuration(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        load_additions(data)
    assert caught.value.code == "SELFMOD_CONFIG"


def test_additions_add(repo: Path) -> None:
    protector = SelfModProtector(repo, load_additions(b'["secrets/**", "secrets/**"]'), reserved=[".state/"])
    assert protector.validate("secrets/k", "runner").code == "SELFMOD_PROTECTED"
    assert protector.is_protected(".state/lock")
    assert protector.get_protected_paths() == [*BUILT_IN, ".state/", "secrets/**"]
    assert protector.protected_hash != SelfModProtector(repo).protected_hash


def test_a_text_is_not_a_list_of_patterns(repo: Path) -> None:
    with pytest.raises(Refused) as caught:
        SelfModProtector(repo, "secrets")
    assert caught.value.code == "SELFMOD_CONFIG"


def test_loading_again_cannot_shrink(repo: Path) -> None:
    protector = SelfModProtector(repo, ["a/**"], reserved=["state/"])
    larger = protector.reloaded(["b/**", "a/**"])
    assert larger.is_protected("b/x")
    assert larger.is_protected("state/x")
    with pytest.raises(Refused) as caught:
        larger.reloaded(["a/**"])
    assert caught.value.code == "SELFMOD_SHRINK"


def test_symbolic_links(repo: Path) -> None:
    (repo / "docs/l").symlink_to("../config/models.yaml")
    (repo / "docs/d").symlink_to("../config")
    (repo / "docs/out").symlink_to("/etc")
    (repo / "docs/loop").symlink_to("loop")
    (repo / "docs/fine").symlink_to("a.md")
    protector = SelfModProtector(repo)
    assert protector.validate("docs/l", "runner").code == "SELFMOD_ALIAS"
    assert protector.validate("docs/d/models.yaml", "runner").code == "SELFMOD_ALIAS"
    assert protector.validate("docs/out/x", "runner").code == "SELFMOD_OUTSIDE"
    assert not protector.validate("docs/loop", "runner")
    assert protector.validate("docs/fine", "runner")


def test_deleting_a_directory_that_holds_a_protected_file(repo: Path) -> None:
    protector = SelfModProtector(repo)
    assert protector.validate("src", "runner", "delete")
    (repo / "src/deep").mkdir()
    (repo / "src/deep/claude.md").write_text("")
    assert protector.validate("src", "runner", "delete").code == "SELFMOD_ANCESTOR"
    (repo / "lib/.git").mkdir(parents=True)
    assert protector.validate("lib", "runner", "delete").code == "SELFMOD_ANCESTOR"


def test_a_search_that_cannot_finish_denies(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.governance.self_mod_protection.MAX_SEARCH_ENTRIES", 1)
    (repo / "src/y.py").write_text("")
    assert SelfModProtector(repo).validate("src", "runner", "delete").code == "SELFMOD_ANCESTOR"


def test_missing_files_are_judged_by_name(repo: Path) -> None:
    protector = SelfModProtector(repo)
    assert protector.validate("new/file.txt", "runner", Access.CREATE)
    assert not protector.validate("new/AGENTS.md", "runner", Access.CREATE)


def test_opened_files(repo: Path) -> None:  # relaxation 8
    protector = SelfModProtector(repo, openable=["docs/GEMINI.md", ".gitignore"])
    assert protector.validate("docs/GEMINI.md", "runner")
    assert protector.validate(".gitignore", "runner", "create")
    for path in ("docs/gemini.md", "GEMINI.md", "docs/.gitignore", "./DOCS/GEMINI.md"):
        assert protector.is_protected(path), path
    assert protector.protected_hash != SelfModProtector(repo).protected_hash
    narrowed = SelfModProtector(repo, ["docs/**"], ["docs/GEMINI.md"])
    assert narrowed.is_protected("docs/GEMINI.md")


@pytest.mark.parametrize(
    "path",
    ["config/models.yaml", "runtime/governance/AGENTS.md", "src/x.py", "./.gitignore", "**/CLAUDE.md", ".gitmodules"],
)
def test_only_five_names_can_be_opened(repo: Path, path: str) -> None:
    with pytest.raises(Refused) as caught:
        SelfModProtector(repo, openable=[path])
    assert caught.value.code == "SELFMOD_CONFIG"


def test_native_names_are_judged_by_pattern(repo: Path) -> None:
    assert SelfModProtector(repo).is_protected("docs/a:b.md")
    native = SelfModProtector(repo, names="native")
    assert not native.is_protected("docs/a:b.md")
    assert native.is_protected("config/governance/a:b")
    assert native.is_protected("docs/a:b\u200d")


odd_names = st.sampled_from(
    ["config", "Config", "models.yaml", "docs", "..", ".", "", "CLAUDE.md", "x", "\uff0e\uff0e", "nul"]
)


@given(st.lists(odd_names, min_size=1, max_size=6), st.sampled_from(["/", "\\", "//"]))
def test_protection_follows_where_a_path_leads(parts: list[str], separator: str) -> None:
    """Whatever the spelling: if resolving it lexically ends on a protected name, it is protected."""
    real: list[str] = []
    for part in parts:
        if part == "..":
            real = real[:-1] if real else ["outside"]
        elif part not in ("", "."):
            real.append(part.lower())
    leads = "/".join(real)
    if leads == "config/models.yaml" or leads.endswith("claude.md"):
        assert is_protected(separator.join(parts))


def test_patterns_of_the_registry_are_valid() -> None:
    assert parse_additions(list(BUILT_IN)) == BUILT_IN
