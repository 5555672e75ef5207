"""The verb about the key that signs checkpoints."""

from __future__ import annotations

import argparse

from console.model.safe import safe
from console.verbs.output import print_json, say
from console.verbs.running import deck_for
from runtime.host.api import Exit


async def show(options: argparse.Namespace) -> int:
    """``--json``: key, words, signer, folder, retired[], sinks[{name, size, trouble}] (of the store's own journal)."""
    from runtime.host.evidence_report import key_report

    report = await key_report(options.store)
    if options.json:
        print_json(report)
        return Exit.OK
    print(safe(report.key) if report.key else "no key yet; the first checkpoint makes it")
    if report.words:
        print(f"  {report.words}")
    print(f"  signed by {safe(report.signer)}; keys in {safe(report.folder)}")
    for key in report.retired:
        print(f"  retired {safe(key)}")
    for sink in report.sinks:
        told = sink.trouble or ("nothing yet" if sink.size is None else f"{sink.size} entries of the store's journal")
        print(f"  {'✗' if sink.trouble else '✓'} {safe(sink.name)}: {safe(told)}")
    return Exit.OK


async def rotate(options: argparse.Namespace) -> int:
    """``--json``: done, message. The old key stays trusted for what it signed; its secret is deleted."""
    async with deck_for(options, writing=True) as deck:
        ack = await deck.rotate_key(options.reason)
    if options.json:
        print_json(ack)
    else:
        say(ack.message)
    return Exit.OK if ack.done else Exit.FAILED
