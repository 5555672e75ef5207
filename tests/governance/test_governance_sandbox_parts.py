"""The pure parts of the sandbox: the mount plan, captured output, status lines and environments."""

from __future__ import annotations

import hashlib
import os
import resource
import struct
import subprocess
import sys
from dataclasses import replace
from errno import EAFNOSUPPORT, ENOSYS, EPERM, EPROTONOSUPPORT
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.governance import landlock, process_tree, sandbox_launcher, seccomp
from runtime.governance.environment import PRIVATE_HOME, rebuilt, relocate
from runtime.governance.sandbox_backends import Channels
from runtime.governance.sandbox_bwrap import Bubblewrap
from runtime.governance.sandbox_capture import Capture, StatusReader
from runtime.governance.sandbox_counting import Counting
from runtime.governance.sandbox_layout import Mount, MountKind, open_unfollowed, plan_mounts, program_roots
from runtime.governance.sandbox_limits import Limits
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessSpec


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    (tmp_path / "tree" / "out").mkdir(parents=True)
    return ProcessSpec(argv=("/usr/bin/true",), cwd=tmp_path / "tree", root=tmp_path / "tree", env={})


def planned(spec: ProcessSpec, **changes: Any) -> dict[Path, Mount]:
    return {mount.place: mount for mount in plan_mounts(replace(spec, **changes))}


# --- mounts -----------------------------------------------------------------------------------------------------------


def test_the_tree_is_read_only_and_grants_lie_on_top(spec: ProcessSpec) -> None:
    plan = planned(spec, writable=(spec.root / "out",))
    assert plan[spec.root].kind is MountKind.READ
    assert plan[spec.root / "out"].kind is MountKind.WRITE
    assert plan[Path("/tmp")].kind is MountKind.PRIVATE
    places = list(plan)
    assert all(
        places.index(place) > places.index(parent) for place in places for parent in place.parents if parent in plan
    )


def test_no_account_and_no_key_of_the_system_is_shown(spec: ProcessSpec) -> None:
    shown = {str(place) for place in planned(spec, hosts=["a.example"])}
    assert not shown & {"/etc", "/etc/passwd", "/etc/shadow", "/etc/ssl", "/etc/ssl/private", "/root", "/home", "/var"}


def test_certificate_authorities_come_only_with_hosts(spec: ProcessSpec) -> None:
    authorities = Path("/etc/ssl/certs")
    assert authorities not in planned(spec)
    assert (authorities in planned(spec, hosts=["a.example"])) == authorities.exists()
    assert Path("/etc/resolv.conf") not in planned(spec, hosts=["a.example"])  # names are resolved by the proxy


def test_scratch_wins_over_writable_on_the_same_path(spec: ProcessSpec) -> None:
    path = spec.root / "out"
    assert planned(spec, writable=(path,), scratch=(path,))[path].kind is MountKind.PRIVATE


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/self", "/dev", "/sys/kernel", "relative", "/tmp/../etc"])
@pytest.mark.parametrize("key", ["readable", "writable", "scratch"])
def test_parts_of_the_system_are_never_bound(spec: ProcessSpec, key: str, path: str) -> None:
    with pytest.raises(Refused) as refused:
        planned(spec, **{key: (Path(path),)})
    assert refused.value.code == "SANDBOX_PATH"


@pytest.mark.parametrize("key", ["readable", "writable", "scratch"])
def test_a_path_that_does_not_exist_is_refused_rather_than_widened(spec: ProcessSpec, key: str) -> None:
    with pytest.raises(Refused, match="absent"):
        planned(spec, **{key: (spec.root / "absent",)})


def test_scratch_outside_the_tree_needs_no_existing_folder(spec: ProcessSpec) -> None:
    assert planned(spec, scratch=(Path("/scratch/deep"),))[Path("/scratch/deep")].kind is MountKind.PRIVATE


def test_a_tree_behind_a_symlink_is_shown_under_both_names(spec: ProcessSpec, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(spec.root)
    plan = planned(spec, root=link, writable=(link / "out",))
    assert {link, spec.root, link / "out", spec.root / "out"} <= set(plan)
    assert plan[link].source == str(spec.root)


def test_a_symlink_below_the_tree_is_refused_as_a_grant(spec: ProcessSpec, tmp_path: Path) -> None:
    (tmp_path / "else" / "out").mkdir(parents=True)
    (spec.root / "link").symlink_to(tmp_path / "else")
    for path in (spec.root / "link", spec.root / "link" / "out"):
        with pytest.raises(Refused, match="symlink"):
            planned(spec, writable=(path,))


def test_a_system_program_needs_nothing_more() -> None:
    assert program_roots(Path("/usr/bin/env")) == ()


def test_an_interpreter_brings_its_environment_and_its_base() -> None:
    roots = program_roots(Path(sys.executable))
    for prefix in (Path(sys.prefix), Path(sys.base_prefix)):
        assert prefix in roots or Path("/usr") in (prefix, *prefix.parents)


def test_a_tool_in_a_home_folder_does_not_reveal_the_home_folder(tmp_path: Path) -> None:
    for name in ("tool", "python3"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        assert program_roots(program) == (program,)


def test_a_swapped_path_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.close(open_unfollowed(str(tmp_path / "real")))
    descriptor = open_unfollowed(str(tmp_path / "link"))  # the link itself, never what it leads to
    try:
        assert os.fstat(descriptor).st_ino == (tmp_path / "link").lstat().st_ino
    finally:
        os.close(descriptor)
    with pytest.raises(OSError, match="directory"):
        open_unfollowed(str(tmp_path / "link" / "below"))


def test_values_of_the_environment_stay_out_of_the_process_list(spec: ProcessSpec) -> None:
    channels = Channels(payload=10, status=11, go=12)
    launch = Bubblewrap("/usr/bin/bwrap").launch(replace(spec, env={"TOKEN": "canary"}), Limits(), channels)
    assert not any("canary" in word for word in launch.argv)
    assert b"--setenv\0TOKEN\0canary\0" in launch.payload
    for flag in (b"--die-with-parent", b"--disable-userns", b"--unshare-net", b"--unshare-user", b"--clearenv"):
        assert flag + b"\0" in launch.payload


# --- system calls -----------------------------------------------------------------------------------------------------


def judged(program: bytes, architecture: int, number: int, *arguments: int) -> int | str:
    """What a classic BPF machine says to one system call: ``allow``, ``kill`` or an error number."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments, *(0,) * (6 - len(arguments)))
    lines = list(struct.iter_unpack("HBBI", program))
    value, at = 0, 0
    while True:
        operation, then, otherwise, operand = lines[at]
        at += 1
        if operation == 0x20:  # load a word
            value = struct.unpack_from("<I", data, operand)[0]
        elif operation == 0x06:  # return
            return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(operand, operand & 0xFFFF)
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            at += then if holds else otherwise


_NEW_USER, _THREAD = 0x10000000, 0x003D0F00
_VERDICTS = [
    ("ptrace", (), EPERM),
    ("setns", (), EPERM),
    ("mount", (), EPERM),
    ("open_tree_attr", (), EPERM),
    ("io_uring_setup", (), EPERM),
    ("bpf", (), EPERM),
    ("keyctl", (), EPERM),
    ("userfaultfd", (), EPERM),
    ("clone3", (), ENOSYS),
    ("clone", (_THREAD,), "allow"),
    ("clone", (17,), "allow"),
    ("clone", (_THREAD | _NEW_USER,), EPERM),
    ("clone", (0x40000000,), EPERM),
    ("unshare", (0x400,), "allow"),
    ("unshare", (0x80,), EPERM),
    ("unshare", (_NEW_USER,), EPERM),
    ("unshare", (0xFFFFFFFF_00000400,), "allow"),  # the kernel looks at the low half of a flag word as well
    ("socket", (1, 1, 0), "allow"),
    ("socket", (2, 1, 6), "allow"),
    ("socket", (10, 2, 0), "allow"),
    ("socket", (16, 3, 0), "allow"),
    ("socket", (2, 1, 262), EPROTONOSUPPORT),
    ("socket", (10, 1, 262), EPROTONOSUPPORT),
    ("socket", (40, 1, 0), EAFNOSUPPORT),
    ("socket", (0, 1, 0), EAFNOSUPPORT),
    ("socketpair", (1, 1, 0), "allow"),
    ("socketpair", (40, 1, 0), EAFNOSUPPORT),
    ("personality", (0xFFFFFFFF,), "allow"),
    ("personality", (0,), "allow"),
    ("personality", (0x0040000,), EPERM),
]


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
@pytest.mark.parametrize(("name", "arguments", "verdict"), _VERDICTS)
def test_system_calls_are_judged(machine: str, name: str, arguments: tuple[int, ...], verdict: int | str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.program(machine)
    assert program is not None
    assert judged(program, known.architecture, known.numbers[name], *arguments) == verdict
    foreign = 0x40000003  # i386, whose numbers mean something else
    assert judged(program, foreign, known.numbers[name], *arguments) == "kill"


@pytest.mark.parametrize("machine", sorted(seccomp.MACHINES))
def test_every_system_call_that_is_not_listed_is_allowed(machine: str) -> None:
    known, program = seccomp.MACHINES[machine], seccomp.program(machine)
    assert program is not None
    listed = {number: name for name, number in known.numbers.items()}
    refused = {number for number in range(700) if judged(program, known.architecture, number, 2, 1, 0) != "allow"}
    assert refused <= listed.keys()
    # With these arguments they are a new process, an unshare of nothing and ordinary sockets.
    assert {listed[number] for number in listed.keys() - refused} == {"clone", "unshare", "socket", "socketpair"}
    assert judged(program, known.architecture, 0x40000000 + 1) == (ENOSYS if machine == "x86_64" else "allow")


def test_a_machine_whose_numbers_are_unknown_has_no_filter() -> None:
    assert seccomp.program("riscv64") is None


# --- files ------------------------------------------------------------------------------------------------------------


def test_only_what_is_granted_may_be_written(spec: ProcessSpec) -> None:
    (spec.root / "file").touch()
    mounts = plan_mounts(replace(spec, writable=(spec.root / "out", spec.root / "file")))
    rules = landlock.ruleset(mounts, 5)
    assert rules is not None
    granted = dict(rules.rules)
    assert struct.unpack("Q", rules.attributes) == (0xFFFF,)
    assert granted["/"] & 0x7FF2 == 0  # read, list, execute, and device requests; nothing that changes
    assert granted[str(spec.root / "out")] == granted["/tmp"] == 0xFFFF
    assert granted[str(spec.root / "file")] == 0xC007  # the kernel refuses rights of folders on a file
    assert str(spec.root) not in granted


def test_rights_are_those_the_kernel_knows(spec: ProcessSpec) -> None:
    assert landlock.ruleset(plan_mounts(spec), 0) is None
    first, scoped = landlock.ruleset(plan_mounts(spec), 1), landlock.ruleset(plan_mounts(spec), 7)
    assert first is not None
    assert scoped is not None
    assert max(rights for _, rights in first.rules) == 0x1FFF
    assert struct.unpack("QQQ", scoped.attributes) == (0xFFFF, 0, 3)


@pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")
def test_the_launcher_puts_the_rules_in_force(spec: ProcessSpec, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("seen")
    (spec.root / "inside").write_text("seen")
    rules = landlock.ruleset([], landlock.version())
    assert rules is not None
    program = f"""
import os, sys
sys.path.append({str(Path(sandbox_launcher.__file__).parent)!r})
import sandbox_launcher
sandbox_launcher.prctl(38, 1)
sandbox_launcher.restrict_files({rules.attributes!r}, [({str(spec.root)!r}, {rules.rules[0][1]})])
print(open({str(spec.root / "inside")!r}).read())
open({str(tmp_path / "outside")!r})
"""
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=False)
    assert ended.stdout == b"seen\n", ended.stderr
    assert b"PermissionError" in ended.stderr


# --- limits -----------------------------------------------------------------------------------------------------------


def test_limits_have_sane_defaults() -> None:
    usual = Limits().kernel(tree_of_its_own=True)
    assert usual[resource.RLIMIT_CORE] == (0, 0)
    assert usual[resource.RLIMIT_DATA][0] >= 1 << 30
    assert resource.RLIMIT_AS not in usual
    assert resource.RLIMIT_NPROC not in Limits().kernel(tree_of_its_own=False)  # it would count the operator's own


def test_declared_limits_take_their_place() -> None:
    declared = Limits(memory_bytes=1000, cpu_seconds=3, processes=7)
    limits = declared.kernel(tree_of_its_own=False)
    assert limits[resource.RLIMIT_AS] == (1000, 1000)
    assert limits[resource.RLIMIT_CPU] == (3, 4)
    assert limits[resource.RLIMIT_NPROC] == (7, 7)
    assert resource.RLIMIT_DATA not in limits


def test_the_whole_machine_is_never_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.governance.sandbox_limits.numbers_each_tree", lambda: False)
    monkeypatch.setattr("runtime.governance.sandbox_limits.exempt", lambda: True)
    assert Limits().highest_pid() is None
    counting = Limits().counting(tree_of_its_own=True, enters=True)
    assert counting is Counting.NONE
    assert Limits().record(counting)["processes"] is None


# --- output and status ------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(min_value=0, max_value=50))
def test_both_ends_are_kept_whatever_the_chunks(chunks: list[bytes], cap: int) -> None:
    capture, whole = Capture(cap), b"".join(chunks)
    for chunk in chunks:
        capture.add(chunk)
    assert capture.count == len(whole)
    assert capture.sha256 == "sha256:" + hashlib.sha256(whole).hexdigest()
    if len(whole) <= 2 * cap:
        assert capture.body() == whole
    else:
        assert capture.body().startswith(whole[:cap] + b"\n[... ")
        assert capture.body().endswith(b" ...]\n" + whole[len(whole) - cap :])
        assert capture.left_out == len(whole) - 2 * cap


@given(st.integers(min_value=1, max_value=60))
def test_status_lines_may_arrive_in_any_pieces(size: int) -> None:
    read, write = os.pipe()
    try:
        seen: list[Any] = []
        reader = StatusReader(read, seen.append)
        text = b'{ "child-pid": 7, "net-namespace": 1 }\n{ "exit-code": 3 }\n'
        for start in range(0, len(text), size):
            os.write(write, text[start : start + size])
            assert reader.drain()
        assert seen == [{"child-pid": 7, "net-namespace": 1}, {"exit-code": 3}]
    finally:
        os.close(write)
        assert not reader.drain()
        os.close(read)


# --- environment ----------------------------------------------------------------------------------------------------


def test_declared_values_win_and_nothing_else_is_inherited() -> None:
    env = rebuilt({"LANG": "de_DE.UTF-8", "MINE": "1"})
    assert (env["LANG"], env["MINE"], env["HOME"]) == ("de_DE.UTF-8", "1", str(PRIVATE_HOME))
    assert set(env) == {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ", "MINE"}


def test_only_the_private_places_move() -> None:
    env = relocate(rebuilt({"CACHE": "/tmp"}), Path("/private"))
    assert (env["HOME"], env["TMPDIR"], env["CACHE"]) == ("/private/home", "/private/tmp", "/tmp")


# --- process tree -----------------------------------------------------------------------------------------------------


def test_our_own_place_in_the_tree() -> None:
    assert process_tree.parent_of(os.getpid()) == os.getppid()
    assert os.getpid() in process_tree.descendants(os.getppid())
    assert process_tree.open_namespace(os.getpid()) is None  # we are not a sandbox of our own


def test_a_process_that_has_gone_is_nobody() -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    pidfd = process_tree.open_pidfd(gone)
    assert pidfd is not None
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert not process_tree.reap(pidfd)
    finally:
        os.close(pidfd)
    assert process_tree.parent_of(gone) is None
    assert process_tree.open_pidfd(gone) is None


async def test_a_child_handed_to_us_is_reaped_once_it_ends() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    pidfd = process_tree.open_pidfd(child)
    assert pidfd is not None
    try:
        assert await process_tree.ended(pidfd, 5)
    finally:
        os.close(pidfd)
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
