"""The Maelstrom adapter as Maelstrom would run it: processes, JSON lines, our own router, partitions."""

from __future__ import annotations

import asyncio
import json
import sys
from math import inf
from random import Random
from typing import Any

import pytest

from grove_core.testing.linearizability import Operation, check

NAMES = ["n0", "n1", "n2"]


class Router:
    """Carries lines between node processes; clients are c0, c1, …"""

    def __init__(self) -> None:
        self.nodes: dict[str, asyncio.subprocess.Process] = {}
        self.answers: dict[tuple[str, int], asyncio.Future[dict[str, Any]]] = {}
        self.lonely: str | None = None
        self._pumps: list[asyncio.Task[None]] = []
        self._count = 0

    async def start(self) -> None:
        for name in NAMES:
            self.nodes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "grove_raft.maelstrom",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=8 << 20,
            )  # fmt: skip
            self._pumps.append(asyncio.create_task(self._pump(name)))
        for name in NAMES:
            answer = await self.ask("c0", name, {"type": "init", "node_id": name, "node_ids": NAMES})
            assert answer["type"] == "init_ok"

    async def stop(self) -> None:
        for node in self.nodes.values():
            assert node.stdin is not None
            node.stdin.close()
        for node in self.nodes.values():
            await node.wait()
        await asyncio.gather(*self._pumps)

    async def _pump(self, name: str) -> None:
        stdout = self.nodes[name].stdout
        assert stdout is not None
        while line := await stdout.readline():
            message = json.loads(line)
            if message["dest"] in self.nodes:
                if self.lonely not in (name, message["dest"]):
                    self._write(message["dest"], message)
            else:
                answer = self.answers.pop((message["dest"], message["body"]["in_reply_to"]), None)
                if answer is not None and not answer.done():
                    answer.set_result(message["body"])

    def _write(self, name: str, message: dict[str, Any]) -> None:
        stdin = self.nodes[name].stdin
        assert stdin is not None
        stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(
        self, client: str, node: str, body: dict[str, Any], within: float = 20.0
    ) -> dict[str, Any]:
        """TimeoutError if there is no answer."""
        self._count += 1
        number = self._count
        answer = asyncio.get_running_loop().create_future()
        self.answers[client, number] = answer
        self._write(node, {"src": client, "dest": node, "body": {**body, "msg_id": number}})
        return await asyncio.wait_for(answer, within)


@pytest.mark.claim("raft.maelstrom")
def test_lin_kv_is_linearizable_across_a_partition() -> None:
    history: list[Operation] = []

    async def client(router: Router, name: str, rng: Random, count: int) -> None:
        loop = asyncio.get_running_loop()
        for number in range(count):
            key, value = rng.randrange(2), int(name[1:]) * 1000 + number
            kind = rng.choice(("read", "write", "cas"))
            body: dict[str, Any] = {"type": kind, "key": key}
            if kind == "write":
                body["value"] = value
            if kind == "cas":
                body |= {"from": rng.randrange(5), "to": value}
            call = loop.time()
            try:
                answer = await router.ask(name, rng.choice(NAMES), body, within=2.0)
            except TimeoutError:
                answer = {"type": "timeout"}
            input = (kind, *(body[field] for field in ("from", "to", "value") if field in body))
            if answer["type"] == "timeout":
                if kind != "read":
                    history.append(Operation(key, input, None, call, inf))
            elif answer.get("code") == 11:
                continue  # definite: it did not happen
            else:
                done = answer["type"] != "error"
                output = answer.get("value") if kind == "read" else (done if kind == "cas" else None)
                history.append(Operation(key, input, output, call, loop.time()))

    async def main() -> None:
        async with asyncio.timeout(60):
            router = Router()
            await router.start()
            try:
                # Until a leader is there: the first answer that is not "unavailable".
                while (await router.ask("c9", "n0", {"type": "read", "key": 0})).get("code") == 11:
                    pass
                work = [client(router, f"c{n}", Random(f"client {n}"), 40) for n in range(3)]
                running = asyncio.gather(*work)
                router.lonely = "n1"
                await router.ask("c8", "n0", {"type": "write", "key": 7, "value": 1})
                router.lonely = None
                await running
                answer = await router.ask("c8", "n1", {"type": "drop"})
                assert (answer["type"], answer["code"]) == ("error", 10)
            finally:
                await router.stop()

    asyncio.run(main())
    assert len(history) > 60
    assert check(history) == "linearizable"
