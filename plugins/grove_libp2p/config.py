"""The table [plugins.libp2p]: timing and bounds of identify and ping."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1, le=1024)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults are what go-libp2p and js-libp2p do, unless a comment says otherwise."""

    identify_timeout: Annotated[float, Meta(gt=0, le=5)] = 5.0  # s, one identify (go); greeters get 5
    identify_streams: Count = 16  # identify streams served to one peer at once (go)
    push_delay: Annotated[float, Meta(gt=0, le=1)] = 0.5  # s that changes are gathered (js: 1)
    push_interval: Seconds = 5.0  # s between our pushes: go answers 0.2 per second
    push_concurrency: Count = 32  # pushes under way at once, each direction (go)
    push_burst: Count = 10  # pushes taken from one peer at once …
    push_rate: Annotated[float, Meta(gt=0, le=1000)] = 0.2  # … and per second from then on (go)
    ping_timeout: Seconds = 10.0  # s for one echo (go, js)
    ping_idle: Seconds = 60.0  # s a served ping stream may be silent; rust pings every 15
    ping_streams: Count = 2  # ping streams served to one peer at once (spec)
