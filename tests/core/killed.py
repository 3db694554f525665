"""Run as a child by test_store.py: a node that saves without end and says aloud what is safe.

    python killed.py FOLDER

Its machine writes pairs of records that must only be seen together, and after each pair sends
itself out into the open (an event, which waits behind the barrier). What is printed was promised.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import Any

import msgspec

from grove_core import Node
from grove_core.machine import Context, Event, Machine
from grove_core.node import Limits, Plan, Settings
from grove_core.specs import Part, ProtocolSpec


class Config(msgspec.Struct, frozen=True):
    pass


class Safe(Event, frozen=True):
    number: int


def record(number: int) -> bytes:
    """A value that shows when it is torn: its number, a checksum and some weight."""
    body = number.to_bytes(8, "big") * (1 + number % 600)
    return hashlib.sha256(body).digest() + body


def read(value: bytes) -> int:
    assert hashlib.sha256(value[32:]).digest() == value[:32], "a torn record"
    return int.from_bytes(value[32:40], "big")


class Busy(Machine[Any]):
    def __init__(self, config: Config) -> None:
        self.number = 0

    def on_start(self, ctx: Context[Any]) -> None:
        self.number = read(ctx.load("last") or record(0))
        ctx.set_timer("next", 0)

    def on_timer(self, ctx: Context[Any], key: Any) -> None:
        self.number += 1
        ctx.save(f"log/{self.number % 64}", record(self.number))
        ctx.save("last", record(self.number))
        ctx.save("copy", record(self.number))
        ctx.emit(Safe(self.number))
        ctx.set_timer("next", 0)


BUSY = Part(ProtocolSpec(name="busy", role="storage", config=Config, build=Busy), Config())


async def main(folder: str) -> None:
    plan = Plan(profile="killed", settings=Settings(data=folder), limits=Limits(), parts=(BUSY,))
    node = Node(plan)
    async with node.watch(Safe, limit=100_000) as safe, node:
        async for event in safe:
            sys.stdout.write(f"{event.number}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
