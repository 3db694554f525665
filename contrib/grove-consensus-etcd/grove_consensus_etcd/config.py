"""What can be set about etcd: the table ``[plugins.etcd]``. Durations are seconds."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=3600)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one node's part in it. ValueError for an endpoint that is no http(s) URL."""

    endpoints: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)] = ("http://127.0.0.1:2379",)
    """Client URLs of the cluster's members; name all of them, so that any one may fail."""

    prefix: Annotated[str, Meta(min_length=1, max_length=256)] = "/grove/"
    """What all our keys in etcd begin with: one village, one prefix. Equal on all nodes."""

    user: Annotated[str, Meta(max_length=256)] = ""
    """User of etcd, if its authentication is on. With one user per node, who may write only below
    PREFIX/log/PEER-ID/ (and the other keys of the README), etcd itself proves who proposed what."""

    password_file: str = ""
    """File whose first line is the user's password."""

    ca_file: str = ""
    """Certificates (PEM) that https endpoints are checked against; empty: the system's."""

    inflight: Annotated[int, Meta(ge=1, le=256)] = 16
    """Commands on their way to etcd at once, each on a connection of its own. Measured: more gain
    nothing from a Python node."""

    pending: Annotated[int, Meta(ge=1, le=65_536)] = 4096
    """Proposals, and reads, of this node that wait; the next one is rejected."""

    patience: Seconds = 5.0
    """How long a proposal or a read is tried. After that a read, and a proposal that never left, are
    rejected; about any other proposal nothing is said. Guess: some of etcd's elections (1 s)."""

    connect_timeout: Seconds = 1.0
    """Until an endpoint that does not answer is passed over."""

    request_timeout: Seconds = 3.0
    """Until an answer is given up and asked for elsewhere. etcd itself gives up after 5 s and two
    elections, 7 s at its defaults; asking again is safe, so we need not wait so long."""

    probe: Seconds = 2.0
    """Between two looks at where the log ends and who leads, one linearizable read of three keys."""

    stall: Seconds = 2.0
    """How far what is heard may lag behind what is known to be agreed until the watch is begun anew,
    at another member. Guess."""

    lease: Annotated[int, Meta(ge=2, le=3600)] = 10
    """Seconds (whole, as etcd has them) after which a leader that fell silent is one no longer. It only
    says who proposes first that a claim has run out; nothing rests on it."""

    lead: bool = True
    """Whether this node may lead."""

    trailing: Annotated[int, Meta(ge=0, le=1 << 30)] = 4096
    """Revisions kept in the log behind a snapshot, so that a node that lags need not take it whole."""

    snapshot_delay: Seconds = 30.0
    """How long others wait for the proposer of a snapshot's last command to store the snapshot, before
    one of them does; twice that at most, at random. Guess."""

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            try:
                url = urlsplit(endpoint)
                sound = url.scheme in ("http", "https") and bool(url.hostname) and url.path in ("", "/")
                _ = url.port
            except ValueError:
                sound = False
            if not sound or url.query or url.fragment or url.username:
                raise ValueError(f"endpoints: {endpoint!r} is not like http://192.0.2.7:2379")
        if len(set(self.endpoints)) != len(self.endpoints):
            raise ValueError("endpoints names one twice")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file go together")
