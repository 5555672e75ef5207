"""What a mission fixes before it runs: the contract behind ``contract_hash`` (ruling R6), for launch and for replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.events.facts import NodeInfo
from runtime.host.versions import BEHAVIOUR_VERSION
from runtime.missions.loader import Mission
from runtime.turns.plan import PlanInputs


def plan_inputs(
    mission: Mission,
    inputs: Mapping[str, Any],
    *,
    run_id: str,
    epoch: int,
    workspace: Mapping[str, Any],
    confinement: str,
) -> PlanInputs:
    """Everything a turn's plan is frozen from. ``workspace`` and ``confinement`` are facts of this machine."""
    spec = mission.spec
    contract = {
        "mission_hash": mission.mission_hash,
        "files": {item.name: item.digest for item in mission.files.values()},
        **({"packs": {pack.digest: pack.name for pack in mission.packs}} if mission.packs else {}),
        "inputs": dict(inputs),
        "envelope": mission.envelope.record(),
        "block_envelopes": {name: item.record() for name, item in sorted(mission.block_envelopes.items())},
        "names": spec.envelope.names,
        "write_paths": None if spec.envelope.write_paths is None else sorted(spec.envelope.write_paths),
        "sandbox": spec.sandbox.model_dump(mode="json"),
        "confinement": confinement,
        "workspace": dict(workspace),
        "nodes": [node_record(node) for node in mission.graph.nodes()],
        "on_failure": spec.on_failure,
        "max_parallel": spec.max_parallel,
        "max_steps": spec.max_steps,
        "lanes": spec.lanes.model_dump(mode="json"),
        "behaviour_version": BEHAVIOUR_VERSION,
    }
    return PlanInputs(
        turn_id=run_id,
        mission_version=spec.version,
        graph_definition_ref=mission.mission_hash,
        authority_epoch=epoch,
        execution_profile=spec.profile,
        contract=contract,
    )


def node_record(node: NodeInfo) -> dict[str, Any]:
    """A node as the plan document holds it."""
    return {"node_id": node.node_id, "block_type": node.block_type, "lane": node.lane, "after": list(node.after)}
