"""Services for tests of blocks and workflows, one line each: no network, no disk, no waiting.

::

    services = Services(clock=FakeClock(), files=FakeFiles({"a.txt": "hello"}), mailer=FakeMailer())

Each remembers what it was asked. Wherever an answer is expected, an exception may stand: it is raised instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runtime.blocks.errors import BlockRuntimeError
from runtime.blocks.services import AiAnswer, AiRequest, HttpAnswer, Mail
from runtime.kernel.clock import ManualClock

__all__ = ["FakeAi", "FakeClock", "FakeFiles", "FakeHttp", "FakeMailer"]


class FakeClock(ManualClock):
    """Sleeping takes no time: the clock jumps to where it would be. ``slept`` lists what was asked for."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(max(seconds, 0.0))


class FakeFiles:
    """A folder in memory. ``contents`` maps relative paths to text, bytes or an exception; ``calls`` tells what was done.

    Every path's parents exist; a path that would lead outside is refused as in a run.
    """

    def __init__(self, contents: Mapping[str, str | bytes | Exception] | None = None) -> None:
        self.contents: dict[str, bytes | Exception] = {
            path: item.encode() if isinstance(item, str) else item for path, item in (contents or {}).items()
        }
        self.calls: list[tuple[str, str]] = []

    def text(self, path: str) -> str:
        """What a file holds now; raises as `read` does."""
        return self._content(path).decode()

    async def read(self, path: str) -> bytes:
        self._called("read", path)
        return self._content(path)

    async def write(self, path: str, content: bytes, *, append: bool = False) -> None:
        self._called("append" if append else "write", path)
        before = self.contents.get(path, b"")
        if isinstance(before, Exception):
            raise before
        self.contents[path] = before + content if append else content

    async def list(self, path: str) -> list[str]:
        self._called("list", path)
        found = self.contents.get(path)
        if isinstance(found, Exception):
            raise found
        if found is not None:
            raise BlockRuntimeError("file.not_a_directory", f"{path} is a file", effects="none")
        prefix = "" if path == "." else f"{path}/"
        names = {prefix + name[len(prefix) :].partition("/")[0] for name in self.contents if name.startswith(prefix)}
        if not names and path != ".":
            raise _missing(path)
        return sorted(names)

    def _called(self, what: str, path: str) -> None:
        self.calls.append((what, path))
        if path.startswith("/") or ".." in path.split("/"):
            raise BlockRuntimeError("file.path_outside_root", f"{path} lies outside the folder", effects="none")

    def _content(self, path: str) -> bytes:
        found = self.contents.get(path)
        if found is None:
            raise _missing(path)
        if isinstance(found, Exception):
            raise found
        return found


def _missing(path: str) -> BlockRuntimeError:
    return BlockRuntimeError("file.not_found", f"there is no {path}", effects="none", provider_status="ENOENT")


class FakeHttp:
    """Answers per address: a text (status 200), a status, an answer, an exception, or a list of these, one per request."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self._answers = {url: list(answer) if isinstance(answer, list) else answer for url, answer in answers.items()}
        self.requests: list[tuple[str, str | None]] = []

    async def get(self, url: str, *, user_agent: str | None = None) -> HttpAnswer:
        self.requests.append((url, user_agent))
        answer = self._answers.get(url, 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else 404
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, HttpAnswer):
            return answer
        return HttpAnswer(answer, "") if isinstance(answer, int) else HttpAnswer(200, str(answer))


class FakeMailer:
    """Keeps what was sent; ``failures`` are raised by the first calls, one each."""

    def __init__(self, failures: Iterable[Exception] = ()) -> None:
        self.sent: list[Mail] = []
        self._failures = list(failures)

    async def send(self, mail: Mail) -> None:
        if self._failures:
            raise self._failures.pop(0)
        self.sent.append(mail)


class FakeAi:
    """Gives its answers in order: texts, `AiAnswer`, or exceptions; then it fails with ``ai.invalid_response``."""

    def __init__(self, answers: Iterable[str | AiAnswer | Exception] = ()) -> None:
        self.requests: list[AiRequest] = []
        self._answers = list(answers)

    async def generate(self, request: AiRequest) -> AiAnswer:
        self.requests.append(request)
        if not self._answers:
            raise BlockRuntimeError("ai.invalid_response", "the fake has no further answer")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return AiAnswer(text=answer, tokens_in=1, tokens_out=1) if isinstance(answer, str) else answer
