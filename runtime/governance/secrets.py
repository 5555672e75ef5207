"""Secrets are named in mission files and looked up at the moment of use; their values are never stored.

A reference is ``env://NAME``, a variable of the console's own environment, or ``file:///absolute/path`` (or
``file://~/…``), a small private file. What was looked up is what the run's `Redactor` takes out of everything it keeps
and shows. Refusals name the reference, never a value.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from runtime.kernel.errors import Refused
from runtime.kernel.redaction import MIN_SECRET, Redactor

#: The forms a mission file accepts, too.
REFERENCE: Final = re.compile(r"env://([A-Za-z_][A-Za-z0-9_]{0,127})|file://(~?/[^\0\n]{1,4000})")
#: Longer files are no keys.
MAX_FILE_BYTES: Final = 64 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_UNSUITED: Final = re.compile(r"[^A-Za-z0-9_.-]")


class Secrets:
    """The secrets one run may use.

    ``handed`` maps variables its processes get to references, ``others`` are further references (a provider's key).
    Every method that looks one up is blocking and makes it known to ``redactor``. Raised are `Refused`:
    ``SECRET_MISSING`` (not set), ``SECRET_FILE`` (no private, readable, small text file), ``SECRET_SHORT``,
    ``SECRET_REFERENCE`` (not one).
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        handed: Mapping[str, str] | None = None,
        others: Iterable[str] = (),
        redactor: Redactor | None = None,
    ) -> None:
        self.redactor = Redactor() if redactor is None else redactor
        self._environ = environ
        self._handed = dict(handed or {})
        self._others = tuple(others)

    def check(self) -> None:
        """Look up every one of them once; the first that cannot be had is raised, after all others are known."""
        refused = [
            refusal
            for reference, name in [*((item, name) for name, item in self._handed.items()), *_named(self._others)]
            if (refusal := self._refusal(reference, name)) is not None
        ]
        if refused:
            raise refused[0]

    def refuse_written(self, *values: Any) -> None:
        """Raise `Refused` ``SECRET_WRITTEN`` when a JSON-like value holds one of them: it would be stored with it."""
        mark = self.redactor.found(values)
        if mark is not None:
            raise Refused(
                "SECRET_WRITTEN",
                f"the mission or its inputs hold the value of {mark}, and both are stored",
                hint="refer to it instead; if it is no secret, hand it to programs by a command's 'env:'",
            )

    def environment(self) -> dict[str, str]:
        """The variables a process gets, as they are now."""
        return {name: self.resolve(reference, name) for name, reference in self._handed.items()}

    def declared(self, reference: str) -> str:
        """The value of one its processes get, too. Whatever else a reference names is not this run's to use.

        Raises `Refused` ``SECRET_REFERENCE`` for any other, besides what `resolve` raises.
        """
        for name, known in self._handed.items():
            if known == reference:
                return self.resolve(reference, name)
        raise Refused(
            "SECRET_REFERENCE",
            f"{reference[:200]} is not among the mission's sandbox.secrets",
            hint="declare it there",
        )

    def resolve(self, reference: str, name: str | None = None) -> str:
        """The value ``reference`` stands for now; ``name`` is what it is called where it would have appeared."""
        value = _resolved(reference, self._environ)
        if len(value) < MIN_SECRET:
            raise Refused(
                "SECRET_SHORT",
                f"the value of {reference} has fewer than {MIN_SECRET} characters and could not be kept out of records",
                hint="use a longer one; a plain setting belongs to a command's 'env:'",
            )
        self.redactor.learn(name or name_of(reference), value)
        return value

    def _refusal(self, reference: str, name: str) -> Refused | None:
        try:
            self.resolve(reference, name)
        except Refused as refusal:
            return refusal
        return None


def name_of(reference: str) -> str:
    """What a reference is called: its variable, or its file's own name. Raises `Refused` ``SECRET_REFERENCE``."""
    found = REFERENCE.fullmatch(reference)
    if found is None:
        # The text is not repeated: someone may have pasted the secret itself.
        raise Refused(
            "SECRET_REFERENCE",
            "a secret must be given as env://NAME or file:///path",
            hint="put the value in a variable or in a private file",
        )
    return found[1] or _UNSUITED.sub("_", Path(found[2]).name)


def _named(references: Iterable[str]) -> list[tuple[str, str]]:
    return [(reference, name_of(reference)) for reference in references]


def _resolved(reference: str, environ: Mapping[str, str]) -> str:
    name_of(reference)
    kind, _, place = reference.partition("://")
    if kind == "file":
        return _read(reference, place, environ)
    value = environ.get(place, "")
    if not value:
        raise Refused(
            "SECRET_MISSING",
            f"{reference}: the variable {place} is not set where the console runs",
            hint=f"set {place} before starting it, or take it out of the mission",
        )
    return value


def _read(reference: str, place: str, environ: Mapping[str, str]) -> str:
    def no(why: str, hint: str) -> Refused:
        return Refused("SECRET_FILE", f"{reference} {why}", hint=hint)

    if place.startswith("~"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            raise no("needs HOME to be set", "set HOME, or write the absolute path")
        place = home + place[1:]
    try:
        # Not to be stopped by a pipe, nor to believe a name that is swapped meanwhile: what was opened is judged.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise no("is not a regular file", "name the file itself")
            if found.st_uid not in (os.geteuid(), 0):
                raise no("belongs to another user", "a secret file must be your own, or root's")
            if found.st_mode & _OTHERS:
                raise no("can be used by others", "take their permissions away: chmod 600")
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise no(f"cannot be read: {why}", "check that it is there and yours") from None
    if len(data) > MAX_FILE_BYTES:
        raise no(f"is longer than {MAX_FILE_BYTES} bytes", "name a file that holds the secret alone")
    return _text(data, no)


def _text(data: bytes, no: Any) -> str:
    with suppress(UnicodeDecodeError):
        text = data.decode()
        if "\0" not in text:
            return text.removesuffix("\n").removesuffix("\r")
    raise no("is not text", "secrets are handed on as text; store binary keys as base64")
