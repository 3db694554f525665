"""The commons on real nodes: the asyncio face, the local door and the verbs.

The consensus is the test's own (`sequencer.py`), over real time with delays of milliseconds; the
same over Raft and PBFT is in `test_over_consensus.py`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grove_commons.client import Shared
from grove_commons.config import Config
from grove_commons.events import TaskDone
from grove_gateway import SPEC as GATEWAY
from grove_gateway.client import Client, DoorError
from grove_gateway.config import Config as GatewayConfig

from grove_core.cli import main
from grove_core.drive.live import Node
from grove_core.errors import Denied, LocalProtocolError, Undecided, Unreachable
from grove_core.node import Limits, Plan, Settings
from grove_core.service import LiveNode
from grove_core.testing.parts import part
from tests.plugins.commons.sequencer import Agreed

BOUND = 20.0  # s


def quick(**trouble: float) -> Agreed:
    return Agreed(1, delay=(0.0, 0.001), lag=0.002, **trouble)  # type: ignore[arg-type]


def plan(data: Path, agreed: Agreed | None, *, door: bool = False, **config: Any) -> Plan:
    parts = (part("commons", **config), agreed.part()) if agreed is not None else ()
    return Plan(
        profile="test",
        settings=Settings(data=str(data)),
        limits=Limits(),
        parts=parts,
        services=((GATEWAY, GatewayConfig()),) if door else (),
    )


@asynccontextmanager
async def village(agreed: Agreed, count: int = 1, **config: Any) -> AsyncIterator[list[Node]]:
    """Nodes that share one agreed log; the first leads."""
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="grove-"))
            nodes.append(await stack.enter_async_context(Node(plan(Path(folder), agreed, **config))))
        agreed.lead(nodes[0].peer)
        yield nodes


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await test()

    asyncio.run(bounded())


def test_what_one_node_puts_another_gets() -> None:
    async def test() -> None:
        async with village(quick(), 2) as (ash, birch):
            version = await ash.commons.put("k", b"v")
            assert await birch.commons.get("k") == b"v"
            assert await birch.commons.cas("k", b"v", b"w") > version
            with pytest.raises(Denied, match="not as expected") as caught:
                await ash.commons.cas("k", b"v", b"x")
            assert caught.value.code == "differs"
            assert await ash.commons.keys() == ("k",)
            await ash.commons.delete("k")
            assert await birch.commons.get("k") is None

    run(test)


def test_many_asks_at_once_each_get_their_own_answer() -> None:
    async def test() -> None:
        async with village(quick(drop=0.05, twice=0.2), 1, retry=0.02) as (node,):
            versions = await asyncio.gather(
                *(node.commons.put(f"k{number}", b"%d" % number) for number in range(150))
            )
            assert len(set(versions)) == 150
            found = await asyncio.gather(*(node.commons.get(f"k{number}") for number in range(150)))
            assert found == [b"%d" % number for number in range(150)]

    run(test)


def test_a_claim_is_held_renewed_and_submitted() -> None:
    async def test() -> None:
        async with village(quick(), 2, lease_min=0.3, margin=0.02) as (ash, birch):
            async with ash.watch(TaskDone) as done, ash.claim("17", lease=0.3, agent="ash") as claim:
                assert claim.held
                assert claim.token > 0
                with pytest.raises(Denied, match="held by agent ash"):
                    async with birch.claim("17", lease=0.3):
                        pass
                first = claim.left
                while claim.left <= first:  # until a renewal was agreed on
                    await asyncio.sleep(0.005)
                assert claim.held
                await claim.submit(b"42")
                assert not claim.held
                event = await done.next()
                assert isinstance(event, TaskDone)
                assert (event.task, event.token, event.result) == ("17", claim.token, b"42")
            with pytest.raises(Denied, match="is done") as caught:
                async with birch.claim("17", lease=0.3):
                    pass
            assert caught.value.code == "finished"

    run(test)


def test_leaving_without_a_result_releases_the_task_also_by_an_exception() -> None:
    async def test() -> None:
        async with village(quick(), 2) as (ash, birch):
            async with ash.claim("17"):
                pass
            with pytest.raises(RuntimeError):
                async with birch.claim("17"):
                    raise RuntimeError("the agent failed")
            async with ash.claim("17") as claim:
                assert claim.held

    run(test)


def test_who_waits_for_a_task_gets_it_when_it_is_free() -> None:
    async def test() -> None:
        async with village(quick(), 2) as (ash, birch):
            order = []

            async def work(node: Node, name: str) -> None:
                async with node.claim("17", wait=10.0) as claim:
                    order.append((name, claim.token))
                    await asyncio.sleep(0.01)

            await asyncio.gather(work(ash, "ash"), work(birch, "birch"))
            assert len(order) == 2
            assert order[0][1] < order[1][1]

    run(test)


@pytest.mark.claim("commons.takeover")
def test_a_holder_that_is_cut_off_is_told_to_stop_before_another_gets_the_task() -> None:
    async def test() -> None:
        agreed = quick()
        config = {"lease_min": 0.4, "margin": 0.05, "patience": 0.2, "retry": 0.05}
        async with village(agreed, 2, **config) as (ash, birch):
            agreed.lead(ash.peer)
            stopped_at = 0.0
            loop = asyncio.get_running_loop()
            async with birch.claim("17", lease=0.4) as claim:
                agreed.apart.add(birch.peer)

                async def note_the_loss() -> None:
                    nonlocal stopped_at
                    await claim.lost.wait()
                    stopped_at = loop.time()

                noting = asyncio.create_task(note_the_loss())
                async with ash.claim("17", lease=0.4, wait=10.0) as second:
                    taken_at = loop.time()
                    await noting
                    assert claim.reason == "silence"
                    assert stopped_at < taken_at
                    assert second.token > claim.token
                    agreed.apart.clear()
                    with pytest.raises(Denied, match=r"was taken over by .* \(fence \d+, yours is"):
                        await claim.submit(b"late")
                    await second.submit(b"good")

    run(test)


def test_a_claim_whose_asker_was_cancelled_is_given_back() -> None:
    async def test() -> None:
        agreed = quick()
        async with village(agreed, 2) as (ash, birch):
            await ash.commons.put("warm", b"")
            agreed.apart.add(ash.peer)

            async def want() -> None:
                async with ash.claim("17"):
                    raise AssertionError("nobody should get here")

            task = asyncio.create_task(want())
            while not ash.plugin("commons").machine._asks:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            agreed.apart.clear()  # the retry gets through, after a second or so
            async with birch.claim("other"):
                pass
            while (await birch.plugin("commons").task("17")) is not None:
                await asyncio.sleep(0.01)
            async with birch.claim("17", wait=10.0):
                pass

    run(test)


def test_without_a_majority_nothing_is_decided_and_the_error_says_so() -> None:
    async def test() -> None:
        agreed = quick()
        async with village(agreed, 1, patience=0.05, retry=0.01) as (node,):
            await node.commons.put("k", b"before")
            agreed.apart.add(node.peer)
            with pytest.raises(Undecided, match="no majority"):
                await node.commons.put("k", b"v")
            with pytest.raises(Undecided, match="cannot read"):
                await node.commons.get("k")

    run(test)


def test_refused_each_time_is_unreachable_and_nothing_changed() -> None:
    async def test() -> None:
        agreed = quick()
        async with village(agreed, 1, patience=0.05, refused_retry=0.005) as (node,):
            await node.commons.put("k", b"before")
            agreed.refuse = 1.0
            with pytest.raises(
                Unreachable, match=r"nothing was changed: refused for .*no leader"
            ) as caught:
                await node.commons.put("k", b"v")
            assert not isinstance(caught.value, Undecided)

    run(test)


def test_who_waits_when_the_node_stops_is_told() -> None:
    async def test() -> None:
        agreed = quick()
        async with village(agreed, 1) as (node,):
            agreed.apart.add(node.peer)
            asking = asyncio.create_task(node.commons.put("k", b"v"))
            while not node.plugin("commons").machine._asks:
                await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError, match="stopped"):
            await asking

    run(test)


def test_a_node_without_the_plugin_says_how_to_get_it() -> None:
    async def test() -> None:
        with tempfile.TemporaryDirectory(prefix="grove-") as folder:
            async with Node(plan(Path(folder), None)) as node:
                with pytest.raises(LocalProtocolError, match=r"roles\.storage=commons"):
                    _ = node.commons

    run(test)


def test_a_computer_that_slept_does_not_hold_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        from grove_commons import client

        async with village(quick()) as (node,), node.claim("17", lease=30.0) as claim:
            assert claim.held
            slept = client._asleep() + 11.0
            monkeypatch.setattr(client, "_asleep", lambda: slept)
            assert not claim.held
            assert claim.lost.is_set()
            assert claim.reason == "asleep"

    run(test)


def test_the_facade_fits_the_role(tmp_path: Path) -> None:
    from grove_core import roles

    for name in ("get", "put", "delete", "cas", "keys", "claim"):
        assert callable(getattr(Shared, name))
        assert hasattr(roles.Commons, name)

    def check(node: LiveNode, shared: Shared) -> roles.Commons:  # for mypy
        return shared

    assert Config().lease_min == 2.0


# Through the door.


class Running:
    """A node with a door, on a loop of its own, as `grove up` would have it."""

    def __init__(self, data: Path, agreed: Agreed) -> None:
        self.data, self.agreed = data, agreed
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._open.wait(10)

    async def _main(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        config = {"patience": 0.3, "retry": 0.05, "lease_min": 0.5, "margin": 0.05}
        async with Node(plan(self.data, self.agreed, door=True, **config)) as node:
            self.agreed.lead(node.peer)
            self.node = node
            self._open.set()
            await self._end.wait()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def __call__(self, *args: str) -> int:
        at = args.index("--") if "--" in args else len(args)
        return main([*args[:at], "--data", str(self.data), *args[at:]])


@pytest.fixture
def grove() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        running = Running(Path(folder), quick())
        yield running
        running.stop()


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_map_from_a_shell(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert grove("kv", "get", "k") == 1
    assert "has no value" in capsys.readouterr().err
    assert grove("kv", "put", "k", "v", "--json") == 0
    version = said(capsys)["key_version"]
    assert grove("kv", "get", "k") == 0
    assert capsys.readouterr().out == "v"
    assert grove("kv", "get", "k", "--stale", "--json") == 0
    assert said(capsys) == {"schema": "grove.kv.get", "version": 1, "key": "k", "value": "v",
                            "key_version": version}  # fmt: skip
    assert grove("kv", "cas", "k", "other", "w") == 1
    assert f"version {version}" in capsys.readouterr().err
    assert grove("kv", "cas", "k", "v", "w") == 0
    assert grove("kv", "cas", "--absent", "k", "x") == 1
    assert grove("kv", "cas", "--absent", "new", "x") == 0
    assert grove("kv", "cas", "--version", "0", "k", "x") == 1
    assert grove("kv", "cas", "k", "x") == 2
    capsys.readouterr()
    assert grove("kv", "list", "--json") == 0
    assert [row["key"] for row in said(capsys)["keys"]] == ["k", "new"]
    assert grove("kv", "delete", "k") == 0
    assert grove("kv", "list", "k", "--json") == 0


def test_claims_from_a_shell(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert grove("claim", "17", "--agent", "ash", "--json") == 0
    token = str(said(capsys)["token"])
    assert grove("claim", "17", "--agent", "birch", "--json") == 1
    assert "held by agent ash" in capsys.readouterr().err
    assert grove("renew", "17", token, "--json") == 0
    assert 28 < said(capsys)["left"] < 30
    assert grove("task", "17", "--json") == 0
    assert said(capsys)["state"] == "claimed"
    assert grove("release", "17", token) == 0
    assert grove("submit", "17", token, "late") == 1
    assert "not yours any more" in capsys.readouterr().err
    assert grove("claim", "17", "--json") == 0
    second = str(said(capsys)["token"])
    assert int(second) > int(token)
    assert grove("submit", "17", token, "late") == 1
    text = capsys.readouterr().err
    assert f"(fence {second}, yours is {token})" in text
    assert "Your result was not accepted." in text
    assert grove("submit", "17", second, "good") == 0
    assert grove("task", "17") == 0
    assert "done" in capsys.readouterr().out


def test_a_command_runs_under_a_claim_and_what_it_prints_is_the_result(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import os, select; select.select([], [], [], 0.6); print('by', os.environ['GROVE_TASK'])"
    assert grove("claim", "17", "--lease", "0.5", "--", sys.executable, "-c", code) == 0
    capsys.readouterr()
    assert grove("task", "17", "--json") == 0
    assert said(capsys)["result"] == "by 17\n"


def test_a_command_that_fails_frees_its_task(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert grove("claim", "17", "--", sys.executable, "-c", "raise SystemExit(3)") == 1
    assert "ended with 3; 17 is free again" in capsys.readouterr().err
    assert grove("claim", "17", "--", "/no/such/program") == 1
    assert "cannot run" in capsys.readouterr().err
    assert grove("claim", "17") == 0


def test_a_command_is_stopped_when_its_claim_is_lost(
    grove: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import signal; signal.pause()"
    cut = threading.Timer(0.7, lambda: grove.agreed.apart.add(grove.node.peer))
    cut.start()
    assert grove("claim", "17", "--lease", "0.6", "--", sys.executable, "-c", code) == 1
    assert "17 was lost and the command stopped" in capsys.readouterr().err


def test_no_majority_exits_5(grove: Running, capsys: pytest.CaptureFixture[str]) -> None:
    grove.agreed.apart.add(grove.node.peer)
    assert grove("kv", "put", "k", "v") == 5
    assert "no majority can be reached" in capsys.readouterr().err


def test_programs_hear_of_claims_by_name(grove: Running) -> None:
    async def test() -> None:
        events = ("claim_granted", "task_done", "result_refused")
        async with Client(grove.data) as door, door.subscribe(events=events) as heard:
            granted = await door.request("claim", {"task": "17", "agent": "ash"})
            event = await heard.next()
            assert (event["event"], event["token"]) == ("claim_granted", granted["token"])
            with pytest.raises(DoorError) as caught:
                await door.request("submit", {"task": "17", "token": 99, "result": b""})
            assert caught.value.code == "taken"
            assert (await heard.next())["event"] == "result_refused"
            with pytest.raises(DoorError, match="unknown verb"):
                await door.request("no-such-verb")
            assert {"claim", "kv-get"} <= set(door.node["verbs"])

    run(test)
