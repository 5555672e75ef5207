"""Requests go in, responses come out; both carry the metadata that ties an attempt to its run (blocks spec §7).

Neither changes after it was built. The runtime stamps the reserved keys last, so a block can never forge where it
ran; extras need a dot in their key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Protocol

from runtime.blocks.errors import BlockError, BlockSkip, OperationFailed, error_for
from runtime.blocks.results import BlockRunResult, Once
from runtime.blocks.sanitise import clean_text, redact, scrub
from runtime.blocks.values import EMPTY_MAP, NULL, BlockValue
from runtime.kernel.clock import timestamp
from runtime.kernel.redaction import Redactor

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


def read_only(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A private read-only copy; a mapping that is read-only already is passed through."""
    return mapping if type(mapping) is MappingProxyType else MappingProxyType(dict(mapping))


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one block. ``sources`` names the predecessors that delivered, in link order."""

    payload: BlockValue = NULL
    context: Mapping[str, BlockValue] = field(default_factory=lambda: EMPTY)
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    sources: tuple[str, ...] = ()
    #: True when the block runs as a failure handler and the payload is the failure envelope.
    handling: bool = False

    def __post_init__(self) -> None:
        if type(self.payload) is not BlockValue:
            object.__setattr__(self, "payload", BlockValue.of(self.payload))
        if type(self.context) is not MappingProxyType:
            object.__setattr__(self, "context", read_only(self.context))
        if type(self.metadata) is not MappingProxyType:
            object.__setattr__(self, "metadata", read_only(self.metadata))

    @property
    def joined(self) -> bool:
        """True when the payload is a LIST joined from two or more predecessors."""
        return len(self.sources) >= 2

    def with_payload(self, payload: object) -> Request:
        return replace(self, payload=BlockValue.of(payload))


@dataclass(frozen=True, slots=True)
class Response:
    """The one answer to one request. ``error_type`` lives in memory only and is dropped when serialised."""

    success: bool
    metadata: Mapping[str, Any]
    result: BlockRunResult | None = None
    reason: str | None = None
    error: BlockError | BlockSkip | None = None
    error_type: type[Exception] | None = None
    details: BlockValue = field(default=EMPTY_MAP)

    @property
    def data(self) -> BlockValue:
        return NULL if self.result is None else self.result.data

    @property
    def code(self) -> str | None:
        return None if self.error is None else self.error.code

    @property
    def message(self) -> str:
        return "" if self.error is None else self.error.message

    @property
    def skipped(self) -> bool:
        return isinstance(self.error, BlockSkip)

    @property
    def ends_run(self) -> bool:
        """True for refusals no recovery may change (ruling R16)."""
        return self.error is not None and self.error.ends_run

    @property
    def output(self) -> BlockValue:
        """What a failed operation produced all the same; NULL otherwise."""
        return BlockValue.of(self.error.output) if isinstance(self.error, OperationFailed) else NULL

    def without_secrets(self, redactor: Redactor) -> Response:
        """The same response with every secret ``redactor`` knows taken out of result, message, details and output."""
        if not redactor.known:
            return self
        error = self.error
        if error is not None:
            # In place: there is no telling how an author's own class is built, and who raised it is done with it.
            error.message = redactor.text(error.message)
            error.details = MappingProxyType(redactor.value(error.details))
            error.args = (error.code, error.message)
        if isinstance(error, OperationFailed):
            error.output = self.output.without_secrets(redactor)
        result = None if self.result is None else self.result.without_secrets(redactor)
        return replace(self, result=result, details=self.details.without_secrets(redactor))

    def with_metadata(self, **changes: Any) -> Response:
        # Spelt out: `dataclasses.replace` costs more than the rest of an ordinary attempt's bookkeeping.
        return Response(
            self.success,
            MappingProxyType({**self.metadata, **changes}),
            self.result,
            self.reason,
            self.error,
            self.error_type,
            self.details,
        )

    def record(self) -> dict[str, Any]:
        """The serialised form: reason, code, redacted details, metadata; never classes, never content."""
        return {
            "success": self.success,
            "reason": self.reason,
            "code": self.code,
            "details": redact(self.details),
            "metadata": dict(self.metadata),
        }


def succeeded(metadata: dict[str, Any], result: BlockRunResult) -> Response:
    """A successful response. It takes ``metadata`` over: the caller does not change it afterwards."""
    return Response(True, MappingProxyType(metadata), result)


def failed(
    metadata: Mapping[str, Any], error: BlockError | BlockSkip, phase: str, *, kind: type[Exception] | None = None
) -> Response:
    """A failed response; secrets are removed from message details here, content when the response leaves memory."""
    return Response(
        False,
        MappingProxyType({**metadata, "phase": phase}),
        reason=error.reason,
        error=error,
        error_type=kind or type(error),
        details=scrub(error.details) if error.details else EMPTY_MAP,
    )


def recorded_response(
    request: Request,
    *,
    value: BlockValue | None = None,
    code: str | None = None,
    message: str = "",
    reason: str | None = None,
    output: BlockValue | None = None,
    phase: str = "run",
    recovery: Mapping[str, str] | None = None,
) -> Response:
    """Rebuild the response of an attempt from its journal record, for resume and recorded replay (ruling R19).

    With ``code`` it is a failure (``skip.*`` codes a skip) whose class is chosen by code prefix; else a success.
    ``recovery`` is what was recorded of `recovery_marks`.
    """
    if code is None:
        return succeeded({**request.metadata, "duration_ms": 0.0}, Once(value if value is not None else NULL))
    error: BlockError | BlockSkip
    if code.startswith("skip."):
        error = BlockSkip(message, code=code)
    else:
        error = error_for(code, clean_text(message), reason=reason, output=output, recovery=recovery)
    return replace(failed({**request.metadata, "duration_ms": 0.0}, error, phase), error_type=None)


class _Named(Protocol):
    @property
    def block_name(self) -> str: ...


class _Times(Protocol):
    def now(self) -> Any: ...


class _Ids(Protocol):
    def uuid(self) -> str: ...


def span_of(envelope_id: str) -> str:
    """The span id of an envelope: the last 16 hex digits of its id, the random part of a version-4 UUID."""
    return envelope_id.replace("-", "")[-16:]


def completed_metadata(request: Request, block: _Named, clock: _Times, ids: _Ids) -> Mapping[str, Any]:
    """The request's metadata with every missing base key filled (blocks spec §7.3)."""
    given = request.metadata
    if "id" in given and "span_id" in given and "created_at" in given and "visit" in given:
        return given  # stamped by a workflow: complete already
    own = given.get("id") or ids.uuid()
    run = given.get("run_id") or ids.uuid()
    base = {
        "id": own,
        "trace_id": run.replace("-", ""),
        "run_id": run,
        "span_id": span_of(own),
        "block_name": block.block_name,
        "attempt": 1,
        "visit": 1,
        "created_at": timestamp(clock.now()),
    }
    return {**base, **given}
