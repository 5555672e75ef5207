"""What an operation brings back loses its secrets once, before anything is hashed, and nothing that must be kept
exactly may hold one."""

from __future__ import annotations

from pathlib import Path

from runtime.kernel.errors import Refused
from runtime.kernel.model import CompensationType, Effect, OperationPlan
from runtime.kernel.ports import Denial
from runtime.kernel.redaction import Redactor
from runtime.orchestration.mission_journal import MemoryJournalStore, MissionJournal
from runtime.orchestration.operation_ports import EscalationNote, HandlerOutcome, PlanCall, RunCall
from tests.support.journals import JOURNAL_ID, new_journal
from tests.support.operation_rig import FakeHandler, Rig

SECRET = "canary-value"
MARK = "<secret:KEY>"


def knowing() -> Redactor:
    redactor = Redactor()
    redactor.learn("KEY", SECRET)
    return redactor


def rig_with(tmp_path: Path, handler: FakeHandler) -> Rig:
    (tmp_path / "tree").mkdir()
    return Rig(tmp_path / "tree", redactor=knowing(), extra={"escalate": handler})


def traces(rig: Rig) -> int:
    """How often the secret is anywhere a reader could find it."""
    return sum(
        SECRET.encode() in item for item in (*rig.artifacts.bodies.values(), *(e.body for e in rig.store.entries))
    )


async def test_journal_block_and_replay_get_the_same_words(tmp_path: Path) -> None:
    async def work(call: RunCall) -> HandlerOutcome:
        return HandlerOutcome(
            output={SECRET: [SECRET]},
            evidence={"said": SECRET},
            code="PROCESS_EXIT",
            message=f"ended: {SECRET}",
            notes=(EscalationNote(f"know {SECRET}", "info", {"k": SECRET}),),
            denials=(Denial(code="NET_HOST_DENIED", message=SECRET, attempted=SECRET, needed=SECRET),),
        )

    rig = rig_with(tmp_path, FakeHandler(OperationPlan(Effect.NONE), work))
    first = await rig.do("escalate", {"reason": "x"})
    assert first.output == {MARK: [MARK]}
    assert (first.evidence["message"], first.evidence["details"]) == (f"ended: {MARK}", {"said": MARK})
    denied, noted = (
        next(item for item in rig.entries() if item["kind"] == k) for k in ("operation_denied", "escalation")
    )
    assert (denied["reason"], denied["attempted"], denied["needed"]) == (MARK, MARK, MARK)
    assert noted["reason"] == f"know {MARK}"
    assert traces(rig) == 0


async def test_refusals_are_told_without_the_value(tmp_path: Path) -> None:
    class Refusing(FakeHandler):
        async def plan(self, call: PlanCall) -> OperationPlan:
            raise Refused("PROCESS_ARG", f"{SECRET} does not fit")

    rig = rig_with(tmp_path, Refusing(OperationPlan(Effect.NONE), None))  # type: ignore[arg-type]
    result = await rig.do("escalate", {"reason": "x"})
    assert (result.reason_code, result.evidence["message"]) == ("PROCESS_ARG", f"{MARK} does not fit")
    assert traces(rig) == 0


async def test_params_that_hold_a_value_are_refused_and_not_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path, redactor=knowing())
    result = await rig.tool("filesystem.write_file", path="a.txt", content=f"key={SECRET}")
    assert result.reason_code == "SECRET_WRITTEN"
    assert not (tmp_path / "a.txt").exists()
    assert traces(rig) == 0
    assert (await rig.tool("filesystem.write_file", path="a.txt", content=f"key={MARK}", id="s1.1")).ok


async def test_a_file_with_a_value_is_read_without_it_and_never_copied_for_an_undo(tmp_path: Path) -> None:
    rig = Rig(tmp_path, redactor=knowing())
    (tmp_path / "env").write_text(f"KEY={SECRET}\n")
    read = await rig.tool("filesystem.read_file", path="env")
    assert read.output["content"] == f"KEY={MARK}\n"
    undo = (CompensationType.FILESYSTEM_RESTORE, "fs_restore env")
    write = {"tool": "filesystem.write_file", "path": "env", "content": "KEY=\n"}
    result = await rig.do("tool_invoke", write, id="s1.1", undo=undo)
    assert result.reason_code == "SECRET_STORED"
    assert (tmp_path / "env").read_text() == f"KEY={SECRET}\n"
    assert traces(rig) == 0


def test_entries_lose_secrets_before_they_are_hashed_and_keep_their_own_words() -> None:
    _, store, clock = new_journal()
    redactor = knowing()
    redactor.learn("WORD", "completed")
    journal = MissionJournal.resume(store, store.entries, clock, redactor=redactor)
    journal.append("operator_action", action="cancel", reason=f"because {SECRET}")
    journal.record_step("a", operation_type="template", inputs={"value": SECRET})
    journal.complete_step("a", "completed", outputs={SECRET: 1}, error_message=f"{SECRET} is completed")
    last = MissionJournal.resume(MemoryJournalStore(), store.entries, clock)
    assert last.journal_id == JOURNAL_ID
    assert not any(SECRET.encode() in entry.body for entry in store.entries)
    (step,) = journal.steps()
    assert (step.status, step.error_message) == ("completed", f"{MARK} is <secret:WORD>")


def test_digests_are_never_rewritten() -> None:
    """Digits of a secret that happen to be in a digest must not break the chain."""
    journal, store, clock = new_journal()
    head = journal.get_chain_root()
    redactor = Redactor()
    redactor.learn("DIGITS", head[20:26])
    again = MissionJournal.resume(store, store.entries, clock, redactor=redactor)
    entry = again.append("run_head", head=head, note=head[20:26]).entry
    assert (entry["head"], entry["note"]) == (head, "<secret:DIGITS>")
