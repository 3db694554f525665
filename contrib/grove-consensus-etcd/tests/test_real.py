"""The real thing: Debian's etcd, three members on loopback, killed, stopped and compacted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
from grove_consensus_etcd.api import Delete, Get, If, Put, Txn
from grove_consensus_etcd.events import Watched
from grove_consensus_etcd.machine import Etcd as Machine
from grove_consensus_etcd.testing.cluster import ETCD, MISSING, Cluster, ask
from grove_consensus_etcd.testing.model import Model

from grove_core import Node
from grove_core.errors import Denied, Undecided, Unreachable
from grove_core.events import Committed, ReadReady
from grove_core.machine import Event
from grove_core.testing.linearizability import Operation, check

pytestmark = pytest.mark.skipif(ETCD is None, reason=MISSING)

BOUND = 60.0  # s


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as one:
        asyncio.run(asyncio.wait_for(one.ready(), BOUND))
        yield one


@asynccontextmanager
async def village(
    cluster: Cluster, data: Path, count: int = 2, **settings: Any
) -> AsyncIterator[list[Node]]:
    """Nodes whose profile says that etcd is their consensus, with a prefix of their own."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(count):
            node = Node.from_profile(
                "lan",
                data=data / str(number),
                set={
                    "roles.storage": "commons",
                    "roles.consensus": "etcd",
                    "plugins.etcd.endpoints": cluster.endpoints,
                    "plugins.etcd.prefix": f"/{data.name}/",
                    "plugins.etcd.request_timeout": 1.0,
                    "plugins.etcd.probe": 0.5,
                    "plugins.etcd.stall": 0.5,
                    "plugins.etcd.lease": 2,
                    "node.listen": ["/ip4/127.0.0.1/tcp/0"],
                    **settings,
                },
            )
            nodes.append(await stack.enter_async_context(node))
        yield nodes


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await test()

    asyncio.run(bounded())


def machine(node: Node) -> Machine:
    found: Machine = node.consensus.machine
    return found


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


@pytest.mark.claim("etcd.model")
def test_the_model_answers_what_etcd_answers(cluster: Cluster) -> None:
    """500 random transactions, on the model and on etcd; revisions counted from the first."""
    rng = Random(5)
    names = [b"/model/%d" % number for number in range(6)]

    def operation() -> Any:
        key, end = rng.choice(names), rng.choice([b"", b"/model0", rng.choice(names)])
        match rng.randrange(3):
            case 0:
                return Delete(key, end)
            case _:
                return Get(
                    key,
                    end,
                    limit=rng.choice([0, 1, 3]),
                    since=rng.choice([0, 0, 20]),
                    keys_only=rng.random() < 0.3,
                    by_revision=rng.random() < 0.5,
                )

    def txn(model: Model) -> Txn:
        known = [0, *(entry.created for entry in model.keys.values())]
        known += [entry.modified for entry in model.keys.values()]
        conditions = tuple(
            If(rng.choice(names), rng.choice(["created", "modified"]), rng.choice(known))
            for _ in range(rng.randrange(2))
        )
        puts = tuple(Put(key, rng.randbytes(3)) for key in rng.sample(names, rng.randrange(2)))
        gets = tuple(one for one in (operation() for _ in range(3)) if isinstance(one, Get))
        gets = gets or (Get(names[0]),)  # see api.py: without any operation it would not be linearizable
        one = (Delete(rng.choice(names)),) if rng.random() < 0.2 and not puts else ()
        return Txn(conditions, puts + one + gets, gets)

    async def test() -> None:
        model = Model()
        first = await ask(cluster.endpoints[0], Txn(then=(Get(b"x"),)))
        model.revision, model.cluster = first.revision, first.cluster
        for number in range(500):
            one = txn(model)
            expected, actual = model.do(one), await ask(rng.choice(cluster.endpoints), one)
            assert actual == expected, f"seed 5, round {number}: {one}"

    run(test)


@pytest.mark.claim("etcd.role")
def test_the_commons_work_as_over_any_other_consensus(cluster: Cluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with village(cluster, tmp_path) as (ash, birch):
            version = await ash.commons.put("k", b"v")
            assert await birch.commons.get("k") == b"v"
            assert await birch.commons.cas("k", b"v", b"w") > version
            with pytest.raises(Denied):
                await ash.commons.cas("k", b"v", b"x")
            async with ash.claim("17", lease=5, agent="ash") as first:
                with pytest.raises(Denied, match="held by agent ash"):
                    async with birch.claim("17", lease=5):
                        pass
                await first.release()
            async with birch.claim("17", lease=5, agent="birch") as second:
                assert second.token > first.token
                with pytest.raises(Denied, match="Your result was"):
                    await ash.commons.submit("17", first.token, b"old")  # type: ignore[attr-defined]
                await second.submit(b"42")
            leaders = {node.consensus.leader() for node in (ash, birch)}
            assert leaders <= {ash.peer, birch.peer, None}
            assert ash.consensus.voters() == ()

    run(test)


@pytest.mark.claim("etcd.claims")
def test_a_claim_whose_holder_is_cut_off_goes_to_another_with_a_higher_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def test() -> None:
        short = {"plugins.commons.lease_min": 0.5, "plugins.commons.margin": 0.05}
        short |= {"plugins.commons.witness_delay": 0.3, "plugins.commons.patience": 1.0}
        async with village(cluster, tmp_path, 3, **short) as (ash, birch, cedar):
            async with ash.claim("task", lease=0.6, agent="ash") as claim:
                ash._services["@etcd"]._pump.cancel()  # type: ignore[attr-defined]
                async with birch.claim("task", lease=5, agent="birch", wait=20) as taken:
                    assert taken.token > claim.token
                    assert not claim.held
                    await taken.submit(b"done by birch")
            await cedar.commons.get("x")
            assert cedar.plugin("commons").machine.task("task").result == b"done by birch"

    run(test)


def test_all_nodes_hear_one_order_and_a_node_that_returns_hears_it_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def hear(node: Node, count: int, heard: list[Event]) -> None:
        async with node.watch(Committed) as events:
            while len(heard) < count:
                heard.append(await events.next())

    async def test() -> None:
        async with village(cluster, tmp_path, 3) as nodes:
            heard: list[list[Event]] = [[] for _ in nodes]
            tasks = [asyncio.create_task(hear(*one)) for one in zip(nodes, [150] * 3, heard, strict=True)]
            await asyncio.sleep(0)
            for number in range(50):
                for node in nodes:
                    node.consensus.propose(b"%d" % number)
                await asyncio.sleep(0.001)
            await asyncio.gather(*tasks)
            assert heard[0] == heard[1] == heard[2]
        async with village(cluster, tmp_path, 1) as (again,):
            id = again.consensus.read()
            async with again.watch(ReadReady) as ready:
                while getattr(await ready.next(), "id", None) != id:
                    pass
            last = heard[0][-1]
            assert isinstance(last, Committed)
            assert machine(again).followed >= last.index
            assert machine(again).life == 2

    run(test)


@pytest.mark.claim("etcd.failover")
@pytest.mark.parametrize("way", ["kill -9", "stopped"])
def test_the_leader_of_etcd_dies_during_writes_and_nothing_acknowledged_is_lost(
    way: str, tmp_path: Path
) -> None:
    """Also: what was asked and answered meanwhile could have happened one after the other."""
    history: list[Operation] = []

    async def client(
        node: Node, number: int, over: asyncio.Event, acknowledged: dict[str, bytes]
    ) -> None:
        rng, count = Random(number), 0
        while not over.is_set():
            count += 1
            new, call = b"%d/%d" % (number, count), time.monotonic()
            kind = rng.random()
            input: tuple[Any, ...] = ("write", new)
            try:
                if kind < 0.3:
                    input, output = ("read",), await node.commons.get("r")
                elif kind < 0.6:
                    await node.commons.put("r", new)
                    output = True
                else:  # a key that is written once, so that any loss shows
                    await node.commons.put(f"once/{number}/{count}", new)
                    acknowledged[f"once/{number}/{count}"] = new
                    continue
            except Undecided:
                if input != ("read",) and kind < 0.6:
                    history.append(Operation("r", input, None, call, inf))
                continue
            except Unreachable:
                continue
            history.append(Operation("r", input, output, call, time.monotonic()))
            await asyncio.sleep(0.005)

    async def test() -> None:
        with Cluster() as cluster:
            await cluster.ready()
            async with village(cluster, tmp_path, 3) as nodes:
                over, acknowledged = asyncio.Event(), {}  # type: ignore[var-annotated]
                await nodes[0].commons.put("r", b"0")
                history.append(Operation("r", ("write", b"0"), True, 0.0, time.monotonic()))
                tasks = [
                    asyncio.create_task(client(node, number, over, acknowledged))
                    for number, node in enumerate(nodes)
                ]
                await until(lambda: len(acknowledged) > 30)
                leader = await cluster.leader()
                began, before = time.monotonic(), len(acknowledged)
                if way == "kill -9":
                    leader.kill()
                else:
                    leader.signal(signal.SIGSTOP)
                await until(lambda: len(acknowledged) > before + 3)
                gap = time.monotonic() - began
                await until(lambda: len(acknowledged) > before + 60)
                if way == "kill -9":
                    leader.start()
                else:
                    leader.signal(signal.SIGCONT)
                await until(lambda: len(acknowledged) > before + 120)
                over.set()
                await asyncio.gather(*tasks)
                print(f"{way}: {len(acknowledged)} acknowledged, writes again after {gap:.2f} s")
                for node in nodes:
                    await node.commons.get("r")
                    held = node.plugin("commons").machine.state.keys
                    lost = [key for key, value in acknowledged.items() if held[key].data != value]
                    assert not lost
                states = {node.plugin("commons").machine.state.snapshot() for node in nodes}
                assert len(states) == 1
                assert not any(machine(node).broken for node in nodes)

    run(test)
    assert check(history, budget=1_000_000) == "linearizable"


@pytest.mark.claim("etcd.follows")
def test_compaction_while_a_node_is_behind_costs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    async def test() -> None:
        async with village(cluster, tmp_path, 2) as (ash, birch):
            await ash.commons.put("k", b"0")
            link = birch._services["@etcd"]
            await until(lambda: link._watch is not None)  # type: ignore[attr-defined]
            link._watch.cancel()  # type: ignore[attr-defined]  # as if its stream had broken silently
            for number in range(50):
                await ash.commons.put("k", b"%d" % number)
            await cluster.compact()
            assert await birch.commons.get("k") == b"49"
            # And a watch from a revision that etcd has forgotten: reading takes over, a new one begins.
            one, layout = machine(birch), machine(birch).layout
            await until(lambda: one.standing == "watching")
            before = one.watch
            birch.consensus.call(lambda _, ctx: ctx.emit(Watched(before, layout.log, layout.log_end, 1)))
            await until(lambda: one.standing == "watching" and one.watch != before)
            await ash.commons.put("k", b"50")
            assert await birch.commons.get("k") == b"50"
            assert not one.broken

    run(test)


@pytest.mark.claim("etcd.snapshots")
def test_snapshots_keep_the_log_short_and_a_newcomer_begins_with_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def test() -> None:
        brief = {"plugins.commons.snapshot_every": 100, "plugins.etcd.trailing": 20}
        async with village(cluster, tmp_path, 2, **brief) as (ash, birch):
            blob = bytes(200_000)
            await asyncio.gather(*(ash.commons.put(f"b{number}", blob) for number in range(8)))
            for number in range(300):
                await (ash, birch)[number % 2].commons.put("k", b"%d" % number)
            one, other = machine(ash), machine(birch)
            await until(lambda: one.head is not None and not (one.open or other.open))
            layout = one.layout
            done = await ask(
                cluster.endpoints[0], Txn(then=(Get(layout.log, layout.log_end, keys_only=True),))
            )
            assert len(done.found[0]) < 250
            pieces = await ask(
                cluster.endpoints[0], Txn(then=(Get(layout.state, layout.state + b"~", keys_only=True),))
            )
            assert len({entry.key.rpartition(b"/")[0] for entry in pieces.found[0]}) <= 2
        async with village(cluster, tmp_path / "..", 0), village(cluster, tmp_path, 3, **brief) as nodes:
            late = nodes[2]
            assert await late.commons.get("k") == b"299"
            assert await late.commons.get("b7") == blob
            states = [node.plugin("commons").machine.state for node in nodes]
            for node in nodes:
                await node.commons.get("k")
            assert len({state.snapshot() for state in states}) == 1

    run(test)


@pytest.mark.claim("etcd.unreachable")
def test_an_unreachable_etcd_is_told_with_endpoint_time_and_way_out(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as bound:  # bound and not listening: connections are refused
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]

            class Nowhere:
                endpoints = (f"http://127.0.0.1:{port}",)

            quick = {"plugins.commons.patience": 1.0, "plugins.etcd.patience": 0.3}
            async with village(Nowhere(), tmp_path, 1, **quick) as (node,):  # type: ignore[arg-type]
                with pytest.raises(Unreachable) as caught:
                    await node.commons.get("k")
                text = str(caught.value)
                assert "etcd does not do its work for " in text
                assert f"127.0.0.1:{port}: connection refused" in text
                assert "plugins.etcd.endpoints" in text

    run(test)


def test_a_cluster_that_comes_later_is_found(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(1)
        async with village(cluster, tmp_path, 1) as (node,):
            put = asyncio.create_task(node.commons.put("k", b"v"))
            await until(lambda: machine(node).failures > 2)
            with cluster:
                await put
                assert await node.commons.get("k") == b"v"

    run(test)


def test_a_server_that_speaks_nonsense_is_passed_over(cluster: Cluster, tmp_path: Path) -> None:
    rng = Random(3)
    bodies = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"", b"HTTP/1.1 200 OK\r\n\r\n"]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(10)
            writer.write(rng.choice([*bodies, rng.randbytes(50)]))
        finally:
            writer.close()

    async def test() -> None:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            liar = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            mixed = {"plugins.etcd.endpoints": [liar, *cluster.endpoints]}
            async with village(cluster, tmp_path, 2, **mixed) as nodes:
                for node in nodes:
                    for number in range(10):
                        await node.commons.put("k", b"%d" % number)
                    assert await node.commons.get("k") == b"9"

    run(test)


@pytest.mark.claim("etcd.users")
def test_with_a_user_per_node_etcd_itself_proves_who_proposed(tmp_path: Path) -> None:
    """The permissions of the README, and somebody who tries to propose in another's name."""
    from grove_consensus_etcd.testing.cluster import post

    async def test() -> None:
        with Cluster(1) as cluster:
            await cluster.ready()
            url, prefix = cluster.endpoints[0], f"/{tmp_path.name}/"
            secret = tmp_path / "secret"
            secret.write_text("pw\n")
            async with village(cluster, tmp_path, 1) as (node,):
                own = machine(node).layout.entry(node.peer, bytes(16))[:-32]
                await node.commons.put("before", b"x")
            await _users(post, url, prefix, own)
            known = {"plugins.etcd.user": "ash", "plugins.etcd.password_file": str(secret)}
            async with village(cluster, tmp_path, 1, **known) as (node,):
                await node.commons.put("k", b"v")
                assert await node.commons.get("before") == b"x"
            wrong = {**known, "plugins.etcd.password_file": str(tmp_path / "no")}
            quick = {"plugins.commons.patience": 1.0, "plugins.etcd.patience": 0.3}
            async with village(cluster, tmp_path, 1, **wrong, **quick) as (node,):
                with pytest.raises(Unreachable, match="password_file"):
                    await node.commons.get("k")
            (tmp_path / "other").mkdir()
            other = {**known, "plugins.etcd.prefix": prefix}
            async with village(cluster, tmp_path / "other", 1, **other, **quick) as (forger,):
                assert forger.peer != node.peer
                with pytest.raises(Unreachable, match="permission denied"):
                    await forger.commons.put("k", b"forged")

    run(test)


async def _users(post: Any, url: str, prefix: str, own: bytes) -> None:
    """ash may read everything below the prefix, and write its own entries, tail, head, state, leader."""
    import base64

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    def end(data: bytes) -> bytes:
        return data[:-1] + bytes([data[-1] + 1])

    root = prefix.encode()
    await post(url, "/v3/auth/role/add", {"name": "ash"})
    grants = [("READ", root), ("READWRITE", own), ("READWRITE", root + b"state/")]
    for permission, key in grants:
        body = {"permType": permission, "key": text(key), "range_end": text(end(key))}
        await post(url, "/v3/auth/role/grant", {"name": "ash", "perm": body})
    for key in (b"tail", b"head", b"leader"):
        body = {"permType": "READWRITE", "key": text(root + key)}
        await post(url, "/v3/auth/role/grant", {"name": "ash", "perm": body})
    for user in ("root", "ash"):
        await post(url, "/v3/auth/user/add", {"name": user, "password": "pw"})
    await post(url, "/v3/auth/role/add", {"name": "root"})
    for user in ("root", "ash"):
        await post(url, "/v3/auth/user/grant", {"user": user, "role": user})
    await post(url, "/v3/auth/enable", {})


@pytest.mark.claim("etcd.role")
def test_the_verbs_work_and_a_killed_node_loses_its_task_to_a_higher_token(
    cluster: Cluster, tmp_path: Path
) -> None:
    """`grove up` twice, `kv`, `claim`, and kill -9 of the holder's node, by pid."""
    settings = {
        "roles.storage": "commons",
        "roles.consensus": "etcd",
        "plugins.etcd.endpoints": json.dumps(cluster.endpoints),
        "plugins.etcd.prefix": "/verbs/",
        "plugins.etcd.lease": 2,
        "plugins.etcd.probe": 0.5,
        "plugins.commons.witness_delay": 0.5,
        "node.listen": '["/ip4/127.0.0.1/tcp/0"]',
    }
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]

    def grove(number: int, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "grove_core.cli",
            *words[:1],
            "--data",
            str(tmp_path / str(number)),
        ]
        return subprocess.run([*command, *words[1:]], capture_output=True, text=True, timeout=BOUND)

    def up(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "grove_core.cli", "up", "--data", str(tmp_path / str(number))]
        process = subprocess.Popen([*command, *flags, "--profile", "lan"], stdout=subprocess.DEVNULL)
        while grove(number, "status").returncode == 3:
            assert process.poll() is None
        return process

    nodes = [up(0), up(1)]
    try:
        put = ("kv", "put", "k", "v")
        where = [("--data", str(tmp_path / str(number))) for number in range(2)]
        cli = [sys.executable, "-m", "grove_core.cli"]
        assert subprocess.run([*cli, *put, *where[0]], stdout=subprocess.DEVNULL).returncode == 0
        got = subprocess.run([*cli, "kv", "get", "k", *where[1]], capture_output=True)
        assert got.stdout.strip() == b"v"
        first = json.loads(grove(0, "claim", "--lease", "2", "--json", "task").stdout)
        nodes[0].kill()
        nodes[0].wait()
        second = grove(1, "claim", "--lease", "5", "--wait", "40", "--json", "task")
        token = json.loads(second.stdout)["token"]
        assert token > first["token"]
        old = grove(1, "submit", "task", str(first["token"]), "old")
        assert old.returncode == 1
        assert "not accepted" in old.stderr
        assert grove(1, "submit", "task", str(token), "new").returncode == 0
    finally:
        for process in nodes:
            process.kill()
            process.wait()


def test_no_process_of_ours_is_left(cluster: Cluster) -> None:
    pids = [member.process.pid for member in cluster.members if member.process is not None]
    assert len(pids) == 3
    for pid in pids:
        os.kill(pid, 0)  # those of this module still run; Cluster.__exit__ kills exactly them
