"""A machine's companion: what does on a real node what the machine may only ask for (decision 12)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from grove_core.drive.live import Node
from grove_core.errors import GroveError
from grove_core.machine import Context, Event, Machine
from grove_core.node import Limits, Plan, Settings
from grove_core.specs import Part, ProtocolSpec


class Wanted(Event, frozen=True):
    what: str


class Nothing(msgspec.Struct, frozen=True):
    pass


class Asker(Machine[Any]):
    def __init__(self, config: Nothing) -> None:
        self.got: list[str] = []

    def linked(self, ctx: Context[Any]) -> None:
        ctx.emit(Wanted("the time"))

    def brought(self, ctx: Context[Any], what: str) -> None:
        self.got.append(what)


class Bringer:
    """Answers what the machine wants, and writes down its own life."""

    def __init__(self, node: Any, handle: Any, life: list[str]) -> None:
        self.node, self.handle, self.life = node, handle, life
        self.pump: asyncio.Task[None] | None = None
        self.brought = asyncio.Event()

    async def start(self) -> None:
        self.life.append("started")
        ready = asyncio.Event()
        self.pump = asyncio.create_task(self._listen(ready))
        await ready.wait()
        self.handle.call(lambda machine, ctx: machine.linked(ctx))

    async def stop(self) -> None:
        self.handle.call(lambda machine, ctx: machine.brought(ctx, "goodbye"))  # it still runs
        assert self.pump is not None
        self.pump.cancel()
        self.life.append("stopped")

    async def _listen(self, ready: asyncio.Event) -> None:
        async with self.node.watch(Wanted) as events:
            ready.set()
            async for event in events:
                what = event.what
                self.handle.call(lambda machine, ctx, what=what: machine.brought(ctx, what))
                self.brought.set()


def plan(data: Path, companion: Any) -> Plan:
    spec = ProtocolSpec(
        name="asker",
        role="consensus",
        config=Nothing,
        build=Asker,
        companion=companion,
        sources=("ours",),
    )
    parts = (Part(spec, Nothing()),)
    return Plan(profile="test", settings=Settings(data=str(data)), limits=Limits(), parts=parts)


@pytest.mark.claim("contract.companion")
def test_a_companion_does_what_its_machine_asks_for_and_lives_inside_its_life(tmp_path: Path) -> None:
    life: list[str] = []
    made: list[Bringer] = []

    def companion(node: Any, handle: Any) -> Bringer:
        made.append(Bringer(node, handle, life))
        return made[0]

    async def main() -> None:
        async with asyncio.timeout(10), Node(plan(tmp_path, companion)) as node:
            await made[0].brought.wait()
            assert node.consensus.machine.got == ["the time"]
        assert made[0].handle.machine.got == ["the time", "goodbye"]
        assert life == ["started", "stopped"]

    asyncio.run(main())


def test_a_companion_that_cannot_start_keeps_the_node_from_starting(tmp_path: Path) -> None:
    class Lame(Bringer):
        async def start(self) -> None:
            raise GroveError("no key to the cellar")

        async def stop(self) -> None:
            pass

    async def main() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(GroveError, match="no key to the cellar"):
                await Node(plan(tmp_path, lambda node, handle: Lame(node, handle, []))).start()

    asyncio.run(main())
