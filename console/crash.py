"""What an operator sees when our own code is at fault: one sentence and the name of a file with the details."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

from runtime.host.api import Exit


def report_crash(error: BaseException) -> int:
    """Write the traceback to a private file and say where it is. Returns the exit code for a failure of ours."""
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="quarterdeck-crash-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        place = f"details are in {path}"
    except OSError as failure:
        place = f"details could not be written ({failure.strerror})"
    print(
        f"quarterdeck: internal error: {type(error).__name__}; {place}.\n"
        "Runs that were active are resumable: `quarterdeck runs` lists them, `quarterdeck resume RUN` continues one.",
        file=sys.stderr,
    )
    return int(Exit.FAILED)
