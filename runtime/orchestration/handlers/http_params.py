"""The parameters of ``http.request``, read strictly before anything is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.kernel.model import thawed
from runtime.missions.parameters import METHODS
from runtime.orchestration.handlers.params import Params
from runtime.orchestration.web import SAFE_METHODS, Address, read_headers, read_url

TOOL: Final = "http.request"
#: Seconds for the whole operation: unless given, and at most.
DEFAULT_SECONDS: Final = 30.0
MAX_SECONDS: Final = 600.0
_AGENT: Final = "quarterdeck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as the mission wants it; values of headers are references where they are secrets."""

    method: str
    address: Address
    headers: Mapping[str, str]
    body: bytes | None
    agent: str
    seconds: float


def read_params(params: Params) -> Asked:
    """Raises `Refused`: ``HTTP_URL``, ``OP_PARAMS``; what is left over is the caller's to refuse."""
    body, headers = params.any("body", None), read_headers(params.mapping("headers", {}))
    content, kind = _content(body)
    asked = Asked(
        method=params.text("method", "GET", among=METHODS),
        address=read_url(params.text("url")),
        headers=headers if kind is None else {"content-type": kind, **headers},
        body=content,
        agent=_agent(params),
        seconds=params.number("timeout_seconds", DEFAULT_SECONDS, low=0.1, high=MAX_SECONDS),
    )
    if asked.body is not None and asked.method in SAFE_METHODS:
        raise params.bad("body", f"is nothing {asked.method} has")
    return asked


def _content(body: Any) -> tuple[bytes | None, str | None]:
    """Text as it is, anything else as JSON, and what to call it."""
    if body is None:
        return None, None
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(thawed(body), ensure_ascii=False, separators=(",", ":")).encode(), "application/json"


def _agent(params: Params) -> str:
    given = params.any("user_agent", None)
    return read_headers({"user-agent": _AGENT if given is None else given})["user-agent"]
