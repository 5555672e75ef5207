"""What reaches the terminal: the console in a real pseudo-terminal, on a store full of hostile text.

The bytes are captured and read as a terminal would: every control string must be one the console itself sends.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pexpect
import pytest

#: What a hostile name, path or output line carries: title, clipboard, hyperlink, clear, C1 forms, markup, bidi.
HOSTILE = (
    "\x1b]0;OWNED-TITLE\x07 \x1b]52;c;T1dORUQ=\x07 \x1b]8;;http://OWNED\x1b\\ \x1b[2J\x1b[31;7mOWNED-SGR "
    "\x9b5nOWNED-C1 \x9d0;OWNED-C1-TITLE\x9c \x1bP+q544e\x1b\\ \x1b_OWNED-APC\x1b\\ \x1b^OWNED-PM\x1b\\ "
    "[@click=app.quit]OWNED[/] [/unbalanced \u202eOWNED\u2066 \r\n\x07\x08\x00end"
)
SCRIPT = """
from support.fake_deck import *
from console.app import ConsoleApp
from runtime.events.facts import *
from runtime.host.api import *

bad = {hostile!r}
question = Escalation(
    escalation_id=bad, run_id=RUN, step_id=bad, reason=bad, severity=bad, blocking=True,
    choices=("approved", bad), subject_digest=bad, created_at=AT,
)
refused = Violation(
    run_id=RUN, mission=bad, seq=1, at=AT, step_id=bad, operation_id=bad, code=bad, reason=bad, check=bad, path=bad,
    rule=bad, attempted=bad, needed=bad, outcome=bad, position=Place(path=bad, line=1, column=1, snippet=bad),
)
denied = {{"step_id": bad, "operation_id": bad, "idempotency_key": bad, "code": bad, "reason": bad, "path": bad}}
step = {{"step_id": bad, "operation_type": bad, "status": "failed", "code": bad, "error_message": bad, "started_at": bad}}
deck = FakeDeck(
    missions_list=[mission(bad, path="m", description=bad, workspace=bad, inputs=(InputInfo(
        name="title", type="string", required=True, default=bad, description=bad),))],
    runs_list=[run_summary(mission=bad, code=bad, reason=bad, message=bad, work_tree=bad, entries=4)],
    nodes_list=[NodeInfo(node_id=bad, block_type=bad)],
    entries_list=[
        entry(0, "journal_opened", mission_id=bad), entry(1, "operation_denied", **denied),
        entry(2, "step_started", **step), entry(3, bad),
    ],
    inbox=[question],
    violations_list=[refused],
    holder_info=Holder(pid=1, host=bad, epoch=1, started_at=bad, heartbeat_at=bad),
)
app = ConsoleApp(deck)

def feed():
    deck.publish(
        OutputDelta(run_id=RUN, step_id=bad, stream="stdout", text=bad + "\\n"),
        OutputDelta(run_id=RUN, step_id=bad, stream="model", text=bad + "\\n"),
    )
    app.complain(Refused(bad, bad, hint=bad))

app.call_later(lambda: app.set_timer(1.0, feed))
app.run()
print("LEFT")
"""
OURS = re.compile(
    rb"\x1b\[[0-9;:?<>=$]*[ -/]*[@-~]"  # CSI: checked for content below
    rb"|\x1b\]2;quarterdeck[^\x07\x1b]*\x07"  # our title
    rb"|\x1b\]22;[a-z-]*\x07"  # the pointer's shape, from Textual
    rb"|\x1b[()][AB0]|\x1b[=>78cM]|\x1bP[^\x1b]*\x1b\\"
)


def run_hostile(tmp_path: Path, keys: list[str]) -> bytes:
    script = tmp_path / "hostile.py"
    script.write_text(textwrap.dedent(SCRIPT).format(hostile=HOSTILE))
    root = Path(__file__).parents[2]
    child = pexpect.spawn(
        sys.executable,
        [str(script)],
        env={
            "PYTHONPATH": f"{root}:{root / 'tests'}",
            "TERM": "xterm-256color",
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
        },
        dimensions=(40, 120),
        timeout=20,
    )
    try:
        child.expect(b"missions")
        captured = child.before + child.after
        for key in keys:
            child.send(key)
            captured += _read(child)
        child.send("\x11")
        captured += _read(child)
        child.send("j\r")
        child.expect(pexpect.EOF)
        return bytes(captured + child.before)
    finally:
        child.close(force=True)


def _read(child: pexpect.spawn) -> bytes:
    """Everything the console sends until it is quiet for a moment."""
    captured = b""
    while True:
        try:
            captured += child.read_nonblocking(65536, timeout=0.25)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return captured


@pytest.mark.slow
def test_no_foreign_control_sequence_reaches_the_terminal(tmp_path: Path) -> None:
    """Home, launch sheet, run dashboard with log and notices, inbox, question, violations, details, palette."""
    keys = ["n", "\x1b", "2", "\r", "\r", "\x1b", "4", "\r", "\x1b", "2", "\r", "\x1b", "\x1b"]
    raw = run_hostile(tmp_path, [*keys, "i", "\r", "\x1b", "\x1b", "v", "\r", "\x1b", "\x1b", ":", "open", "\x1b"])
    assert raw.rstrip().endswith(b"LEFT")
    text = raw.decode("utf-8", "surrogateescape")
    assert "OWNED-SGR" in text, "the hostile text was on screen"
    assert not re.findall(r"[\x80-\x9f\u202e\u2066]", text)
    left = OURS.sub(b"", raw)
    assert b"\x1b" not in left, left[max(0, left.find(b"\x1b") - 40) :][:120]
    # Foreign text between sequences must not have smuggled its own: none of its payload follows an introducer.
    assert not re.findall(rb"\x1b[\]P_^X][^\x07\x1b]*OWNED", raw)
    assert b"\x1b]52" not in raw
    assert b"\x1b]8" not in raw
    assert b"\x1b[31;7m" not in raw
    assert b"\x07" not in left
    assert b"\x08" not in left
    assert b"\x00" not in left
