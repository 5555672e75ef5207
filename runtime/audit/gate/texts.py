"""G8, first half: text that reads the same everywhere, a `pytest.ini` that hides nothing, a plan without test counts."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from typing import Final

from runtime.audit.gate.layout import PLAN, PYTEST_INI
from runtime.audit.gate.limits import SOURCE
from runtime.audit.gate.report import Fault

#: Operations spec §12.3.
_TEXT: Final = (SOURCE, ".md", ".txt", ".ini", ".json", ".toml", ".cfg")
#: Keys that can neither deselect a test nor load anything from outside.
_INI_KEYS: Final = frozenset({"testpaths", "minversion", "xfail_strict", "filterwarnings", "markers"})
_INI_SECTION: Final = "[pytest]"
_INI_TESTS: Final = "runtime/tests"
_INI_LINE: Final = re.compile(r"([a-z_]+)[ \t]*=[ \t]*(.*)\Z")
#: Begins at the last digit and looks a bounded way ahead, so that no text makes it slow.
_COUNT: Final = re.compile(r"[0-9][\s*_`|]{0,8}(?:unit[\s*_`]{1,8})?(?:tests?[\s*_`|]{1,8})?(?:passed|failed|skipped)\b", re.IGNORECASE)  # fmt: skip


def faults(bodies: Mapping[str, bytes]) -> Iterator[Fault]:
    """Every text, `pytest.ini` and the plan document."""
    for name, body in sorted(bodies.items()):
        if name.lower().endswith(_TEXT):
            yield from _text_faults(name, body)
    if PYTEST_INI in bodies:
        wrong = _ini_trouble(bodies[PYTEST_INI].decode("utf-8", "replace"))
        if wrong:
            yield Fault("PYTEST_INI", PYTEST_INI, wrong)
    if PLAN in bodies and _COUNT.search(bodies[PLAN].decode("utf-8", "replace")):
        yield Fault("DOC_TEST_COUNT", PLAN, "counts of tests are told by running them")


def _text_faults(name: str, body: bytes) -> Iterator[Fault]:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        yield Fault("TEXT_ENCODING", name, "not UTF-8")
    if body.startswith(b"\xef\xbb\xbf"):
        yield Fault("TEXT_BOM", name, "begins with a byte order mark")
    if b"\r" in body:
        yield Fault("TEXT_LINE_END", name, "lines end with LF alone")
    if b"\0" in body:
        yield Fault("TEXT_NUL", name, "holds a NUL")
    if body and not body.endswith(b"\n"):
        yield Fault("TEXT_FINAL_LINE", name, "the last line does not end")
    if name.endswith(SOURCE) and not _declares_utf8(body):
        yield Fault("TEXT_ENCODING", name, "Python would read it as something else than UTF-8")


def _declares_utf8(body: bytes) -> bool:
    """A source may name its encoding, and then what runs is not what one reads."""
    try:
        return tokenize.detect_encoding(io.BytesIO(body[:1024]).readline)[0] in ("utf-8", "utf-8-sig")
    except SyntaxError:
        return False


def _ini_trouble(text: str) -> str | None:
    """What is wrong with a `pytest.ini`; stricter than any parser of such files, so that all of them agree."""
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith(("#", ";"))]
    if not lines or lines[0] != _INI_SECTION:
        return f"the first line must be {_INI_SECTION}"
    values: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        match = _INI_LINE.match(line)
        if line[0] in " \t" and key:
            values[key] += f" {line.strip()}"
            continue
        if match is None or match[1] in values:
            return "holds another section, a key twice, or a line that is no setting"
        key = match[1]
        values[key] = match[2].strip()
    if not values.keys() <= _INI_KEYS:
        return f"only {', '.join(sorted(_INI_KEYS))} may be set"
    return None if values.get("testpaths") == _INI_TESTS else f"testpaths must be {_INI_TESTS}"
