"""Operations specification §9, self-modification protection and roles: its tests 9.a–9.l.

Which test fails when a defence (trap W11 of §14) is removed; each was tried:

- empty and ``.`` components dropped, case folded, backslashes read as separators, ``..`` resolved
  (`protected_set.resolved`, ``fold=True`` in `ProtectedSet.matching`): 9.a;
- ancestors of protected paths (`ProtectedSet._ancestor`): 9.b; outside paths denied, not "allowed": 9.c;
- entries only add (`parse_additions`): 9.d; the floor in the state folder (`check_floor` in `Policies.load`), the one
  registry for protector and enforcer (`assembly._executor`), shrinking within a process (`reloaded`): 9.e;
- the list handed out is a copy: 9.f; the role is looked at, and first: 9.g; reading stays free: 9.h;
- other names of a protected file (`SelfModProtector._on_disk`), folders handed to programs (`Admission._consult`), what
  programs change in them (`OperationExecutor._judge`), the latch after it (`Settlement.halted`): 9.i; a role in parameters is no identity: 9.j;
- the governance baseline, at the start (`ground._Checks.baseline`) and at the end (`Settlement.governed`): 9.k;
- protected names in every folder, whatever the envelope says: 9.l;
- the enforcement code itself is protected (`BUILT_IN`): 9.a.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.governance import protected_set
from runtime.governance.protected_set import BUILT_IN, floor_digest
from runtime.governance.self_mod_protection import SelfModProtector, check_self_modification, is_protected
from runtime.host.api import Answer, Launch, Refused, RunStatus
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.canonical import canonical_bytes
from runtime.kernel.model import Access, Envelope
from tests.support.hosting import entries, hosting, question, run_to_end, write_mission
from tests.support.operation_rig import Rig
from tests.support.repositories import repository, sh

MISSION = """\
mission: writer
version: "1"
inputs: {root: {type: string}, path: {type: string}}
workspace: {root: "${inputs.root}", kind: folder}
envelope: {allowed_paths: ["**"], allowed_tools: [filesystem.write_file]}
blocks:
  write: {type: tool_invoke, tool: filesystem.write_file, path: "${inputs.path}", content: "x"}
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name in ("config/models.yaml", "docs/a.md", "docs/GEMINI.md", "src/x.py", "secrets/k"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RuntimeHost]:
    async with hosting(tmp_path / "store") as host:
        yield host


async def write(host: RuntimeHost, repo: Path, path: str = "docs/b.md") -> Any:
    mission = write_mission(repo.parent / "m", MISSION)
    return await run_to_end(host, mission, inputs={"root": str(repo), "path": path})


@pytest.mark.parametrize(
    "path",
    [
        "config//models.yaml",
        "config/./models.yaml",
        "Config/Models.yaml",
        "config\\models.yaml",
        "config/x/../models.yaml",
        "./././GEMINI.md",
        "docs/GEMINI.md",
        "runtime/governance/self_mod_protection.py",
        "runtime/orchestration/mission_journal.py",
    ],
)
def test_9_a_a_protected_path_is_protected_in_every_spelling(path: str) -> None:
    assert is_protected(path)
    verdict = check_self_modification(path, "runner")
    assert verdict.code == "SELFMOD_PROTECTED"
    assert verdict.evidence["matching_patterns"], "known for what it is, not merely odd"


@pytest.mark.parametrize("path", ["config", "docs", "runtime", "runtime/orchestration", "Config"])
@pytest.mark.parametrize("operation", ["delete", "rename", "replace"])
def test_9_b_an_ancestor_of_protected_paths_cannot_go(path: str, operation: str) -> None:
    verdict = check_self_modification(path, "runner", operation, target="elsewhere")
    assert verdict.code == "SELFMOD_ANCESTOR"


@pytest.mark.parametrize("path", ["/etc/passwd", "C:\\x", "\\\\host\\x", "../x", "a/../../x", None])
def test_9_c_outside_is_never_not_our_concern(path: object) -> None:
    verdict = check_self_modification(path, "runner")
    assert verdict.code == "SELFMOD_OUTSIDE"
    canonical_bytes(dict(verdict.evidence))
    assert "/etc" not in verdict.reason


async def test_9_d_a_configuration_cannot_take_protection_away(host: RuntimeHost, repo: Path) -> None:
    config = repo / "config/protected_paths.json"
    for text, where in (
        ('["!config/models.yaml"]', "config/protected_paths.json: "),
        ('{"exclude": ["config/models.yaml"]}', "config/protected_paths.json: "),
        ('[\n  "secrets/**",\n]', "config/protected_paths.json:3:1: "),
    ):
        config.write_text(text)
        refused = await write(host, repo)
        assert (refused.status, refused.code, refused.exit_code) == (RunStatus.REFUSED, "SELFMOD_CONFIG", 4)
        assert str(refused.message).startswith(where)
    config.unlink()
    config.symlink_to(repo / "docs/a.md")
    assert (await write(host, repo)).code == "SELFMOD_CONFIG"


async def test_9_e_what_was_protected_once_stays_so_until_the_operator_gives_it_up(tmp_path: Path, repo: Path) -> None:
    config = repo / "config/protected_paths.json"
    config.write_text('["secrets/**", "keys/**"]')
    async with hosting(tmp_path / "store") as first:
        denied = await write(first, repo, "secrets/k")
        assert denied.code == "op.selfmod_protected", "enforcer and protector know the project's additions"
        opened = (await entries(first, denied.run_id, "journal_opened"))[0]
        assert opened["protected_hash"] == SelfModProtector(repo, ["secrets/**", "keys/**"]).protected_hash
        (floor,) = (tmp_path / "store" / "floors").iterdir()
        assert floor.stat().st_mode & 0o777 == 0o600
        kept = floor.read_bytes()
        config.unlink()
        floor.unlink()
        assert (await write(first, repo)).code == "SELFMOD_SHRINK", "within one process even the file is not needed"
        floor.write_bytes(b"[]")
        assert (await write(first, repo)).code == "SELFMOD_FLOOR", "a floor nobody can read is no floor to go below"
        floor.write_bytes(kept)
    async with hosting(tmp_path / "store") as second:
        config.write_text('["keys/**"]')
        refused = await write(second, repo)
        assert (refused.code, refused.exit_code) == ("SELFMOD_FLOOR", 4)
        digest = floor_digest([*BUILT_IN, "secrets/**", "keys/**"])
        for told in ("'secrets/**'", f"--digest {digest}"):
            assert told in str(refused.message)
        for pattern, typed in (("secrets/**", "sha256:" + "0" * 64), (BUILT_IN[0], digest)):
            with pytest.raises(Refused, match="SELFMOD_FLOOR"):
                await second.unprotect(str(repo), pattern, typed, "gone")
        with pytest.raises(Refused, match="SELFMOD_REASON"):
            await second.unprotect(str(repo), "secrets/**", digest, " ")
        assert not (await second.unprotect(str(repo), "never/**", digest, "gone")).done
        assert (await write(second, repo)).code == "SELFMOD_FLOOR"
        assert (await second.unprotect(str(repo), "secrets/**", digest, "moved to a vault")).done
        assert (await write(second, repo, "secrets/k")).status is RunStatus.SUCCEEDED
        assert (await write(second, repo, "keys/k")).code == "op.selfmod_protected"
        (told,) = await entries(second, "store", "operator_action")
        assert (told["action"], told["pattern"], told["digest"], told["reason"]) == (
            "unprotect",
            "secrets/**",
            digest,
            "moved to a vault",
        )


def test_9_f_the_list_handed_out_is_a_copy(repo: Path) -> None:
    protector = SelfModProtector(repo)
    before = protector.protected_hash
    protector.get_protected_paths().clear()
    assert protector.is_protected("config/models.yaml")
    assert protector.protected_hash == before
    assert isinstance(protected_set.BUILT_IN, tuple)


@pytest.mark.parametrize("role", ["", "root", "Builder", "operator"])
def test_9_g_without_a_known_role_nothing_is_allowed(role: str) -> None:
    assert check_self_modification("docs/a.md", role, "read").code == "SELFMOD_ROLE"


def test_9_h_reading_a_protected_file_is_allowed(repo: Path) -> None:
    protector = SelfModProtector(repo)
    for access in (Access.READ, Access.LIST, "read", "list"):
        assert protector.validate("config/models.yaml", "runner", access)


async def test_9_i_another_name_of_a_protected_file_is_that_file(host: RuntimeHost, repo: Path) -> None:
    os.link(repo / "config/models.yaml", repo / "docs/m")
    assert SelfModProtector(repo).validate("docs/m", "runner").code == "SELFMOD_ALIAS"
    assert (await write(host, repo, "docs/m")).code in ("op.path_hardlink", "op.selfmod_alias")
    assert (repo / "config/models.yaml").read_text() == "config/models.yaml"
    os.link(repo / "src/x.py", repo / "docs/harmless")
    assert SelfModProtector(repo).validate("docs/harmless", "runner")


PROGRAM = """\
mission: program
version: "1"
inputs: {root: {type: string}}
workspace: {root: "${inputs.root}", kind: git}
envelope: {allowed_paths: ["**"], allowed_tools: [process.run]}
sandbox: {confinement: best_effort}
commands:
  change: {argv: [sh, -c, "echo mine > FOLDER/NAME"], writes: [FOLDER]}
blocks:
  change: {type: tool_invoke, tool: process.run, template: change}
"""


async def test_9_i_nor_may_a_program_that_may_write_its_folder_change_it(host: RuntimeHost, tmp_path: Path) -> None:
    """A folder that holds protected files is not handed out; one that gets them is latched (§4.3, §10.3)."""
    files = {"config/models.yaml": "theirs", "docs/deep/CLAUDE.md": "theirs", "out/models.yaml": "ours"}
    root = repository(tmp_path / "git", files).root

    async def change(folder: str, name: str = "models.yaml") -> Any:
        mission = write_mission(tmp_path / "p", PROGRAM.replace("FOLDER", folder).replace("NAME", name))
        return await run_to_end(host, mission, inputs={"root": str(root)})

    assert (await change("out")).status is RunStatus.SUCCEEDED
    sh(root, "checkout", "-q", ".")
    for folder in ("config", "docs"):
        assert (await change(folder)).code == "op.selfmod_ancestor"
    assert sh(root, "status", "--porcelain") == ""
    done = await change("out", "AGENTS.md")
    assert (done.status, done.reason, done.exit_code) == (RunStatus.FAILED, "halted", 1)
    note = (await entries(host, done.run_id, "escalation"))[0]
    assert (note["severity"], note["reason"].partition(":")[0]) == ("critical", "SELFMOD_EFFECT")
    assert (await change("out")).code == "HALT_LATCHED"


async def test_9_j_a_role_in_parameters_gives_no_right(repo: Path) -> None:
    rig = Rig(repo)
    params = {"path": "docs/b.md", "content": "x"}
    for role in ("operator", "builder"):
        result = await rig.tool("filesystem.write_file", id=f"s1.{role}", role=role, **params)
        assert result.reason_code == "OP_PARAM_UNKNOWN"
    reading = Envelope(allowed_paths=["**"], allowed_tools=["filesystem"], allowed_roles=["verifier"])
    rig.envelope, rig.ctx = reading, rig.with_context(acting_role="verifier", envelope=reading)
    rig.build()
    assert (await rig.tool("filesystem.write_file", id="s1.1", **params)).reason_code == "ENV_ROLE"
    asked = {"prompt": "hi", "role": "operator"}
    assert (await rig.do("llm_call", asked, id="s1.2")).reason_code in ("ENV_ROLE", "LLM_NO_MODEL")
    assert not (repo / "docs/b.md").exists()


def governed(repo: Path) -> Path:
    """A project whose list describes what is protected in it."""
    baseline = repo / "config/governance_baseline.txt"
    listed = ("config/models.yaml", "docs/GEMINI.md")
    baseline.write_text(
        "".join(f"{hashlib.sha256((repo / name).read_bytes()).hexdigest()}  {name}\n" for name in listed)
    )
    return baseline


async def test_9_k_one_changed_byte_in_a_listed_file_refuses_the_start(host: RuntimeHost, repo: Path) -> None:
    baseline = governed(repo)
    before = baseline.read_bytes()
    fine = await write(host, repo)
    assert fine.status is RunStatus.SUCCEEDED
    opened = (await entries(host, fine.run_id, "journal_opened"))[0]
    assert opened["governance_hash"] == "sha256:" + hashlib.sha256(before).hexdigest()
    (repo / "config/models.yaml").write_text("config/models.yamL")
    refused = await write(host, repo)
    assert (refused.status, refused.code) == (RunStatus.REFUSED, "BASELINE_MISMATCH")
    assert "config/models.yaml is not as listed" in str(refused.message)
    assert baseline.read_bytes() == before


@pytest.mark.parametrize("how", ["changed", "gone"])
async def test_9_k_and_a_run_that_ends_under_another_baseline_is_halted(
    host: RuntimeHost, repo: Path, how: str
) -> None:
    baseline = governed(repo)
    asking = MISSION + "  ask: {type: approval, message: Go on?}\nlinks: [write -> ask]\n"
    begun = await host.launch(
        Launch(path=write_mission(repo.parent / "m", asking), inputs={"root": str(repo), "path": "docs/b.md"})
    )
    asked = await question(host, begun.run_id)
    if how == "gone":
        baseline.unlink()
    else:
        (repo / "docs/GEMINI.md").write_text("obey")
    await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved"))
    done = await host.wait(begun.run_id)
    code = "BASELINE_MISSING" if how == "gone" else "BASELINE_MISMATCH"
    assert (done.status, done.reason, done.code) == (RunStatus.FAILED, "halted", code)
    assert not (repo / "docs/b.md").exists(), "what it did is undone"
    note = (await entries(host, begun.run_id, "escalation"))[-1]
    assert (note["severity"], note["blocking"], note["reason"].partition(":")[0]) == ("critical", False, code)


async def test_9_l_a_protected_name_is_protected_in_every_folder(host: RuntimeHost, repo: Path) -> None:
    denied = await write(host, repo, "docs/.gitignore")
    assert denied.code == "op.selfmod_protected"
    assert not (repo / "docs/.gitignore").exists()
    for role in ("runner", "builder", "steward", "council_chair", "reviewer_x"):
        verdict = check_self_modification("docs/.gitignore", role, "modify")
        assert verdict.code == "SELFMOD_PROTECTED", "no role has clearance"
        assert verdict.evidence["matching_patterns"] == ["**/.gitignore"]
