"""Judge a bundle. Exit 0: every gate passed, 2: something is wrong, 3: it could not be checked; no other status.

    python audit_gate_build_loop_phase2.py --zip PATH [--extract-dir DIR] [--json FILE] [--report-dir DIR]
                                           [--expect-sha256 HEX] [--static-only]

Runs from an extracted bundle and from a checkout, with the standard library alone. A gate taken from the bundle it
judges proves nothing: take it from somewhere you trust.
"""

from __future__ import annotations

import sys
from pathlib import Path

COULD_NOT = 3
#: How far above this folder the root is: in a bundle, in a checkout.
PLACES = (0, 3)


def main() -> int:
    """Find the gate's modules and hand over to them."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have any Python, and is told
        print("G0  environment         BLOCKED  ENV_PYTHON\nRESULT: BLOCKED (exit 3)")
        return COULD_NOT
    here = Path(__file__).resolve().parent
    above = here.parents
    roots = [above[steps] for steps in PLACES if steps < len(above)]
    root = next((root for root in roots if (root / "runtime/audit/gate/main.py").is_file()), None)
    if root is None:
        print("the gate's modules are not where they belong, in runtime/audit/gate", file=sys.stderr)
        return COULD_NOT
    # What was extracted stays as it is, and nothing beside this script takes the place of a module.
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root), *(place for place in sys.path if Path(place).resolve() != here)]
    from runtime.audit.gate.main import main as judge

    return judge()


if __name__ == "__main__":
    try:
        status = main()
    except BaseException as error:  # noqa: BLE001 - no other exit status, whatever happens
        print(f"internal error: {error!r}", file=sys.stderr)
        status = COULD_NOT
    sys.exit(status)
