"""Secrets are named in mission files and looked up at the moment of use; their values are never kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runtime.kernel.errors import Refused

_REFERENCE: Final = re.compile(r"env://([A-Za-z_][A-Za-z0-9_]{0,127})")


def secret_name(reference: str) -> str:
    """The variable an ``env://NAME`` reference names. Raises `Refused` ``SECRET_REFERENCE``."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        # The text is not repeated: someone may have pasted the secret itself.
        raise Refused("SECRET_REFERENCE", "a secret must be given as env://NAME", hint="put the value in a variable")
    return found[1]


def resolve_secret(reference: str, environ: Mapping[str, str]) -> str:
    """The value ``reference`` stands for. Raises `Refused` ``SECRET_MISSING`` or ``SECRET_REFERENCE``."""
    name = secret_name(reference)
    value = environ.get(name, "")
    if not value:
        raise Refused("SECRET_MISSING", f"the environment variable {name} is not set", hint=f"set {name} and try again")
    return value
