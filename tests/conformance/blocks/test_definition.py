"""A malformed block fails at its class statement, naming class and method (blocks spec §6.2)."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar

import pytest

from runtime.blocks.block import Block
from runtime.blocks.config import ConfigField
from runtime.blocks.contracts import BlockMode, BlockValueContract, recurring
from runtime.blocks.contracts import BlockValueKindSet as Kinds
from runtime.blocks.definition import RunStyle
from runtime.blocks.effects import SideEffects
from runtime.blocks.errors import BlockDefinitionError, BlockInputError, BlockValidationError
from runtime.blocks.policies import BubblePolicy, RepairPolicy, RetryPolicy
from runtime.blocks.testing import run_block_for_test
from runtime.kernel.codes_blocks import BLOCKS


class Colour(str, Enum):  # noqa: UP042 - the older spelling must work too
    RED = "red"
    BLUE = "blue"


class Sample(Block, abstract=True):
    """Supplies both methods."""

    def validate(self, input: Any, ctx: Any) -> None: ...

    def run(self, input: Any, ctx: Any) -> Any: ...


def no_validate() -> None:
    class Bad(Block):
        def run(self, input: Any, ctx: Any) -> Any: ...


def no_run() -> None:
    class Bad(Block):
        def validate(self, input: Any, ctx: Any) -> None: ...


def short_signature() -> None:
    class Bad(Sample):
        def run(self, input: Any) -> Any: ...  # type: ignore[override]


def varargs() -> None:
    class Bad(Sample):
        def run(self, input: Any, ctx: Any, *rest: Any) -> Any: ...


def required_keyword() -> None:
    class Bad(Sample):
        def validate(self, input: Any, ctx: Any, *, strict: bool) -> None: ...  # type: ignore[override]


def static_method() -> None:
    class Bad(Sample):
        @staticmethod
        def run(input: Any, ctx: Any, more: Any) -> Any: ...  # type: ignore[override]


def plain_generator() -> None:
    class Bad(Sample):
        def run(self, input: Any, ctx: Any) -> Any:
            yield 1


def async_validate() -> None:
    class Bad(Sample):
        async def validate(self, input: Any, ctx: Any) -> None: ...  # type: ignore[override]


def own_execute() -> None:
    class Bad(Sample):
        async def execute(self, *_: Any, **__: Any) -> Any: ...


def own_hook() -> None:
    class Bad(Sample):
        async def _attempt(self, attempt: Any) -> Any: ...


def bad_type_id() -> None:
    class Bad(Sample, type_id="Not-Good"): ...


def unknown_kind() -> None:
    class Bad(Sample, input=BlockValueContract(BlockMode.ONCE, Kinds.from_names("texts"))): ...


def empty_kinds() -> None:
    class Bad(Sample, output=BlockValueContract(BlockMode.ONCE, Kinds.EMPTY)): ...


def recurring_input() -> None:
    class Bad(Sample, input=recurring("string")): ...


def stream_without_recurring() -> None:
    class Bad(Sample):
        async def run(self, input: Any, ctx: Any) -> Any:
            yield 1


def set_config() -> None:
    class Bad(Sample):
        names: set[str]


class Slipped:
    """A mixin that is no block."""

    async def execute(self, *_: Any, **__: Any) -> Any: ...


def inherited_execute() -> None:
    class Bad(Slipped, Sample): ...


def validate_no_method() -> None:
    class Bad(Sample):
        validate = None  # type: ignore[assignment]


def run_no_method() -> None:
    class Bad(Sample):
        run = 5  # type: ignore[assignment]


def validate_generator() -> None:
    class Bad(Sample):
        def validate(self, input: Any, ctx: Any) -> Any:
            yield 1


def no_contract() -> None:
    class Bad(Sample, input="string"): ...  # type: ignore[call-arg]


def zero_timeout() -> None:
    class Bad(Sample, timeout=0): ...


def text_timeout() -> None:
    class Bad(Sample, timeout="3"): ...  # type: ignore[call-arg]


def text_reads() -> None:
    class Bad(Sample, reads="title"): ...


def unknown_annotation() -> None:
    class Bad(Sample):
        path: "Unheard"  # type: ignore[name-defined]  # noqa: F821, UP037


def no_policy() -> None:
    class Bad(Sample, side_effects="none", retry=3): ...  # type: ignore[call-arg]


def no_mapping() -> None:
    class Bad(Sample, side_effects="none", recovery=[RetryPolicy()]): ...  # type: ignore[call-arg]


def function_config() -> None:
    class Bad(Sample):
        function: Callable[[], None]


def int_keys() -> None:
    class Bad(Sample):
        table: dict[int, str]


def mutable_default() -> None:
    class Bad(Sample):
        names: list[str] = []  # noqa: RUF012 - the fault under test


def reserved_field() -> None:
    class Bad(Sample):
        side_effects: str


def undeclared_retry() -> None:
    class Bad(Sample, retry=RetryPolicy()): ...


def undeclared_repair() -> None:
    class Bad(Sample, recovery={BlockInputError: (RepairPolicy("x"),)}): ...


def recovery_key() -> None:
    class Bad(Sample, side_effects="none", recovery={"input": (BubblePolicy(),)}): ...  # type: ignore[dict-item]


def recovery_value() -> None:
    class Bad(Sample, side_effects="none", recovery={BlockInputError: RetryPolicy()}): ...  # type: ignore[dict-item]


#: The class statement, its code, and what the message must say: the method, and what to write instead.
FAULTS: dict[Callable[[], None], tuple[str, str]] = {
    no_validate: ("missing_validate", "define 'def validate(self, input, ctx)'"),
    validate_no_method: ("missing_validate", "define 'def validate(self, input, ctx)'"),
    no_run: ("missing_run", "define 'def run(self, input, ctx)'"),
    run_no_method: ("bad_signature", "run is no method, expected '(self, input, ctx)'"),
    short_signature: ("bad_signature", "run(self, input: 'Any'): expected '(self, input, ctx)'"),
    varargs: ("bad_signature", "*rest: 'Any'): expected '(self, input, ctx)'"),
    required_keyword: ("bad_signature", "strict: 'bool'): expected '(self, input, ctx)'"),
    static_method: ("bad_signature", "run must be a plain method, expected '(self, input, ctx)'"),
    plain_generator: ("bad_signature", "run must not be a plain generator; use 'async def' with yield"),
    async_validate: ("async_validate", "validate must be a plain method without yield or await"),
    validate_generator: ("async_validate", "validate must be a plain method without yield or await"),
    own_execute: ("overrides_execute", "defines execute; put the work into run(self, input, ctx)"),
    own_hook: ("overrides_execute", "defines _attempt; put the work into run(self, input, ctx)"),
    inherited_execute: ("overrides_execute", "defines execute through Slipped; put the work into run"),
    bad_type_id: ("bad_type_id", "'Not-Good' must match [a-z][a-z0-9_]{0,63}, such as type_id='split_lines'"),
    unknown_kind: ("bad_contract", "unknown kind 'texts'; use null, bool"),
    empty_kinds: ("bad_contract", "the output kind set is empty; say once('string')"),
    recurring_input: ("bad_contract", "an input cannot be RECURRING; use ONCE or MULTIPLE"),
    no_contract: ("bad_contract", "input must be a contract such as once('string')"),
    stream_without_recurring: ("mode_mismatch", "an async-generator run needs output=recurring(...)"),
    set_config: ("bad_config", "field 'names' has type set[str], which cannot travel as a block value; use None, bool"),
    function_config: ("bad_config", "local=True"),
    int_keys: ("bad_config", "dict[str, …]"),
    mutable_default: ("bad_config", "use default_factory"),
    reserved_field: ("bad_config", "the config field 'side_effects' is a name of Block itself; choose another"),
    unknown_annotation: ("bad_config", "import it at module level"),
    zero_timeout: ("bad_config", "timeout must be more than 0 seconds, not 0"),
    text_timeout: ("bad_config", "timeout must be more than 0 seconds, not '3'"),
    text_reads: ("bad_config", "reads must be a sequence of names such as ('draft',), not 'title'"),
    undeclared_retry: ("side_effects_undeclared", "say side_effects='none', 'idempotent' or 'non_idempotent' too"),
    undeclared_repair: ("side_effects_undeclared", "say side_effects='none', 'idempotent' or 'non_idempotent' too"),
    recovery_key: ("bad_recovery", "'input' is not an exception class; write {BlockRuntimeError: (RetryPolicy(),)}"),
    recovery_value: ("bad_recovery", "must be a sequence of policies; write {BlockRuntimeError: (RetryPolicy(),)}"),
    no_policy: ("bad_recovery", "retry must be a policy such as RetryPolicy(max_attempts=3)"),
    no_mapping: ("bad_recovery", "recovery must map exception classes to policy sequences"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_refused_at_the_class_statement_and_says_what_to_write(fault: Callable[[], None]) -> None:
    code, told = FAULTS[fault]
    with pytest.raises(BlockDefinitionError) as caught:
        fault()
    assert caught.value.code == f"definition.{code}"
    assert told in caught.value.message
    if fault is not unknown_kind:  # the contract is made before the class is
        assert caught.value.message.startswith("block class Bad: ") or "block class Bad defines" in caught.value.message


def test_every_definition_code_has_a_failing_class() -> None:
    family = {code.removeprefix("definition.") for code in BLOCKS if code.startswith("definition.")}
    assert {code for code, _ in FAULTS.values()} == family - {"not_exportable"}  # refused when exporting


def test_an_abstract_base_needs_no_methods_and_its_concrete_child_inherits_its_keywords() -> None:
    class Base(Block, abstract=True, side_effects="none"): ...

    class Validating:
        def validate(self, input: Any, ctx: Any) -> None: ...

    class Child(Validating, Base):
        def run(self, input: Any, ctx: Any) -> Any:
            return 1

    assert Child().side_effects is SideEffects.NONE
    assert run_block_for_test(Child()).data.payload == 1


def test_keywords_default_and_are_inherited() -> None:
    class FileReader(Sample, side_effects="idempotent", timeout=3, version="2"):
        """Reads."""

    class Child(FileReader, timeout=4): ...

    assert FileReader.spec.type_id == "file_reader"
    assert FileReader.spec.display_name == "File Reader"
    assert FileReader.spec.summary == "Reads."
    assert Child.spec.type_id == "child"
    assert (Child.spec.side_effects, Child.spec.timeout, Child.spec.version) == (SideEffects.IDEMPOTENT, 4, "2")


def test_run_styles_are_decided_at_definition() -> None:
    class Plain(Sample): ...

    class Inline(Sample, inline=True): ...

    class Later(Sample):
        async def run(self, input: Any, ctx: Any) -> Any: ...

    class Stream(Sample, output=recurring()):
        async def run(self, input: Any, ctx: Any) -> Any:
            yield 1

    assert [cls.spec.style for cls in (Plain, Inline, Later, Stream)] == list(RunStyle)


class Configured(Sample):
    """Has config."""

    registry: ClassVar[dict[str, str]] = {}
    path: str
    size: int | None = None
    colour: Colour = Colour.RED
    names: tuple[str, ...] = ()


def test_config_fields_are_frozen_and_described() -> None:
    block = Configured(path="x")
    with pytest.raises(AttributeError):
        block.path = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Configured("x")  # type: ignore[call-arg]
    assert [(item.name, str(item.kinds), item.required) for item in Configured.spec.fields] == [
        ("path", "string", True),
        ("size", "null|int", False),
        ("colour", "string", False),
        ("names", "list", False),
    ]
    assert Configured.spec.fields[2].choices == ("red", "blue")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        (ConfigField(name="a", kinds=Kinds.STRING), 1, "must be string, not int"),
        (ConfigField(name="a", kinds=Kinds.STRING, choices=("x",)), "y", "must be one of x, not 'y'"),
        (ConfigField(name="a", kinds=Kinds.LIST, items=Kinds.STRING), [1], "must hold only string, not int"),
        (ConfigField(name="a", kinds=Kinds.ANY), {1}, None),
        (ConfigField(name="a", kinds=Kinds.NUMBER), 1, ""),
    ],
)
def test_config_values_are_judged(field: ConfigField, value: object, problem: str | None) -> None:
    found = field.problem(value)
    assert (found or "") == problem if problem is not None else "cannot travel" in (found or "")


def test_blocks_are_compared_by_identity_and_variants_are_new_blocks() -> None:
    one, other = Configured(path="x"), Configured(path="x")
    assert one != other
    variant = one.named("reader").with_timeout(2).with_side_effects("none").with_retry(RetryPolicy.none())
    assert variant is not one
    assert (variant.block_name, variant.attempt_timeout, variant.side_effects) == ("reader", 2, SideEffects.NONE)
    assert (one.block_name, one.attempt_timeout, one.side_effects) == ("configured", None, SideEffects.NON_IDEMPOTENT)
    assert variant.shared_state is not one.shared_state


@pytest.mark.parametrize("seconds", [0, -1, True])
def test_a_timeout_must_be_positive(seconds: float) -> None:
    with pytest.raises(BlockValidationError, match=r"validation\.bad_config"):
        Configured(path="x").with_timeout(seconds)


def test_malformed_recovery_variants_are_refused() -> None:
    with pytest.raises(BlockValidationError, match=r"validation\.bad_config"):
        Configured(path="x").with_recovery({"no": ()})  # type: ignore[dict-item]


def test_an_abstract_class_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Sample()


def test_unrecognised_side_effect_labels_are_unsafe() -> None:
    class Odd(Sample, side_effects="mostly_harmless"): ...

    assert Odd().side_effects is SideEffects.NON_IDEMPOTENT


def test_policy_stacks_follow_level_and_class() -> None:
    retry, bubble = RetryPolicy(), (BubblePolicy(),)

    class Careful(Sample, side_effects="none", retry=retry, recovery={BlockInputError: bubble}): ...

    class Narrow(BlockInputError): ...

    assert Careful().get_policy_stack(Narrow) == bubble  # nearest class in the MRO, recovery before retry
    assert Careful().get_policy_stack(BlockValidationError) == ()  # a mapping without a match: nothing
    assert Careful().with_retry(retry).get_policy_stack(Narrow) == (retry,)  # the instance level wins as a whole
