"""file_read, file_write and list_directory: success, every code and every ``address_from``, on files in memory."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.blocks.envelope import Response
from runtime.blocks.errors import BlockRuntimeError, BlockValidationError
from runtime.blocks.fakes import FakeFiles
from runtime.blocks.registry import builtin_registry
from runtime.blocks.running import Scope
from runtime.blocks.services import Services
from tests.support.blocks_kit import respond

REGISTRY = builtin_registry()


async def answer(files: FakeFiles, type_id: str, value: object = None, **config: Any) -> Response:
    return await respond(REGISTRY.create(type_id, config), value, scope=Scope(services=Services(files=files)))


def folder() -> FakeFiles:
    return FakeFiles({"a.txt": "hällo", "raw": b"\xff\xfe", "d/two": "2", "d/one": "1", "d/in/deep": "3"})


# -- file_read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value", "data"),
    [
        ({"path": "a.txt"}, None, "hällo"),
        ({"path": "a.txt"}, "raw", "hällo"),
        ({"path": "a.txt"}, [1], "hällo"),
        ({}, "a.txt", "hällo"),
        ({"path": "  "}, {"path": "a.txt"}, "hällo"),
        ({"path": "raw", "address_from": "input"}, {"path": "a.txt"}, "hällo"),
        ({"path": "a.txt", "address_from": "config"}, {"path": "raw"}, "hällo"),
        ({"path": "raw", "as_bytes": True}, None, b"\xff\xfe"),
        ({"path": "raw", "encoding": "latin-1"}, None, "ÿþ"),
        ({"path": "raw", "encoding": "utf-16"}, None, ""),
    ],
)
async def test_reading(config: dict[str, Any], value: object, data: object) -> None:
    assert (await answer(folder(), "file_read", value, **config)).data.to_python() == data


@pytest.mark.parametrize(
    ("config", "value", "code", "phase"),
    [
        ({"path": "nope"}, None, "file.not_found", "run"),
        ({"path": "raw"}, None, "file.decode_failed", "run"),
        ({"path": "../a.txt"}, None, "file.path_outside_root", "run"),
        ({"path": "a.txt", "address_from": "input"}, None, "input.kind_mismatch", "input"),
        ({"path": "a.txt", "address_from": "input"}, {"file": "a.txt"}, "input.path_required", "validate"),
        ({}, {}, "input.path_required", "validate"),
        ({}, {"path": 5}, "input.path_required", "validate"),
        ({}, " \n", "input.path_required", "validate"),
        ({}, 5, "input.kind_mismatch", "input"),
    ],
)
async def test_reading_refused(config: dict[str, Any], value: object, code: str, phase: str) -> None:
    response = await answer(folder(), "file_read", value, **config)
    assert (response.code, response.metadata["phase"]) == (code, phase)


@pytest.mark.parametrize("code", ["file.permission_denied", "file.io"])
async def test_what_the_files_say_comes_through(code: str) -> None:
    files = FakeFiles({"a": BlockRuntimeError(code, "no", provider_status="EACCES", effects="none")})
    for type_id, value in (("file_read", None), ("list_directory", None), ("file_write", "x")):
        response = await answer(files, type_id, value, path="a")
        assert response.code == code
        assert response.error is not None
        assert (response.error.provider_status, response.error.effects) == ("EACCES", "none")


def test_a_path_outside_ends_the_run_like_any_refusal() -> None:
    error = BlockRuntimeError("file.path_outside_root", "no")
    assert (error.ends_run, error.retry_disposition) == (True, "never")
    assert not BlockRuntimeError("file.not_found", "no").ends_run


# -- file_write -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "value", "path", "written"),
    [
        ({"path": "new/x"}, "text", "new/x", b"text"),
        ({"path": "x"}, b"\x00\xff", "x", b"\x00\xff"),
        ({"path": "x"}, {"content": "c", "path": "elsewhere"}, "x", b"c"),
        ({"path": "x"}, {"content": {"n": 1}}, "x", b'{"n":1}'),
        ({"path": "x"}, {"content": b"\xff"}, "x", b"\xff"),
        ({"path": "x"}, {"b": 2, "a": "é"}, "x", '{"a":"é","b":2}'.encode()),
        ({}, {"path": "x", "content": "c"}, "x", b"c"),
        ({}, {"path": "x", "n": 1}, "x", b'{"n":1,"path":"x"}'),
        ({"path": "y", "address_from": "input"}, {"path": "x", "content": "c"}, "x", b"c"),
        ({"path": "x", "address_from": "config"}, {"path": "y", "content": "c"}, "x", b"c"),
        ({"path": "a.txt", "append": True}, "!", "a.txt", "hällo!".encode()),
        ({"path": "a.txt"}, "!", "a.txt", b"!"),
    ],
)
async def test_writing(config: dict[str, Any], value: object, path: str, written: bytes) -> None:
    files = folder()
    response = await answer(files, "file_write", value, **config)
    assert response.data.is_null
    assert files.contents[path] == written
    assert [what for what, _ in files.calls] == ["append" if config.get("append") else "write"]


@pytest.mark.parametrize(
    ("config", "value", "code"),
    [
        ({}, "text", "input.path_required"),
        ({"path": "x", "address_from": "input"}, "text", "input.path_required"),
        ({"path": "x"}, ["a"], "input.kind_mismatch"),
        ({"path": "x"}, None, "input.kind_mismatch"),
        ({"path": "/etc/x"}, "text", "file.path_outside_root"),
    ],
)
async def test_writing_refused(config: dict[str, Any], value: object, code: str) -> None:
    files = folder()
    assert (await answer(files, "file_write", value, **config)).code == code
    assert files.contents == folder().contents


# -- list_directory -------------------------------------------------------------------------------------------------


async def test_listing_gives_full_paths_in_order_and_goes_no_deeper() -> None:
    for config, value in (({"path": "d"}, None), ({}, "d"), ({}, {"path": "d"}), ({"path": "d"}, {"path": "e"})):
        response = await answer(folder(), "list_directory", value, **config)
        assert response.data.to_python() == ["d/in", "d/one", "d/two"]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("a.txt", "file.not_a_directory"),
        ("nope", "file.not_found"),
        ("..", "file.path_outside_root"),
        ("", "input.path_required"),
    ],
)
async def test_listing_refused(value: str, code: str) -> None:
    assert (await answer(folder(), "list_directory", value)).code == code


# -- every addressing block -----------------------------------------------------------------------------------------

ADDRESSING = ["file_read", "file_write", "list_directory", "http_request", "send_email", "ai_generate", "template"]


@pytest.mark.parametrize("type_id", ADDRESSING)
def test_an_address_from_config_must_be_there(type_id: str) -> None:
    with pytest.raises(BlockValidationError, match="the block must name its") as caught:
        REGISTRY.create(type_id, {"address_from": "config"})
    assert caught.value.code == "validation.bad_config"
    with pytest.raises(BlockValidationError, match="config_first, input, config"):
        REGISTRY.create(type_id, {"address_from": "both"})
    block = type(REGISTRY.create(type_id, {}))
    with pytest.raises(BlockValidationError, match="config_first, input, config"):
        block(address_from="both")


def test_an_unknown_encoding_is_refused_when_the_block_is_made() -> None:
    for encoding in ("klingon", "base64"):
        with pytest.raises(BlockValidationError, match="no text encoding"):
            REGISTRY.create("file_read", {"encoding": encoding})
