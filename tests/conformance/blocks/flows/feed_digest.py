"""Reference flow v: mail what is new in a feed, remember it, and keep books — or skip when nothing is new."""

from __future__ import annotations

from runtime.blocks.block import Block
from runtime.blocks.builtin.feeds import Deduplicate, RssParse
from runtime.blocks.builtin.files import FileWrite
from runtime.blocks.builtin.remote import HttpRequest, SendEmail
from runtime.blocks.builtin.shaping import map_input
from runtime.blocks.builtin.template import TextTemplate
from runtime.blocks.contexts import BlockContext, BlockValidateContext
from runtime.blocks.contracts import once
from runtime.blocks.errors import BlockRuntimeError, BlockSkip
from runtime.blocks.values import BlockValue
from runtime.blocks.workflow import Workflow

DIGEST = "{% for item in value %}* {{ item.title }} <{{ item.url }}>\n{% endfor %}"
SEEN = "{% for item in value %}{{ item.id }}\n{% endfor %}"


class OnlyNew(Block, input=once("list"), output=once("list"), side_effects="none"):
    """Leave out the items whose ids stand in a file, one per line; skip when none is left."""

    seen: str

    def validate(self, input: BlockValue, ctx: BlockValidateContext) -> None:
        """Every list of items will do."""

    async def run(self, input: BlockValue, ctx: BlockContext) -> list[BlockValue]:
        known = await self._known(ctx)
        new = [item for item in input.expect_list() if item["id"].text() not in known]
        if not new:
            raise BlockSkip("the feed has nothing new", details={"known": len(known)})
        return new

    async def _known(self, ctx: BlockContext) -> set[str]:
        try:
            return set((await ctx.services.files.read(self.seen)).decode().splitlines())
        except BlockRuntimeError as error:
            if error.code != "file.not_found":
                raise
            return set()


def feed_digest(url: str, to: str, seen: str, audit: str) -> Workflow:
    """Fetches, parses, drops repeats and what was mailed before; then mails, remembers and counts side by side."""
    new = OnlyNew(seen=seen)
    digest = TextTemplate(template=DIGEST).named("digest")
    ids = TextTemplate(template=SEEN).named("ids")
    count = map_input(lambda items: f"{len(items.expect_list())} new\n", name="count", output=once("string"))
    mail = SendEmail(to=to, subject="News")
    return (
        Workflow("feed_digest")
        .link(HttpRequest(url=url), RssParse(), Deduplicate(key="id"), new)
        .link(new, digest, mail)
        .link(new, ids, FileWrite(path=seen, append=True).named("remember"))
        .link(new, count, FileWrite(path=audit, append=True).named("audit"))
        .set_output(mail)
    )
