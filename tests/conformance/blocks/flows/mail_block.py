"""Reference flow i: a block of one's own is its config and two methods."""

from __future__ import annotations

from runtime.blocks.block import Block
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import once
from runtime.blocks.errors import BlockInputError
from runtime.blocks.services import Mail
from runtime.blocks.values import BlockValue


class Remind(Block, input=once("map"), output=once("string"), side_effects="non_idempotent", timeout=20):
    """Remind somebody of what they asked for."""

    sender_name: str
    greeting: str = "Hello"

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        if "email" not in input:
            raise BlockInputError("input.recipient_required", "whom to remind must be in 'email'")

    async def run(self, input: BlockValue, ctx: BlockContext) -> str:
        person = input.expect_map()
        body = f"{self.greeting},\n\n{person['what'].text()}\n\n{self.sender_name}"
        await ctx.services.mailer.send(Mail(to=person["email"].text(), subject="Reminder", body=body))
        return person["email"].text()
