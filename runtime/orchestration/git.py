"""Git, asked politely and never trusted: one sanitised, limited, confined child process per question.

Each spawn under confinement costs about 20 ms, so one ``status`` answers for HEAD, branch and changes together, and
one ``ls-files`` for the staged listing and the hidden bits. Only ``add``, ``commit``, ``reset`` and ``checkout`` may
write, and the process sees only what they need writable (ruling R49). Anything but a clean exit and output we
understand is a refusal: silence is never read as "nothing changed".
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from runtime.kernel.canonical import digest_bytes
from runtime.kernel.errors import Refused
from runtime.kernel.ids import COMMIT, KILL_SWITCH_FILE
from runtime.kernel.ports import ProcessResult, ProcessRunner, ProcessSpec
from runtime.orchestration import git_config
from runtime.orchestration.git_config import GitConfigReport, GitSettings
from runtime.orchestration.git_parse import (
    LOG_FORMAT,
    GitIndex,
    GitLine,
    GitStatus,
    parse_index,
    parse_log,
    parse_numstat,
    parse_status,
)
from runtime.orchestration.operation_ports import StatusLine
from runtime.orchestration.state_hash import TreeFacts

#: Operations spec §15.
TIMEOUT_SECONDS: Final = 30.0
DIFF_CAP: Final = 1024 * 1024
MAX_MESSAGE_BYTES: Final = 8 * 1024
#: What the line that names a journal may add to it; the longest has 226 bytes.
TRAILER_BYTES: Final = 256
#: A listing has to be whole to mean anything; 64 MiB hold some 600 000 paths.
LISTING_CAP: Final = 64 * 1024 * 1024
MAX_ERROR_TEXT: Final = 2000

_DIFF: Final = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")


class GitStopped(Refused):
    """Git took too long and was killed; its code is ``GIT_FAILED`` as for every other failure."""


@dataclass(frozen=True, slots=True)
class GitFolders:
    """Where a work tree keeps its own data, and where it shares data with the repository it belongs to."""

    own: Path
    common: Path


def find_git() -> str | None:
    """The absolute path of the git program, or None."""
    return shutil.which("git")


def find_toplevel(start: Path) -> Path | None:
    """The nearest folder at or above ``start`` that is a work tree's top level; looks at names only, runs nothing."""
    start = start.resolve()
    return next((folder for folder in (start, *start.parents) if git_folders(folder) is not None), None)


def git_folders(root: Path) -> GitFolders | None:
    """The git folders of the work tree at ``root``; None when it is none."""
    marker = root / ".git"
    if marker.is_dir():
        own = marker
    elif marker.is_file():
        pointer = _first_line(marker)
        if not pointer.startswith("gitdir: "):
            return None
        own = (root / pointer[len("gitdir: ") :]).resolve()
    else:
        return None
    if not (own / "HEAD").exists():
        return None
    shared = _first_line(own / "commondir")
    return GitFolders(own, (own / shared).resolve() if shared else own)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")[0]
    except FileNotFoundError:
        return ""


async def read_operator_settings(
    runner: ProcessRunner, root: Path, environ: Mapping[str, str], *, git_path: str | None = None
) -> GitSettings:
    """Author, ignore file and line endings as the operator's own git would use them in ``root``. Call once.

    Raises `Refused` ``GIT_MISSING`` or ``GIT_FAILED``.
    """
    spec = ProcessSpec(
        argv=[_program(git_path or find_git()), "config", "--list", "--show-scope", "-z"],
        cwd=root,
        root=root,
        env={**git_config.operator_environment(environ), "GIT_CEILING_DIRECTORIES": str(root.parent)},
        readable=[*git_config.operator_files(environ), *_outside(root, git_folders(root))],
        timeout=TIMEOUT_SECONDS,
    )
    result = _judged("config", await _spawned(runner, spec))
    return git_config.settings_from(git_config.parse_config(result.stdout), environ)


class Git:
    """One work tree. ``accepted`` are digests of repository configurations the operator has accepted; ``hidden``
    are relative paths that are ours and not part of the work. Every method may raise `Refused`: ``GIT_MISSING``,
    ``GIT_FAILED``, ``GIT_UNSAFE_CONFIG``; cancelling a call kills the process first."""

    def __init__(
        self,
        root: Path,
        runner: ProcessRunner,
        *,
        settings: GitSettings = git_config.OUR_SETTINGS,
        git_path: str | None = None,
        accepted: Collection[str] = (),
        hidden: Collection[str] = (),
    ) -> None:
        self.root = root
        self._runner = runner
        self._settings = settings
        self._git_path = git_path or find_git()
        self._accepted = frozenset(accepted)
        self._hidden = frozenset({KILL_SWITCH_FILE, *hidden})
        self._judged_config: str | None = None

    # -- looking -------------------------------------------------------------------------------------------------

    async def available(self) -> bool:
        """Can git be run at all?"""
        try:
            await self._run("version", trusted=True)
        except Refused:
            return False
        return True

    async def toplevel(self) -> Path:
        """What git itself thinks is the top level; differs from ``root`` when the configuration redirects it."""
        return Path(os.fsdecode((await self._run("rev-parse", "--show-toplevel", trusted=True)).stdout.rstrip(b"\n")))

    async def snapshot(self) -> GitStatus:
        """HEAD, branch and all changes, untracked files and submodules included, in one call."""
        result = await self._run(
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--untracked-files=all",
            "--ignore-submodules=none",
            "--no-renames",
            cap=LISTING_CAP,
        )
        status = parse_status(result.stdout)
        shown = tuple(line for line in status.lines if not self._is_hidden(line))
        return GitStatus(head=status.head, ref=status.ref, lines=shown)

    async def status(self) -> tuple[StatusLine, ...]:
        """Every changed or untracked path."""
        return tuple(StatusLine(line.path, line.index, line.worktree) for line in (await self.snapshot()).lines)

    async def head(self) -> str | None:
        """The commit HEAD names; None before the first one."""
        return (await self.snapshot()).head

    async def ls_files(self) -> GitIndex:
        """The whole staged listing with its hidden bits."""
        return parse_index((await self._run("ls-files", "--stage", "-v", "-z", cap=LISTING_CAP)).stdout)

    async def tracked(self, paths: Sequence[str]) -> frozenset[str]:
        """Those of ``paths`` that are in the index."""
        if not paths:
            return frozenset()
        listed = await self._run("ls-files", "-z", "--", *paths, cap=LISTING_CAP)
        return frozenset(os.fsdecode(name) for name in listed.stdout.split(b"\0")[:-1]) & frozenset(paths)

    async def tree_facts(self) -> TreeFacts:
        """What the workspace fingerprint needs of git."""
        await self._check_config()
        try:
            async with asyncio.TaskGroup() as group:
                status_task = group.create_task(self.snapshot())
                index_task = group.create_task(self.ls_files())
        except BaseExceptionGroup as failures:
            raise _first(failures) from failures
        status, index = status_task.result(), index_task.result()
        return TreeFacts(
            head=status.head,
            ref=status.ref,
            index=index.sha256,
            changed=tuple(line.path.rstrip("/") for line in status.lines),
            staged={line.path: line.staged for line in status.lines if line.staged},
            flags=index.flags,
        )

    async def resolve(self, revision: str) -> str:
        """The full name of the commit ``revision`` means. Raises `Refused` ``GIT_REVISION`` when it means none."""
        try:
            result = await self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitStopped:
            raise
        except Refused as error:
            if error.code != "GIT_FAILED":
                raise
            raise Refused(
                "GIT_REVISION",
                f"{revision[:70]!r} names no commit of this repository",
                where=str(self.root),
                hint="give a commit, tag or branch it has; a shallow clone lacks older ones",
            ) from error
        return _commit_name(result.stdout)

    async def parents(self, commit: str) -> tuple[str, ...]:
        result = await self._run("rev-list", "--parents", "--max-count=1", _full(commit))
        return tuple(result.stdout.decode("ascii", "replace").split()[1:])

    async def message(self, commit: str) -> str:
        result = await self._run("log", "--max-count=1", "--no-show-signature", "--format=%B", _full(commit))
        return result.stdout.decode("utf-8", "replace").rstrip("\n")

    async def diff(self, paths: Sequence[str] = (), *, staged: bool = False) -> bytes:
        """The patch text, cut after 1 MiB."""
        result = await self._run(*_DIFF, *_staged(staged), "--", *paths, cap=DIFF_CAP, whole=False)
        return result.stdout[:DIFF_CAP]

    async def diff_stat(self, paths: Sequence[str] = (), *, staged: bool = False) -> tuple[dict[str, Any], ...]:
        """``path``, ``added``, ``deleted`` per file."""
        result = await self._run(*_DIFF, "--numstat", "-z", *_staged(staged), "--", *paths, cap=LISTING_CAP)
        return parse_numstat(result.stdout)

    async def log(
        self, *, limit: int = 20, paths: Sequence[str] = (), since: str | None = None, until: str | None = None
    ) -> tuple[dict[str, Any], ...]:
        """Newest commits first, at most ``limit``: those reachable from ``until`` (default HEAD), not from ``since``.

        Both are revisions; they reach ``log`` as full names, so that none can be read as an option or a range.
        """
        tips = [await self.resolve(until or "HEAD")]
        tips += [f"^{await self.resolve(since)}"] if since is not None else []
        wanted = (f"--max-count={limit}", f"--format={LOG_FORMAT}", *tips)
        result = await self._run("log", "-z", *wanted, "--", *paths, cap=LISTING_CAP)
        return parse_log(result.stdout)

    async def local_config(self) -> GitConfigReport:
        """The repository's own configuration, judged. Reading it runs nothing."""
        listing = await self._run("config", "--list", "--show-scope", "--includes", "-z", trusted=True, cap=LISTING_CAP)
        return git_config.report(git_config.parse_config(listing.stdout))

    # -- changing ------------------------------------------------------------------------------------------------

    async def add(self, paths: Sequence[str]) -> None:
        """Stage exactly ``paths``, removals included."""
        if paths:
            await self._write("add", "--", *paths)

    async def commit(self, message: str, *, when: datetime | None = None, allow_empty: bool = False) -> str:
        """Commit what is staged and return the new commit's name. ``when`` fixes both dates."""
        if len(message.encode()) > MAX_MESSAGE_BYTES + TRAILER_BYTES or any(
            ord(char) < 32 and char != "\n" for char in message
        ):
            raise Refused("GIT_MESSAGE", "a commit message has at most 8 KiB and no control characters but line feeds")
        dates = {}
        if when is not None:
            dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"@{int(when.timestamp())} +0000")
        flags = ["--quiet", "--no-verify", "--no-gpg-sign", "--no-status", "--cleanup=verbatim", "--file=-"]
        flags += ["--allow-empty"] if allow_empty else []
        await self._write("commit", *flags, stdin=message.encode(), env=dates)
        return await self.resolve("HEAD")

    async def checkout(self, paths: Sequence[str]) -> None:
        """Set the content of tracked ``paths`` back from the index."""
        if paths:
            places = [_existing_parent(self.root, path) for path in paths]
            await self._write("checkout", "--quiet", "--", *paths, writable=places)

    async def reset_paths(self, commit: str, paths: Sequence[str]) -> None:
        """Set the index entries of ``paths`` to what ``commit`` has."""
        if paths:
            await self._write("reset", "--quiet", _full(commit), "--", *paths)

    async def reset_soft(self, commit: str) -> None:
        """Move the branch to ``commit``; index and work tree stay."""
        await self._write("reset", "--quiet", "--soft", _full(commit))

    async def reset_hard(self, commit: str) -> None:
        """Set branch, index and tracked files to ``commit``."""
        await self._write("reset", "--quiet", "--hard", _full(commit), writable=[self.root])

    async def init(self, message: str, *, when: datetime) -> str:
        """Make ``root`` a repository with everything in it committed once; returns that commit."""
        await self._run("init", "--quiet", "--template=", "--initial-branch=main", trusted=True, writable=[self.root])
        await self._write("add", "--all")
        return await self.commit(message, when=when, allow_empty=True)

    async def worktree_add(self, path: Path, commit: str) -> None:
        """Check ``commit`` out, detached, into the new folder ``path``; ``--force`` forgives a record without folder."""
        arguments = ("worktree", "add", "--quiet", "--force", "--detach", str(path), _full(commit))
        await self._write(*arguments, writable=[path.parent])

    async def worktree_move(self, path: Path, target: Path) -> None:
        """Rename a linked work tree; both folders must have the same parent."""
        await self._write("worktree", "move", str(path), str(target), writable=[path.parent])

    # -- one call ------------------------------------------------------------------------------------------------

    def _is_hidden(self, line: GitLine) -> bool:
        return line.untracked and any(line.path == name or line.path.startswith(f"{name}/") for name in self._hidden)

    async def _write(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path] = (),
    ) -> None:
        folders = git_folders(self.root)
        if folders is None:
            raise Refused("REPO_NOT_GIT", "the work tree has no git folder", where=str(self.root))
        locks = [path for path in _lock_files(folders) if not path.exists()]
        places = [*dict.fromkeys((folders.own, folders.common)), *writable]
        try:
            await self._run(*arguments, stdin=stdin, env=env, writable=places)
        except (GitStopped, asyncio.CancelledError):
            # A killed git leaves its locks, which would block the undo. They are ours: they were not there before.
            for path in locks:
                path.unlink(missing_ok=True)
            raise

    async def _run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        writable: Sequence[Path] = (),
        cap: int = DIFF_CAP,
        whole: bool = True,
        trusted: bool = False,
    ) -> ProcessResult:
        """Run git once. ``trusted`` commands run no configured program, so they need no look at the configuration."""
        if not trusted:
            await self._check_config()
        folders = git_folders(self.root)
        outside = _outside(self.root, folders)
        excludes = [Path(self._settings.excludes_file)] if self._settings.excludes_file else []
        spec = ProcessSpec(
            argv=[_program(self._git_path), *git_config.options(self._settings, [self.root, *outside]), *arguments],
            cwd=self.root,
            root=self.root,
            env={**git_config.environment(self.root), **(env or {})},
            writable=writable,
            readable=[*outside, *(path for path in excludes if path.exists())],
            stdin=stdin,
            timeout=TIMEOUT_SECONDS,
            output_cap=cap,
        )
        return _judged(arguments[0], await _spawned(self._runner, spec), whole=whole)

    async def _check_config(self) -> None:
        """Refuse a configuration that runs programs, unless accepted. Read again only when its files changed."""
        folders = git_folders(self.root)
        if folders is None:
            return
        mark = _config_mark(folders)
        if mark == self._judged_config:
            return
        found = await self.local_config()
        if found.unsafe and found.digest not in self._accepted:
            raise Refused(
                "GIT_UNSAFE_CONFIG",
                f"the repository's configuration makes git run programs: {', '.join(found.unsafe)}",
                where=str(folders.common / "config"),
                hint=f"remove them, or accept configuration {found.digest}",
            )
        self._judged_config = None if found.includes else mark


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One failure of a group: callers know nothing of two questions asked at once."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _program(git_path: str | None) -> str:
    if git_path is None:
        raise Refused("GIT_MISSING", "git is not installed or not on the PATH", hint="install git 2.35 or newer")
    return git_path


def _outside(root: Path, folders: GitFolders | None) -> tuple[Path, ...]:
    """Git folders that do not lie in the work tree: those of linked work trees and submodules."""
    if folders is None:
        return ()
    return tuple(path for path in dict.fromkeys((folders.own, folders.common)) if not path.is_relative_to(root))


def _config_mark(folders: GitFolders) -> str:
    names = (folders.common / "config", folders.own / "config", folders.own / "config.worktree")
    parts = [path.read_bytes() if path.is_file() else b"" for path in dict.fromkeys(names)]
    return digest_bytes(b"\0".join(parts))


def _lock_files(folders: GitFolders) -> tuple[Path, ...]:
    """What git leaves behind when it is killed while writing the index or a branch."""
    names = [folders.own / "index.lock", folders.own / "HEAD.lock"]
    pointer = _first_line(folders.own / "HEAD")
    if pointer.startswith("ref: "):
        names.append(folders.common / f"{pointer[5:]}.lock")
    return tuple(names)


def _existing_parent(root: Path, path: str) -> Path:
    """The nearest folder above ``path`` that exists: git has to replace the file in it."""
    folder = (root / path).parent
    while not folder.is_dir() and folder != root:
        folder = folder.parent
    return folder


def _staged(staged: bool) -> tuple[str, ...]:
    return ("--cached",) if staged else ()


def _full(commit: str) -> str:
    if not COMMIT.match(commit):
        raise Refused("GIT_FAILED", f"{commit!r} is not a full commit name")
    return commit


def _commit_name(output: bytes) -> str:
    return _full(output.decode("ascii", "replace").strip())


async def _spawned(runner: ProcessRunner, spec: ProcessSpec) -> ProcessResult:
    try:
        return await runner.run(spec)
    except Refused as error:
        if error.code != "PROCESS_SPAWN":
            raise
        raise Refused(
            "GIT_MISSING", f"git cannot be started: {error.message}", hint="install git 2.35 or newer"
        ) from error


def _judged(command: str, result: ProcessResult, *, whole: bool = True) -> ProcessResult:
    if result.timed_out:
        raise GitStopped("GIT_FAILED", f"git {command} took longer than {TIMEOUT_SECONDS:.0f} seconds and was stopped")
    if result.exit_code != 0:
        said = (result.stderr.strip() or result.stdout.strip()).decode("utf-8", "replace")[:MAX_ERROR_TEXT]
        raise Refused("GIT_FAILED", f"git {command} ended with {result.exit_code}: {said}")
    if whole and result.stdout_bytes > len(result.stdout):
        raise Refused("GIT_FAILED", f"git {command} listed {result.stdout_bytes} bytes, more than can be kept")
    return result
