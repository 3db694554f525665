"""The table [plugins.tcp]."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Bytes = Annotated[int, Meta(ge=262_144, le=1 << 30)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TCP with Noise and yamux. Sources: libp2p-wire.md 2.3, 2.5, 7.3; go-libp2p's defaults."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")  # multiaddrs; port 0: any
    connect_timeout: Seconds = 15.0  # s, from dial to a proven peer
    upgrade_timeout: Seconds = 10.0  # s, for a remote that connected to us to prove itself
    max_window: Bytes = 4 * 1024 * 1024  # bytes one stream may have unread; starts at 256 KiB
    growth: Annotated[int, Meta(ge=0, le=1 << 30)] = (
        16 * 1024 * 1024
    )  # bytes, all windows of a connection
    ping_interval: Seconds = 30.0  # s, between yamux pings
    ping_timeout: Seconds = 10.0  # s, of silence after a ping until the connection is given up
    write_buffer: Annotated[int, Meta(ge=65_536, le=1 << 26)] = 512 * 1024  # bytes waiting for the socket
