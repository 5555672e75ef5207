"""A signed statement about the members of a bundle: in-toto Statement v1 in a DSSE envelope.

The manifest says what an archive holds; the statement says who says so. Its subjects are all members but the manifest, which
names the statement itself, and its predicate the run, its head and the root of its tree.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from runtime.host.bundle_format import MAX_FILE_BYTES, STATEMENT, RunBundle, text_member
from runtime.host.signing import Signer
from runtime.kernel.canonical import CanonicalizationError, canonical_bytes, parse_strict
from runtime.kernel.errors import Refused
from runtime.orchestration.checkpoints import VerifierKey
from runtime.orchestration.merkle import leaf_hash, root_of

TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:quarterdeck:run:v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_MANIFEST: Final = "manifest.txt"
_NOT_SUBJECTS: Final = frozenset({_MANIFEST, STATEMENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """A statement that holds: whose key signed it, in six words, and how many members it speaks of."""

    key: str
    key_words: str
    subjects: int


async def attest(files: Mapping[str, bytes], run: RunBundle, signer: Signer) -> bytes:
    """The signed statement about ``files``, whose run is ``run``, as the member's bytes."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signature  # type: ignore[attr-defined]  # re-exported without saying so

    payload = canonical_bytes(_statement(files, run, signer.key), limit=MAX_FILE_BYTES)
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    key_id = signer.key.key_id.hex()
    envelope.signatures[key_id] = Signature(key_id, (await signer.sign(envelope.pae())).hex())
    return text_member(envelope.to_dict())


def check_statement(files: Mapping[str, bytes], run: RunBundle, keys: Sequence[VerifierKey]) -> Attested:
    """Hold the statement among ``files`` against them. Raises `Refused` ``BUNDLE_STATEMENT``."""
    record = _envelope(files[STATEMENT])
    signed = _signed_by(record, keys)
    try:
        told = parse_strict(base64.b64decode(record["payload"], validate=True), limit=MAX_FILE_BYTES)
    except (CanonicalizationError, binascii.Error) as error:
        raise _wrong(f"it cannot be read: {error}") from None
    expected = _statement(files, run, signed)
    if told == expected:
        return Attested(key=signed.text, key_words=signed.words, subjects=len(expected["subject"]))
    odd = [name for name in expected if not isinstance(told, dict) or told.get(name) != expected[name]]
    raise _wrong(f"its {odd[0] if odd else 'members'} does not fit what is in the bundle")


def _statement(files: Mapping[str, bytes], run: RunBundle, key: VerifierKey) -> dict[str, Any]:
    names = sorted(files.keys() - _NOT_SUBJECTS)
    return {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(files[name]).hexdigest()}} for name in names],
        "predicateType": PREDICATE,
        "predicate": {
            "run_id": run.record.run_id,
            "head": run.record.head_hash,
            "size": len(run.lines),
            "root": root_of(map(leaf_hash, run.lines)).hex(),
            "key": key.text,
        },
    }


def _envelope(data: bytes) -> dict[str, Any]:
    """The envelope's object, as exactly one signature would have it."""
    try:
        record = parse_strict(data.removesuffix(b"\n"), limit=MAX_FILE_BYTES)
    except CanonicalizationError as error:
        raise _wrong(f"it cannot be read: {error.message}") from None
    whole = isinstance(record, dict) and record.keys() == {"payload", "payloadType", "signatures"}
    signatures = record["signatures"] if whole else None
    if not whole or record["payloadType"] != PAYLOAD_TYPE or not isinstance(record["payload"], str):
        raise _wrong("it is no envelope around a statement")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise _wrong("one signature was expected")
    if signatures[0].keys() != {"keyid", "sig"} or not all(isinstance(item, str) for item in signatures[0].values()):
        raise _wrong("its signature is malformed")
    return dict(record)


def _signed_by(record: dict[str, Any], keys: Sequence[VerifierKey]) -> VerifierKey:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # as above

    known = {key.key_id.hex(): key for key in keys}
    ours = [SSlibKey(name, "ed25519", "ed25519", {"public": key.public.hex()}) for name, key in known.items()]
    try:
        envelope = Envelope.from_dict({**record, "signatures": [dict(item) for item in record["signatures"]]})
        accepted = envelope.verify(list(ours), 1)
    except (VerificationError, ValueError):
        raise _wrong("it is signed by none of the keys that count") from None
    return known[next(iter(accepted))]


def _wrong(why: str) -> Refused:
    return Refused("BUNDLE_STATEMENT", f"the signed statement does not hold: {why}")
