"""A child's environment, rebuilt from nothing.

The console's own variables hold tokens, session addresses and settings that change what tools do. A child
therefore starts from this short list and gets further variables only by name (reliability §4.1, operations
spec §3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

#: Programs a child finds without being told where they are.
SEARCH_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
#: Private to each confined process; an unconfined one gets a folder of its own in their place (`relocate`).
PRIVATE_TEMP: Final = Path("/tmp")
PRIVATE_HOME: Final = Path("/tmp/home")
#: Where a confined process with hosts finds its proxy, in a network that is its own.
PROXY_PORT: Final = 3128
#: How a process names itself.
_SELF: Final = ("localhost", "127.0.0.1", "::1")


def rebuilt(
    declared: Mapping[str, str] | None = None, *, home: Path = PRIVATE_HOME, temp: Path = PRIVATE_TEMP
) -> dict[str, str]:
    """The whole environment of a child: fixed basics, then ``declared``, which wins."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": str(home),
        "TMPDIR": str(temp),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **(declared or {}),
    }


def relocate(env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """``env`` with the private home and temporary folder replaced by places below ``folder``."""
    places = {str(PRIVATE_HOME): str(folder / "home"), str(PRIVATE_TEMP): str(folder / "tmp")}
    return {name: places.get(value, value) if name in ("HOME", "TMPDIR") else value for name, value in env.items()}


def proxied(env: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """``env`` with the proxy to ``hosts``, which wins over a declared one: no other can be reached from in there.

    Loopback is the process's own, so that tests can talk to themselves, unless the mission lists it as a host.
    """
    listed = {host.partition(":")[0].lower() for host in hosts}
    address = f"http://127.0.0.1:{PROXY_PORT}"
    proxies = {f"{scheme}_proxy": address for scheme in ("http", "https", "all")}
    proxies["no_proxy"] = ",".join(name for name in _SELF if name not in listed)
    upper = {name.upper(): value for name, value in proxies.items()}
    return {**env, **proxies, **upper, "NODE_USE_ENV_PROXY": "1"}
