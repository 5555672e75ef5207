"""What another process may ask of the holder over the control socket (ruling R35): the deck's own methods, by name.

Requests come from another process, perhaps of another version: what does not fit is refused with ``CONTROL_VERB``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, Final, TypeVar

from runtime.host.api import Answer, Deck, Launch, Watch
from runtime.host.observer import summary_record
from runtime.kernel.errors import Refused

_Intent = TypeVar("_Intent")
Remote = Callable[[Deck, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]


async def _ping(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"store": host.store_path}


async def _launch(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return summary_record(await host.launch(_intent(Launch, arguments)))


async def _wait(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return summary_record(await host.wait(_text(arguments, "run_id")))


async def _answer(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.answer(_intent(Answer, arguments)))


async def _resume(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    unattended = arguments.get("unattended")
    if unattended is not None and not isinstance(unattended, bool):
        raise Refused("CONTROL_VERB", "unattended is true, false or absent")
    run_id, reason = _text(arguments, "run_id"), str(arguments.get("reason", ""))
    return asdict(await host.resume(run_id, reason, unattended=unattended))


async def _undo(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    approved = None if arguments.get("approved") is None else _text(arguments, "approved")
    return summary_record(await host.undo(_text(arguments, "run_id"), str(arguments.get("reason", "")), approved))


async def _unlatch(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.unlatch(_text(arguments, "path"), _text(arguments, "reason")))


async def _unprotect(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    given = [_text(arguments, name) for name in ("path", "pattern", "digest", "reason")]
    return asdict(await host.unprotect(*given))


async def _trust_pack(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    path, digest = _text(arguments, "path"), _text(arguments, "digest")
    return asdict(await host.trust_pack(path, digest, in_process=arguments.get("in_process") is True))


async def _untrust_pack(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.untrust_pack(_text(arguments, "digest")))


async def _accept_loss(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.accept_loss(_text(arguments, "journal_id"), _text(arguments, "reason")))


async def _rotate_key(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.rotate_key(_text(arguments, "reason")))


async def _watch(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.watch(_intent(Watch, arguments)))


async def _unwatch(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.unwatch(_text(arguments, "watch_id")))


async def _rearm(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return asdict(await host.rearm(_text(arguments, "watch_id")))


async def _list_watches(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"watches": [asdict(item) for item in await host.watches()]}


def _control(verb: str) -> Remote:
    async def act(host: Deck, arguments: dict[str, Any]) -> dict[str, Any]:
        method = getattr(host, verb)
        return asdict(await method(_text(arguments, "run_id"), str(arguments.get("reason", ""))))

    return act


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise Refused("CONTROL_VERB", f"the request lacks the text {name!r}")
    return value


def _intent(kind: Callable[..., _Intent], arguments: dict[str, Any]) -> _Intent:
    """An intent from another process, which may be of another version."""
    try:
        return kind(**arguments)
    except TypeError as error:
        raise Refused("CONTROL_VERB", f"the request does not fit: {error}") from None


#: Verb → what answers it.
REMOTE: Final[dict[str, Remote]] = {
    "ping": _ping,
    "launch": _launch,
    "wait": _wait,
    "answer": _answer,
    "resume": _resume,
    "undo": _undo,
    "unlatch": _unlatch,
    "unprotect": _unprotect,
    "trust_pack": _trust_pack,
    "untrust_pack": _untrust_pack,
    "accept_loss": _accept_loss,
    "rotate_key": _rotate_key,
    "watch": _watch,
    "unwatch": _unwatch,
    "rearm": _rearm,
    "watches": _list_watches,
    **{verb: _control(verb) for verb in ("cancel", "terminate", "stop", "pause")},
}
