"""What can be set about Raft: the table ``[plugins.raft]``. Durations are seconds, sizes bytes.

The dissertation's rule: broadcast time << election_timeout << time between failures; over a WAN take
10 to 20 times the one-way latency (§9.3). The defaults are etcd's where it has one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from grove_core.errors import RemoteProtocolError
from grove_core.multibase import from_base58
from grove_raft.messages import MAX_COMMAND, MAX_ENTRIES, MAX_MEMBERS

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 32)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one Raft machine. ValueError if heartbeat is not below half of election_timeout."""

    voters: Annotated[tuple[str, ...], Meta(max_length=MAX_MEMBERS)] = ()
    """Peer ids of the members that found the group, the same on each. Read once, at the first start:
    afterwards the log alone says who is a member. Empty: `found` makes a group of one, or a leader
    that was told to `reconfigure` enlists this node."""

    group: Annotated[str, Meta(max_length=256)] = ""
    """Names the group; messages of other groups are not heard. As good as a password if it is long and
    only members know it. Empty: the founders' ids name it."""

    trusted: Annotated[tuple[str, ...], Meta(max_length=MAX_MEMBERS)] = ()
    """Peer ids that may enlist this node while it is in no group; empty: whoever comes first."""

    election_timeout: Seconds = 1.0
    """T: a follower that hears no leader stands after a time drawn from [T, 2T). etcd: 1 s; the paper:
    150-300 ms in one building."""

    heartbeat: Seconds = 0.1
    """Between two signs of life of a leader. etcd's value."""

    pre_vote: bool = True
    """Ask whether a vote would be won before raising the term (§9.6). Off only in experiments."""

    check_quorum: bool = True
    """A leader that hears no majority for T steps down, and who hears a leader gives no vote (§6.2,
    §4.2.3). Off only in experiments: lease reads need it."""

    reads: Literal["index", "lease"] = "index"
    """How a linearizable read is confirmed: "index" asks a majority each time (§6.4); "lease" trusts
    clocks to differ by less than `max_drift` and answers at once while a majority was heard."""

    max_drift: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    """By how much, as a share, two members' clocks may run at different speeds; shortens the lease.
    Guess."""

    append_entries: Annotated[int, Meta(ge=1, le=MAX_ENTRIES)] = 1024
    """Entries in one message."""

    append_bytes: Annotated[int, Meta(ge=1024, le=MAX_COMMAND)] = 64 * 1024
    """Bytes of entries in one message (one entry may be longer), and of one piece of a snapshot; small,
    so that heartbeats never wait long behind one."""

    inflight_entries: Count = 16_384
    """Entries sent to one follower and not yet acknowledged."""

    inflight_bytes: Bytes = 1 << 20
    """Their bytes, and those of a snapshot under way: should cover bandwidth times delay; 1 MiB feeds
    10 MB/s at 100 ms."""

    uncommitted_entries: Count = 65_536
    """Entries the leader holds that are not committed; further proposals are refused."""

    uncommitted_bytes: Bytes = 32 << 20
    """Their bytes."""

    log_bytes: Bytes = 256 << 20
    """Bytes of log kept in memory and on disk; a leader beyond refuses proposals until a snapshot
    (SnapshotTaken) lets it forget."""

    trailing: Annotated[int, Meta(ge=0, le=10_000_000)] = 5_000
    """Entries kept behind a snapshot, so that a slow follower need not get all of it. etcd's value."""

    max_snapshot: Bytes = 256 << 20
    """Bytes of a snapshot, ours and others'."""

    pending: Count = 4_096
    """Proposals, and reads, of this node that wait for a leader or for its answer; reads per leader."""

    wait_for_leader: Seconds = 5.0
    """How long a proposal or a read waits for a leader to be known before it is rejected. Guess."""

    catch_up: Seconds = 60.0
    """How long new voters may take to catch up before a change of members is given up (§4.2.1). Guess."""

    reconnect: Seconds = 1.0
    """Between two attempts to reach a member that is not connected. Guess."""

    def __post_init__(self) -> None:
        if self.heartbeat > self.election_timeout / 2:
            raise ValueError(
                f"heartbeat {self.heartbeat} s leaves no second chance within election_timeout "
                f"{self.election_timeout} s; at most half of it"
            )
        if self.reads == "lease" and not self.check_quorum:
            raise ValueError('reads = "lease" is unsafe without check_quorum')
        for name, peers in (("voters", self.voters), ("trusted", self.trusted)):
            if len(set(peers)) != len(peers):
                raise ValueError(f"{name} names a peer twice")
            for peer in peers:
                try:
                    from_base58(peer)
                except RemoteProtocolError as error:
                    raise ValueError(f"{name}: {peer!r} is no peer id: {error}") from None
