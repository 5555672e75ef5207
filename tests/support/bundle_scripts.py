"""The stand-alone scripts of a bundle, loaded from their files: they belong to no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = Path(__file__).resolve().parents[2] / "runtime/audit/bundle_files/scripts"


def script(name: str) -> ModuleType:
    """The module of the script ``name``.py."""
    spec = importlib.util.spec_from_file_location(f"bundle_script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
