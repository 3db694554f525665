"""The table [plugins.gateway]: how much the local door lets its guests hold open."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Bound = Annotated[int, Meta(ge=1, le=65_536)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every queue behind the door has its bound here; what is beyond is answered BUSY."""

    clients: Bound = 64  # programs with a request or subscription open
    requests: Bound = 32  # of one program, waiting for their answer
    subscriptions: Bound = 16  # of one program
    topics: Bound = 64  # in one subscription
    backlog: Bound = 1024  # answers and events waiting for one program to read; events beyond are gaps
    inbox: Bound = 128  # requests of one program waiting in its socket; beyond, its own sends wait
    patience: Annotated[float, Meta(gt=0, le=600)] = 60.0  # s until a request fails with "timeout"
    heartbeat: Annotated[float, Meta(gt=0, le=60)] = 5.0  # s between ALIVE frames of a subscription
    retry: Annotated[int, Meta(ge=1, le=60_000)] = 100  # ms, told with BUSY
