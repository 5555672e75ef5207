"""``ctx.services``: what a scope gives, else faces over operations whose failures carry the blocks' codes (ruling R42)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockingContext
from runtime.blocks.envelope import Request, Response
from runtime.blocks.fakes import FakeAi, FakeClock, FakeFiles, FakeHttp, FakeMailer
from runtime.blocks.registry import builtin_registry
from runtime.blocks.running import Scope
from runtime.blocks.services import AiRequest, Mail, Services
from runtime.blocks.values import BlockValue
from runtime.kernel.clock import timestamp
from runtime.kernel.ids import SequenceIds
from runtime.kernel.model import OperationResult
from tests.support.blocks_kit import FakeHost, operation, respond, step
from tests.support.operation_rig import Rig

REGISTRY = builtin_registry()


def failed(code: str, message: str = "no", **details: Any) -> OperationResult:
    return replace(operation(code), evidence={"message": message, "details": details})


def done(**output: Any) -> OperationResult:
    return replace(operation(), output=output)


async def through(host: Any, type_id: str, value: object = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value, host=host)


# -- faces ----------------------------------------------------------------------------------------------------------


async def test_each_service_call_is_one_done() -> None:
    host = FakeHost(
        [
            done(status=200, url="u", headers={}, text="page"),
            done(sent=True, to="me@x.example"),
            done(text="because"),
            done(
                path="d", entries=[{"path": "b", "kind": "file"}, {"path": "a", "kind": "directory"}], truncated=False
            ),
        ]
    )
    assert (await through(host, "http_request", url="https://x.example", user_agent="deck")).data.text() == "page"
    await through(host, "send_email", {"name": "Me", "body": "B"}, to="me@x.example", subject="S")
    assert (await through(host, "ai_generate", {"a": 1}, prompt="Why?", model="m", provider="openai")).success
    assert (await through(host, "list_directory", "./d/")).data.to_python() == ["d/a", "d/b"]
    assert host.operations == [
        ("tool_invoke", {"tool": "http.request", "url": "https://x.example", "user_agent": "deck"}),
        ("tool_invoke", {"tool": "mail.send", "to": "me@x.example", "subject": "S", "body": "B", "name": "Me"}),
        ("llm_call", {"prompt": "Why?", "packet": {"a": 1}, "model": "m", "provider": "openai"}),
        ("tool_invoke", {"tool": "filesystem.list_dir", "path": "d"}),
    ]


@pytest.mark.parametrize(
    ("type_id", "code", "told"),
    [
        ("file_read", "PATH_MISSING", "file.not_found"),
        ("file_read", "PATH_PARENT_MISSING", "file.not_found"),
        ("file_read", "PATH_IS_DIRECTORY", "file.io"),
        ("list_directory", "PATH_NOT_DIRECTORY", "file.not_a_directory"),
        ("file_write", "PATH_ABSOLUTE", "file.path_outside_root"),
        ("file_write", "PATH_TRAVERSAL", "file.path_outside_root"),
        ("file_write", "PATH_SYMLINK_ESCAPE", "file.path_outside_root"),
        ("file_write", "TOOL_CONFLICT", "file.io"),
        ("http_request", "HTTP_TIMEOUT", "http.timeout"),
        ("http_request", "HTTP_CONNECT", "http.connect_failed"),
        ("http_request", "HTTP_URL", "http.invalid_request"),
        ("http_request", "HTTP_TOO_LARGE", "http.invalid_request"),
        ("send_email", "MAIL_CONFIG", "email.config"),
        ("send_email", "MAIL_AUTH", "email.smtp.auth_failed"),
        ("send_email", "MAIL_TIMEOUT", "email.smtp.timeout"),
        ("send_email", "MAIL_TRANSIENT", "email.smtp.transient"),
        ("send_email", "MAIL_PERMANENT", "email.smtp.permanent"),
        ("ai_generate", "PROVIDER_AUTH", "ai.auth"),
        ("ai_generate", "PROVIDER_RATE_LIMITED", "ai.rate_limited"),
        ("ai_generate", "PROVIDER_TIMEOUT", "ai.timeout"),
        ("ai_generate", "PROVIDER_SERVER", "ai.provider_5xx"),
        ("ai_generate", "PROVIDER_INVALID", "ai.invalid_response"),
        ("ai_generate", "LLM_NO_MODEL", "ai.unsupported_provider"),
    ],
)
async def test_operation_codes_become_the_blocks_codes(type_id: str, code: str, told: str) -> None:
    response = await through(FakeHost([failed(code, message="so it was")]), type_id, "x", **ADDRESS[type_id])
    assert (response.code, response.message) == (told, "so it was")
    assert response.details["cause"].payload == f"op.{code.lower()}"
    assert response.ends_run is (told == "file.path_outside_root")
    before = told in ("email.config", "ai.unsupported_provider", "file.path_outside_root")
    assert response.error is not None
    assert response.error.effects == ("none" if before else "unknown")


ADDRESS: Mapping[str, dict[str, str]] = {
    "file_read": {"path": "a"},
    "file_write": {"path": "a"},
    "list_directory": {"path": "a"},
    "http_request": {"url": "https://x.example"},
    "send_email": {"to": "me@x.example"},
    "ai_generate": {"prompt": "Why?"},
}


@pytest.mark.parametrize("code", ["ENV_TOOL", "POLICY_DENIED", "NET_HOST_DENIED", "APPROVAL_REFUSED", "KILL_SWITCH"])
async def test_refusals_keep_their_own_codes(code: str) -> None:
    for type_id, config in ADDRESS.items():
        response = await through(FakeHost([failed(code)]), type_id, "x", **config)
        assert response.code == f"op.{code.lower()}"


@pytest.mark.parametrize(("status", "code"), [(429, "http.rate_limited.429"), (502, "http.server_error.5xx")])
async def test_a_failing_status_is_told_by_its_number(status: int, code: str) -> None:
    response = await through(FakeHost([failed("HTTP_STATUS", status=status)]), "http_request", "https://x.example")
    assert response.error is not None
    assert (response.code, response.error.provider_status) == (code, str(status))


async def test_a_mail_that_was_not_accepted_left_nothing_behind() -> None:
    for effects in ("none", "unknown"):
        host = FakeHost([failed("MAIL_TRANSIENT", effects=effects, status=450)])
        response = await through(host, "send_email", "x", to="me@x.example")
        assert response.error is not None
        assert (response.error.effects, response.error.provider_status) == (effects, "450")


async def test_what_the_system_forbids_is_a_denied_file() -> None:
    for name, code in (("EACCES", "file.permission_denied"), ("EIO", "file.io")):
        host = FakeHost([failed("OP_FAILED", message=f"cannot read: {name}")])
        response = await through(host, "file_read", "a")
        assert response.error is not None
        assert (response.code, response.error.provider_status) == (code, name)


async def test_an_answer_that_is_no_text_is_refused() -> None:
    host = FakeHost([done(status=200, url="u", headers={}, bytes="AAEC")])
    assert (await through(host, "http_request", "https://x.example")).code == "http.invalid_request"


async def test_a_folder_with_too_many_names_is_refused_rather_than_cut() -> None:
    host = FakeHost([done(path="d", entries=[{"path": "a", "kind": "file"}], truncated=True)])
    assert (await through(host, "list_directory", "d")).code == "file.io"


async def test_appending_to_what_cannot_be_read_writes_nothing() -> None:
    host = FakeHost([failed("POLICY_DENIED")])
    assert (await through(host, "file_write", "x", path="a", append=True)).code == "op.policy_denied"
    assert len(host.operations) == 1


async def test_in_a_run_the_key_is_the_missions() -> None:
    host = FakeHost([])
    assert (await through(host, "ai_generate", "Why?", api_key_env="KEY")).code == "validation.bad_config"


@pytest.mark.parametrize("type_id", sorted(ADDRESS))
async def test_without_a_host_there_are_no_operations(type_id: str) -> None:
    assert (await respond(REGISTRY.create(type_id, ADDRESS[type_id]), "x")).code == "runtime.no_operations"


# -- real operations on a real folder -------------------------------------------------------------------------------


class RigHost(FakeHost):
    """Performs operations with an executor on a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.rig = Rig(root)

    async def operate(self, operation_type: str, params: Mapping[str, Any], **options: Any) -> OperationResult:
        self.operations.append((operation_type, dict(params)))
        return await self.rig.do(operation_type, params, id=f"s1.{len(self.operations)}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "docs" / "secret").mkdir(parents=True)
    (root / "docs" / "a.txt").write_text("hällo", encoding="utf-8")
    (root / "raw").write_bytes(b"\xff\x00")
    (root / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (root / "link").symlink_to("docs")
    return root


async def test_files_of_a_work_tree(tree: Path) -> None:
    host = RigHost(tree)
    assert (await through(host, "file_read", "docs/a.txt")).data.text() == "hällo"
    assert (await through(host, "file_read", "raw", as_bytes=True)).data.payload == b"\xff\x00"
    assert (await through(host, "list_directory", "docs")).data.to_python() == ["docs/a.txt", "docs/secret"]
    assert (await through(host, "file_write", "one", path="new/deep/x")).success
    assert (await through(host, "file_write", " two", path="new/deep/x", append=True)).success
    assert (await through(host, "file_write", b"\xfe", path="new/y", append=True)).success
    assert (tree / "new" / "deep" / "x").read_text() == "one two"
    assert (tree / "new" / "y").read_bytes() == b"\xfe"


@pytest.mark.parametrize(
    ("path", "code", "ends_run"),
    [
        ("nope", "file.not_found", False),
        ("docs", "file.io", False),
        ("large", "file.io", False),
        ("docs/a.txt/x", "file.not_a_directory", False),
        ("../x", "file.path_outside_root", True),
        ("/etc/passwd", "file.path_outside_root", True),
        ("link/a.txt", "op.path_symlink", True),
        ("docs/secret/x", "op.policy_denied", True),
    ],
)
async def test_refusals_of_a_work_tree(tree: Path, path: str, code: str, ends_run: bool) -> None:
    response = await through(RigHost(tree), "file_read", path)
    assert (response.code, response.ends_run) == (code, ends_run)


async def test_appending_never_loses_what_somebody_else_wrote(tree: Path) -> None:
    class Meddler(RigHost):
        async def operate(self, operation_type: str, params: Mapping[str, Any], **options: Any) -> OperationResult:
            if params["tool"] == "filesystem.write_file":
                (tree / "docs" / "a.txt").write_text("theirs")
            return await super().operate(operation_type, params, **options)

    response = await through(Meddler(tree), "file_write", "mine", path="docs/a.txt", append=True)
    assert (response.code, (tree / "docs" / "a.txt").read_text()) == ("file.io", "theirs")


# -- what authors get -----------------------------------------------------------------------------------------------


def everything() -> Services:
    return Services(
        clock=FakeClock(),
        ids=SequenceIds(),
        files=FakeFiles({"a": "A"}),
        http=FakeHttp({"u": "page"}),
        mailer=FakeMailer(),
        ai=FakeAi(["because"]),
        env={"NAME": "value"},
    )


class Threaded(Block, side_effects="none"):
    """The same calls in a worker thread, where they block."""

    def validate(self, input: BlockValue, ctx: Any) -> None: ...

    def run(self, input: BlockValue, ctx: BlockingContext) -> list[Any]:
        services = ctx.services
        services.clock.sleep(5)
        services.files.write("b", services.files.read("a") + b"B")
        services.mailer.send(Mail(to="me", body=services.http.get("u").text))
        answer = services.ai.generate(AiRequest(prompt="Why?"))
        return [
            services.files.list("."),
            answer.text,
            services.env["NAME"],
            timestamp(services.clock.now()),
            services.clock.monotonic(),
            services.ids.uuid()[:8],
            services.random.random() == ctx.services.random.random(),
        ]


async def test_the_blocking_twins_of_a_threaded_run() -> None:
    services = everything()
    response = await Threaded().execute(Request(), scope=Scope(services=services))
    *told, same = response.data.to_python()
    assert told == [["a", "b"], "because", "value", "2026-01-01T00:00:05.000000Z", 5.0, "00000000"]
    assert not same, "one source, drawn from twice"
    assert isinstance(services.mailer, FakeMailer)
    assert services.mailer.sent == [Mail(to="me", body="page")]


async def test_a_threaded_run_without_services_performs_operations() -> None:
    class Reader(Block, side_effects="none"):
        """Reads."""

        def validate(self, input: BlockValue, ctx: Any) -> None: ...

        def run(self, input: BlockValue, ctx: BlockingContext) -> bytes:
            return ctx.services.files.read("a")

    read = done(content="A", encoding="utf-8", truncated=False, sha256="x", size=1)
    assert (await Reader().execute(Request(), host=FakeHost([read]))).data.payload == b"A"
    assert (await Reader().execute(Request(), host=FakeHost([failed("PATH_MISSING")]))).code == "file.not_found"


async def test_chance_is_the_same_at_the_same_place_of_a_run() -> None:
    def draw(value: BlockValue, ctx: BlockContext) -> list[float]:
        return [ctx.services.random.random() for _ in range(3)]

    async def drawn(name: str) -> Any:
        request = Request(metadata={"run_id": "r", "node_path": name})
        return (await step("s", draw).execute(request)).data.to_python()

    assert await drawn("a") == await drawn("a")
    assert await drawn("a") != await drawn("b")
    assert len(set(await drawn("a"))) == 3


async def test_the_environment_is_empty_unless_given() -> None:
    seen = await step("s", lambda value, ctx: dict(ctx.services.env)).execute(Request())
    assert seen.data.to_python() == {}
