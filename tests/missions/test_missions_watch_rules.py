"""The decisions of a watch: which files concern it, whose change it is, when it is a loop, when it is time to look."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.events.facts import FileChange
from runtime.missions.model import WatchSpec
from runtime.missions.watch_rules import (
    LOOP_RUNS,
    MAX_SETTLE_SECONDS,
    OVERLAPS,
    Doings,
    Judgement,
    Mark,
    Next,
    OwnRead,
    OwnWrite,
    Places,
    Settling,
    Suspicion,
    WatchRules,
    cause_of,
    compare,
    hidden,
    judge,
    may_look,
    overlapping,
    places,
    sift,
)
from tests.support.mission_texts import SMALL, found

RULES = WatchRules(paths=("src/**", "notes.md"), excludes=("**/*.log", "src/gen/**"), ours=("state",))
NAMES = st.sampled_from(["a", "b", "src", "x.log", "gen", ".git", "notes.md", "a.py~", "state"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
TINY = 1e-9
CONTENTS = st.dictionaries(PATHS, st.sampled_from(["1", "2"]), max_size=6)


def change(path: str, before: str | None = "1", after: str | None = "2") -> FileChange:
    return FileChange(path=path, before=before, after=after)


@pytest.mark.parametrize(
    "path",
    [
        *(".git", ".git/index", "a/.git/HEAD", "node_modules/x/y.js", "src/__pycache__/a.pyc", "venv/bin/python"),
        *("a.py~", "src/.a.py.swp", "src/.#a.py", "src/4913", "x.tmp", ".DS_Store", "deep/.quarterdeck-1f-2"),
    ],
)
def test_what_no_watch_ever_looks_at(path: str) -> None:
    assert hidden(path)
    assert not WatchRules(paths=("**",)).counts(path)


@pytest.mark.parametrize("path", ["src/a.py", ".gitignore", ".github/x.yml", "venv.md", "tmp/a", "a.tmpl"])
def test_ordinary_files_are_seen(path: str) -> None:
    assert WatchRules(paths=("**",)).counts(path)


def test_patterns_excludes_and_our_own_folders() -> None:
    wanted = {"src/a": True, "src/a/b": True, "notes.md": True, "src": False, "other": False, "src/x.log": False}
    assert {path: RULES.counts(path) for path in wanted} == wanted
    assert [path for path in ("src/x.log", "src/gen/a", "x.log", "src/a") if RULES.excluded(path)] == [
        "src/x.log",
        "src/gen/a",
    ]
    assert WatchRules(paths=("**",), ours=("state",)).unseen("state/db")


@pytest.mark.parametrize(
    ("patterns", "deep", "flat"),
    [
        (("src/**",), ("src",), ()),
        (("src/*.py", "docs/"), ("docs",), ("src",)),
        (("notes.md", "src/**/*.py"), ("src",), ("",)),
        (("src/a/b.txt",), (), ("src/a",)),
        (("**", "src/x"), ("",), ()),
        (("src/**", "src/a/**", "src/a/x"), ("src",), ()),
        (("none/deeper/**",), (), ("",)),
        (("src/none/**",), (), ("src",)),
        (("*/x/**",), ("",), ()),
    ],
)
def test_the_folders_listened_at(patterns: tuple[str, ...], deep: tuple[str, ...], flat: tuple[str, ...]) -> None:
    there = {"src", "src/a", "docs"}
    assert places(WatchRules(paths=patterns), there.__contains__) == Places(deep=deep, flat=flat)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["src/**", "**/*.py", "a/b/c", "a/*", "src/a/", "x/**/y"]), min_size=1), PATHS)
def test_a_file_that_counts_lies_at_a_place_listened_at(patterns: list[str], path: str) -> None:
    rules = WatchRules(paths=tuple(patterns))
    listened = places(rules, lambda folder: True)
    parent = path.rpartition("/")[0]
    if rules.counts(path):
        inside = any(not folder or path.startswith(folder + "/") for folder in listened.deep)
        assert inside or parent in listened.flat


def test_a_batch_is_sifted() -> None:
    heard = sift(RULES, ["src/a", "src/x.log", ".git/index", "other"], deep=True)
    assert (heard.count, heard.look, heard.excluded) == (1, True, ("src/x.log",))
    assert sift(RULES, ["src/moved-folder"], deep=True).look
    assert not sift(RULES, ["other", "state/db"], deep=False).look
    assert sift(WatchRules(paths=("lib/deep/**",)), ["lib"], deep=False).look, "the way to a missing folder appears"
    many = sift(WatchRules(paths=("**",), excludes=("**",)), (f"f{n}" for n in range(99)), deep=True)
    assert (len(many.excluded), many.look) == (20, False)


@settings(max_examples=60)
@given(CONTENTS, CONTENTS)
def test_a_difference_is_what_turns_one_into_the_other(before: dict[str, str], after: dict[str, str]) -> None:
    marks = [{path: Mark(text) for path, text in side.items()} for side in (before, after)]
    turned = dict(before)
    for item in compare(*marks).changes:
        assert turned.get(item.path) == item.before != item.after
        if item.after is None:
            del turned[item.path]
        else:
            turned[item.path] = item.after
    assert turned == after
    assert compare(marks[1], marks[1]).changes == ()


def test_touching_changes_nothing() -> None:
    found_same = compare({"a": Mark("1", (1,)), "b": Mark("1", (1,))}, {"a": Mark("1", (2,)), "b": Mark("1", (1,))})
    assert (found_same.changes, found_same.same) == ((), ("a",))


def write(seq: int, *paths: str, stands: bool = True, run: str = "8b3f0000") -> OwnWrite:
    return OwnWrite(run_id=run, seq=seq, paths=paths, stands=frozenset(paths) if stands else frozenset())


def read(seq: int, path: str, *, names: bool = False, run: str = "8b3f0000") -> OwnRead:
    return OwnRead(run_id=run, seq=seq, path=path, names=names)


def test_changes_are_attributed_to_the_newest_entry_that_left_them() -> None:
    doings = Doings(writes=(write(4, "a"), write(9, "a"), write(6, "b", stands=False)), unfinished=("c",))
    told = judge([change("a"), change("b"), change("c/d"), change("d")], doings)
    assert [(item.path, author.seq) for item, author in told.own] == [("a", 9)]
    assert [item.path for item in told.undecided] == ["c/d"]
    assert [item.path for item in told.foreign] == ["b", "d"], "what is no more as it was left is somebody else's"
    assert told.loop is None


@pytest.mark.parametrize(
    ("doings", "before", "loop"),
    [
        (Doings(writes=(write(12, "a"),), reads=(read(5, "a"),)), "1", True),
        (Doings(writes=(write(12, "a"),), reads=(read(14, "a"),)), "1", False),
        (Doings(writes=(write(3, "a", stands=False), write(12, "a")), reads=(read(5, "a"),)), "1", False),
        (Doings(writes=(write(12, "a"),), reads=(read(5, "b"),)), "1", False),
        (Doings(writes=(write(12, "a"),), reads=(read(5, "a", run="other"),)), "1", False),
        (Doings(writes=(write(12, "a", stands=False),), reads=(read(5, "a"),)), "1", False),
        (Doings(writes=(write(12, "a"),), reads=(read(5, "a", names=True),)), "1", False),
        (Doings(writes=(write(12, "a"),), reads=(read(5, "a", names=True),)), None, True),
    ],
    ids=["looked-first", "looked-after", "wrote-first", "another-file", "another-run", "not-its-own", "listed", "new"],
)
def test_a_run_that_changes_what_it_looked_at_is_a_loop(doings: Doings, before: str | None, loop: bool) -> None:
    told = judge([change("a", before)], doings).loop
    assert told == (
        "run 8b3f0000 wrote a (entry 12), which it also reads (entry 5); it would rerun for ever" if loop else None
    )


def test_a_folder_that_was_listed_or_executed_covers_its_files() -> None:
    doings = Doings(writes=(write(9, "tests/t"),), reads=(read(2, "tests"),))
    assert "tests/t" in str(judge([change("tests/t")], doings).loop)


def test_reruns_nobody_accounts_for_add_up_only_in_a_row_and_for_the_same_file() -> None:
    suspicion = Suspicion()
    for _ in range(LOOP_RUNS - 1):
        suspicion = suspicion.after(["a", "b"])
        assert suspicion.loop is None
    assert suspicion.after(["c"]).runs == 1
    assert suspicion.after([]).runs == 0
    again = suspicion.after(["b", "c"])
    assert again.paths == {"b"}
    assert "b changed each time" in str(again.loop)


def test_who_could_have_written_a_file() -> None:
    assert Doings(loose=True).possible("any")
    assert Doings(writes=(write(1, "out", stands=False),)).possible("out/x")
    assert not Doings(writes=(write(1, "out"),)).possible("src/x")


@settings(max_examples=60)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=40), st.floats(0, 1))
def test_changes_are_looked_at_after_quiet_time_and_never_put_off_for_ever(gaps: list[float], quiet: float) -> None:
    settling, now = Settling(quiet), 0.0
    assert settling.left(now) is None
    for gap in gaps:
        settling.touch(now)
        left = settling.left(now)
        assert left is not None
        assert 0 <= left <= quiet + TINY
        assert now + left <= MAX_SETTLE_SECONDS + TINY or left == 0
        now += gap
    settling.expire(now)
    assert settling.left(now) == pytest.approx(0, abs=TINY)
    settling.clear()
    assert not settling.touched


def test_the_overlap_policies() -> None:
    assert set(get_args(WatchSpec.model_fields["overlap"].annotation)) == set(OVERLAPS)
    foreign, nothing = Judgement(foreign=(change("a"),)), Judgement(own=((change("a"), write(1, "a")),))
    for overlap in OVERLAPS:
        assert may_look(busy=False, overlap=overlap, stoppable=False)
        assert may_look(busy=True, overlap=overlap, stoppable=True) is (overlap == "preempt")
        assert not may_look(busy=True, overlap=overlap, stoppable=False)
        for busy in (True, False):
            told = overlapping(nothing, busy=busy, overlap=overlap, all_while_busy=True)
            assert told is Next.NOTHING
        assert overlapping(foreign, busy=False, overlap=overlap, all_while_busy=False) is Next.RUN
    assert overlapping(foreign, busy=True, overlap="preempt", all_while_busy=True) is Next.PREEMPT
    assert overlapping(foreign, busy=False, overlap="skip", all_while_busy=True) is Next.SKIP
    assert overlapping(foreign, busy=False, overlap="queue", all_while_busy=True) is Next.RUN


def test_the_cause_is_one_line() -> None:
    assert cause_of([]) == "the watch began"
    assert cause_of([change("src/a.py")]) == "src/a.py changed"
    assert cause_of([change(name) for name in "abcd"]) == "a and 3 more changed"


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ('{paths: ["src/**", ".git/**"]}', "MISSION_WATCH"),
        ('{paths: ["src/**"], exclude: ["src/**"]}', "MISSION_WATCH"),
        ('{paths: ["src/**"], exclude: ["/abs"]}', "GLOB_INVALID"),
        ('{paths: ["src/**"], overlap: never}', "MISSION_VALUE"),
        ('{paths: ["src/**"], debounce_ms: 60001}', "MISSION_VALUE"),
        ("{paths: []}", "MISSION_VALUE"),
        ("{paths: 7, exclude: 8}", "MISSION_VALUE"),
    ],
)
def test_what_can_never_be_seen_to_change_is_a_problem_with_a_position(section: str, code: str) -> None:
    problems = found(f"{SMALL}watch: {section}\n")
    assert {(item.code, item.line) for item in problems} == {(code, len(SMALL.splitlines()) + 1)}


def test_a_whole_watch_section_loads() -> None:
    section = '{paths: ["src/**"], exclude: ["**/*.log"], debounce_ms: 0, overlap: preempt}'
    assert found(f"{SMALL}watch: {section}\n") == []
