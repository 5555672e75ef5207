"""What the bodies of a run are, told by the entries that name them, so that kinds of them can be left out.

An entry says which operation a body belongs to; nobody needs to read the body itself. A body that several entries name is of
every kind they give it, and is left out when any of those is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from runtime.kernel.errors import Refused
from runtime.orchestration.journal_verify import artifact_references
from runtime.orchestration.stream_index import root_of

#: Prompts and answers; output of processes; what was read, written and committed; other values of steps and operations.
MODEL: Final = "model"
OUTPUT: Final = "output"
FILES: Final = "files"
VALUES: Final = "values"
KINDS: Final = (MODEL, OUTPUT, FILES, VALUES)
#: What a run cannot be understood without: plan, mission files, environment, evidence of refusals, stream indexes.
RECORD: Final = "record"

_MODEL_TYPES: Final = frozenset({"llm_call", "ai_generate"})
#: Members of the output of a process that name the streams it wrote in full.
_STREAMS: Final = ("stdout_artifact", "stderr_artifact")


def named_by(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The bodies an entry names, each with its kind."""
    kind = _kind(entry)
    root = root_of(entry)
    for digest in artifact_references(entry):
        yield digest, RECORD if digest == root else kind


def chunk_kind(entry: Mapping[str, Any]) -> str:
    """The kind of what a step emitted."""
    return MODEL if entry.get("operation_type") in _MODEL_TYPES else VALUES


def streams_of(output: object) -> Iterator[str]:
    """The captured streams the output of an operation names."""
    if isinstance(output, Mapping):
        yield from (output[name] for name in _STREAMS if isinstance(output.get(name), str))


def content_of(params: object) -> str | None:
    """The digest of the content that params of an operation name where it is too long for them."""
    content = params.get("content") if isinstance(params, Mapping) else None
    named = content.get("$artifact") if isinstance(content, Mapping) else None
    return named if isinstance(named, str) else None


def check_kinds(withhold: frozenset[str]) -> None:
    """Raises `Refused` ``BUNDLE_KIND``."""
    unknown = sorted(withhold - set(KINDS))
    if unknown:
        raise Refused("BUNDLE_KIND", f"{unknown[0]!r} is no kind of content", hint=f"one of {', '.join(KINDS)}")


def _kind(entry: Mapping[str, Any]) -> str:
    if entry["kind"] in ("step_started", "step_finished"):
        return VALUES
    if entry["kind"] != "receipt":
        return RECORD
    receipt = entry["receipt"]
    if receipt.get("operation_type") in _MODEL_TYPES:
        return MODEL
    if receipt.get("effect") == "execute":
        return OUTPUT
    tool = receipt.get("operation_type") == "tool_invoke" and receipt.get("effect") != "external"
    return FILES if tool or receipt.get("compensates") is not None else VALUES
