"""The ``quarterdeck`` command: every verb the console has, headless, with JSON and documented exit codes.

Stdout carries data only; everything meant for a person's attention goes to stderr. Verbs that change something
reach the process that holds the store; verbs that only read never need it. Heavy imports happen inside the verb
that needs them, so that ``quarterdeck --help`` and the read verbs start fast.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from runtime.host.api import Exit, QuarterdeckError

Verb = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]

_EPILOG: Final = """\
exit codes: 0 ok · 1 mission failed · 2 usage, lint or config error · 3 approval refused or missing
            4 envelope violation · 5 budget exhausted · 6 replay diverged · 7 journal not verified
            8 store or work tree held by another · 124 timed out · 130 cancelled · 143 terminated
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Never lets a traceback reach an operator."""
    try:
        return _run(build_parser().parse_args(argv))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:  # noqa: BLE001 - the last door: an operator gets a sentence and a file, not a traceback
        from console.crash import report_crash

        return report_crash(error)


def _run(options: argparse.Namespace) -> int:
    try:
        return _dispatch(options)
    except QuarterdeckError as error:
        return report_error(error, as_json=getattr(options, "json", False))


def _dispatch(options: argparse.Namespace) -> int:
    if options.verb is None:
        from console.app import run_console

        return run_console(options)
    if "face" in options:
        return int(options.face(options))
    verb: Verb = options.run
    return asyncio.run(verb(options))


def report_error(error: QuarterdeckError, *, as_json: bool) -> int:
    """Print an error for people (stderr) or programs (stdout) and return its exit code."""
    from console.verbs.output import print_error
    from runtime.host.codes import exit_code_of

    code = exit_code_of(error)
    print_error(error, code, as_json=as_json)
    return code


def build_parser() -> argparse.ArgumentParser:
    """The whole command-line surface."""
    from console.verbs import packs

    parser = argparse.ArgumentParser(
        prog="quarterdeck",
        description="Launch, watch, cancel, resume and verify missions. Without a verb: open the console.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quarterdeck {_version()}")
    parser.add_argument("--store", metavar="DIR", help="state folder (default: $QUARTERDECK_HOME or the platform's)")
    parser.add_argument("--missions", metavar="DIR", action="append", help="folder of missions to list (repeatable)")
    parser.add_argument("--theme", metavar="NAME", help="theme of the console")
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    _running_verbs(verbs)
    _replaying_verbs(verbs)
    _evidence_verbs(verbs)
    _reading_verbs(verbs)
    _bundle_verbs(verbs)
    packs.add_verbs(verbs, _verb)
    _authoring_verbs(verbs)
    return parser


def _version() -> str:
    try:
        return version("quarterdeck")
    except PackageNotFoundError:
        return "unknown"


def _verb(
    verbs: Any,
    name: str,
    summary: str,
    example: str,
    run: Verb,
    *,
    json: bool = True,
    run_id: str | None = None,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    # SUPPRESS keeps a --store given before the verb from being reset by the sub-parser's default.
    parser.add_argument("--store", metavar="DIR", default=argparse.SUPPRESS, help="state folder")
    if json:
        parser.add_argument("--json", action="store_true", help="machine-readable output on stdout")
    if run_id is not None:
        parser.add_argument("selector", metavar="RUN", nargs=run_id or None, help="run id, unique prefix, or @latest")
    return parser


def _running_verbs(verbs: Any) -> None:
    from console.verbs import running

    run = _verb(
        verbs,
        "run",
        "Run a mission to its end.",
        "quarterdeck run sample_missions/hello --input name=Ada",
        running.run,
    )
    run.add_argument("path", metavar="PATH", help="mission file, or folder holding mission.yaml")
    _launch_options(run)
    _watch_verb(verbs)
    for name, summary in (
        ("cancel", "Fence a run, kill what runs, undo what it did."),
        ("terminate", "Kill a run without undoing what it did."),
        ("stop", "Let a recurring run end after its current tick."),
        ("undo", "Undo what stands of a run that has ended, last write first, with proof."),
        ("pause", "Stop starting new work; let running work finish."),
        ("resume", "Continue a paused or crashed run."),
    ):
        verb = _verb(verbs, name, summary, f"quarterdeck {name} @latest", getattr(running, name), run_id="")
        verb.add_argument("--reason", default="", help="why, recorded in the journal")
        if name == "resume":
            verb.add_argument(
                "--no-input",
                action="store_true",
                help="never ask; a needed approval ends the run with exit 3",
            )
            verb.add_argument(
                "--await-approval", action="store_true", help="without a terminal, wait for `quarterdeck approve`"
            )
    latch = _verb(
        verbs,
        "unlatch",
        "Let missions work again in a work tree that was halted.",
        "quarterdeck unlatch . --reason 'restored by hand'",
        running.unlatch,
    )
    latch.add_argument("path", metavar="PATH", help="the work tree")
    latch.add_argument("--reason", required=True, help="what was checked or repaired, recorded in the store's journal")
    floor = _verb(
        verbs,
        "unprotect",
        "Give up a pattern that runs in a work tree protected.",
        "quarterdeck unprotect . --pattern 'secrets/**' --digest sha256:... --reason 'moved elsewhere'",
        running.unprotect,
    )
    floor.add_argument("path", metavar="PATH", help="the work tree")
    floor.add_argument("--pattern", required=True, help="what it need not protect any more")
    floor.add_argument("--digest", required=True, help="the digest the refused start showed, typed")
    floor.add_argument("--reason", required=True, help="why, recorded in the store's journal")
    for name, summary in (
        ("approve", "Approve the open question of a run."),
        ("reject", "Reject the open question of a run."),
    ):
        verb = _verb(
            verbs,
            name,
            summary,
            f"quarterdeck {name} @latest --reason 'looked at it'",
            getattr(running, name),
            run_id="",
        )
        verb.add_argument("--reason", default="", help="a note recorded with the answer")
        verb.add_argument("--question", metavar="ID", help="which one, as `approvals` lists it, when a run has several")


def _evidence_verbs(verbs: Any) -> None:
    from console.verbs import keys, losses

    loss = _verb(
        verbs,
        "accept-loss",
        "Go on although a journal lacks entries that were signed; recorded in the store's journal.",
        "quarterdeck accept-loss store --reason 'restored from Monday'",
        losses.accept_loss,
    )
    loss.add_argument("journal", metavar="RUN", help="run id, unique prefix, @latest, or 'store' for the store's own")
    loss.add_argument("--reason", required=True, help="what happened to the rest, recorded in the store's journal")

    group = _verb(
        verbs,
        "key",
        "The key that signs checkpoints, and the sinks that keep copies (default: show).",
        "quarterdeck key",
        keys.show,
    ).add_subparsers(dest="key_verb", metavar="VERB")
    _verb(
        group,
        "show",
        "Show key, fingerprint and sinks; needs nobody to hold the store.",
        "quarterdeck key show",
        keys.show,
    )
    rotate = _verb(
        group,
        "rotate",
        "Sign with a new key; old and new vouch for each other in the store's journal.",
        "quarterdeck key rotate --reason 'a laptop was lost'",
        keys.rotate,
    )
    rotate.add_argument("--reason", required=True, help="recorded in the store's journal")


def _launch_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--input", "-i", action="append", default=[], metavar="K=V", help="input value (repeatable)")
    verb.add_argument("--no-input", action="store_true", help="never ask; a needed approval ends the run with exit 3")
    verb.add_argument(
        "--await-approval", action="store_true", help="without a terminal, wait for `quarterdeck approve`"
    )
    verb.add_argument("--wait", action="store_true", help="queue behind a busy work tree instead of exit 8")
    verb.add_argument("--reason", default="", help="why, recorded in the journal")


def _replaying_verbs(verbs: Any) -> None:
    from console.verbs import replaying

    replay = _verb(
        verbs,
        "replay",
        "Look back at a run, repeat it in memory, or run it again.",
        "quarterdeck replay @latest --fidelity recorded --json",
        replaying.replay,
        run_id="",
    )
    replay.add_argument(
        "--fidelity",
        choices=("view", "recorded", "live"),
        default="recorded",
        help="view: walk the journal; recorded (default): run the mission in memory, every operation answered from the"
        " record, exit 6 when something differs; live: a new run of the same lineage",
    )
    replay.add_argument(
        "--from",
        dest="from_step",
        metavar="STEP",
        help="begin here: view and compare from its first attempt on; live: reuse what came before",
    )
    replay.add_argument("--at", type=int, metavar="SEQ", help="view: show the whole state after this entry")
    replay.add_argument(
        "--mission", choices=("current", "recorded"), help="recorded: the file as it is (default), or as it was"
    )
    _launch_options(replay)
    diff = _verb(
        verbs,
        "diff",
        "Compare two runs; name the first difference and what follows it. Exit 6 when they differ.",
        "quarterdeck diff 8b3f @latest --expect outcome@operation:commit.0",
        replaying.diff,
        run_id="",
    )
    diff.add_argument("other", metavar="OTHER", help="the run to compare it with: id, unique prefix, or @latest")
    diff.add_argument("--timing", type=int, metavar="MS", help="steps may differ by this much time (default: any)")
    diff.add_argument(
        "--expect",
        action="append",
        default=[],
        metavar="CLASS[@SCOPE]",
        help="a difference that is no failure, such as outcome@operation:commit.0 (repeatable); fails when it is absent",
    )


def _watch_verb(verbs: Any) -> None:
    from console.verbs import watching

    watch = _verb(
        verbs,
        "watch",
        "Rerun a mission when its files change, until Ctrl-C (exit 0; a run at work is cancelled).",
        "quarterdeck watch sample_missions/watch-tests",
        watching.watch,
    )
    watch.add_argument("path", metavar="PATH", help="mission file, or folder holding mission.yaml, with `watch:`")
    watch.add_argument("--input", "-i", action="append", default=[], metavar="K=V", help="input value (repeatable)")
    watch.add_argument(
        "--overlap", choices=("queue", "preempt", "skip"), help="a change while a run works (default: the mission's)"
    )
    watch.add_argument("--debounce", type=int, metavar="MS", help="quiet time after a change (default: the mission's)")
    watch.add_argument("--run-now", action="store_true", help="start with a run")
    watch.add_argument("--no-input", action="store_true", help="never ask; a needed approval ends a run with exit 3")


def _reading_verbs(verbs: Any) -> None:
    from console.verbs import planning, reading

    runs = _verb(verbs, "runs", "List runs, newest first.", "quarterdeck runs --json --limit 5", reading.runs)
    runs.add_argument("--limit", type=int, default=20, metavar="N", help="rows (default 20, at most 1000)")
    runs.add_argument("--filter", default="", metavar="TEXT", help="mission, id or status contains TEXT")
    _verb(
        verbs, "missions", "List the missions of the catalogue.", "quarterdeck missions", reading.missions
    ).add_argument(
        "--missions",
        metavar="DIR",
        action="append",
        default=argparse.SUPPRESS,
        help="folder of missions (repeatable)",
    )
    _verb(
        verbs,
        "plan",
        "Show what a mission would do, and what it is expected to take by its earlier runs. Starts nothing.",
        "quarterdeck plan sample_missions/hello",
        planning.plan,
    ).add_argument("path", metavar="PATH", help="mission file, or folder holding mission.yaml")
    _verb(
        verbs,
        "show",
        "Show one run: steps, outcome, outputs.",
        "quarterdeck show @latest",
        reading.show,
        run_id="",
    )
    logs = _verb(
        verbs,
        "logs",
        "Print what a run recorded, entry by entry, or the output of one step.",
        "quarterdeck logs @latest --step red",
        reading.logs,
        run_id="",
    )
    logs.add_argument("--step", metavar="STEP", help="print the captured output of this step")
    logs.add_argument("--follow", "-f", action="store_true", help="keep printing until the run ends")
    refused = _verb(
        verbs,
        "violations",
        "List refused operations, of one run or all, or say why one was refused.",
        "quarterdeck violations @latest --code 'PATH_*'",
        reading.violations,
        run_id="?",
    )
    refused.add_argument("--code", default="*", metavar="GLOB", help="only these codes, such as 'PATH_*'")
    refused.add_argument("--step", default="*", metavar="GLOB", help="only these steps")
    refused.add_argument("--why", type=int, metavar="ENTRY", help="explain the refusal of this journal entry of RUN")
    _verb(verbs, "approvals", "List open questions.", "quarterdeck approvals", reading.approvals)
    _verifying_verbs(verbs)
    export = _verb(
        verbs,
        "export",
        "Write a run's journal: as JSON lines, or as one object with what speaks for it.",
        "quarterdeck export @latest -o run.jsonl",
        reading.export,
        json=False,
        run_id="",
    )
    export.add_argument("--output", "-o", metavar="FILE", help="target file (default: stdout)")
    export.add_argument(
        "--format",
        choices=("jsonl", "completion"),
        default="jsonl",
        help="jsonl (default): the stored entries; completion: one canonical object with receipts, verdict and checkpoints,"
        " refused with exit 7 when the journal does not verify",
    )
    export.add_argument(
        "--force", action="store_true", help="completion: export what does not verify, and say so inside"
    )


def _bundle_verbs(verbs: Any) -> None:
    from console.verbs import bundling

    summary = "Hand a run on as one file, and check, open or replay one that was handed on."
    group = verbs.add_parser("bundle", help=summary, description=summary).add_subparsers(
        dest="bundle_verb", metavar="VERB", required=True
    )
    export = _verb(
        group,
        "export",
        "Write a run's bundle: journal, bodies, mission, checkpoints, and the programs that check them.",
        "quarterdeck bundle export @latest -o run.zip --withhold model",
        bundling.export,
        run_id="",
    )
    export.add_argument("--output", "-o", metavar="FILE", help="target file, which must not exist")
    export.add_argument(
        "--withhold",
        action="append",
        default=[],
        metavar="KIND",
        help="leave out content of this kind (repeatable): model (prompts and answers), output (of processes), files"
        " (contents), values (inputs and outputs of steps)",
    )
    export.add_argument(
        "--attest", action="store_true", help="add a statement about the members, signed by this store's key"
    )
    export.add_argument("--force", action="store_true", help="export what does not verify, and say so inside")
    export.add_argument("--preview", action="store_true", help="only list what it would hold")
    for name, text, run in (
        ("verify", "Check a bundle; needs no store. Exit 7 unless everything holds.", bundling.verify),
        ("replay", "Replay the run in a bundle from its record. Exit 6 when something differs.", bundling.replay),
    ):
        _verb(group, name, text, f"quarterdeck bundle {name} run.zip --json", run).add_argument("path", metavar="FILE")
        verb = group.choices[name]
        if name == "verify":
            verb.add_argument(
                "--key",
                action="append",
                default=[],
                metavar="VKEY",
                help="trust this key only (repeatable), not the bundle's",
            )
            verb.add_argument(
                "--witness",
                action="append",
                default=[],
                metavar="TEXT",
                help="a checkpoint or witness line kept elsewhere",
            )
    opening = _verb(
        group, "open", "Look at the run in a bundle in the console.", "quarterdeck bundle open run.zip", bundling.verify,
        json=False,
    )  # fmt: skip
    opening.add_argument("path", metavar="FILE")
    opening.set_defaults(face=bundling.open_console)


def _verifying_verbs(verbs: Any) -> None:
    from console.verbs import verifying

    verify = _verb(
        verbs,
        "verify",
        "Recompute a journal and judge it by all evidence: `store` names the store's own. Exit 7 when it does not hold.",
        "quarterdeck verify @latest --evidence",
        verifying.verify,
        run_id="",
    )
    verify.add_argument(
        "--witness",
        action="append",
        default=[],
        metavar="TEXT_OR_FILE",
        help="a witness line, or a file with such lines or a signed checkpoint, kept elsewhere (repeatable)",
    )
    verify.add_argument("--evidence", action="store_true", help="say which manipulations would show, and which not")
    proof = _verb(
        verbs,
        "proof",
        "Prove that one entry is inside the newest signed checkpoint, as a text anybody can check offline.",
        "quarterdeck proof @latest 12 -o entry.tlog-proof",
        verifying.proof,
        run_id="",
    )
    proof.add_argument("seq", type=int, metavar="SEQ", help="number of the entry")
    proof.add_argument("--output", "-o", metavar="FILE", help="target file (default: stdout)")


def _authoring_verbs(verbs: Any) -> None:
    from console.verbs import authoring, doctor

    lint = _verb(
        verbs,
        "lint",
        "Check a mission file; report every problem at once.",
        "quarterdeck lint sample_missions/hello",
        authoring.lint,
    )
    lint.add_argument("path", metavar="PATH", help="mission file, or folder holding mission.yaml")
    schema = _verb(
        verbs,
        "schema",
        "Print the JSON Schema of mission files.",
        "quarterdeck schema > mission.schema.json",
        authoring.schema,
        json=False,
    )
    schema.add_argument("path", metavar="PATH", nargs="?", help="a mission: the packs beside it count, too")
    graph = _verb(
        verbs,
        "graph",
        "Show a mission's blocks and where each leads, without running it.",
        "quarterdeck graph sample_missions/hello --format mermaid",
        authoring.graph,
    )
    graph.add_argument("path", metavar="PATH", help="mission file, or folder holding mission.yaml")
    graph.add_argument(
        "--format", choices=("text", "mermaid", "json"), default="text", help="the picture's form (default: text)"
    )
    init = _verb(
        verbs,
        "init",
        "Create a first mission to edit, or a first block: init [DIR], init block NAME [DIR].",
        "quarterdeck init my-mission\n  quarterdeck init block shout my-mission",
        authoring.init,
    )
    init.add_argument(
        "words", metavar="WORD", nargs="*", help="folder to create it in (default: here); or block, its name, folder"
    )
    _verb(
        verbs,
        "doctor",
        "Say what this machine offers: confinement, programs, terminal, store. Exit 1 when a check fails.",
        "quarterdeck doctor --json",
        doctor.doctor,
    )


if __name__ == "__main__":
    sys.exit(main())
