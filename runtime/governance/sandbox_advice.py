"""What to do about a missing tier, in the operator's words.

The settings are those by which distributions forbid user namespaces to ordinary users; both tiers need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from runtime.governance.sandbox_bwrap import find_bwrap
from runtime.governance.sandbox_selftest import SelfTest

#: Setting, the value that forbids, and what to do.
_SETTINGS: Final = (
    ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "kernel.apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or install an AppArmor profile that allows bwrap userns",
    ),
    ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
)
_INSTALL: Final = "install bubblewrap (the package has that name) for tier A"
_DENIED: Final = "allow user namespaces: a container runtime or security module denies them to this process"
_FILTER: Final = "use a kernel with seccomp filters (CONFIG_SECCOMP_FILTER) on a processor the filter knows"
#: Probes that only the system-call filter holds back.
_FILTERED: Final = frozenset({"io_uring", "key_ring", "bpf"})


def setting(name: str) -> str | None:
    """A kernel setting as text, or None where this kernel has none of that name."""
    try:
        return Path("/proc/sys", *name.split(".")).read_text("ascii").strip()
    except OSError:
        return None


def repairs(
    tests: Sequence[SelfTest],
    *,
    read: Callable[[str], str | None] = setting,
    bwrap: Callable[[], str | None] = find_bwrap,
) -> tuple[str, ...]:
    """What would give a better tier than the one these self-tests led to; empty when tier A stands."""
    if any(test.tier == "A" and test.ok for test in tests):
        return ()
    return tuple(dict.fromkeys((*_missing(bwrap), *_forbidden(tests, read), *_leaks(tests))))


def _missing(bwrap: Callable[[], str | None]) -> Iterator[str]:
    if bwrap() is None:
        yield _INSTALL


def _forbidden(tests: Sequence[SelfTest], read: Callable[[str], str | None]) -> Iterator[str]:
    """Only where a sandbox did not even start."""
    if not any(test.failure for test in tests):
        return
    found = [advice for name, forbids, advice in _SETTINGS if read(name) == forbids]
    yield from found or [_DENIED]


def _leaks(tests: Sequence[SelfTest]) -> Iterator[str]:
    off = {probe.name for test in tests for probe in test.off}
    if off & _FILTERED:
        yield _FILTER
    if off - _FILTERED:
        yield "see `quarterdeck doctor` for what each probe met"
