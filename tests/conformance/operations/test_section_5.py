"""State hashes (operations specification §5): tests 5.a–5.g."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from runtime.kernel.errors import Refused
from runtime.orchestration.state_hash import compute_state_hash
from tests.support.files import put


def test_5_a_contents_are_framed(tmp_path: Path) -> None:
    put(tmp_path, "one/a", "x\nb:y")
    put(tmp_path, "two/a", "x")
    put(tmp_path, "two/b", "y")
    assert compute_state_hash(["a"], tmp_path / "one") != compute_state_hash(["a", "b"], tmp_path / "two")


def test_5_b_a_missing_file_cannot_be_imitated(tmp_path: Path) -> None:
    missing = compute_state_hash(["a"], tmp_path)
    for text in ("", "missing", '{"kind":"missing","path":"a"}'):
        put(tmp_path, "a", text)
        assert compute_state_hash(["a"], tmp_path) != missing


def test_5_c_everything_below_a_folder_counts(tmp_path: Path) -> None:
    put(tmp_path, "d/e/f/deep", "1")
    (tmp_path / "d/empty").mkdir()
    before = compute_state_hash(["d"], tmp_path)
    put(tmp_path, "d/e/f/deep", "2")
    changed = compute_state_hash(["d"], tmp_path)
    (tmp_path / "d/empty").rmdir()
    assert len({before, changed, compute_state_hash(["d"], tmp_path)}) == 3


def test_5_d_order_and_duplicates_do_not_matter(tmp_path: Path) -> None:
    for name in ("a", "b", "d/c"):
        put(tmp_path, name, name)
    names = ("a", "d", "d/c", "none")
    expected = compute_state_hash(names, tmp_path)
    for order in itertools.permutations(names):
        assert compute_state_hash([*order, order[0], order[-1]], tmp_path) == expected
    assert compute_state_hash(["a", "b"], tmp_path) != compute_state_hash(["a"], tmp_path)


def test_5_e_the_executable_bit_counts_and_other_bits_do_not(tmp_path: Path) -> None:
    file = put(tmp_path, "a", "x")
    plain = compute_state_hash(["a"], tmp_path)
    file.chmod(0o600)
    assert compute_state_hash(["a"], tmp_path) == plain
    file.chmod(0o744)
    assert compute_state_hash(["a"], tmp_path) != plain


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../x", "PATH_TRAVERSAL"),
        ("a/../../x", "PATH_TRAVERSAL"),
        ("/etc/passwd", "PATH_ABSOLUTE"),
        ("", "PATH_EMPTY"),
        ("a//b", "PATH_NOT_NORMAL"),
        ("./a", "PATH_NOT_NORMAL"),
        ("a/", "PATH_NOT_NORMAL"),
        ("a\0b", "PATH_NUL"),
        ("a\\b", "PATH_BACKSLASH"),
        ("x/.GIT/config", "PATH_GIT_INTERNAL"),
        (b"a", "PATH_TYPE"),
    ],
)
def test_5_f_a_path_outside_is_refused_before_anything_is_read(tmp_path: Path, path: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        compute_state_hash([path, "a"] if isinstance(path, str) else [path], tmp_path / "does not exist")
    assert caught.value.code == code


def test_5_g_a_link_to_an_identical_file_is_another_state(tmp_path: Path) -> None:
    put(tmp_path, "real/a", "same")
    put(tmp_path, "tree/a", "same")
    root = tmp_path / "tree"
    as_file = compute_state_hash(["a"], root)
    (root / "a").unlink()
    (root / "a").symlink_to(tmp_path / "real/a")
    as_link = compute_state_hash(["a"], root)
    assert as_link != as_file
    put(tmp_path, "real/a", "other")
    assert compute_state_hash(["a"], root) == as_link, "never followed"
