"""One node with agents, as a process of its own, to be stopped and killed: see `test_processes.py`.

    python -m tests.plugins.commons.process '{"number": 0, "ports": [...], …}'

The agents are careless: they submit whatever happened to their claim. One line of JSON per thing
that happened goes to the file `events` in the data folder, which outlives the process. The others
are dialled through the wires of `wires.py` only, so that these can be cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from grove_commons.events import ClaimEnded, ClaimGranted, ClaimLost, ResultRefused, TaskDone

from grove_core.drive.live import Node
from grove_core.errors import Denied, GroveError
from grove_core.outward import json_line, plain
from grove_core.testing.loopback import Loopback


def make(job: dict[str, Any]) -> Node:
    number, ports = job["number"], job["ports"]
    group = Loopback(seed=77, ports=ports)
    around = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports if port != ports[number]]
    return Node.from_profile(
        "validator",
        data=job["data"],
        identity=group.identity(number),
        set={
            **group.settings(number, through=job["through"]),
            "node.announce": ["/ip4/127.0.0.1/tcp/1"],
            "limits.denied": [*around, "/ip4/127.0.0.1/tcp/1"],
            "roles.consensus": "raft",
            "roles.storage": "commons",
            "roles.service": ["libp2p"],
            "plugins.raft.voters": group.peers,
            "plugins.raft.election_timeout": 0.3,
            "plugins.raft.heartbeat": 0.05,
            "plugins.raft.reconnect": 0.1,
            "plugins.commons.lease_min": 0.2,
            "plugins.commons.margin": 0.05,
            "plugins.commons.witness_delay": 0.5,
            "plugins.commons.patience": 5.0,
            "plugins.commons.snapshot_every": 256,
        },
    )


class Worker:
    """The agents of one node, and what they write down."""

    def __init__(self, node: Node, job: dict[str, Any]) -> None:
        self.node = node
        self.tasks = [f"task-{number}" for number in range(job["tasks"])]
        self.lease, self.work_time = job["lease"], job["work"]
        self.agents = job["agents"]
        self.file = open(Path(job["data"]) / "events", "a", buffering=1)  # noqa: SIM115

    def tell(self, **told: Any) -> None:
        self.file.write(json_line({"pid": os.getpid(), **told}) + "\n")

    async def listen(self) -> None:
        kinds = (ClaimGranted, ClaimEnded, ClaimLost, TaskDone, ResultRefused)
        async with self.node.watch(*kinds, limit=1 << 16) as events:
            async for event in events:
                self.tell(**plain(event))

    async def work(self, name: str) -> None:
        rng = random.Random()
        shared = self.node.plugin("commons")
        while left := [task for task in self.tasks if task not in shared.machine.state.done]:
            task = rng.choice(left)
            try:
                async with self.node.claim(task, lease=self.lease, agent=name) as claim:
                    await asyncio.sleep(rng.expovariate(1 / self.work_time))
                    try:
                        await claim.submit(name.encode())
                        self.tell(event="accepted", task=task, token=claim.token)
                    except Denied as error:
                        self.tell(event="refused", task=task, token=claim.token, code=error.code)
            except GroveError:
                await asyncio.sleep(rng.uniform(0.01, 0.05))

    async def run(self) -> None:
        listening = asyncio.create_task(self.listen())
        await asyncio.sleep(0)
        await asyncio.gather(
            *(self.work(f"agent-{os.getpid()}-{number}") for number in range(self.agents))
        )
        self.tell(event="finished")
        print("finished", flush=True)
        await listening  # until the process is ended: the others need its vote


async def main(job: dict[str, Any]) -> None:
    async with make(job) as node:
        print("started", flush=True)
        await Worker(node, job).run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
