"""The catalogue lists what is there, the broken ones too, and reads nothing nobody chose."""

from __future__ import annotations

from pathlib import Path

from runtime.missions.catalogue import MAX_MISSIONS, Catalogue

GOOD = 'mission: {name}\nversion: "1"\ndescription: Says hello.\nblocks: {{one: {{type: escalate, reason: hi}}}}\n'


def add(root: Path, folder: str, text: str | None = None) -> Path:
    (root / folder).mkdir(parents=True)
    path = root / folder / "mission.yaml"
    path.write_text(GOOD.format(name=folder) if text is None else text)
    return path


def test_good_and_broken_missions_are_listed_by_folder(tmp_path: Path) -> None:
    add(tmp_path, "b")
    add(tmp_path, "a", "mission: [\n")
    add(tmp_path, "c")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    entries = Catalogue([tmp_path, tmp_path / "absent"]).list()
    assert [(entry.name, bool(entry.mission)) for entry in entries] == [("a", False), ("b", True), ("c", True)]
    assert entries[0].problems[0].code == "MISSION_YAML_SYNTAX"
    assert entries[1].description == "Says hello."
    assert entries[1].problems == ()


def test_a_root_may_be_a_mission_itself_and_is_listed_once(tmp_path: Path) -> None:
    path = add(tmp_path, "only")
    assert [entry.path for entry in Catalogue([tmp_path / "only", tmp_path]).list()] == [path]


def test_links_out_of_the_root_are_not_followed(tmp_path: Path) -> None:
    outside = add(tmp_path / "elsewhere", "secret")
    root = tmp_path / "root"
    add(root, "inside")
    (root / "linked").symlink_to(outside.parent)
    (root / "sly").mkdir()
    (root / "sly" / "mission.yaml").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    assert [entry.name for entry in Catalogue([root]).list()] == ["inside"]


def test_the_list_is_bounded(tmp_path: Path) -> None:
    for number in range(MAX_MISSIONS + 3):
        add(tmp_path, f"m{number:04}", "")
    assert len(Catalogue([tmp_path]).list()) == MAX_MISSIONS
