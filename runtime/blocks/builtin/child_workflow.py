"""``child_workflow``: a workflow from a definition as one block of another (blocks spec §18, §21.2).

It is a workflow like any nested one: contracts and side effects come from its own blocks, its nodes are planned at
their level with the path in front, and its failure comes out untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runtime.blocks.conditions import CONDITIONS, ConditionRegistry
from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.definitions import from_definition, policy_of
from runtime.blocks.policies import REPAIRS, RepairRegistry
from runtime.blocks.workflow import Workflow

if TYPE_CHECKING:
    from runtime.blocks.registry import BlockRegistry


class ChildWorkflow(Workflow, _engine=True, type_id="child_workflow", display_name="Child workflow"):
    """Run a workflow inside this one."""

    @classmethod
    def declared_config(cls) -> tuple[ConfigField, ...]:
        return (
            ConfigField(name="definition", kinds=Kinds.MAP, required=True, summary="The workflow, as a definition."),
            ConfigField(name="timeout_ms", kinds=Kinds.NULL | Kinds.INT, summary="Limit of one whole execution."),
            ConfigField(
                name="retry", kinds=Kinds.NULL | Kinds.MAP, summary="Retry policy; each retry restarts at its entry."
            ),
        )

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        registry: BlockRegistry,
        *,
        conditions: ConditionRegistry = CONDITIONS,
        repairs: RepairRegistry = REPAIRS,
    ) -> ChildWorkflow:
        """Build it; its blocks come from ``registry``. Raises `BlockValidationError` for config that is no workflow."""
        child = from_definition(cls, config.get("definition"), registry, conditions=conditions, repairs=repairs)
        if config.get("timeout_ms") is not None:
            child = child.with_timeout(config["timeout_ms"] / 1000)
        if config.get("retry") is not None:
            child = child.with_retry(policy_of(config["retry"]))
        return child
