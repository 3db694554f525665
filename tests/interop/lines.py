"""What Grove must be able to do with a foreign libp2p: issue 2, "Interop is the proof"; issue 3, 4.

A line is a row of docs/interop.md; a way is a column: which transport, and who dials. A test takes up a
line with `@line(name)`, which runs it once per way and marks it as the holder of claim `interop.<name>`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import pytest

Test = Callable[..., None]


class Way(NamedTuple):
    """How a connection comes about."""

    transport: Literal["tcp", "quic"]
    grove_dials: bool

    def __str__(self) -> str:
        return f"{self.transport}-{'out' if self.grove_dials else 'in'}"

    @property
    def title(self) -> str:
        stack = {"tcp": "TCP + Noise + yamux", "quic": "QUIC"}[self.transport]
        return f"{stack}, {'Grove dials' if self.grove_dials else 'Grove listens'}"


TCP = (Way("tcp", True), Way("tcp", False))
QUIC = (Way("quic", True), Way("quic", False))
EVERY = TCP + QUIC
CROSSED = (TCP[0], QUIC[1])
"""Both transports and both directions, where a test is long and the way hardly matters."""
COUNTER = (TCP[1], QUIC[0])


class Line(NamedTuple):
    """One promise. says: the row's text. ways: where it has a meaning."""

    name: str
    says: str
    ways: tuple[Way, ...] = EVERY


LINES = (
    Line("connect", "connect; each side proves its identity to the other"),
    Line("keys", "peers with secp256k1 and RSA keys (a js node can have no ECDSA key)"),
    Line("identify", "identify: agent, addresses, protocols, observed address; signed record verified"),
    Line("push", "identify/push: a protocol added later becomes known"),
    Line("ping", "ping 100 times, on one stream and on a stream each"),
    Line("bulk-to-js", "100 MiB to a js reader that is slow"),
    Line("bulk-to-grove", "100 MiB to a Grove reader that is slow; js is held back"),
    Line("streams", "1,000 streams, 200 open at once"),
    Line("reset-by-grove", "Grove resets a stream, its own and js's; the connection lives on"),
    Line("reset-by-js", "js resets a stream, its own and Grove's; the connection lives on"),
    Line("unsupported", "a protocol that the other does not speak is refused, nothing else suffers"),
    Line("wrong-peer", "a wrong peer id is refused by whoever dials"),
    Line("muxer-inline", "muxer agreed inside the Noise handshake", TCP),
    Line("muxer-fallback", "muxer agreed by multistream-select after it", TCP),
    Line("certificate-missing", "a client without a certificate is refused", QUIC[1:]),
    Line("certificate-bad", "a certificate without, or with a false, libp2p extension is refused", QUIC),
    Line(
        "mesh-2-2", "GossipSub, 2 Grove and 2 js nodes: 1,000 signed messages of 1 KiB each way", COUNTER
    ),
    Line("mesh-5-5", "the same with 5 and 5; all arrive once, nobody's score knows P4 or P7", CROSSED),
    Line("unsigned", "GossipSub under StrictNoSign", CROSSED),
    Line("idontwant", "IDONTWANT spares copies, told by each and heeded by each", CROSSED),
    Line("gossip-repair", "IHAVE and IWANT bring what no mesh carried, both ways", (TCP[1], QUIC[1])),
    Line("floodsub", "floodsub, the fallback, with a js node that has nothing else", COUNTER),
    Line("resubscribe", "subscriptions survive a reset of the stream that told them", CROSSED),
)


def line(name: str) -> Callable[[Test], Test]:
    """Marks a test, which takes a parameter `way`, as the proof of a line."""
    (found,) = [each for each in LINES if each.name == name]

    def mark(test: Test) -> Test:
        for each in (
            pytest.mark.parametrize("way", found.ways, ids=map(str, found.ways)),
            pytest.mark.claim(f"interop.{name}"),
            pytest.mark.interop,
        ):
            test = each(test)
        return test

    return mark
