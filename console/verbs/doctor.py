"""``quarterdeck doctor``: what this machine and terminal offer, and what to do about the rest."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping

from console.model.examination import examination_rows
from console.verbs.output import plain, print_json
from runtime.host.api import Check, Exit, Health

#: The smallest terminal every screen is drawn for.
_COLUMNS, _LINES = 80, 24


async def doctor(options: argparse.Namespace) -> int:
    """``--json``: ok, tier, checks[] (name, status ok|warn|fail, detail, fix), probes[] (tier, name, blocked, ok, detail).
    Exit 1 when a check fails."""
    from runtime.host.doctor import examine

    found = await examine(getattr(options, "store", None))
    size = shutil.get_terminal_size()
    encoding = sys.stdout.encoding or sys.getfilesystemencoding()
    checks = (*found.checks, *terminal_checks(os.environ, encoding, sys.stdout.isatty(), size))
    good = all(check.status is not Health.FAIL for check in checks)
    if options.json:
        print_json({**plain(found), "checks": plain(checks), "ok": good})
    else:
        for row in examination_rows(checks, found.probes):
            print("".join(text for text, _ in row).rstrip())
    return Exit.OK if good else Exit.FAILED


def terminal_checks(
    environ: Mapping[str, str], encoding: str, interactive: bool, size: os.terminal_size
) -> Iterator[Check]:
    """Whether the console can be drawn here; without a terminal only what the environment promises counts."""
    term, colours = environ.get("TERM", ""), environ.get("COLORTERM", "")
    told = f"TERM {term or 'not set'}, " + (
        "24-bit colours" if colours in ("truecolor", "24bit") else "256 colours or less"
    )
    usable = term not in ("", "dumb")
    yield Check(
        name="terminal",
        status=Health.OK if usable else Health.WARN,
        detail=told if interactive else f"{told}; output is no terminal",
        fix="" if usable else "set TERM, for example to xterm-256color",
    )
    known = encoding.lower().replace("-", "") == "utf8"
    yield Check(
        name="locale",
        status=Health.OK if known else Health.WARN,
        detail=f"text is written as {encoding}",
        fix="" if known else "export LC_ALL=C.UTF-8",
    )
    if interactive:
        room = size.columns >= _COLUMNS and size.lines >= _LINES
        yield Check(
            name="size",
            status=Health.OK if room else Health.WARN,
            detail=f"{size.columns} × {size.lines}",
            fix="" if room else f"make it at least {_COLUMNS} × {_LINES}",
        )
