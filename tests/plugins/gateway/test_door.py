"""The door from both sides: a client, a gateway, and a node that only pretends."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio
from grove_gateway import frames, place
from grove_gateway.client import Blocking, Busy, Client, DoorError
from grove_gateway.config import Config
from grove_gateway.driver import Gateway

from grove_core.errors import GroveError, NotRunning, Unreachable
from grove_core.events import Connected, Delivered, NeighborUp
from grove_core.identity import peer_text
from tests.plugins.gateway.fake_node import FakeNode, identity

BOUND = 20.0  # s; nothing here takes a second


@pytest.fixture
def data() -> Any:
    """A data folder with a short path: pytest's own are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="grove-") as folder:
        yield Path(folder)


@asynccontextmanager
async def opened(data: Path, **limits: Any) -> AsyncIterator[tuple[FakeNode, Gateway]]:
    node = FakeNode(data)
    gateway = Gateway(Config(**limits), node)  # type: ignore[arg-type]
    await gateway.start()
    try:
        yield node, gateway
    finally:
        await gateway.stop()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND):
            await main()

    asyncio.run(bounded())


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until it holds; `run` bounds it."""
    while not true():
        await asyncio.sleep(0)


def in_flight(gateway: Gateway) -> int:
    return sum(len(guest.requests) for guest in gateway._guests.values())


class Bare:
    """A program in another language: a DEALER socket and hand-made frames."""

    def __init__(self, endpoint: str, inbox: int = 1000) -> None:
        self.context = zmq.asyncio.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, inbox)
        self.socket.connect(endpoint)

    async def ask(self, *parts: bytes) -> tuple[str, Any]:
        await self.socket.send_multipart(parts)
        return await self.answer()

    async def answer(self) -> tuple[str, Any]:
        version, _, kind, body = await self.socket.recv_multipart()
        assert version == b"\x01"
        return kind.decode(), msgspec.msgpack.decode(body)

    def close(self) -> None:
        self.socket.close()
        self.context.destroy(linger=0)


# What a program can ask


def test_the_door_says_who_it_is_and_what_it_knows(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            assert door.node["peer"] == peer_text(node.peer)
            assert door.node["version"] == 1
            assert {"publish", "subscribe", "peers", "ticket"} <= set(door.node["verbs"])

    run(main)


def test_status_counts_peers_by_path_and_transport(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            status = await door.status()
            assert status["paths"] == {"loopback": 1, "lan": 1, "relayed": 1}
            assert status["transports"] == {"quic": 1, "tcp": 2}
            assert status["profile"] == "residential"
            assert status["addrs"] == [f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_text(node.peer)}"]
            assert status["uptime"] == 12.5

    run(main)


@pytest.mark.claim("gateway.path")
def test_every_peer_row_says_its_path_and_why(data: Path) -> None:
    async def main() -> None:
        async with opened(data), Client(data) as door:
            rows = await door.peers()
            assert [(row["path"], row["why"]) for row in rows] == [
                ("loopback", "we dialled it on this machine"),
                ("lan", "it dialled us at its private address"),
                ("relayed", "we dialled it through a relay"),
            ]
            assert [row["link"] for row in rows] == ["eager", "lazy", "lazy"]
            assert rows[0]["rtt_ms"] == 12.5
            assert rows[0]["agent"] == "fake/1"
            assert rows[0]["neighbor"] is True

    run(main)


def test_the_agent_shown_is_the_one_that_identify_tells(data: Path) -> None:
    async def main() -> None:
        async with opened(data), Client(data) as door:
            shown = [await door.request(verb) for verb in ("hello", "status", "id")]
            assert [answer["agent"] for answer in shown] == ["grove/fake"] * 3

    run(main)


def test_ping_names_a_peer_by_its_id_or_by_its_ending(data: Path) -> None:
    async def main() -> None:
        async with opened(data), Client(data) as door:
            peer = peer_text(identity(4).peer)
            for name in (peer, peer[-4:], f"12D3…{peer[-4:]}"):
                pong = await door.ping(name)
                assert (pong["peer"], pong["path"]) == (peer, "relayed")
                assert pong["rtt_ms"] == 250.0, "the second round trip, by the node's own ping service"
            with pytest.raises(Unreachable, match="refused"):
                await door.ping(peer_text(identity(77).peer))
            with pytest.raises(DoorError, match="no connected peer ends in 'zzzz'") as caught:
                await door.ping("zzzz")
            assert caught.value.code == "unknown-peer"

    run(main)


def test_views_links_counters_and_tickets(data: Path) -> None:
    async def main() -> None:
        async with opened(data), Client(data) as door:
            links = await door.links()
            assert [len(links["eager"]), len(links["lazy"])] == [1, 2]
            members = await door.request("members")
            assert len(members["neighbors"]) == 3
            assert members["known"] == [peer_text(identity(99).peer)]
            counters = (await door.request("counters"))["counters"]
            assert counters["sent.plumtree"] == 7
            assert counters["gateway.requests"] == 4  # hello and these three
            assert (await door.join(await door.ticket()))["peer"] == peer_text(identity(2).peer)
            with pytest.raises(DoorError, match="not a ticket") as caught:
                await door.join("rubbish")
            assert caught.value.code == "bad-request"

    run(main)


def test_connect_and_disconnect(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            peer = peer_text(identity(3).peer)
            assert (await door.connect(f"/ip4/192.168.1.7/tcp/4001/p2p/{peer}"))["path"] == "lan"
            assert (await door.connect(peer))["peer"] == peer
            assert await door.disconnect(peer) == {"peer": peer, "closed": 1}
            assert len(node.open) == 2
            with pytest.raises(Unreachable):
                await door.connect(peer)

    run(main)


# Events


@pytest.mark.claim("gateway.numbered")
def test_events_of_a_topic_come_in_order_and_numbered(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            async with door.subscribe("village") as events:
                assert node.broadcast.subscribed == {"village"}
                ids = [await door.publish("village", bytes([number])) for number in range(5)]
                await door.publish("elsewhere", b"not for us")
                got = [await events.next() for _ in range(5)]
            assert [event["seq"] for event in got] == [1, 2, 3, 4, 5]
            assert [event["id"] for event in got] == ids
            assert got[3]["data"] == b"\x03"
            assert got[0]["author"] == peer_text(node.peer)
            assert events.missed == 0
            assert node.broadcast.subscribed == set()  # nobody wants it any more

    run(main)


def test_other_events_come_by_name(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            async with door.subscribe(events=("neighbor_up", "connected")) as events:
                node.emit(Delivered("village", b"1" * 16, node.peer, b"not asked for"))
                node.emit(NeighborUp(node.peer))
                node.emit(Connected(node.peer, "tcp", "/ip4/127.0.0.1/tcp/1", True, "x"))
                up, connected = await events.next(), await events.next()
            assert up == {"seq": 1, "event": "neighbor_up", "peer": peer_text(node.peer)}
            assert (connected["transport"], connected["inbound"]) == ("tcp", True)
            with pytest.raises(DoorError, match="unknown event 'neighbour_up'"):
                async with door.subscribe(events=("neighbour_up",)):
                    pass
            with pytest.raises(DoorError, match="neither topics nor events"):
                async with door.subscribe():
                    pass

    run(main)


def test_a_topic_stays_while_anyone_wants_it_and_if_the_node_had_it_first(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as one, Client(data) as two:
            node.broadcast.subscribe("own")
            async with one.subscribe("shared", "own"):
                async with two.subscribe("shared"):
                    pass
                assert node.broadcast.subscribed == {"shared", "own"}
            assert node.broadcast.subscribed == {"own"}

    run(main)


@pytest.mark.claim("gateway.numbered")
def test_what_the_door_could_not_read_in_time_is_a_gap(data: Path) -> None:
    async def main() -> None:
        async with opened(data, backlog=4) as (node, _), Client(data) as door:
            async with door.subscribe("t") as events:
                for number in range(10):  # in one turn: the door's watch holds four
                    node.emit(Delivered("t", bytes(16), node.peer, bytes([number])))
                got = [await events.next() for _ in range(4)]
            assert [event["data"] for event in got] == [b"\x06", b"\x07", b"\x08", b"\x09"]
            assert [event["seq"] for event in got] == [7, 8, 9, 10]
            assert events.missed == 6

    run(main)


@pytest.mark.claim("gateway.bounded")
def test_a_program_that_does_not_read_costs_a_bounded_queue_and_sees_the_gap(data: Path) -> None:
    async def main() -> None:
        async with opened(data, backlog=8) as (node, gateway):
            bare = Bare(gateway.endpoint, inbox=4)
            ask = msgspec.msgpack.encode({"topics": ["t"]})
            assert (await bare.ask(b"\x01", b"s", b"subscribe", ask))[0] == "OK"
            filler, sent = bytes(100_000), 0
            while gateway.counts["dropped"] < 20:
                node.emit(Delivered("t", bytes(16), node.peer, filler))
                sent += 1
                assert sent < 2_000  # 200 MB: far beyond what may be held
                await asyncio.sleep(0)
            node.emit(Delivered("t", bytes(16), node.peer, b"tail"))
            await until(lambda: next(iter(gateway._guests.values())).subscriptions[b"s"].seq == sent + 1)
            seen, gap = 0, False
            while not gap:  # what was held comes first, then ALIVE or a later event shows the loss
                node.emit(Delivered("t", bytes(16), node.peer, b"more"))
                kind, event = await bare.answer()
                gap, seen = event["seq"] > seen + (kind == "EVENT"), event["seq"]
            bare.close()

    run(main)


def test_the_heartbeat_tells_of_a_lost_tail(data: Path) -> None:
    async def main() -> None:
        async with (
            opened(data, heartbeat=0.01) as (_, gateway),
            Client(data) as door,
            door.subscribe("t") as events,
        ):
            guest = next(iter(gateway._guests.values()))
            next(iter(guest.subscriptions.values())).seq += 3  # as if three had been dropped
            await until(lambda: events.missed == 3)

    run(main)


# Bounds


@pytest.mark.claim("gateway.busy")
def test_busy_beyond_the_requests_a_program_may_have_in_flight(data: Path) -> None:
    async def main() -> None:
        async with opened(data, requests=3) as (node, gateway), Client(data) as door:
            dials = [asyncio.create_task(door.connect("/ip4/192.0.2.1/tcp/1")) for _ in range(3)]
            await until(lambda: in_flight(gateway) == 3)
            with pytest.raises(Busy) as caught:
                await door.connect("/ip4/192.0.2.1/tcp/1")
            assert (caught.value.limit, caught.value.bound) == ("requests", 3)
            assert caught.value.retry == 0.1
            async with Client(data) as other:  # somebody else is not made to wait
                assert await other.status()
            node.hold.set()
            assert len(await asyncio.gather(*dials)) == 3
            await door.connect("/ip4/192.0.2.1/tcp/1")

    run(main)


@pytest.mark.claim("gateway.busy")
def test_busy_beyond_subscriptions_topics_and_clients(data: Path) -> None:
    async def main() -> None:
        async with opened(data, subscriptions=2, clients=1, topics=2), Client(data) as door:
            async with door.subscribe("a"), door.subscribe("b"):
                with pytest.raises(Busy, match="2 subscriptions"):
                    async with door.subscribe("c"):
                        pass
                async with Client(data) as other:
                    with pytest.raises(Busy, match="1 clients"):
                        async with other.subscribe("a"):
                            pass
            with pytest.raises(Busy, match="2 topics"):
                async with door.subscribe("a", "b", "c"):
                    pass

    run(main)


def test_a_request_that_takes_too_long_fails_with_timeout(data: Path) -> None:
    async def main() -> None:
        async with opened(data, patience=0.01), Client(data) as door:
            with pytest.raises(DoorError, match="no outcome within") as caught:
                await door.connect("/ip4/192.0.2.1/tcp/1")
            assert caught.value.code == "timeout"

    run(main)


@pytest.mark.claim("gateway.bounded")
def test_a_program_that_dies_is_forgotten_with_all_it_held(data: Path) -> None:
    async def main() -> None:
        async with opened(data, heartbeat=0.01) as (node, gateway):
            bare = Bare(gateway.endpoint)
            ask = msgspec.msgpack.encode({"topics": ["t"]})
            assert (await bare.ask(b"\x01", b"s", b"subscribe", ask))[0] == "OK"
            assert node.broadcast.subscribed == {"t"}
            bare.close()
            await until(lambda: not gateway._guests)
            assert node.broadcast.subscribed == set()

    run(main)


# Bad input


@pytest.mark.claim("gateway.bad-frames")
def test_bad_frames_are_answered_where_they_can_be_and_harm_nobody(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (_, gateway), Client(data) as door:
            bare = Bare(gateway.endpoint)
            await bare.socket.send_multipart([b"\x01"])  # no id: dropped
            kind, body = await bare.ask(b"\x02", b"i", b"status", b"\x80")
            assert (kind, body["code"]) == ("ERROR", "version")
            kind, body = await bare.ask(b"\x01", b"i", b"status", b"\x80", b"one too many")
            assert (kind, body["code"]) == ("ERROR", "bad-frame")
            kind, body = await bare.ask(b"\x01", b"i", b"fly", b"\x80")
            assert (kind, body["code"]) == ("ERROR", "unknown-verb")
            kind, body = await bare.ask(b"\x01", b"i", b"publish", b"\x81\xa5topic\x01")
            assert (kind, body["code"]) == ("ERROR", "bad-request")
            assert "topic" in body["text"]
            assert gateway.counts["bad_frames"] == 3
            bare.close()
            assert await door.status()

    run(main)


def test_a_part_beyond_the_limit_ends_that_connection_and_no_other(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (_, gateway), Client(data) as door:
            bare = Bare(gateway.endpoint)
            await bare.socket.send_multipart([b"\x01", b"i", b"publish", bytes(frames.MAX_BODY + 1)])
            assert await door.status()
            assert gateway.counts["requests"] == 2  # hello and status: the long one never came in
            bare.close()

    run(main)


def test_a_mistake_of_the_machine_is_told_as_refused(data: Path) -> None:
    async def main() -> None:
        async with opened(data), Client(data) as door:
            with pytest.raises(DoorError, match="limit 1000") as caught:
                await door.publish("t", bytes(1001))
            assert caught.value.code == "refused"

    run(main)


def test_a_bug_behind_the_door_is_told_without_its_details(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(data) as (node, _), Client(data) as door:
            node.ticket = lambda: 1 // 0  # type: ignore[assignment, return-value]
            with pytest.raises(DoorError) as caught:
                await door.ticket()
            assert caught.value.code == "internal"
            assert str(caught.value) == "the node failed inside (ZeroDivisionError)"

    run(main)
    assert "the verb ticket failed" in caplog.text


# The place


@pytest.mark.claim("gateway.private")
def test_folder_socket_and_note_are_private_to_the_user(data: Path) -> None:
    async def main() -> None:
        async with opened(data):
            folder = data / "gateway"
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "socket").stat().st_mode) == 0o600
            assert stat.S_IMODE((folder / "door.json").stat().st_mode) == 0o600
        assert list(folder.iterdir()) == []

    run(main)


def test_a_path_too_long_for_a_socket_moves_to_a_private_folder(data: Path) -> None:
    async def main() -> None:
        deep = data / ("d" * 60) / ("e" * 60)
        async with opened(deep) as (node, gateway), Client(deep) as door:
            path = Path(gateway.endpoint.removeprefix("ipc://"))
            assert len(os.fsencode(path)) <= 103
            assert deep not in path.parents
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert door.node["peer"] == peer_text(node.peer)
        assert not path.parent.exists()

    run(main)


def test_a_second_node_in_the_same_folder_is_refused(data: Path) -> None:
    async def main() -> None:
        async with opened(data):
            with pytest.raises(GroveError, match="already runs with data folder"):
                await Gateway(Config(), FakeNode(data)).start()  # type: ignore[arg-type]
            async with Client(data) as door:
                assert await door.status()

    run(main)


@pytest.mark.claim("gateway.not-running")
def test_no_node_is_told_at_once(data: Path) -> None:
    async def main() -> None:
        with pytest.raises(NotRunning, match="no node is running at"):
            await Client(data).open()

    run(main)


DIES_AT_WORK = """
import os, sys, pathlib, zmq
from grove_gateway.place import Place
place = Place(pathlib.Path(sys.argv[1]))
place.prepare()
zmq.Context().socket(zmq.ROUTER).bind(place.endpoint)
place.announce("12D3")
os._exit(9)
"""


@pytest.mark.claim("gateway.not-running")
def test_what_a_killed_node_left_is_told_at_once_and_does_not_stop_the_next(data: Path) -> None:
    deep = data / ("d" * 120)

    async def main() -> None:
        killed = subprocess.run([sys.executable, "-c", DIES_AT_WORK, str(deep)], check=False)
        assert killed.returncode == 9
        left = place.read_note(deep)
        assert left is not None
        assert left.path.exists()
        with pytest.raises(NotRunning, match=f"process {left.pid}.* is gone"):
            await Client(deep).open()
        async with opened(deep), Client(deep) as door:
            assert await door.status()
        assert not left.path.parent.exists()

    run(main)


@pytest.mark.claim("gateway.not-running")
def test_everything_that_waits_ends_when_the_node_does(data: Path) -> None:
    async def main() -> None:
        async with (
            opened(data) as (_, gateway),
            Client(data) as door,
            door.subscribe("t") as events,
        ):
            dial = asyncio.create_task(door.connect("/ip4/192.0.2.1/tcp/1"))
            await until(lambda: in_flight(gateway) == 1)
            await gateway.stop()
            with pytest.raises(NotRunning):
                await events.next()
            with pytest.raises(NotRunning):
                await dial
            with pytest.raises(NotRunning):
                await door.status()

    run(main)


def test_a_note_of_garbage_is_no_note(data: Path) -> None:
    (data / "gateway").mkdir()
    for text in (b"", b"{", b'{"version": 2, "endpoint": "ipc://x", "pid": 1, "peer": ""}', b"\xff" * 9):
        (data / "gateway" / "door.json").write_bytes(text)
        assert place.read_note(data) is None


def test_the_same_door_without_a_loop_of_ones_own(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as (node, _):

            def script() -> list[dict[str, Any]]:
                with Blocking(data) as door, door.subscribe("t") as events:
                    assert door.request("status")["peer"] == peer_text(node.peer)
                    for number in range(3):
                        door.publish("t", bytes([number]))
                    return [next(events) for _ in range(3)]

            got = await asyncio.to_thread(script)
            assert [(event["seq"], event["data"]) for event in got] == [
                (1, b"\0"),
                (2, b"\1"),
                (3, b"\2"),
            ]

    run(main)
