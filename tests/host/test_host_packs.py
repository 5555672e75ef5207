"""Packs in missions: whose code runs, where, under which trust, and what a changed pack means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runtime.blocks.packs.report import Trust
from runtime.governance.sandbox import Sandbox
from runtime.governance.sandbox_backends import Unconfined
from runtime.host.api import Launch, Refused, Replay, RunStatus
from runtime.host.packs import look_at
from runtime.host.runtime_host import RuntimeHost
from runtime.kernel.model import thawed
from runtime.missions.loader import lint, load
from runtime.missions.problems import MissionInvalid
from tests.support.hosting import hosting, plain, question, run_to_end, until, write_mission
from tests.support.packs import HEALTHY, HOSTILE, write_pack
from tests.support.sandboxing import alive, backend

ASKING = "  ask: {type: approval, message: Really?}\n  say: {type: sample_shout}"
READING = """\
mission: reading
version: "1"
inputs: {path: {type: string}}
workspace: {root: ., kind: folder}
envelope:
  {allowed_paths: ["files/**"], allowed_tools: [filesystem.read_file], allow_ops: [tool_invoke], allowed_roles: [runner]}
blocks:
  read: {type: sample_reach, path: "${inputs.path}"}
outputs: {text: "${outputs.read.content}"}
"""
SHOUT = "  hi: {type: template, template: hi}\n  say: {type: sample_shout, mark: '?'}"


OUTER = """\
mission: outer
version: "1"
workspace: {kind: none}
envelope: {allowed_paths: [], allowed_tools: []}
blocks:
  all: {type: map_over, items: [a, b], each: EACH}
outputs: {said: "${outputs.all}"}
"""
PAGE = """\
mission: page
version: "1"
inputs: {what: {}}
blocks:
  hi: {type: template, template: "{{ what }}", data: {what: "${inputs.what}"}}
  say: {type: sample_shout}
links: [hi -> say]
outputs: {said: "${outputs.say}"}
"""
CHILD = "{type: child_workflow, mission: page.yaml, inputs: {what: '${item}'}}"


@pytest.fixture
def mission(tmp_path: Path) -> Path:
    """A mission with one block of the pack beside it."""
    folder = Path(plain(tmp_path / "m", SHOUT, LINKED))
    write_pack(pack_of(folder), "sample", HEALTHY)
    return folder


LINKED = "[hi -> say]\noutputs: {said: '${outputs.say}'}"


def pack_of(mission: Path) -> Path:
    return mission / "blocks" / "sample"


async def trust(host: RuntimeHost, mission: Path, **how: bool) -> str:
    pack = look_at(pack_of(mission))
    assert (await host.trust_pack(pack.path, pack.digest, **how)).done
    return pack.digest


async def test_only_trusted_code_runs(tmp_path: Path, mission: Path) -> None:
    async with hosting(tmp_path / "store", sandbox=Sandbox(backend("B"))) as host:
        assert [pack.trust for pack in (await host.mission(str(mission))).packs] == ["none"]
        refused = await host.launch(Launch(path=str(mission)))
        assert (refused.status, refused.code, refused.exit_code) == (RunStatus.REFUSED, "plugin.untrusted", 2)
        assert f"quarterdeck packs trust {pack_of(mission)}" in (refused.message or "")
        digest = await trust(host, mission)
        assert [pack.trust for pack in (await host.mission(str(mission))).packs] == ["confined"]
        done = await run_to_end(host, str(mission))
        assert (done.status, done.code) == (RunStatus.SUCCEEDED, None), done.message
        opened = thawed((await host.entries(done.run_id))[0].entry)
        assert opened["packs"] == [
            {"name": "sample", "version": "1.0", "digest": digest, "path": str(pack_of(mission))}
        ]
        assert (await host.replay(Replay(run_id=done.run_id))).comparison.equivalent, "its blocks run again"
        (pack_of(mission) / "more.py").write_text("")
        with pytest.raises(Refused, match=r"plugin\.untrusted"):
            await host.replay(Replay(run_id=done.run_id))
        assert (await host.launch(Launch(path=str(mission)))).code == "plugin.untrusted"


async def test_trust_outlives_its_holder_until_it_is_taken_back(tmp_path: Path, mission: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        digest = await trust(host, mission)
        assert not (await host.trust_pack(str(pack_of(mission)), digest)).done, "nothing new"
    async with hosting(tmp_path / "store") as host:
        known = (await host.trusted_packs())[0]
        assert (known.digest, known.name, known.version, known.in_process) == (digest, "sample", "1.0", False)
        assert (await host.untrust_pack(digest)).done
        assert not (await host.untrust_pack(digest)).done
        assert await host.trusted_packs() == ()
        assert (await host.launch(Launch(path=str(mission)))).code == "plugin.untrusted"


async def test_trust_is_for_what_was_looked_at(tmp_path: Path, mission: Path) -> None:
    seen = look_at(pack_of(mission))
    (pack_of(mission) / "sample.py").write_text(HEALTHY + "\n")
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused) as changed:
            await host.trust_pack(seen.path, seen.digest)
        assert changed.value.code == "PACK_CHANGED"
        (pack_of(mission) / "pack.bin").unlink()
        with pytest.raises(Refused) as broken:
            await host.trust_pack(seen.path, seen.digest)
        assert broken.value.code == "plugin.manifest_missing"
        assert await host.trusted_packs() == ()


async def test_a_pack_trusted_with_this_process_needs_no_other(tmp_path: Path, mission: Path) -> None:
    """No wall is asked for, though confinement is required and there is none."""
    async with hosting(tmp_path / "store", sandbox=Sandbox(Unconfined())) as host:
        await trust(host, mission, in_process=True)
        done = await run_to_end(host, str(mission))
        assert (done.status, done.outputs) == (RunStatus.SUCCEEDED, {"said": "HI?"}), done.message


async def test_without_a_wall_confined_packs_are_refused(tmp_path: Path, mission: Path) -> None:
    async with hosting(tmp_path / "store") as host:
        await trust(host, mission)
        assert (await run_to_end(host, str(mission))).code == "op.sandbox_unavailable"


async def test_what_a_pack_wants_passes_the_envelope(tmp_path: Path) -> None:
    """Its operation is judged, recorded and answered as any other of the block."""
    mission = Path(write_mission(tmp_path / "m", READING, {"files/a.txt": "content", "secret.txt": "no"}))
    write_pack(pack_of(mission), "sample", HEALTHY)
    async with hosting(tmp_path / "store", sandbox=Sandbox(backend("B"))) as host:
        await trust(host, mission)
        done = await run_to_end(host, str(mission), inputs={"path": "files/a.txt"})
        assert done.status is RunStatus.SUCCEEDED, done.message
        assert done.outputs == {"text": "content"}
        refused = await run_to_end(host, str(mission), inputs={"path": "secret.txt"})
        assert (refused.exit_code, refused.violations) == (4, 1)


async def test_a_cancelled_run_leaves_nothing_of_its_packs(tmp_path: Path) -> None:
    """A block that never ends and has forked stands for all that a fence has to end."""
    mission = Path(plain(tmp_path / "m", "  evil: {type: evil_do, what: loop}"))
    write_pack(pack_of(mission), "evil", HOSTILE)
    async with hosting(tmp_path / "store", sandbox=Sandbox(backend("B"))) as host:
        await trust(host, mission)
        begun = await host.launch(Launch(path=str(mission)))
        await until(lambda: len(alive(str(pack_of(mission)))) > 1)
        await host.cancel(begun.run_id)
        assert (await host.wait(begun.run_id)).exit_code == 130
        assert alive(str(pack_of(mission))) == []


async def test_a_pure_block_of_a_pack_is_a_transform_of_packets(tmp_path: Path) -> None:
    """Run twice in a process of its own, whatever the trust; a mission that names it uses its pack."""
    for number, (value, code) in enumerate((("b", None), ("vary", "op.route_nondeterministic"))):
        blocks = f"  flip: {{type: packet_route, transform: sample_flip, input: {{a: {value}}}}}"
        mission = Path(plain(tmp_path / f"m{number}", blocks, "[]\noutputs: {flipped: '${outputs.flip}'}"))
        write_pack(pack_of(mission), "sample", HEALTHY)
        async with hosting(tmp_path / "store", sandbox=Sandbox(backend("B"))) as host:
            if number == 0:
                assert (await host.launch(Launch(path=str(mission)))).code == "plugin.untrusted"
                await trust(host, mission, in_process=True)
            done = await run_to_end(host, str(mission))
            assert done.code == code, done.message
            assert done.outputs == (None if code else {"flipped": {"b": "a"}})


async def test_a_run_goes_on_only_with_the_pack_it_began_with(tmp_path: Path) -> None:
    mission = Path(plain(tmp_path / "m", ASKING, "[ask -> say]"))
    write_pack(pack_of(mission), "sample", HEALTHY)
    async with hosting(tmp_path / "store") as host:
        await trust(host, mission)
        begun = await host.launch(Launch(path=str(mission)))
        await question(host, begun.run_id)
    (pack_of(mission) / "more.py").write_text("")
    async with hosting(tmp_path / "store") as host:
        await trust(host, mission)
        with pytest.raises(Refused, match="pack it uses") as changed:
            await host.resume(begun.run_id)
        assert changed.value.code == "RECOVERY_MANUAL"


@pytest.mark.parametrize(
    ("each", "place", "said"),
    [
        ("{type: sample_shout}", "mission.yaml", ["A!", "B!"]),
        (CHILD, "page.yaml", [{"said": "A!"}, {"said": "B!"}]),
    ],
)
async def test_a_pack_used_only_inside_composites_is_held_to_the_same(
    tmp_path: Path, each: str, place: str, said: list[object]
) -> None:
    """Hashed, warned about where it is named, refused untrusted, and run trusted."""
    folder = Path(write_mission(tmp_path / "m", OUTER.replace("EACH", each), {"page.yaml": PAGE}))
    write_pack(pack_of(folder), "sample", HEALTHY)
    before = load(folder)
    assert [pack.name for pack in before.packs] == ["sample"]
    (warned,) = lint(folder, trust=lambda digest: Trust.NONE)
    assert (Path(warned.path).name, warned.code, warned.severity) == (place, "plugin.untrusted", "warning")
    line = (folder / place).read_text().splitlines()[warned.line - 1]
    assert line[warned.column - 1 :].startswith("sample_shout")
    async with hosting(tmp_path / "store", sandbox=Sandbox(backend("B"))) as host:
        assert (await host.launch(Launch(path=str(folder)))).code == "plugin.untrusted"
        await trust(host, folder)
        done = await run_to_end(host, str(folder))
        assert (done.status, done.outputs) == (RunStatus.SUCCEEDED, {"said": said}), done.message
        assert (await host.replay(Replay(run_id=done.run_id))).comparison.equivalent
    (pack_of(folder) / "more.py").write_text("")
    assert load(folder).mission_hash != before.mission_hash


async def test_of_two_packs_with_one_name_each_needs_its_own_trust(tmp_path: Path) -> None:
    """Nothing of the one would run because of the other."""
    folder = Path(plain(tmp_path / "m", f"{SHOUT}\n  wild: {{type: evil_do, what: print}}", "[hi -> say -> wild]"))
    write_pack(pack_of(folder), "sample", HEALTHY)
    write_pack(folder / "blocks" / "sequel", "evil", HOSTILE.replace('Pack("evil"', 'Pack("sample"'))
    assert sorted(Path(pack.path).name for pack in load(folder).packs) == ["sample", "sequel"]
    for one, other in (("sample", "sequel"), ("sequel", "sample")):
        async with hosting(tmp_path / one) as host:
            pack = look_at(folder / "blocks" / one)
            await host.trust_pack(pack.path, pack.digest)
            refused = await host.launch(Launch(path=str(folder)))
            assert refused.code == "plugin.untrusted"
            assert f"blocks/{other}" in (refused.message or "")


def test_no_pack_takes_the_place_of_what_missions_are_made_of(tmp_path: Path) -> None:
    folder = Path(write_mission(tmp_path / "m", OUTER.replace("EACH", "{type: echo}")))
    write_pack(pack_of(folder), "sample", HEALTHY.replace("sample_flip", "map_over"))
    assert load(folder).packs == ()
    assert lint(folder, trust=lambda digest: Trust.NONE) == ()


def test_lint_reads_manifests_only(tmp_path: Path, mission: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pack_of(mission) / "sample.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert lint(mission) == ()
    warned = lint(mission, trust=lambda digest: Trust.NONE)
    assert [(item.code, item.severity, item.line) for item in warned] == [("plugin.untrusted", "warning", 7)]
    assert "quarterdeck packs trust" in warned[0].hint
    shutil.copytree(pack_of(mission), mission / "blocks" / "unused")
    assert load(mission).mission_hash == load(mission).mission_hash
    assert not (tmp_path / "ran").exists()


def test_a_broken_pack_is_missed_only_by_missions_that_need_it(tmp_path: Path, mission: Path) -> None:
    other = plain(mission, "  say: {type: echo}")
    manifest = pack_of(mission) / "pack.bin"
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"?")
    assert lint(other) == ()
    plain(mission, SHOUT, LINKED)
    with pytest.raises(MissionInvalid) as missing:
        load(mission)
    problem = missing.value.problems[0]
    assert (problem.code, problem.line, problem.column) == ("validation.block_unavailable", 7, 15)
    assert f"{pack_of(mission)} (plugin.checksum)" in problem.hint
    write_pack(pack_of(mission), "sample", HEALTHY)
    shutil.copytree(pack_of(mission), mission / "blocks" / "a-rival")
    (mission / "blocks" / "a-rival" / "more.py").write_text("")
    assert load(mission).packs[0].path == str(mission / "blocks" / "a-rival"), "the first by name"
