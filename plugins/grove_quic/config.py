"""Settings of the QUIC transport: the table [plugins.quic].

Units and sources stand beside each field; the limits that other implementations set, and that ours
must live with, are collected in libp2p/specs quic/README.md and in RFC 9000 and 9002.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=600)]
Window = Annotated[int, Meta(ge=16_384, le=1 << 28)]
Size = Annotated[int, Meta(ge=1200, le=16_000)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How we listen, how long we wait, and how much one peer may make us hold."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/udp/4001/quic-v1")
    handshake_timeout: Seconds = 5.0  # s from the first datagram to a proven peer (go-libp2p, quinn)
    idle_timeout: Annotated[float, Meta(ge=1, le=600)] = (
        10.0  # s of silence that end a connection (quinn)
    )
    keepalive: Annotated[float, Meta(ge=0, le=300)] = (
        5.0  # s between pings at most; 0: none (rust-libp2p)
    )
    stream_window: Window = 1 << 19  # bytes a peer may send on a stream ahead of its reader
    connection_window: Window = 3 << 19  # bytes, all streams of a connection together: bounds its memory
    datagram: Size = 1452  # bytes of UDP payload tried on a network path; 1200 always works (RFC 8899)
    datagram_loopback: Size = 16_000  # bytes tried when the peer is on this machine (MTU 65,536)
    burst: Annotated[int, Meta(ge=4800, le=1 << 22)] = (
        1 << 18
    )  # bytes sent in one turn before pacing waits
    socket_buffer: Annotated[int, Meta(ge=1 << 16, le=1 << 26)] = (
        1 << 22
    )  # bytes asked of the kernel, each way
    handshakes: Annotated[int, Meta(ge=1, le=4096)] = 64  # inbound, unfinished; more are dropped
    retry_above: Annotated[int, Meta(ge=0, le=4096)] = (
        16  # unfinished inbound, then addresses must be proven
    )
    refusals_per_second: Annotated[float, Meta(ge=0, le=10_000)] = (
        50.0  # answers to peers we refuse or retry
    )
