"""What went wrong with a service, in the words of the built-in blocks (blocks spec §21.3).

Inside a run a service is an operation, whose failure has an ``op.`` code. Those named here become the code a block
author expects, with the original as cause; a refusal (envelope, rules, budget, approval) keeps its own, because it
ends the run and must be called what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from runtime.blocks.errors import BlockRuntimeError, OperationFailed
from runtime.kernel.outcomes import operation_code

#: A path that would lead out of the work tree, in every spelling there is for it.
_OUTSIDE: Final = ("ABSOLUTE", "TRAVERSAL", "DRIVE", "UNC", "HOME", "BACKSLASH", "SYMLINK", "SYMLINK_ESCAPE")
FILE_CODES: Final[Mapping[str, str]] = {
    **{f"PATH_{name}": "file.path_outside_root" for name in _OUTSIDE},
    "PATH_MISSING": "file.not_found",
    "PATH_PARENT_MISSING": "file.not_found",
    "PATH_NOT_DIRECTORY": "file.not_a_directory",
    "PATH_IS_DIRECTORY": "file.io",
    "PATH_IO": "file.io",
    "PATH_RACE": "file.io",
    "TOOL_CONFLICT": "file.io",
    "OP_FAILED": "file.io",
}
HTTP_CODES: Final[Mapping[str, str]] = {
    "HTTP_TIMEOUT": "http.timeout",
    "OP_TIMEOUT": "http.timeout",
    "HTTP_CONNECT": "http.connect_failed",
    "HTTP_URL": "http.invalid_request",
    "HTTP_TOO_LARGE": "http.invalid_request",
}
MAIL_CODES: Final[Mapping[str, str]] = {
    "MAIL_CONFIG": "email.config",
    "MAIL_AUTH": "email.smtp.auth_failed",
    "MAIL_TIMEOUT": "email.smtp.timeout",
    "OP_TIMEOUT": "email.smtp.timeout",
    "MAIL_TRANSIENT": "email.smtp.transient",
    "MAIL_PERMANENT": "email.smtp.permanent",
}
AI_CODES: Final[Mapping[str, str]] = {
    "PROVIDER_AUTH": "ai.auth",
    "PROVIDER_RATE_LIMITED": "ai.rate_limited",
    "PROVIDER_TIMEOUT": "ai.timeout",
    "OP_TIMEOUT": "ai.timeout",
    "PROVIDER_SERVER": "ai.provider_5xx",
    "PROVIDER_CONNECT": "ai.provider_5xx",
    "PROVIDER_INVALID": "ai.invalid_response",
    "LLM_OUTPUT_INVALID": "ai.invalid_response",
    "PROVIDER_UNKNOWN": "ai.unsupported_provider",
    "LLM_NO_MODEL": "ai.unsupported_provider",
}
_STATUS_CODES: Final[Mapping[int, str]] = {
    401: "http.auth.401",
    403: "http.forbidden.403",
    429: "http.rate_limited.429",
}
#: Errors of the system that mean: not yours.
_DENIED: Final = ("EACCES", "EPERM", "EROFS")


def translated(failure: OperationFailed, codes: Mapping[str, str]) -> BlockRuntimeError:
    """The failure under the code of ``codes``, or itself when the table does not name it."""
    original = operation_code(failure.code)
    code = codes.get(original)
    if code is None:
        return failure
    if code == "file.io" and any(failure.message.endswith(name) for name in _DENIED):
        code = "file.permission_denied"
    return told(failure, code, failure.message)


def told(failure: OperationFailed, code: str, message: str, *, provider_status: str | None = None) -> BlockRuntimeError:
    """An error with the facts of ``failure`` under another code."""
    error = BlockRuntimeError(
        code,
        message,
        details={**failure.details, "cause": failure.code},
        provider_status=provider_status or failure.provider_status,
        retry_disposition=failure.retry_disposition,
        effects=failure.effects,
    )
    error.__cause__ = failure
    return error


def http_status(status: int, details: Mapping[str, Any] | None = None) -> BlockRuntimeError:
    """The error for an answer whose ``status`` is not 2xx."""
    code = "http.server_error.5xx" if 500 <= status <= 599 else _STATUS_CODES.get(status, "http.invalid_request")
    return BlockRuntimeError(
        code, f"the server answered with status {status}", details=details, provider_status=str(status)
    )
