"""From a host's name to the addresses a mission may reach it at: resolved out here, judged, and only then connected to.

Both ways out use it, the proxy of confined processes and the operations that make requests themselves. Whoever
connects goes to an address that was judged, never to the name again: a second look-up could say something else.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from runtime.governance.network_rules import Target, is_listed, is_literal, is_reachable
from runtime.kernel.ports import Denial

#: Resolves a name to literal addresses, best first. Raises `OSError` (`socket.gaierror`).
Resolver = Callable[[str], Awaitable[Sequence[str]]]

#: A slow resolver must not occupy the threads the runtime works with.
_RESOLVING: Final = 2


class HostDenied(Exception):
    """The mission does not list the host, or its name leads where no listed name may lead."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.message)
        self.denial = denial


class SystemResolver:
    """The machine's own resolver, in two threads of its own; `close` waits for nobody."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVING, thread_name_prefix="resolve")

    async def __call__(self, name: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        )
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def check_listed(target: Target, hosts: Sequence[str]) -> None:
    """Raises `HostDenied` for a host the mission does not list with this port."""
    if not is_listed(target, hosts):
        raise HostDenied(_denial(target, f"{target} is not listed under sandbox.hosts", target.rule))


async def judged_addresses(target: Target, hosts: Sequence[str], resolver: Resolver) -> Sequence[str]:
    """Where ``target`` may be reached, best first; none when its name has no address.

    Raises `HostDenied`, and `OSError` when the name cannot be resolved.
    """
    check_listed(target, hosts)
    found = [target.host] if is_literal(target.host) else await resolver(target.host)
    allowed = [address for address in found if is_reachable(target, address, hosts)]
    if found and not allowed:
        needed = Target(found[0], target.port).rule
        raise HostDenied(_denial(target, f"{target} leads to {found[0]}, which is not a public address", needed))
    return allowed


def certificate_problem(error: BaseException | None) -> str | None:
    """What is wrong with a server's certificate, wherever a library wrapped it up; None for any other failure."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _denial(target: Target, message: str, needed: str) -> Denial:
    return Denial(code="NET_HOST_DENIED", message=message, attempted=str(target), needed=f"sandbox.hosts: [{needed}]")
