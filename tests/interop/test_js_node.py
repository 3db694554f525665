"""A whole Grove node and js-libp2p: identify, push and the ping service (libp2p-wire.md 3.1, 3.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from grove_core.drive.live import Node
from grove_core.events import Connected
from grove_core.identity import parse_peer, peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.record import verify_record
from grove_core.transport import Connection, Stream
from tests.interop.grove_end import BOUND, LISTEN
from tests.interop.js_peer import JsPeer
from tests.interop.lines import Way, line
from tests.interop.services import ECHO
from tests.interop.test_js import run

ID = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
PING = "/ipfs/ping/1.0.0"
LATE = "/grove/interop/late/1.0.0"
AGENT = "grove-interop/1"

SETTINGS: Mapping[str, Any] = {
    "node.agent": AGENT,
    "plugins.libp2p.push_delay": 0.05,  # s; pushes come in seconds otherwise
    "plugins.libp2p.push_interval": 0.05,
}


class Acquaintance(NamedTuple):
    """A node and js, connected, and what the node's event said about it."""

    node: Node
    peer: str
    """The node's peer id, as js writes it."""
    js: JsPeer
    js_peer: PeerId
    connection: Connection
    event: Connected


@asynccontextmanager
async def acquaintance(way: Way, js: JsPeer, data: Path) -> AsyncIterator[Acquaintance]:
    """Connect a node with the default profile and js, and wait until both are identified."""
    listen = {"node.listen": [LISTEN[way.transport]]}
    js_peer = parse_peer(js.peer)
    node = Node.from_profile("residential", data=data, set={**SETTINGS, **listen})
    async with node, node.watch(Connected) as events:
        peer = peer_text(node.peer)
        if way.grove_dials:
            await node.connect(Multiaddr.parse(js.addr(way.transport)))
        else:
            await js.do("dial", addr=str(node.addresses[0].with_peer(node.peer)))
        event = await events.next()
        assert isinstance(event, Connected)
        connection = node.connection(js_peer)
        assert connection is not None
        yield Acquaintance(node, peer, js, js_peer, connection, event)


@line("identify")
def test_each_side_reads_the_others_card(way: Way, js: JsPeer, tmp_path: Path) -> None:
    async def main() -> None:
        async with acquaintance(way, js, tmp_path) as met:
            ours = list(map(str, met.node.addresses))
            told = await js.do("identify", peer=met.peer)
            assert told["agent"] == AGENT
            assert told["addrs"] == ours
            assert told["protocols"] == list(met.node.protocols)
            assert {ID, PUSH, PING} <= set(told["protocols"])
            assert Multiaddr.parse(told["observed"]).without_peer() == met.connection.remote
            assert told["record"]["peer"] == met.peer
            assert told["record"]["addrs"] == ours
            known = await js.do("known", peer=met.peer)
            assert known["addrs"] == [{"addr": addr, "certified": True} for addr in ours]

            entry = met.node.peers.get(met.js_peer)
            assert entry.agent.startswith("js-libp2p/")
            assert met.event.agent == entry.agent
            assert entry.protocols is not None
            assert {ID, PUSH, PING, ECHO} <= set(entry.protocols)
            theirs = {Multiaddr.parse(js.addr(transport)).without_peer() for transport in ("tcp", "quic")}
            assert set(entry.addresses) == theirs
            record = verify_record(entry.record)
            assert record.peer == met.js_peer
            assert set(record.addresses) == theirs

    run(main())


@line("push")
def test_a_protocol_added_later_becomes_known(way: Way, js: JsPeer, tmp_path: Path) -> None:
    def decline(stream: Stream) -> None:
        stream.reset()

    async def main() -> None:
        async with acquaintance(way, js, tmp_path) as met:
            await js.do("identify", peer=met.peer)
            met.node.serve(LATE, decline)
            while LATE not in (await js.event("identified", peer=met.peer))["protocols"]:
                pass
            await js.do("handle", protocol=LATE)
            try:
                await beating(met, lambda: LATE in (met.node.peers.get(met.js_peer).protocols or ()))
            finally:
                await js.do("unhandle", protocol=LATE)

    run(main())


async def beating(met: Acquaintance, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, with a ping as the beat at which it is looked at again."""
    async with asyncio.timeout(BOUND):
        while not condition():
            async for _ in met.node.plugin("libp2p").ping(met.js_peer):
                pass


@line("ping")
def test_a_hundred_pings_by_the_ping_services(way: Way, js: JsPeer, tmp_path: Path) -> None:
    async def main() -> None:
        async with acquaintance(way, js, tmp_path) as met:
            if way.grove_dials:
                rtts = [rtt async for rtt in met.node.plugin("libp2p").ping(met.js_peer, count=100)]
            else:
                rtts = (await js.do("ping", peer=met.peer, count=100))["rtts"]
            assert len(rtts) == 100

    run(main())
