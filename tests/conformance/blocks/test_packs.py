"""Packs: found, judged and loaded step by step; the first failure skips the whole pack, and nothing else (blocks spec §20)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from support.blocks_kit import Events
from support.pack_folders import pack_text, write_pack
from support.pack_samples import PACK

from runtime.blocks.block import Block
from runtime.blocks.builtin.catalogue import BUILTIN
from runtime.blocks.envelope import Request
from runtime.blocks.errors import RegistryError
from runtime.blocks.packs.export import export_builtin, write_manifest
from runtime.blocks.packs.folders import MAX_MANIFEST_FILE, digest_of, pack_digest, read_folder, read_pack
from runtime.blocks.packs.imports import PREFIX
from runtime.blocks.packs.links import PackLink
from runtime.blocks.packs.loading import FoundPack, Trust, import_pack, installed_packs, load_packs
from runtime.blocks.packs.local import LocalLink
from runtime.blocks.packs.manifest import (
    PackError,
)
from runtime.blocks.packs.report import PluginReport
from runtime.blocks.registry import BlockRegistry, builtin_registry
from runtime.blocks.values import BlockValue
from runtime.blocks.wire import FrameType, decode_value, frame, pack, unframe
from runtime.kernel import codes


def everybody(digest: str) -> Trust:
    return Trust.IN_PROCESS


def load(folder: Path, registry: BlockRegistry | None = None, **options: Any) -> tuple[BlockRegistry, PluginReport]:
    registry = BlockRegistry() if registry is None else registry
    return registry, load_packs(registry, folders=[folder], **{"trust": everybody, **options})


async def say(registry: BlockRegistry, type_id: str) -> str:
    return (await registry.create(type_id, {}).execute(Request())).data.text()


def leftovers() -> set[str]:
    return {name for name in sys.modules if name.startswith(PREFIX)}


# -- one corrupt pack per code, between healthy ones -----------------------------------------------------------


def changed(place: Path, **changes: Any) -> None:
    """Another manifest in the file, well framed."""
    payload = unframe((place / "pack.bin").read_bytes())[1]
    members = decode_value(frame(FrameType.VALUE, payload)).to_python()
    (place / "pack.bin").write_bytes(frame(FrameType.MANIFEST, pack(BlockValue.of({**members, **changes}))))


def damaged(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        path = place / "pack.bin"
        path.write_bytes(edit(path.read_bytes()))

    return apply


def source(text: str) -> Callable[[Path], None]:
    return lambda place: (place / "broken.py").write_text(text) and None


def escaping(place: Path) -> None:
    (place / "notes.txt").symlink_to(place.parent.parent / "outside.txt")


def twice(place: Path) -> None:
    blocks = [{**block, "summary": text} for block in _blocks(place) for text in ("a", "b")]
    changed(place, blocks=blocks)


def _blocks(place: Path) -> list[dict[str, Any]]:
    payload = unframe((place / "pack.bin").read_bytes())[1]
    return list(decode_value(frame(FrameType.VALUE, payload)).to_python()["blocks"])


def conflicting(place: Path) -> None:
    (place / "broken.py").write_text(pack_text("broken", type_id="alpha_say"))
    write_manifest(place, "broken")


def clashing(place: Path) -> None:
    """A manifest no block class can be made from, told by the code, too."""
    block = _blocks(place)[0]
    block["config"] = [{**block["config"][0], "name": "spec"}]
    changed(place, blocks=[{**block, "type_id": "a_fine_one", "config": []}, block])
    text = "\n".join(
        (
            "from pathlib import Path",
            "class Hand:",
            "    abi_version = lambda self: 2",
            f"    manifest = lambda self: {(place / 'pack.bin').read_bytes()!r}",
            "    create = validate = run = drop = abi_version",
            "PACK = Hand()",
        )
    )
    (place / "broken.py").write_text(text)


CORRUPT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a link leads out": ("plugin.path_escape", escaping),
    "a pipe": ("plugin.path_escape", lambda place: os.mkfifo(place / "pipe")),
    "no manifest": ("plugin.manifest_missing", lambda place: (place / "pack.bin").unlink()),
    "a manifest that is a folder": (
        "plugin.manifest_missing",
        lambda place: ((place / "pack.bin").unlink(), (place / "pack.bin").mkdir()),
    ),
    "another magic": ("plugin.bad_magic", damaged(lambda data: b"PK" + data[2:])),
    "cut short": ("plugin.truncated", damaged(lambda data: data[:-1])),
    "an empty file": ("plugin.truncated", damaged(lambda data: b"")),
    "a changed byte": ("plugin.checksum", damaged(lambda data: data[:-1] + bytes([data[-1] ^ 1]))),
    "another frame": ("plugin.bad_frame", damaged(lambda data: frame(FrameType.VALUE, b"\xc0"))),
    "a repeated key": (
        "plugin.bad_encoding",
        damaged(lambda data: frame(FrameType.MANIFEST, b"\x82\xa1a\x01\xa1a\x02")),
    ),
    "another interface": ("plugin.abi_mismatch", lambda place: changed(place, abi=3)),
    "no map": ("plugin.manifest_invalid", damaged(lambda data: frame(FrameType.MANIFEST, b"\x01"))),
    "an unknown member": ("plugin.manifest_invalid", lambda place: changed(place, extra=1)),
    "a manifest too large": ("plugin.manifest_invalid", damaged(lambda data: data + bytes(MAX_MANIFEST_FILE))),
    "a type twice": ("plugin.duplicate_type_id", twice),
    "a type of another pack": ("plugin.type_conflict", conflicting),
    "code that leaves": ("plugin.import_failed", source("raise SystemExit(3)")),
    "code that fails": ("plugin.import_failed", source("1 / 0")),
    "code that is none": ("plugin.import_failed", source("def")),
    "code that goes looking": ("plugin.import_failed", source("import broken")),
    "no module": ("plugin.import_failed", lambda place: (place / "broken.py").unlink()),
    "no symbol": ("plugin.missing_symbol", source("PACKS = 1")),
    "a symbol without methods": ("plugin.missing_symbol", source("PACK = 1")),
    "code of another version": ("plugin.manifest_mismatch", source(pack_text("broken", version="2"))),
    "a manifest() that leaves": (
        "plugin.manifest_mismatch",
        source(pack_text("broken") + "\n\ndef leave(): raise SystemExit\n\nPACK.manifest = leave\n"),
    ),
    "a type that cannot be registered": ("plugin.register_failed", clashing),
}


@pytest.mark.parametrize("fault", CORRUPT)
async def test_a_corrupt_pack_is_skipped_and_its_neighbours_load(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code, corrupt = CORRUPT[fault]
    folder = tmp_path / "blocks"
    for name in ("alpha", "broken", "zulu"):
        write_pack(folder, name)
    (tmp_path / "outside.txt").write_text("not yours")
    corrupt(folder / "broken")
    before, path, events = leftovers(), list(sys.path), Events()
    registry, report = load(folder, observe=events)
    assert [(Path(skipped.path).name, skipped.code) for skipped in report.skipped] == [("broken", code)]
    assert report.skipped[0].message
    assert codes.known(code)
    assert [found.manifest.name for found in report.loaded] == ["alpha", "zulu"]
    assert [info.type_id for info in registry.types()] == ["alpha_say", "zulu_say"]
    assert [await say(registry, name) for name in ("alpha_say", "zulu_say")] == ["alpha!", "zulu!"]
    assert [(event, fields["pack"] or "?", fields["code"]) for event, fields in events.seen][0::2] == [
        ("plugin.loaded", "alpha", None),
        ("plugin.loaded", "zulu", None),
    ]
    assert events.seen[1][0] == "plugin.skipped"
    assert (events.seen[1][1]["path"], events.seen[1][1]["code"]) == (str(folder / "broken"), code)
    assert len(leftovers() - before) == 4  # a root and a module for each healthy pack
    assert sys.path == path
    assert not list(folder.rglob("__pycache__"))


def test_types_registered_before_one_is_refused_are_withdrawn() -> None:
    class Picky(BlockRegistry):
        def register(self, block_class: type[Block]) -> None:
            if block_class.spec.type_id == "ticks":
                raise RegistryError("registry.reserved_name", "not this one")
            super().register(block_class)

    registry = Picky()
    report = load_packs(registry, builtin=PACK)
    assert ([skipped.code for skipped in report.skipped], registry.types()) == (["plugin.register_failed"], ())
    assert registry.skipped("asks") == ("samples", "plugin.register_failed")


def test_a_folder_that_is_itself_a_link_out_is_refused(tmp_path: Path) -> None:
    elsewhere = write_pack(tmp_path / "elsewhere", "away")
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "away").symlink_to(elsewhere)
    (tmp_path / "blocks" / "loop").symlink_to("loop")
    _, report = load(tmp_path / "blocks")
    assert {skipped.code for skipped in report.skipped} == {"plugin.path_escape"}
    assert len(report.skipped) == 2


def test_links_that_stay_inside_are_fine(tmp_path: Path) -> None:
    place = write_pack(tmp_path / "blocks", "alpha")
    before = pack_digest(place)
    (place / "data").mkdir()
    (place / "data" / "same.py").symlink_to("../alpha.py")
    assert pack_digest(place) != before
    assert not load(tmp_path / "blocks")[1].skipped


def test_a_missing_folder_holds_no_packs_and_odd_entries_are_none(tmp_path: Path) -> None:
    assert load(tmp_path / "blocks")[1] == PluginReport()
    folder = tmp_path / "blocks"
    for name in (".git", "__pycache__"):
        (folder / name).mkdir(parents=True)
    (folder / "README.md").write_text("hello")
    assert load(folder)[1] == PluginReport()


def test_a_type_of_a_skipped_pack_says_which_pack_and_why(tmp_path: Path) -> None:
    write_pack(tmp_path, "alpha")
    registry, report = load(tmp_path, trust=lambda digest: Trust.NONE)
    assert registry.skipped("alpha_say") == ("alpha", "plugin.untrusted")
    assert report.why_absent("alpha_say") is report.skipped[0]
    assert report.why_absent("other") is None
    with pytest.raises(RegistryError, match=r"pack 'alpha'.*plugin\.untrusted"):
        registry.create("alpha_say", {})


# -- trust -----------------------------------------------------------------------------------------------------


def test_nothing_of_an_untrusted_pack_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    place = write_pack(tmp_path / "blocks", "alpha")
    (place / "alpha.py").write_text(f"open({str(mark)!r}, 'w').close()")
    registry = BlockRegistry()
    report = load_packs(registry, folders=[tmp_path / "blocks"])  # no list of trusted packs: nobody is
    assert [skipped.code for skipped in report.skipped] == ["plugin.untrusted"]
    assert f"quarterdeck packs trust {place}" in report.skipped[0].message
    assert report.skipped[0].digest == pack_digest(place)
    assert not mark.exists()


def test_the_digest_covers_everything_but_caches(tmp_path: Path) -> None:
    place = write_pack(tmp_path, "alpha")
    first = pack_digest(place)
    for cache in ("__pycache__", ".pytest_cache"):
        (place / cache).mkdir()
        (place / cache / "alpha.cpython-311.pyc").write_bytes(b"junk")
    assert pack_digest(place) == first
    for name in ("data.txt", "sub/__init__.py"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("")
        assert pack_digest(place) != first
        (place / name).unlink()
    assert pack_digest(place) == first == digest_of({path.name: path.read_bytes() for path in place.glob("[!.]*.*")})
    (place / "alpha.py").rename(place / "beta.py")
    assert pack_digest(place) != first


async def test_what_runs_is_what_was_digested(tmp_path: Path) -> None:
    place = write_pack(tmp_path, "alpha")

    def trust(digest: str) -> Trust:
        (place / "alpha.py").write_text("raise SystemExit('changed after it was judged')")
        return Trust.IN_PROCESS

    registry, report = load(tmp_path, trust=trust)
    assert not report.skipped
    assert await say(registry, "alpha_say") == "alpha!"


async def test_a_confined_pack_goes_through_the_link_it_is_given(tmp_path: Path) -> None:
    place = write_pack(tmp_path, "alpha")
    write_pack(tmp_path, "broken")
    asked: list[FoundPack] = []

    def link_for(found: FoundPack) -> PackLink:
        asked.append(found)
        if found.manifest.name == "broken":
            raise PackError("plugin.import_failed", "the worker could not import it")
        return LocalLink(import_pack(found.path))

    before = leftovers()
    registry, report = load(tmp_path, trust=lambda digest: Trust.CONFINED, link_for=link_for)
    assert [(found.path, found.digest) for found in asked][:1] == [(place, pack_digest(place))]
    assert [skipped.code for skipped in report.skipped] == ["plugin.import_failed"]
    assert await say(registry, "alpha_say") == "alpha!"
    assert len(leftovers() - before) == 2  # only what the link itself imported
    _, unlinked = load(tmp_path, trust=lambda digest: Trust.CONFINED)
    assert {skipped.code for skipped in unlinked.skipped} == {"plugin.untrusted"}


# -- order, names, modules -------------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("charlie", "alpha", "bravo"):
        write_pack(tmp_path, name, type_id="same_say")
    reports = []
    listed = Path.iterdir
    for reverse in (False, True):
        monkeypatch.setattr(Path, "iterdir", lambda self, reverse=reverse: iter(sorted(listed(self), reverse=reverse)))
        reports.append(load(tmp_path)[1])
    assert reports[0] == reports[1]
    assert [found.manifest.name for found in reports[0].loaded] == ["alpha"]
    assert [skipped.code for skipped in reports[0].skipped] == ["plugin.type_conflict"] * 2
    assert "by the pack 'alpha'" in reports[0].skipped[0].message


async def test_packs_hold_modules_of_the_same_name(tmp_path: Path) -> None:
    for name in ("alpha", "bravo"):
        place = tmp_path / name
        (place / "lib" / "inner").mkdir(parents=True)
        (place / "lib" / "__init__.py").write_text("")
        (place / "lib" / "inner" / "words.py").write_text(f"WORD = {name!r}")  # a folder without __init__.py
        text = "from .inner.words import WORD\nfrom . import main as myself\n" + pack_text(name, module="lib.main")
        (place / "lib" / "main.py").write_text(text.replace(f'"{name}"\n\n    def', "WORD\n\n    def"))
        write_manifest(place, "lib.main")
    registry, report = load(tmp_path)
    assert not report.skipped
    assert [await say(registry, f"{name}_say") for name in ("alpha", "bravo")] == ["alpha!", "bravo!"]
    assert "lib" not in sys.modules


async def test_an_identical_pack_is_noted(tmp_path: Path) -> None:
    for part in ("one", "two"):
        write_pack(tmp_path / part, "alpha")
    write_pack(tmp_path / "three", "alpha", version="2")
    registry = BlockRegistry()
    report = load_packs(registry, folders=[tmp_path / part for part in ("one", "two", "three")], trust=everybody)
    assert [note.code for note in report.notes] == ["plugin.already_loaded"]
    assert [skipped.code for skipped in report.skipped] == ["plugin.type_conflict"]
    assert registry.skipped("alpha_say") is None
    assert report.record()["loaded"][0]["types"] == ["alpha_say"]


def test_writing_a_manifest_checks_what_the_code_tells(tmp_path: Path) -> None:
    place = write_pack(tmp_path, "alpha")
    (place / "other.py").write_text(pack_text("alpha"))
    with pytest.raises(PackError) as caught:
        write_manifest(place, "other")
    assert caught.value.code == "plugin.manifest_mismatch"
    assert "module='other'" in caught.value.message


# -- installed packs -------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, as where packages are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def package(place: Path, name: str, *, sealed: bool, ran: str = "") -> EntryPoint:
    (place / name).mkdir()
    (place / name / "__init__.py").write_text("")
    (place / name / "blocks.py").write_text(pack_text(name, module="blocks") + ran)
    if sealed:
        write_manifest(place / name, "blocks")
    return EntryPoint(name, f"{name}.blocks:PACK", "quarterdeck.blocks")


@pytest.mark.parametrize("sealed", [True, False])
async def test_an_installed_pack_loads_by_its_entry_point(installed: Path, sealed: bool) -> None:
    points = [package(installed, name, sealed=sealed) for name in ("qd_zulu", "qd_alpha")]
    registry = BlockRegistry()
    digests: list[str] = []

    def trust(digest: str) -> Trust:
        digests.append(digest)
        return Trust.IN_PROCESS

    report = load_packs(registry, entry_points=points, trust=trust)
    assert [found.manifest.name for found in report.loaded] == ["qd_alpha", "qd_zulu"]
    assert list(dict.fromkeys(digests)) == [pack_digest(installed / "qd_alpha"), pack_digest(installed / "qd_zulu")]
    assert await say(registry, "qd_zulu_say") == "qd_zulu!"


def test_nothing_of_an_untrusted_installed_pack_runs(installed: Path) -> None:
    point = package(installed, "qd_alpha", sealed=False, ran="\nraise SystemExit\n")
    for trust, code in (
        (Trust.NONE, "plugin.untrusted"),
        (Trust.CONFINED, "plugin.manifest_missing"),
        (Trust.IN_PROCESS, "plugin.import_failed"),
    ):
        report = load_packs(BlockRegistry(), entry_points=[point], trust=lambda digest, trust=trust: trust)
        assert [skipped.code for skipped in report.skipped] == [code]
        assert "qd_alpha" in report.skipped[0].path


def test_an_installed_pack_in_two_places_is_refused(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the one would vouch for the code of the other."""
    for name in ("one", "two"):
        (tmp_path / name / "spread").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path / name)
    (tmp_path / "one" / "spread" / "code.py").write_text(pack_text("spread"))
    point = EntryPoint("spread", "spread.code:PACK", "quarterdeck.blocks")
    report = load_packs(BlockRegistry(), entry_points=[point], trust=everybody)
    assert [(pack.code, "several folders" in pack.message) for pack in report.skipped] == [
        ("plugin.import_failed", True)
    ]
    assert "spread" not in sys.modules


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    """Its name goes into stores, pipes and terminals, which would fail on it."""
    write_pack(tmp_path, "mine")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    (tmp_path / "mine").rename(odd)
    with pytest.raises(PackError) as refused:
        read_folder(odd)
    assert refused.value.code == "plugin.manifest_invalid"
    _, report = load(tmp_path)
    (skipped,) = report.skipped
    assert skipped.code == "plugin.manifest_invalid"
    (skipped.path + skipped.message).encode()


def test_how_to_trust_a_pack_can_be_pasted_whatever_it_is_called(tmp_path: Path) -> None:
    write_pack(tmp_path, "mine")
    (tmp_path / "mine").rename(tmp_path / "a; touch b")
    _, report = load(tmp_path, trust=lambda digest: Trust.NONE)
    assert report.skipped[0].message.endswith(f"packs trust '{tmp_path}/a; touch b'")


def test_an_entry_point_to_nothing_is_skipped(installed: Path) -> None:
    (installed / "qd_single.py").write_text(pack_text("qd_single"))
    points = [
        EntryPoint("a", "qd_not_there.blocks:PACK", "quarterdeck.blocks"),
        EntryPoint("b", "sys:path", "quarterdeck.blocks"),
        EntryPoint("c", "qd_single:PACK", "quarterdeck.blocks"),
    ]
    report = load_packs(BlockRegistry(), entry_points=points, trust=everybody)
    assert [skipped.code for skipped in report.skipped] == ["plugin.import_failed"] * 2
    assert [(found.path, found.digest) for found in report.loaded] == [
        (installed / "qd_single.py", pack_digest(installed / "qd_single.py"))
    ]
    assert isinstance(installed_packs(), tuple)


# -- the built-ins ---------------------------------------------------------------------------------------------


async def test_the_built_ins_exported_to_a_folder_load_and_run_from_there(tmp_path: Path) -> None:
    place = export_builtin(tmp_path)
    assert read_pack(place) == BUILTIN.about
    registry, report = load(tmp_path)
    assert report.skipped == ()
    assert registry.types() == builtin_registry().types()
    for type_id, config, value, expected in (
        ("echo", {}, [1, 2], "[1,2]"),
        ("template", {"template": "hi {{ name }}"}, {"name": "there"}, "hi there"),
    ):
        block = registry.create(type_id, config)
        assert type(block).__module__.startswith(PREFIX)
        assert (await block.execute(Request(BlockValue.of(value)))).data.text() == expected
    named = re.compile(r"^\s*(from|import) runtime\.blocks\.builtin", re.MULTILINE)
    assert not [path for path in place.rglob("*.py") if named.search(path.read_text())]
    assert not list(place.rglob("__pycache__"))
    with pytest.raises(FileExistsError):
        export_builtin(tmp_path)


def test_an_exported_copy_beside_the_built_ins_is_noted(tmp_path: Path) -> None:
    place = export_builtin(tmp_path)
    report = load_packs(BlockRegistry(), builtin=BUILTIN, folders=[tmp_path])
    assert ([note.code for note in report.notes], report.skipped) == (["plugin.already_loaded"], ())
    (place / "builtin" / "shaping.py").write_text("")
    assert [skipped.code for skipped in load_packs(BlockRegistry(), builtin=BUILTIN, folders=[tmp_path]).skipped] == [
        "plugin.untrusted"
    ]


async def test_the_samples_load_from_a_folder_and_speak_bytes(tmp_path: Path) -> None:
    import support.pack_samples as samples

    place = tmp_path / "samples"
    place.mkdir()
    (place / "samples.py").write_text(Path(samples.__file__).read_text())
    assert write_manifest(place, "samples") == PACK.about
    registry, report = load(tmp_path, byte_path=True)
    assert not report.skipped
    response = await registry.create("rows", {}).execute(Request(BlockValue.of(2)))
    assert response.data == BlockValue.of([0, 1])


# -- folders ---------------------------------------------------------------------------------------------------


def test_a_folder_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_pack(tmp_path, "alpha")
    (place / "data.txt").write_text("12345")
    opened = Path.open
    for name, content in (("data.txt", b"123456"), ("data.txt", b"1"), ("alpha.py", b"")):

        def changing(self: Path, *args: Any, name: str = name, content: bytes = content) -> Any:
            if self.name == name:
                with opened(self, "wb") as file:
                    file.write(content)
            return opened(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", changing)
            with pytest.raises(PackError, match="changed while it was read"):
                read_folder(place)


def test_reading_a_manifest_alone_is_as_careful(tmp_path: Path) -> None:
    place = write_pack(tmp_path, "alpha")
    assert read_pack(place).type_ids == ("alpha_say",)
    (place / "pack.bin").unlink()
    os.mkfifo(place / "pack.bin")
    (tmp_path / "outside.bin").write_bytes(b"")
    for again in (lambda: None, lambda: (place / "pack.bin").unlink()):
        again()
        with pytest.raises(PackError) as caught:
            read_pack(place)
        assert caught.value.code == "plugin.manifest_missing"
    (place / "pack.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(PackError) as caught:
        read_pack(place)
    assert caught.value.code == "plugin.path_escape"


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    _, report = load(tmp_path)
    assert [(skipped.path, skipped.code) for skipped in report.skipped] == [(str(tmp_path), "plugin.manifest_missing")]


def test_a_pack_that_is_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_pack(tmp_path, "alpha")
    with monkeypatch.context() as patch:
        patch.setattr("runtime.blocks.packs.folders.MAX_BYTES", 10)
        with pytest.raises(PackError, match="more than 10 bytes"):
            read_folder(place)
    monkeypatch.setattr("runtime.blocks.packs.folders.MAX_ENTRIES", 1)
    with pytest.raises(PackError, match="more than 1 files"):
        read_folder(place)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(PackError):
        read_folder(tmp_path / "gone")
