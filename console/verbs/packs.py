"""The verbs about packs of blocks: what there is, whether it works, and whose code may run."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from console.model.safe import safe
from console.verbs.output import plain, print_json, say
from console.verbs.running import deck_for
from runtime.host.api import Exit

if TYPE_CHECKING:
    from runtime.host.packs import PackFacts


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


async def export(options: argparse.Namespace) -> int:
    """``--json``: path. Writes the built-in pack as a folder; an existing one is never overwritten."""
    from runtime.host.packs import export_packs

    place = await asyncio.to_thread(export_packs, _absolute(options.directory))
    if options.json:
        print_json({"path": place})
    else:
        print(safe(place))
    return Exit.OK


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _folder(options: argparse.Namespace) -> Path | None:
    return None if options.directory is None else Path(options.directory)


def _print(packs: Sequence[PackFacts], options: argparse.Namespace) -> None:
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
