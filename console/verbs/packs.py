"""The verbs about packs of blocks: what there is, whether it works, and whose code may run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from console.model.safe import safe
from console.verbs.output import plain, print_json, say
from console.verbs.running import deck_for
from runtime.host.api import Exit

if TYPE_CHECKING:
    from runtime.host.packs import PackFacts

_BUILT: Final = ("path", "name", "version", "digest", "types")


async def show(options: argparse.Namespace) -> int:
    """``--json``: ``{"packs": [{path, name, version, digest, types, trust, code, message, loaded}]}``. Always exit 0."""
    from runtime.host.packs import list_packs

    _print(await list_packs(_folder(options), options.store), options)
    return Exit.OK


async def verify(options: argparse.Namespace) -> int:
    """The same, once what is trusted was imported; exit 1 when a pack would not be loaded."""
    from runtime.host.packs import verify_packs

    found = await verify_packs(_folder(options), options.store)
    _print(found, options)
    return Exit.OK if all(pack.loaded for pack in found) else Exit.FAILED


async def trust(options: argparse.Namespace) -> int:
    """``--json``: done, message, digest. Exit 1 when nothing changed, 2 for a broken pack, 3 when nobody agreed."""
    from runtime.host.packs import look_at

    folder = _absolute(options.path)
    pack = await asyncio.to_thread(look_at, folder)
    _describe(pack, in_process=options.in_process)
    if not options.yes and not _agreed():
        say("not trusted: agree on a terminal, or look at the pack and say --yes")
        return Exit.APPROVAL
    async with deck_for(options, writing=True) as deck:
        ack = await deck.trust_pack(str(folder), pack.digest, in_process=options.in_process)
    if options.json:
        print_json({**plain(ack), "digest": pack.digest})
    else:
        say(ack.message)
    return Exit.OK if ack.done else Exit.FAILED


async def untrust(options: argparse.Namespace) -> int:
    """``--json``: done, message. Exit 1 when nobody trusted it, or what lies there now."""
    from runtime.host.packs import look_at

    named = options.pack
    digest = named if named.startswith("sha256:") else (await asyncio.to_thread(look_at, _absolute(named))).digest
    async with deck_for(options, writing=True) as deck:
        ack = await deck.untrust_pack(digest)
    if options.json:
        print_json(ack)
    else:
        say(ack.message)
    return Exit.OK if ack.done else Exit.FAILED


async def build(options: argparse.Namespace) -> int:
    """``--json``: path, name, version, digest, types. Runs the pack's code; exit 2 when it is none."""
    from runtime.host.packs import build_pack

    with contextlib.redirect_stdout(sys.stderr):  # what the author's code prints is no data of ours
        pack = await asyncio.to_thread(build_pack, _absolute(options.path), options.module, options.symbol)
    if options.json:
        print_json({key: value for key, value in plain(pack).items() if key in _BUILT})
        return Exit.OK
    print(safe(f"{pack.path}: {pack.name} {pack.version}, blocks {', '.join(pack.types)}"))
    print(pack.digest)
    say(f"next: quarterdeck packs trust {options.path}")
    return Exit.OK


async def export(options: argparse.Namespace) -> int:
    """``--json``: path. Writes the built-in pack as a folder; an existing one is never overwritten."""
    from runtime.host.packs import export_packs

    place = await asyncio.to_thread(export_packs, _absolute(options.directory))
    if options.json:
        print_json({"path": place})
    else:
        print(safe(place))
    return Exit.OK


def add_verbs(verbs: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    """``packs`` and its verbs, each made by ``verb`` as `console.cli` makes them."""
    group = verb(
        verbs,
        "packs",
        "Packs of blocks beside missions: what there is, and whose code may run (default: list).",
        "quarterdeck packs list my-mission",
        show,
    )
    group.set_defaults(directory=None)
    inner = group.add_subparsers(dest="packs_verb", metavar="VERB")
    for name, summary, run in (
        ("list", "List packs with trust, and why one would not be loaded; runs none of their code.", show),
        (
            "verify",
            "The same, with trusted code imported in a confined process. Exit 1 when a pack would not be loaded.",
            verify,
        ),
    ):
        listing = verb(inner, name, summary, f"quarterdeck packs {name} my-mission", run)
        listing.add_argument(
            "directory",
            metavar="DIR",
            nargs="?",
            help="folder of packs, or of a mission or one pack (default: blocks)",
        )
    building = verb(
        inner,
        "build",
        "Write pack.bin, which says what a pack's blocks declare. Runs the pack's code: for its author.",
        "quarterdeck packs build my-mission/blocks/weather",
        build,
    )
    building.add_argument("path", metavar="PATH", help="the pack's folder")
    building.add_argument(
        "--module", metavar="M", help="module of the pack object (default: as before, or PATH's name)"
    )
    building.add_argument("--symbol", metavar="S", help="its name in that module (default: as before, or PACK)")
    trusting = verb(
        inner,
        "trust",
        "Let missions run the code of a pack as it is now; a changed one needs trust anew.",
        "quarterdeck packs trust my-mission/blocks/weather",
        trust,
    )
    trusting.add_argument("path", metavar="PATH", help="the pack's folder")
    trusting.add_argument("--in-process", action="store_true", help="inside this program, where nothing confines it")
    trusting.add_argument("--yes", action="store_true", help="agree without being asked")
    verb(
        inner,
        "untrust",
        "Take trust in a pack back.",
        "quarterdeck packs untrust my-mission/blocks/weather",
        untrust,
    ).add_argument("pack", metavar="PATH|DIGEST", help="the pack's folder, or the digest that was trusted")
    verb(
        inner, "export", "Write the built-in blocks as a pack.", "quarterdeck packs export blocks", export
    ).add_argument("directory", metavar="DIR", help="folder to write it into")


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _folder(options: argparse.Namespace) -> Path | None:
    return None if options.directory is None else Path(options.directory)


def _print(packs: Sequence[PackFacts], options: argparse.Namespace) -> None:
    from runtime.host.packs import remedy

    if options.json:
        print_json({"packs": [{**plain(pack), "loaded": pack.loaded} for pack in packs]})
        return
    for pack in packs:
        about = f"{pack.name} {pack.version}".strip() or "unreadable"
        print(safe(f"{'✓' if pack.loaded else '✗'} {pack.path}: {about} ({pack.trust.replace('_', ' ')})"))
        if pack.types:
            print(safe(f"    blocks {', '.join(pack.types)}"))
        if pack.code is not None:
            print(safe(f"    {pack.code}: {pack.message}"))
            if hint := remedy(pack.code, pack.path):
                print(safe(f"    {hint}"))
    if not packs:
        say("no packs")


def _describe(pack: PackFacts, *, in_process: bool) -> None:
    """What an operator agrees to."""
    say(f"{pack.name} {pack.version} in {pack.path}")
    say(f"  digest {pack.digest}")
    say(f"  blocks {', '.join(pack.types)}")
    if in_process:
        say("  its code would run INSIDE this program: no envelope and no sandbox holds it")
    else:
        say(
            "  its code would run in a confined process of its own, without network, and change files through operations"
        )


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    print("Trust it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
