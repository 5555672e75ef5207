"""The audit gate's command line (operations spec §13.1): exit 0 passed, 2 something is wrong, 3 could not check; no other."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Never

from runtime.audit.gate.full import Settings, full_report
from runtime.audit.gate.limits import MAX_ARCHIVE_BYTES
from runtime.audit.gate.report import Report

COULD_NOT: Final = 3
_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}\Z")
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_BLOCK: Final = 1024 * 1024
#: Besides the keyboard's: a polite end must not leave temporary folders or processes.
_SIGNALS: Final = ("SIGTERM", "SIGHUP")


class _UsageError(Exception):
    """The arguments say nothing that could be done; the message is for the operator."""


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise _UsageError(f"{self.format_usage()}{self.prog}: {message}")


@dataclass(frozen=True, slots=True)
class _Request:
    archive: Path
    json: Path | None
    expect_sha256: str | None
    settings: Settings


def main(arguments: Sequence[str] | None = None, settings: Settings | None = None) -> int:
    """Run the command and return its exit status: 0, 2 or 3, whatever happens.

    A violation that was found stays one, even if it could not be shown or written down. ``settings`` gives what has
    no flag.
    """
    status = COULD_NOT
    try:
        with _polite_ends():
            request = _request(arguments, settings or Settings())
            report = full_report(_read(request.archive), expect_sha256=request.expect_sha256, settings=request.settings)
            if report.failed:
                status = report.exit_code  # whatever happens from here on
            _tell(report)
            if request.json is not None:
                request.json.write_bytes(report.json_bytes())
            _flush()
            status = report.exit_code
    except _UsageError as error:
        _complain(str(error))
    except BrokenPipeError:
        pass  # whoever read our output has left, and is told by the status
    except KeyboardInterrupt:
        _complain("interrupted")
    except OSError as error:
        _complain(f"cannot be told: {error}")
    except BaseException:  # noqa: BLE001 - no other exit status, whatever happens (§13.1)
        _complain(traceback.format_exc())
    _settle_streams()
    return status


def _request(arguments: Sequence[str] | None, settings: Settings) -> _Request:
    parser = _Arguments(prog="audit_gate_build_loop_phase2.py", allow_abbrev=False, add_help=False,
                        description="Judge a bundle. Exit 0: passed, 2: something is wrong, 3: could not check.")  # fmt: skip
    parser.add_argument("--zip", type=Path, required=True, metavar="PATH", help="the bundle")
    parser.add_argument("--extract-dir", type=Path, metavar="DIR", help="keep the extracted workspace; absent or empty")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="keep the output of imports and tests")
    parser.add_argument("--expect-sha256", metavar="HEX", help="what the whole archive must hash to")
    parser.add_argument("--static-only", action="store_true", help="run nothing; ends with 2 or 3")
    given_arguments = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given_arguments):
        # Nothing was checked, and 0 would say that everything was.
        raise _UsageError(parser.format_help())
    given = parser.parse_args(given_arguments)
    if given.expect_sha256 is not None and not _SHA256.match(given.expect_sha256):
        parser.error("--expect-sha256 takes 64 hex digits")
    return _Request(given.zip, given.json, given.expect_sha256, _with_flags(settings, given))


def _with_flags(settings: Settings, given: argparse.Namespace) -> Settings:
    return replace(settings, extract_dir=given.extract_dir, report_dir=given.report_dir, static_only=given.static_only)


def _read(path: Path) -> bytes | None:
    """The archive's bytes, opened once; one byte beyond the limit is enough to judge the rest. None if unreadable."""
    try:
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return file.read(MAX_ARCHIVE_BYTES + 1)
    except (OSError, ValueError):
        return None


def _tell(report: Report) -> None:
    for line in report.remarks():
        _complain(line)
    for line in report.lines():
        print(line)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _complain(text: str) -> None:
    """Tell the operator; if nobody listens there is nothing to do about it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)


def _settle_streams() -> None:
    """Flush; where nobody reads any more, see to it that the interpreter does not trip over it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


@contextlib.contextmanager
def _polite_ends() -> Iterator[None]:
    """Turn signals that end us into an interrupt, so that everything is tidied up; only the main thread can."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
