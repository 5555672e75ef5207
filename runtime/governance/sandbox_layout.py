"""What a confined process sees of the file system: a pure plan that both confining tiers carry out.

The root is empty; only what is listed appears in it. A deeper mount wins over a shallower one, and on one path
private scratch wins over writable, which wins over read-only. Nothing is created on the host: a path that has to
be a mount point inside a bound folder must exist already, so **a file that is yet to be created needs its parent
folder listed as writable by the caller**; binding the parent silently would widen what was granted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from runtime.governance.environment import PRIVATE_HOME, PRIVATE_TEMP
from runtime.kernel.errors import Refused
from runtime.kernel.ports import ProcessSpec


class MountKind(Enum):
    """How one path comes into the private root; the value is its rank when two claim the same path."""

    FOLDER = 0
    LINK = 1
    READ = 2
    WRITE = 3
    PRIVATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """``source`` is a host path without symlinks, or the text of a link. ``place`` is the path inside."""

    kind: MountKind
    place: Path
    source: str = ""


#: Bound as they are, or repeated as links on systems with a merged /usr.
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
#: What programs need of /etc to start. No accounts, no configuration, no keys.
_ETC: Final = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "hosts",
    "nsswitch.conf",
    "ssl/openssl.cnf",
)
#: Certificate authorities, for children that may reach hosts; never the private keys beside them. Names are resolved
#: by the proxy.
_ETC_AUTHORITIES: Final = (
    "ssl/certs",
    "ssl/cert.pem",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "ca-certificates/extracted",
)
_FORBIDDEN: Final = (Path("/proc"), Path("/dev"), Path("/sys"))
_MAX_LINKS: Final = 40  # the kernel's own limit for one look-up


def plan_mounts(spec: ProcessSpec) -> tuple[Mount, ...]:
    """Every mount of ``spec``, parents before children. Raises `Refused` ``SANDBOX_PATH``."""
    plan: dict[Path, Mount] = {}
    _add(plan, _system_mounts(bool(spec.hosts)))
    _bind(plan, MountKind.READ, spec.root)
    for path in (*spec.readable, *program_roots(Path(spec.argv[0]))):
        _bind(plan, MountKind.READ, path)
    for path in spec.writable:
        _refuse_symlinks(path, spec.root)
        _bind(plan, MountKind.WRITE, path)
    for path in spec.scratch:
        _refuse_symlinks(path, spec.root)
        _private(plan, path)
    plan.setdefault(PRIVATE_TEMP, Mount(kind=MountKind.PRIVATE, place=PRIVATE_TEMP))
    if plan[PRIVATE_TEMP].kind is MountKind.PRIVATE:
        plan.setdefault(PRIVATE_HOME, Mount(kind=MountKind.FOLDER, place=PRIVATE_HOME))
    return tuple(sorted(plan.values(), key=lambda mount: (len(mount.place.parts), mount.place)))


def _add(plan: dict[Path, Mount], mounts: Iterable[Mount]) -> None:
    for mount in mounts:
        known = plan.get(mount.place)
        if known is None or known.kind.value <= mount.kind.value:
            plan[mount.place] = mount


def _system_mounts(hosts: bool) -> Iterator[Mount]:
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            yield Mount(kind=MountKind.LINK, place=path, source=str(path.readlink()))
        elif path.is_dir():
            yield Mount(kind=MountKind.READ, place=path, source=str(path))
    for name in _ETC + (_ETC_AUTHORITIES if hosts else ()):
        place = Path("/etc") / name
        if place.exists():
            yield Mount(kind=MountKind.READ, place=place, source=os.path.realpath(place))


def _bind(plan: dict[Path, Mount], kind: MountKind, path: Path) -> None:
    """Show ``path`` under the name it was given and, if that leads through symlinks, under its real name too."""
    real = _real(path)
    for place in dict.fromkeys((path, real)):
        holder = _holder(plan, place)
        # A symlink inside a folder that is bound anyway is already there and leads to the real place.
        if holder is None or Path(holder.source) / place.relative_to(holder.place) == real:
            _add(plan, [Mount(kind=kind, place=place, source=str(real))])


def _private(plan: dict[Path, Mount], path: Path) -> None:
    _refuse_place(path, path)
    if _holder(plan, path) is not None and not path.is_dir():
        raise _refusal(path, "is scratch inside the work tree and must be an existing folder", "create it first")
    _add(plan, [Mount(kind=MountKind.PRIVATE, place=path)])


def _holder(plan: Mapping[Path, Mount], place: Path) -> Mount | None:
    """The nearest bound folder that ``place`` lies in."""
    bound = (plan[parent] for parent in place.parents if parent in plan)
    return next((mount for mount in bound if mount.kind in (MountKind.READ, MountKind.WRITE)), None)


def _real(path: Path) -> Path:
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as problem:
        raise _refusal(path, f"cannot be bound: {problem.strerror}", "list its parent folder, or create it") from None
    _refuse_place(path, real)
    return real


def _refuse_place(path: Path, real: Path) -> None:
    if not path.is_absolute() or ".." in path.parts:
        raise _refusal(path, "must be an absolute path without '..'", "resolve it before asking")
    for place in (path, real):
        if place == Path("/") or any(place == top or top in place.parents for top in _FORBIDDEN):
            raise _refusal(path, "would show a part of the system that is never shared", "name a folder below it")


def _refuse_symlinks(path: Path, root: Path) -> None:
    """A symlink below the work tree could lead a granted path anywhere; links above it are the operator's own."""
    inside = root in path.parents or path == root
    real_root, real = os.path.realpath(root), os.path.realpath(path)
    expected = str(Path(real_root) / path.relative_to(root)) if inside else real
    if real != expected or (not inside and path.is_symlink()):
        raise _refusal(path, "leads through a symlink", "name the real path")


def _refusal(path: Path, what: str, hint: str) -> Refused:
    return Refused("SANDBOX_PATH", f"{path} {what}", hint=hint)


def program_roots(program: Path) -> tuple[Path, ...]:
    """What a program needs to start: itself, and for a Python interpreter its environment and base installation."""
    roots: list[Path] = []
    for hop in _links(program):
        prefix = hop.parent.parent
        if (prefix / "pyvenv.cfg").is_file():
            roots.append(prefix)
            roots += _base_prefix(prefix / "pyvenv.cfg")
        elif _is_python_prefix(prefix, hop):
            roots.append(prefix)
        else:
            roots.append(hop)
    shown = {Path(top) for top in _SYSTEM}
    return tuple(dict.fromkeys(root for root in roots if root not in shown and shown.isdisjoint(root.parents)))


def _links(program: Path) -> Iterator[Path]:
    """``program`` and every file it is a symlink to, one hop at a time."""
    hop = program
    for _ in range(_MAX_LINKS):
        yield hop
        if not hop.is_symlink():
            return
        hop = Path(os.path.normpath(Path(os.path.realpath(hop.parent)) / hop.readlink()))


def _is_python_prefix(prefix: Path, program: Path) -> bool:
    """Only a folder with the standard library in it: ``~/bin/tool`` must not reveal the home folder."""
    if not program.name.startswith("python") or prefix == Path("/"):
        return False
    return any(
        (prefix / "lib" / name).is_dir() for name in (program.name, os.path.realpath(program).rpartition("/")[2])
    )


def _base_prefix(config: Path) -> list[Path]:
    for line in config.read_text("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and Path(value.strip()).is_absolute():
            home = Path(value.strip())
            return [home.parent] if any(home.parent.glob("lib/python3*")) else []
    return []


def open_unfollowed(path: str) -> int:
    """An ``O_PATH`` descriptor of a real path, no symlink followed on the way, to check what was really bound."""
    current = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        for part in Path(path).parts[1:]:
            deeper = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = deeper
    except BaseException:
        os.close(current)
        raise
    return current
