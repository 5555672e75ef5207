"""What can this program do that nobody granted it? Harmless where the answer is "everything": what it writes it takes
away again, it reads no file of yours, and it sends nothing."""

import os
import socket
from collections.abc import Callable


def write_outside() -> None:
    """Into the mission's private copy of the project, where no declared folder is."""
    with open("src/probe.tmp", "x"):
        pass
    os.unlink("src/probe.tmp")


def look_home() -> None:
    """Whether home folders can be found; their names are not looked at."""
    os.listdir("/home")


def reach_out() -> None:
    """A route to an address set aside for documentation; a datagram socket that connects sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))


def tell(what: str, attempt: Callable[[], None]) -> None:
    try:
        attempt()
    except OSError as error:
        print(f"{what}: denied ({error.strerror})")
    else:
        print(f"{what}: POSSIBLE, it was not confined")


tell("write outside the declared folder", write_outside)
tell("look for home folders", look_home)
tell("reach the network", reach_out)
