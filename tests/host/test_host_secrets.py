"""A run with secrets: used where they are needed, and found nowhere else, whatever form they came back in."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from console.cli import main
from console.model.fold import RunState
from runtime.blocks.builtin.burst import Burst
from runtime.blocks.contexts import BlockContext
from runtime.blocks.errors import BlockError, BlockRuntimeError
from runtime.blocks.values import BlockValue
from runtime.host.api import Answer, Launch, RunStatus
from runtime.host.live_run import LiveRun
from runtime.host.opening import exported_lines
from runtime.kernel.errors import Refused
from tests.support.hosting import entries, hosting, plain, question, run_to_end, write_mission

TOKEN = 'cAnary-7Q"x/+=&%~ä'
KEY = "key-canary-5f2c9d"

#: Prints the variable TOKEN in every form, on both streams and cut in two, then fails with it.
LEAK = """
import base64, json, os, sys, time, urllib.parse
token = os.environ["TOKEN"]
raw = token.encode()
for number, stream in ((1, sys.stdout), (2, sys.stderr)):
    print("raw", token, "json", json.dumps({"k": token}), urllib.parse.quote(token, safe=""), file=stream)
    print(raw.hex(), raw.hex().upper(), json.dumps(token, ensure_ascii=False), file=stream)
    for before in range(3):
        text = b"." * before + raw + b".."
        print(base64.b64encode(text).decode(), base64.urlsafe_b64encode(text).decode(), file=stream)
    print("filler " * 800, file=stream, flush=True)
    os.write(number, raw[:9])
    time.sleep(0.02)
    os.write(number, raw[9:])
os.write(1, b" end " + raw[:4])
sys.exit("failed with " + token)
"""

MISSION = """\
mission: leaking
version: "1"
workspace: {{kind: none}}
envelope: {{allowed_paths: [], allowed_tools: [process.run]}}
sandbox: {{confinement: best_effort, secrets: {{TOKEN: env://DECK_TOKEN}}}}
budgets: {{unpriced: allow, tokens: 100000}}
provider: {{openai: {{base_url: "{url}", model: tiny, key: "file://{key}"}}}}
commands:
  leak: {{argv: {argv}}}
blocks:
  own: {{type: burst}}
  bad: {{type: burst, text: fail, fallback: rescue}}
  rescue: {{type: template, template: saved}}
  leak: {{type: tool_invoke, tool: process.run, template: leak, accept: [op.process_exit]}}
  pass: {{type: template, template: "got {{{{ a }}}} {{{{ b }}}}",
    data: {{a: "${{outputs.leak.output.stdout}}", b: "${{outputs.leak.output.stderr}}"}}}}
  fail: {{type: llm_call, prompt: hello, accept: [op.provider_server]}}
  say: {{type: llm_call, prompt: hello}}
links: [own -> bad -> leak -> pass -> fail -> say]
outputs: {{seen: "${{outputs.pass}}", said: "${{outputs.say.text}}"}}
"""


async def use(block: Burst, input: BlockValue, ctx: BlockContext) -> dict[str, str]:
    """A block that got hold of the secret by itself, and hands it on in every way a block can."""
    if block.text == "fail":
        raise BlockRuntimeError("own.failure", f"no luck with {TOKEN}", details={"tried": TOKEN})
    await ctx.emit("data", {"token": TOKEN})
    ctx.emit("telemetry", TOKEN)
    ctx.log_info(f"about {TOKEN}", "l" * 244 + TOKEN)
    with pytest.raises(BlockError, match=r"op\.secret_written"):
        await ctx.operate("escalate", {"reason": TOKEN})
    await ctx.wait(f"May I use {TOKEN}?", subject={"token": TOKEN})
    return {TOKEN: "much " * 1000 + TOKEN}


def needles() -> Iterator[bytes]:
    """What must not be found: each form, base64 without the ends that depend on its neighbours."""
    for secret in (TOKEN, KEY):
        raw = secret.encode()
        yield from (raw, raw.hex().encode(), raw.hex().upper().encode(), quote(secret, safe="").encode())
        yield from (json.dumps(secret)[1:-1].encode(), json.dumps(secret, ensure_ascii=False)[1:-1].encode())
        for before in range(3):
            text = b"." * before + raw + b".."
            for encoded in (base64.b64encode(text), base64.urlsafe_b64encode(text)):
                yield encoded[4:-8]
        yield raw[:12]


def hits(where: bytes) -> list[bytes]:
    return [needle for needle in needles() if needle in where]


def test_the_search_finds_what_the_program_prints() -> None:
    """The canary test below is worth something only if its search can fail."""
    everything = TOKEN + KEY + base64.b64encode(f"..{TOKEN}..".encode()).decode()
    assert len(hits(everything.encode())) >= 6


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: list[bytes]) -> None:
    """One request, answered with the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"Bearer {KEY}".encode() in head
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    writer.write(answers.pop(0))
    await writer.drain()
    writer.close()


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """A server that quotes the key it was given: in an error, where cutting would leave half of it, and in an answer."""
    error = json.dumps({"error": {"message": "e" * 190 + f" {KEY} is wrong"}}).encode()
    pieces = [f"your key: {KEY[:7]}", f"{KEY[7:]}."]
    chunks = [{"model": f"m {KEY}", "choices": [{"delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"model": "m", "choices": [{"delta": {}, "finish_reason": KEY}]})
    answers = [
        b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % len(error) + error,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
        + b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        + b"data: [DONE]\n\n",
    ]
    listener = await asyncio.start_server(lambda r, w: serve(r, w, answers), "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"


async def test_no_secret_is_stored_shown_or_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DECK_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(Burst, "run", use)
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    store = tmp_path / "store"
    seen: list[str] = []
    async with echoing() as url, hosting(store) as host:
        argv = json.dumps([sys.executable, "-c", LEAK])
        path = write_mission(tmp_path / "m", MISSION.format(url=url, key=key, argv=argv))
        feed = host.subscribe()
        begun = await host.launch(Launch(path=path, reason=f"to try {TOKEN}", trigger=f"cli {KEY}"))
        asked = await question(host, begun.run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved", notes=f"fine: {KEY}"))
        ended = await host.wait(begun.run_id)
        logging.getLogger("runtime.host.settlement").error("about %s", KEY, exc_info=ValueError(TOKEN))
        await host.drained()
        state = RunState.begin(ended, await host.nodes(ended.run_id))
        while events := feed.drain():
            state.apply_all(events)
            seen += map(repr, events)
        exported = b"".join([line async for line in exported_lines(host, ended.run_id)])
        files = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert (ended.status, ended.code) == (RunStatus.SUCCEEDED, None), ended.message
    assert ended.outputs is not None
    assert ended.outputs["said"] == "your key: <secret:key>."
    # Both streams: raw, two of JSON, percent, two of hexadecimal, six of base64 and the one in two pieces; and the end.
    assert ended.outputs["seen"].count("<secret:TOKEN>") == 2 * 13 + 1
    assert f"end {TOKEN[:4]} " in ended.outputs["seen"], "what only began like one is not lost"
    assert any("<secret:TOKEN>" in text for text in seen if "OutputDelta" in text)
    assert any(b"<secret:TOKEN>" in body for body in files.values())
    capsys.readouterr()
    for words in (
        ["show", ended.run_id, "--json"],
        ["logs", ended.run_id],
        ["logs", ended.run_id, "--step", "own"],
        ["violations"],
        ["runs"],
    ):
        assert await asyncio.to_thread(main, ["--store", str(store), *words]) == 0
    shown = capsys.readouterr()
    assert b"to try <secret:TOKEN>" in exported
    assert "SECRET_WRITTEN" in shown.out
    assert '{"token":"<secret:TOKEN>"}' in shown.out, "what was emitted, as it was kept"
    found = {str(path): hits(body) for path, body in files.items()}
    found |= {str(path): hits(path.read_bytes()) for path in store.rglob("*") if path.is_file()}
    found |= {
        "export": hits(exported),
        "events": hits("\n".join(seen).encode()),
        "console": hits(repr(state).encode()),
        "command": hits((shown.out + shown.err).encode()),
        "log": hits(caplog.text.encode()),
    }
    assert {name: what for name, what in found.items() if what} == {}
    assert "about <secret:key>" in caplog.text


ASKING = "  ask: {type: approval, message: Really?}"


def using(reference: str) -> str:
    return f"inputs: {{goal: {{type: string, default: none}}}}\nsandbox: {{secrets: {{TOKEN: '{reference}'}}}}\n"


@pytest.mark.parametrize(
    ("reference", "goal", "code"),
    [
        ("env://DECK_ABSENT", "none", "SECRET_MISSING"),
        ("env://DECK_PIN", "none", "SECRET_SHORT"),
        ("file:///no/such/canary", "none", "SECRET_FILE"),
        ("env://DECK_TOKEN", f"use {TOKEN}", "SECRET_WRITTEN"),
        ("env://DECK_TOKEN", base64.b64encode(TOKEN.encode()).decode(), "SECRET_WRITTEN"),
    ],
)
async def test_a_launch_is_refused_before_anything_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, goal: str, code: str
) -> None:
    monkeypatch.setenv("DECK_TOKEN", TOKEN)
    monkeypatch.setenv("DECK_PIN", "12345")
    monkeypatch.delenv("DECK_ABSENT", raising=False)
    async with hosting(tmp_path / "store") as host:
        refused = await run_to_end(host, plain(tmp_path / "m", ASKING, more=using(reference)), inputs={"goal": goal})
        assert (refused.status, refused.code, refused.exit_code, refused.entries) == (RunStatus.REFUSED, code, 2, 0)
        assert (reference if code != "SECRET_WRITTEN" else "<secret:TOKEN>") in (refused.message or "")
        assert await host.entries(refused.run_id, limit=1) == ()
    assert not any(hits(path.read_bytes()) for path in (tmp_path / "store").rglob("*") if path.is_file())


async def test_names_alone_still_mean_variables_of_the_console(tmp_path: Path) -> None:
    path = plain(tmp_path / "m", ASKING, more="sandbox: {secrets: [DECK_ABSENT]}\n")
    async with hosting(tmp_path / "store") as host:
        refused = await run_to_end(host, path)
    assert refused.code == "SECRET_MISSING"
    assert "env://DECK_ABSENT" in (refused.message or "")


async def test_a_mission_that_holds_the_value_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECK_KEY", KEY)
    path = plain(tmp_path / "m", ASKING, more=f"# {KEY}\n{using('env://DECK_KEY')}")
    async with hosting(tmp_path / "store") as host:
        assert (await run_to_end(host, path)).code == "SECRET_WRITTEN"
    assert not any(hits(path.read_bytes()) for path in (tmp_path / "store").rglob("*") if path.is_file())


async def test_resuming_looks_secrets_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "key"
    key.write_text("first-value")
    key.chmod(0o600)
    path = plain(tmp_path / "m", ASKING, more=using(f"file://{key}"))
    async with hosting(tmp_path / "store") as host:
        run_id = (await host.launch(Launch(path=path))).run_id
        await question(host, run_id)
    key.rename(tmp_path / "away")
    async with hosting(tmp_path / "store") as host:
        with pytest.raises(Refused, match="SECRET_FILE"):
            await host.resume(run_id)
        (tmp_path / "away").rename(key)
        key.write_text(KEY)
        await host.resume(run_id, reason=f"now with {KEY}")
        asked = await question(host, run_id)
        await host.answer(Answer(escalation_id=asked.escalation_id, resolution="approved", notes=KEY))
        assert (await host.wait(run_id)).status is RunStatus.SUCCEEDED
        assert (await entries(host, run_id, "recovery"))[0]["cause"] == "now with <secret:TOKEN>"
        host._journal.append("operator_action", action="note", reason=f"the store's own journal, too: {KEY}")
    assert not any(hits(path.read_bytes()) for path in (tmp_path / "store").rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", [False, True])
async def test_summaries_are_clean_whatever_they_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: bool
) -> None:
    """The last look before a row is told: outputs, and what a fault of ours says."""

    def outputs(run: LiveRun, scope: object) -> dict[str, str]:
        if fault:
            raise ValueError(f"bad {KEY}")
        return {"found": KEY}

    monkeypatch.setenv("DECK_KEY", KEY)
    monkeypatch.setattr(LiveRun, "_outputs", outputs)
    path = plain(tmp_path / "m", "  say: {type: template, template: hi}", more=using("env://DECK_KEY"))
    async with hosting(tmp_path / "store") as host:
        ended = await run_to_end(host, path)
    told = ended.message if fault else str(ended.outputs)
    assert "<secret:TOKEN>" in (told or "")
    assert hits(repr(ended).encode()) == []
