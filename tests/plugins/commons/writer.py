"""One node that writes without end and says what was acknowledged, to be killed: see `kills.py`.

    python -m tests.plugins.commons.writer '{"number": 0, "ports": [...], "life": 3, …}'

It says on standard output, line by line: `lost N` (how often its disk forgot), `saw KEY VALUE` (what a
linearizable read found at the beginning of this life), `ready` (once it is a full member again), `ack
KEY VALUE`. On the line `look` it stops writing, reads once more, says what it holds, and `looked`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from grove_core.drive.live import Node
from grove_core.errors import GroveError
from grove_core.testing.loopback import Loopback

WRITERS = 3


def make(job: dict[str, Any]) -> Node:
    number, kind = job["number"], job["kind"]
    group = Loopback(seed=78, ports=job["ports"])
    raft = {
        "plugins.raft.election_timeout": 0.3,
        "plugins.raft.heartbeat": 0.05,
        "plugins.raft.reconnect": 0.1,
        "plugins.raft.trailing": 100,
    }
    pbft = {
        "plugins.pbft.checkpoint_every": 16,
        "plugins.pbft.snapshot_every": 64,
        "plugins.pbft.request_timeout": 1.0,
        "plugins.pbft.reconnect": 0.1,
        "plugins.pbft.observe": 0.5,
        "plugins.commons.witnesses": 2,
    }
    return Node.from_profile(
        "validator",
        data=job["data"],
        identity=group.identity(number),
        set={
            **group.settings(number),
            "roles.consensus": kind,
            "roles.storage": "commons",
            "roles.service": ["libp2p"],
            f"plugins.{kind}.voters": group.peers,
            "plugins.commons.patience": 4.0,
            "plugins.commons.snapshot_every": 64,
            **(raft if kind == "raft" else pbft),
        },
    )


def say(*words: object) -> None:
    print(*words, flush=True)


async def look(node: Node) -> None:
    """What a linearizable read finds, however long it takes to get one."""
    while True:
        try:
            found = await node.commons.keys("k")
            break
        except GroveError:
            await asyncio.sleep(0.05)
    for key in found:
        value = node.plugin("commons").machine.peek(key)
        say("saw", key, int(value.data))


async def write(node: Node, key: str, first: int) -> None:
    value = first
    while True:
        value += 1
        try:
            await node.commons.put(key, b"%d" % value)
        except GroveError:
            await asyncio.sleep(0.02)
        else:
            say("ack", key, value)
            await asyncio.sleep(0.02)


async def main(job: dict[str, Any]) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with make(job) as node:
        assert node._store is not None
        say("lost", node._store.records.losses)
        machine: Any = node.plugin(job["kind"]).machine
        await look(node)
        while machine.forgot:
            await asyncio.sleep(0.02)
        say("ready")
        writers = [
            asyncio.create_task(write(node, f"k{job['number']}-{number}", job["life"] * 1_000_000))
            for number in range(WRITERS)
        ]
        while await reader.readline() == b"look\n":
            for writer in writers:
                writer.cancel()
            await look(node)
            say("looked")


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
