"""G1 to G8: what can be said about a bundle from its bytes, without running, importing or unpacking anything."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Final

from runtime.audit import canonical_zip
from runtime.audit.gate import layout, limits, manifest, names, sources, texts
from runtime.audit.gate.container import Container, read
from runtime.audit.gate.report import Fault, Gate, Report, Status, judged, not_run

STATIC: Final = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8")
DYNAMIC: Final = ("G9", "G10", "G11", "G12")
#: Gates that make the content known to be what the manifest says.
_KNOWN: Final = frozenset({"G1", "G2", "G3", "G4", "G5"})


def static_report(data: bytes, *, expect_sha256: str | None = None, environment: Gate | None = None) -> Report:
    """Judge the bytes of an archive. G9 to G12 are `NOT_RUN`, so the exit status is 2 or 3 and never 0.

    ``expect_sha256`` is the hex digest the whole archive must have, ``environment`` the result of G0 (a pass when not
    given: these gates need nothing but the interpreter). Never raises on content: what is wrong is in the report, and
    ``failed`` is empty for a good bundle. Takes about a second for a bundle of ours, most of it compiling.
    """
    first = environment or Gate("G0", Status.PASS)
    large = limits.archive_fault(len(data))
    if large is not None:
        gates = [judged(gate, [large]) if gate == "G3" else Gate(gate, Status.NOT_RUN) for gate in STATIC]
        return Report((first, *gates, *not_run(*DYNAMIC)))
    sha256 = hashlib.sha256(data).hexdigest()
    container = Container()

    def opened() -> Gate:
        nonlocal container
        container = read(data)
        return judged("G1", [*_identity(sha256, expect_sha256), *container.faults])

    gates = [_guarded("G1", opened)]
    for gate, judge in _JUDGES.items():
        gates.append(_guarded(gate, lambda judge=judge: judge(container, data)))  # type: ignore[misc]
    known = all(gate.status is Status.PASS for gate in gates if gate.id in _KNOWN)
    return Report((first, *gates, *not_run(*DYNAMIC)), sha256, container.bodies if known else {})


def _guarded(gate: str, judge: Callable[[], Gate]) -> Gate:
    """A gate that breaks could not check; that must neither hide what other gates find nor pass."""
    try:
        return judge()
    except Exception as error:  # noqa: BLE001 - reported as blocked, with the traceback for whoever mends it
        traceback.print_exc(file=sys.stderr)
        return judged(gate, [Fault("GATE_INTERNAL", text=type(error).__name__)], wrong=Status.BLOCKED)


def _identity(sha256: str, expected: str | None) -> Iterator[Fault]:
    if expected is not None and expected.lower() != sha256:
        yield Fault("BUNDLE_SHA256", text=f"the archive is {sha256}, not the expected one")


def _names(container: Container, data: bytes) -> Gate:
    return judged("G2", names.faults(container.entries), complete=container.listed)


def _limits(container: Container, data: bytes) -> Gate:
    return judged("G3", limits.faults(container), complete=container.listed)


def _manifest_format(container: Container, data: bytes) -> Gate:
    body = container.bodies.get(manifest.MANIFEST)
    if body is not None:
        return judged("G4", manifest.parsed(body).faults)
    missing = container.listed and manifest.MANIFEST not in container.names
    fault = Fault("MANIFEST_MISSING", manifest.MANIFEST, "the archive has no manifest")
    return judged("G4", [fault] if missing else [], complete=False)


def _manifest_content(container: Container, data: bytes) -> Gate:
    body = container.bodies.get(manifest.MANIFEST)
    if body is None or not container.listed:
        return Gate("G5", Status.NOT_RUN)
    faults = manifest.content_faults(manifest.parsed(body), container.names, container.bodies)
    return judged("G5", faults, complete=container.complete)


def _layout(container: Container, data: bytes) -> Gate:
    if not container.listed:
        return Gate("G6", Status.NOT_RUN)
    return judged("G6", layout.faults(container.names), notes=[layout.gate_note(container.bodies)])


def _canonical(container: Container, data: bytes) -> Gate:
    """An archive that could not be read whole is certainly not the encoding of what was read."""
    same = container.complete and canonical_zip.encode(container.bodies) == data
    return judged("G7", [] if same else [Fault("BUNDLE_NOT_CANONICAL", text="its content is encoded otherwise")])


def _content(container: Container, data: bytes) -> Gate:
    parsable = limits.parsable(container)
    faults = [*texts.faults(container.bodies), *sources.conftest_faults(container.names)]
    if parsable:
        faults += sources.faults(container.bodies, container.names)
    return judged("G8", faults, complete=container.complete and parsable)


_JUDGES: Final[dict[str, Callable[[Container, bytes], Gate]]] = {
    "G2": _names,
    "G3": _limits,
    "G4": _manifest_format,
    "G5": _manifest_content,
    "G6": _layout,
    "G7": _canonical,
    "G8": _content,
}
