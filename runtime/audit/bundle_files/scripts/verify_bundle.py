#!/usr/bin/env python3
"""Check a bundle, an extracted bundle or a journal with nothing but Python: the second, independent verifier.

    python3 verify_bundle.py BUNDLE.zip|FOLDER|JOURNAL.jsonl [--key VKEY|FILE]... [--witness TEXT|FILE]...
                             [--anchor-key FILE] [--json]

Written from the specification and not from the product's code, of which it imports nothing: a mistake in one of the
two shows as a disagreement. It only reads, and text from inside is escaped before it is printed. `verify_journal.py`,
`verify_evidence.py` and `ed25519.py` must lie beside it.

Exit 0: every check held. 2: at least one did not. 3: something could not be checked (missing or unreadable file, bad
arguments, an error in here). Nothing else, whatever happens.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

OK, BROKEN, UNKNOWN = 0, 2, 3
MAX_BYTES, MAX_FILE, MAX_FILES = 64 << 20, 8 << 20, 2000
MAX_SHOWN, MAX_TEXT = 50, 240


def _sibling(name: str) -> ModuleType:
    """The script ``name``.py beside this one, found by its place alone: an isolated interpreter searches no folder of ours."""
    spec = importlib.util.spec_from_file_location(
        f"quarterdeck_{name}", Path(__file__).resolve().with_name(f"{name}.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{name}.py is not beside {__file__}")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    unwritten, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a bundle being checked must stay as it is
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = unwritten
    return module


try:
    if sys.version_info < (3, 11):  # noqa: UP036  # whoever has an older one is to read why
        raise ImportError("this needs Python 3.11 or later")
    rules = _sibling("verify_journal")
    proofs = _sibling("verify_evidence")
    ed25519 = _sibling("ed25519")
except BaseException as trouble:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"{trouble!r}\nRESULT: COULD NOT CHECK\n")
    os._exit(UNKNOWN)
Wrong: Any = rules.Wrong


class CannotCheck(Exception):
    """Nothing is proven either way."""


# -- archive and manifest (spec 12, 13.2) ------------------------------------------------------------------------------

LOCAL, CENTRAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,15}")
MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  ([!-~]+)")


def unzipped(data: bytes) -> dict[str, bytes]:
    """The files of an archive in the one encoding bundles have; else `Wrong`. Nothing is inflated."""
    at = len(data) - END.size
    if at < 0 or data[at : at + 4] != b"PK\x05\x06":
        raise Wrong("ZIP_NO_EOCD", "no end record exactly at the end")
    _, disk, first_disk, here, count, length, start, comment = END.unpack_from(data, at)
    if disk or first_disk or here != count or comment:
        raise Wrong("ZIP_CD_COUNT", "the end record is not that of one plain archive")
    if start + length != at:
        raise Wrong("ZIP_CD_BOUNDS", "the directory does not fill the space before the end record")
    if not 0 < count <= MAX_FILES:
        raise Wrong("LIMIT_FILES" if count else "ZIP_NO_ENTRIES", f"{count} files, 1 to {MAX_FILES} are allowed")
    files: dict[str, bytes] = {}
    offset = 0
    for _ in range(count):
        if start + CENTRAL.size > at or data[start : start + 4] != b"PK\x01\x02":
            raise Wrong("ZIP_CD_BOUNDS", "a directory entry is outside the directory")
        _, _, _, _, method, _, _, crc, size, full, length, extra, note, _, _, _, place = CENTRAL.unpack_from(
            data, start
        )
        raw = data[start + CENTRAL.size : start + CENTRAL.size + length]
        name = raw.decode("ascii", "replace")
        if not NAME.fullmatch(name) or len(raw) > 180:
            raise Wrong("NAME_CHARSET", f"{name!r} is not a name of a bundle")
        if name in files:
            raise Wrong("NAME_DUPLICATE", f"{name} is in the archive twice")
        if method or size != full or extra or note:
            raise Wrong("ZIP_METHOD", f"{name} is not simply stored")
        if size > MAX_FILE:
            raise Wrong("LIMIT_FILE", f"{name} has {size} bytes, at most {MAX_FILE} are allowed")
        body = offset + LOCAL.size + length
        if place != offset or data[offset + LOCAL.size : body] != raw or body + size > len(data):
            raise Wrong("ZIP_LFH_MISMATCH", f"{name} does not follow the file before it")
        files[name] = data[body : body + size]
        if zlib.crc32(files[name]) != crc:
            raise Wrong("ZIP_CRC", f"{name} does not have its checksum")
        start, offset = start + CENTRAL.size + length, body + size
    if zipped(files) != data:
        raise Wrong("BUNDLE_NOT_CANONICAL", "encoding the same files again gives other bytes")
    return files


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The canonical archive (spec 12.4)."""
    bodies, directory, offset = [], [], 0
    for name in sorted(files, key=str.encode):
        raw, data = name.encode(), files[name]
        facts = (20, 0, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(raw), 0)
        bodies += [LOCAL.pack(b"PK\x03\x04", *facts), raw, data]
        directory += [CENTRAL.pack(b"PK\x01\x02", 0x314, *facts, 0, 0, 0, 0o100644 << 16, offset), raw]
        offset += LOCAL.size + len(raw) + len(data)
    length = sum(map(len, directory))
    end = END.pack(b"PK\x05\x06", 0, 0, len(files), len(files), length, offset, 0)
    return b"".join([*bodies, *directory, end])


def unfolded(folder: Path) -> dict[str, bytes]:
    """The files of an extracted bundle; links and special files are `Wrong`."""
    files: dict[str, bytes] = {}
    total = 0

    def unreadable(error: OSError) -> NoReturn:
        raise error

    for place, folders, names in os.walk(folder, onerror=unreadable):
        for item in [*folders, *names]:
            path = Path(place, item)
            name = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise Wrong("TYPE_SYMLINK", f"{name} is a link")
            if stat.S_ISDIR(mode):
                continue
            if not NAME.fullmatch(name) or len(name) > 180:
                raise Wrong("NAME_CHARSET", f"{name!r} is not a name of a bundle")
            files[name] = read_file(path, MAX_FILE)
            total += len(files[name])
            if total > MAX_BYTES or len(files) > MAX_FILES:
                raise Wrong("LIMIT_TOTAL", f"more than {MAX_FILES} files or {MAX_BYTES} bytes")
    return files


def read_file(path: Path, limit: int) -> bytes:
    """A regular file's bytes; more than ``limit`` or anything else is `Wrong`. Never waits for a pipe."""
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise Wrong("TYPE_SPECIAL", f"{path.name} is not a regular file")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise Wrong("LIMIT_FILE", f"{path.name} has more than {limit} bytes")
    return data


def check_manifest(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """What does not hold between the files and `manifest.txt`: code and reason."""
    if "manifest.txt" not in files:
        yield "MANIFEST_MISSING", "there is no manifest.txt"
        return
    text = files["manifest.txt"].decode("ascii", "replace")
    if not text:
        yield "MANIFEST_EMPTY", "the manifest lists nothing"
        return
    *lines, rest = text.split("\n")
    matches = [MANIFEST_LINE.fullmatch(line) for line in lines]
    listed = [found[2] for found in matches if found]
    if rest or len(listed) != len(lines):
        yield "MANIFEST_FORMAT", "a line is not a hash, two spaces and a path"
    if len({name.lower() for name in listed}) != len(listed):
        yield "MANIFEST_DUPLICATE", "a path is listed twice"
    elif listed != sorted(listed):
        yield "MANIFEST_ORDER", "the paths are not sorted"
    for found in filter(None, matches):
        if not NAME.fullmatch(found[2]) or found[2] == "manifest.txt":
            yield "MANIFEST_PATH", f"{found[2]!r} cannot be listed"
        elif found[2] not in files:
            yield "MANIFEST_ABSENT", f"{found[2]} is listed but not there"
        elif hashlib.sha256(files[found[2]]).hexdigest() != found[1]:
            yield "MANIFEST_HASH", f"{found[2]} is not the file that was listed"
    for name in sorted(files.keys() - {"manifest.txt"} - set(listed)):
        yield "MANIFEST_UNLISTED", f"{name} is there but not listed"


# -- the run inside (ruling R39) ---------------------------------------------------------------------------------------

RUN_TYPES: dict[str, Any] = {
    "schema": str, "run_id": str, "journal_id": str, "mission": str, "status": str, "entries": int, "head_hash": str,
    "journal": list, "checkpoints": list, "keys": list, "artifacts": dict, "withheld": dict,
}  # fmt: skip
RUN_FILES = rules.words(
    "run/run.json run/mission.yaml run/mission.json run/plan.json run/environment.json run/verification.json"
    " run/statement.dsse.json"
)


@dataclass
class Run:
    """The files below `run/`, and what `run.json` says about them."""

    files: Mapping[str, bytes]
    record: dict[str, Any]

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Run:
        """Raises `Wrong` when `run.json` is not one."""
        try:
            record = rules.strict(files["run/run.json"].removesuffix(b"\n"))
        except KeyError:
            raise Wrong("RUN_FORMAT", "there is run data but no run/run.json") from None
        typed = isinstance(record, dict) and all(type(record.get(name)) is kind for name, kind in RUN_TYPES.items())
        if not typed or record["schema"] != "run-bundle/1":
            raise Wrong("RUN_FORMAT", "run/run.json does not say what a run bundle holds")
        names = [*record["journal"], *record["checkpoints"], *record["keys"], record.get("anchors") or ""]
        bodies = [part for item in record["artifacts"].values() for part in _parts(item)]
        sound = all(type(item) is dict and type(item.get("bytes")) is int for item in record["artifacts"].values())
        if not sound or not all(type(name) is str for name in [*names, *bodies]):
            raise Wrong("RUN_FORMAT", "run/run.json lists something that is not a name")
        return cls(files, record)

    def strays(self) -> Iterator[tuple[str, str]]:
        """Every file listed must be there, and the other way round: a checkpoint left out of the list would hide it."""
        record = self.record
        parts = [part for item in record["artifacts"].values() for part in _parts(item)]
        listed = {*record["journal"], *record["checkpoints"], *parts, *filter(None, [record.get("anchors")])}
        there = {name for name in self.files if name.startswith("run/")}
        for name in sorted(listed - there):
            yield "RUN_FORMAT", f"run.json lists {name}, which is not there"
        for name in sorted(there - listed - RUN_FILES):
            yield "RUN_FORMAT", f"{name} is there, but run.json does not list it"

    def body(self, name: str) -> bytes | None:
        """The stored body of an artifact."""
        item = self.record["artifacts"].get(name)
        parts = [self.files.get(part) for part in _parts(item)]
        return b"".join(part for part in parts if part is not None) if parts and None not in parts else None

    def add_to(self, evidence: Any, journal: Any) -> None:
        """The evidence the bundle brings itself."""
        record, files = self.record, self.files
        for read, names, into in (
            (proofs.read_key, record["keys"], evidence.inside),
            (lambda name: proofs.read_note(files.get(name, b""), name), record["checkpoints"], evidence.notes),
        ):
            for name in names:
                try:
                    into.append(read(name))
                except Wrong as wrong:
                    journal.say(wrong.code, wrong.reason)
        if record.get("anchors"):
            evidence.anchors = files.get(record["anchors"], b"")

    def compare(self, journal: Any) -> None:
        """Hold `run.json` and the files beside the journal against what the journal says."""
        record, say = self.record, journal.say
        if record["journal_id"] != journal.journal_id:
            say("J_JOURNAL_ID", "run.json names another journal")
        if journal.size < record["entries"] or (record.get("finished_at") and not journal.closed):
            say("J_TRUNCATED", f"run.json tells of {record['entries']} entries and of an end; {journal.size} are here")
        elif (journal.size, journal.head) != (record["entries"], record["head_hash"]):
            say("RUN_MISMATCH", "run.json names another last entry")
        plan, opening = journal.plan or {}, journal.opening or {}
        for file, claimed in (("plan.json", plan.get("document")), ("environment.json", opening.get("environment"))):
            data = self.files.get(f"run/{file}")
            if data is None:
                say("J_ARTIFACT_MISSING", f"run/{file} is not there")
            elif claimed is not None and claimed not in (rules.sha256(data), rules.sha256(data.removesuffix(b"\n"))):
                say("J_ARTIFACT_HASH", f"run/{file} is not the one the journal names")
        for name, item in record["artifacts"].items():
            body = self.body(name)
            if body is not None and (rules.sha256(body), len(body)) != (name, item.get("bytes")):
                say("J_ARTIFACT_HASH", f"the body of {name} is another one")


def _parts(item: Any) -> list[Any]:
    parts = item.get("parts") if isinstance(item, dict) else None
    return parts if isinstance(parts, list) else []


# -- verdicts ----------------------------------------------------------------------------------------------------------

COMPLETENESS = rules.words("J_TRUNCATED J_EMPTY J_MISSING J_TORN_TAIL J_ARTIFACT_MISSING MANIFEST_ABSENT")
ANCHORING = rules.words(
    "J_ANCHOR_CHAIN J_ANCHOR_MAC J_ANCHOR_MISMATCH J_KEY_MISSING J_UNANCHORED_TAIL J_WITNESS_MISMATCH NOTE_FORMAT"
    " KEY_FORMAT"
)


@dataclass
class Result:
    """What was checked, and what came of it. ``journal`` is None when there was no run to check."""

    what: str
    files: int | None
    journal: Any
    evidence: Any
    run: Run | None = None

    @property
    def exit_code(self) -> int:
        return BROKEN if self.journal.errors else OK

    def verdicts(self) -> dict[str, tuple[str, str]]:
        """Standing (good, warn, bad or unknown) and words of the three verdicts."""
        bad: dict[str, set[str]] = {"integrity": set(), "completeness": set(), "anchoring": set()}
        for item in self.journal.findings:
            if item.error:
                place = (
                    "completeness"
                    if item.code in COMPLETENESS
                    else "anchoring"
                    if item.code in ANCHORING
                    else "integrity"
                )
                bad[place].add(item.code)
        good = self._good()
        return {name: ("bad", ", ".join(sorted(codes))) if codes else good[name] for name, codes in bad.items()}

    def _good(self) -> dict[str, tuple[str, str]]:
        journal, evidence, size = self.journal, self.evidence, self.journal.size
        if not size:
            listed = ("good", "archive and manifest hold") if self.files else ("unknown", "nothing was read")
            nothing = ("unknown", "there is no run in it")
            return {"integrity": listed, "completeness": nothing, "anchoring": nothing}
        integrity = f"chain intact, {size} entries" + ("" if self.run else "; bodies are not here to be checked")
        open_work = sum(journal.steps.values()) + len(journal.due)
        if journal.closed:
            complete = ("good", "the run has ended and its end counts all entries")
        else:
            complete = ("warn", f"the run had not ended; {open_work} steps and operations are open")
        covered = f"checkpoint verified up to {evidence.covered} of {size}" if evidence.covered else "chain intact only"
        if evidence.witnessed:
            covered += f", witnessed up to {evidence.witnessed}"
        tail = size - max(evidence.covered, evidence.witnessed)
        standing = "good" if evidence.witnessed and not tail else "warn"
        return {
            "integrity": ("good", integrity),
            "completeness": complete,
            "anchoring": (
                standing,
                f"{covered}; {tail} entries after that could be replaced unnoticed" if tail else covered,
            ),
        }

    @property
    def level(self) -> str:
        evidence = self.evidence
        if evidence.witnessed:
            return "witnessed"
        if (evidence.best and evidence.pinned) or (evidence.anchored and evidence.anchor_key):
            return "authenticated"
        return "anchored" if evidence.covered else "chain"

    def limits(self) -> Iterator[str]:
        """What the evidence at hand would not reveal."""
        evidence = self.evidence
        if not self.journal.size:
            return
        if not evidence.covered and not evidence.witnessed:
            yield "a journal that was cut at its end, or written anew from any place on: nothing is signed or witnessed"
        elif not evidence.witnessed:
            yield "a holder of the key who rewrote everything: only a witness kept elsewhere shows that (--witness)"
        if evidence.best and not evidence.pinned:
            yield (
                "who made it: a key inside a bundle proves nothing. Compare its six words with those the makers told you,"
                " or name it with --key"
            )
        yield "whether what was recorded is true: a record shows what was written, not what happened"

    def record(self) -> dict[str, Any]:
        """The report as data."""
        journal, evidence = self.journal, self.evidence
        return {
            "schema": "bundle-verification/1",
            "what": self.what,
            "exit_code": self.exit_code,
            "ok": self.exit_code == OK,
            "level": self.level,
            **{name: {"standing": item[0], "words": item[1]} for name, item in self.verdicts().items()},
            "files": self.files,
            "run": None
            if self.run is None
            else {name: self.run.record[name] for name in ("run_id", "mission", "status")},
            "journal_id": journal.journal_id,
            "entries": journal.size,
            "head_hash": journal.head if journal.size else None,
            "closed": journal.closed,
            "checkpoint_size": evidence.best.size if evidence.best else None,
            "checkpoint_words": proofs.six_words(evidence.best.text) if evidence.best else None,
            "key_words": evidence.signer.words if evidence.signer else None,
            "key_given": bool(evidence.pinned),
            "witnessed_size": evidence.witnessed or None,
            "withheld": len(self.run.record["withheld"]) if self.run else 0,
            "findings": [
                {"code": f.code, "severity": "error" if f.error else "warning", "seq": f.seq, "detail": f.detail}
                for f in journal.findings
            ],
            "would_not_reveal": list(self.limits()),
        }

    def lines(self) -> Iterator[str]:
        """The report for people."""
        journal, evidence = self.journal, self.evidence
        yield self.what + ("" if self.files is None else f", {self.files} files")
        if self.run is not None:
            yield f"run {self.run.record['run_id']} of {self.run.record['mission']}: {self.run.record['status']}"
            if self.run.record["withheld"]:
                yield f"{len(self.run.record['withheld'])} bodies are withheld; their digests are in the record"
        elif self.files is not None:
            yield "there is no run in it"
        for name, (standing, words) in self.verdicts().items():
            yield f"{name:<13} {standing:<8} {words}"
        if evidence.best and evidence.signer:
            yield f"checkpoint {evidence.best.size:>6}    {proofs.six_words(evidence.best.text)}"
            yield f"key {'you gave' if evidence.pinned else 'inside':>13}    {evidence.signer.words}"
        for item in journal.findings[:MAX_SHOWN]:
            where = "" if item.seq is None else f" at entry {item.seq}"
            yield f"{'ERROR' if item.error else 'warning'} {item.code}{where}: {item.detail}"
        if len(journal.findings) > MAX_SHOWN:
            yield f"... and {len(journal.findings) - MAX_SHOWN} more findings"
        limits = list(self.limits())
        if limits:
            yield "This evidence would not reveal:"
            yield from (f"- {text}" for text in limits)
        yield "RESULT: every check held" if self.exit_code == OK else "RESULT: FAILED"


def check(path: Path, evidence: Any) -> Result:
    """Check what lies at ``path``. Raises `OSError` when it cannot be read, `CannotCheck` when it is no file or folder."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return check_files(path.name, lambda: unfolded(path), evidence)
    if not stat.S_ISREG(mode):
        raise CannotCheck(f"{path} is neither a file nor a folder")
    with path.open("rb") as stream:
        if path.suffix == ".jsonl" or stream.peek(1)[:1] == b"{":
            return check_journal(path.name, iter(lambda: stream.read(1 << 20), b""), evidence)
    return check_files(path.name, lambda: unzipped(read_file(path, MAX_BYTES)), evidence)


def check_journal(what: str, chunks: Iterable[bytes], evidence: Any) -> Result:
    """Check a journal that lies alone, without bodies."""
    journal = rules.Journal(watched=evidence.watched)
    rules.feed_all(journal, chunks)
    evidence.compare(journal, ed25519.verify)
    return Result(what, None, journal, evidence)


def check_files(what: str, opened: Callable[[], Mapping[str, bytes]], evidence: Any) -> Result:
    """Check a bundle from the files in it; ``opened`` gives them or raises `Wrong`."""
    journal = rules.Journal()
    result = Result(what, None, journal, evidence)
    try:
        files = opened()
        result.files = len(files)
        for code, reason in check_manifest(files):
            journal.say(code, reason)
        if any(name.startswith("run/") for name in files):
            result.run = Run.of(files)
            check_run(result.run, journal, evidence)
        elif evidence.pinned or evidence.seen or evidence.seen_notes or evidence.anchor_key:
            journal.say("J_MISSING", "there is no run in it to hold the key or witness against")
    except Wrong as wrong:
        journal.say(wrong.code, wrong.reason)
    return result


def check_run(run: Run, journal: Any, evidence: Any) -> None:
    """Check the run inside a bundle; what does not hold goes to the journal's findings."""
    for code, reason in run.strays():
        journal.say(code, reason)
    run.add_to(evidence, journal)
    journal.watched = evidence.watched
    rules.feed_all(journal, (run.files.get(name, b"") for name in run.record["journal"]))
    rules.Artifacts(journal, run.body, run.record["withheld"]).check()
    run.compare(journal)
    evidence.compare(journal, ed25519.verify)


# -- command -----------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Bad arguments and a request for help check nothing: both exit 3."""

    def error(self, message: str) -> NoReturn:
        raise CannotCheck(f"{message}\n{self.format_usage()}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise CannotCheck(message or "nothing was checked")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="verify_bundle.py", allow_abbrev=False, description="Check a bundle or a journal.")
    parser.add_argument("path", help="a bundle, an extracted bundle, or a journal of JSON lines")
    parser.add_argument(
        "--key", action="append", default=[], metavar="VKEY", help="the only keys to trust: text or file"
    )
    parser.add_argument(
        "--witness", action="append", default=[], metavar="TEXT", help="witness line or note: text or file"
    )
    parser.add_argument("--anchor-key", metavar="FILE", help="32 bytes, raw or as 64 hex digits")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser.parse_args(list(arguments))


def gathered(options: argparse.Namespace) -> Any:
    """The evidence the caller brings. Raises `CannotCheck` for what is none, `OSError`."""
    evidence = proofs.Evidence()
    try:
        for text in options.key:
            texts = [text] if text.count("+") >= 2 else read_file(Path(text), 64 << 10).decode().split()
            evidence.pinned += map(proofs.read_key, texts)
        for text in options.witness:
            known = text.startswith(("mission-witness/1 ", "Mission-Journal: ", "quarterdeck/"))
            add_witness(evidence, text.encode() if known else read_file(Path(text), 64 << 10), "given")
        if options.anchor_key is not None:
            key = read_file(Path(options.anchor_key), 64 << 10)
            evidence.anchor_key = key if len(key) == 32 else bytes.fromhex(key.decode())
    except (Wrong, ValueError) as error:
        raise CannotCheck(str(error)) from error
    if options.anchor_key is not None and len(evidence.anchor_key or b"") != 32:
        raise CannotCheck("the anchor key is not 32 bytes")
    return evidence


def add_witness(evidence: Any, data: bytes, where: str) -> None:
    """Add witness lines or one note. Raises `Wrong` for what is neither, `UnicodeDecodeError`."""
    lines = data.decode().strip().split("\n")
    found = [proofs.WITNESS.fullmatch(line.strip()) for line in lines]
    if any(found):
        if not all(found):
            raise Wrong("WITNESS_FORMAT", "a line is no witness")
        evidence.seen += [(item[1], int(item[2]), item[3]) for item in found if item]
    else:
        evidence.seen_notes.append(proofs.read_note(data.rstrip(b"\n") + b"\n", where))


def plain(text: str) -> str:
    """Text that does nothing to a terminal: printable ASCII, cut to a bearable length."""
    safe = text.encode("ascii", "backslashreplace").decode()
    safe = "".join(char if " " <= char <= "~" else f"\\x{ord(char):02x}" for char in safe)
    return safe if len(safe) <= MAX_TEXT else safe[:MAX_TEXT] + "..."


def run(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and what to print."""
    as_json = "--json" in arguments
    try:
        options = parsed(arguments)
        result = check(Path(options.path), gathered(options))
        text = json.dumps(result.record(), sort_keys=True) if as_json else "\n".join(map(plain, result.lines()))
        return result.exit_code, text + "\n"
    except BaseException as error:  # whatever it is, nothing was proven  # noqa: BLE001
        why = f"{type(error).__name__}: {error}" if not isinstance(error, CannotCheck) else str(error)
        if as_json:
            return UNKNOWN, json.dumps(
                {"schema": "bundle-verification/1", "exit_code": UNKNOWN, "ok": False, "why": why}
            ) + "\n"
        return UNKNOWN, "\n".join([*map(plain, why.split("\n")), "RESULT: COULD NOT CHECK", ""])


def main() -> NoReturn:
    """Print, flush and leave without another word, so that a closed pipe cannot change the answer to a wrong one."""
    code = UNKNOWN
    try:
        code, text = run(sys.argv[1:])
        sys.stdout.write(text)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001
        code = UNKNOWN
    os._exit(code)


if __name__ == "__main__":
    main()
