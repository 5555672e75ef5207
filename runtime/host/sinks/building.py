"""Sinks as ``evidence.yaml`` describes them."""

from __future__ import annotations

from pathlib import Path

from runtime.host.evidence_file import SinkSpec
from runtime.host.programs import supervised
from runtime.host.sinks.anchor_log import AnchorLogSink
from runtime.host.sinks.command import CommandSink
from runtime.host.sinks.files import FileSink
from runtime.host.sinks.git import GitSink
from runtime.host.sinks.port import Sink
from runtime.kernel.clock import SystemClock
from runtime.storage.layout import StateDir


def sink_of(spec: SinkSpec, state: StateDir) -> Sink:
    """Building one touches nothing."""
    if spec.file is not None:
        return FileSink(Path(spec.file))
    if spec.git is not None:
        return GitSink(Path(spec.git), spec.ref, supervised(SystemClock()))
    if spec.anchors is not None and spec.key is not None:
        return AnchorLogSink(Path(spec.anchors), Path(spec.key))
    return CommandSink(spec.command or (), spec.newest or (), supervised(SystemClock()), state.root)
