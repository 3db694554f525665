"""What can be set about PBFT: the table ``[plugins.pbft]``. Durations are seconds, sizes bytes.

What all members must set alike (group, checkpoint_every, snapshot_every, history, sponsors) goes into the
name of every configuration: members that disagree do not hear each other, instead of diverging.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from grove_pbft.messages import MAX_COMMAND, MAX_REQUESTS, MAX_VOTERS, MAX_WINDOW

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one PBFT machine. ValueError for settings that contradict each other."""

    voters: Annotated[tuple[str, ...], Meta(max_length=MAX_VOTERS)] = ()
    """Peer ids of the first configuration's consensus group, the same on each member; n = 3f + 1 of them
    tolerate f. Empty: this node alone. Afterwards the agreed state alone says who is a member."""

    learners: Annotated[tuple[str, ...], Meta(max_length=1024)] = ()
    """Peer ids of the first observer group: they hear every decision, propose, and do not vote."""

    group: Annotated[str, Meta(max_length=256)] = ""
    """Names the group; votes of other groups count for nothing."""

    checkpoint_every: Annotated[int, Meta(ge=1, le=MAX_WINDOW // 2)] = 8
    """K: batches between two checkpoints. The log holds L = 2K batches between its watermarks. The
    paper's example is 100, but its VIEW-CHANGE grows with L: at n = 31 and L = 200 it is 440 kB from
    each, 35 here."""

    snapshot_every: Count = 256
    """Batches between two states asked of the state machine (SnapshotAsked); a multiple of
    checkpoint_every. The state of a quorum lets the group forget what came before."""

    history: Count = 4096
    """Batches kept when no state machine hands in a state; older ones are then lost to newcomers."""

    sponsors: Literal["weak", "one"] = "weak"
    """How many voters must ask for a promotion, or for anybody else's exit or demotion: f + 1, so that
    one correct voter wants it, or any single one. Joining as observer and leaving take one."""

    request_timeout: Seconds = 1.0
    """T: how long a backup waits for a request to be executed before it wants another primary; doubles
    with each view that fails."""

    max_timeout: Seconds = 60.0
    """Where the doubling ends."""

    rebroadcast: Seconds = 0.5
    """How long a client waits for an answer before it asks all voters, then twice as long, and so on."""

    batch_requests: Annotated[int, Meta(ge=1, le=MAX_REQUESTS)] = 256
    """Requests in one batch of ours."""

    batch_bytes: Annotated[int, Meta(ge=1024, le=MAX_COMMAND)] = 512 * 1024
    """Bytes of commands in one batch of ours, unless one command alone is longer."""

    pipeline: Annotated[int, Meta(ge=1, le=MAX_WINDOW)] = 8
    """Batches under way at once, within the watermarks; while there are fewer, a request is proposed in
    the turn in which it comes, with what else came in that turn: nothing waits for company."""

    pending: Count = 4096
    """Requests that wait here to be ordered; further ones are dropped, and their clients ask again."""

    pending_bytes: Annotated[int, Meta(ge=MAX_COMMAND, le=1 << 32)] = 64 << 20
    """Their bytes of commands."""

    outstanding: Annotated[int, Meta(ge=1, le=256)] = 256
    """Requests of one client under way at once, ours and others'; further proposals are rejected."""

    patience: Count = 64
    """Batches that may overtake a request that waits longer than T before its backup thinks the primary
    starves the client, though others are served. Guess."""

    reads: Literal["ordered", "quorum"] = "ordered"
    """Linearizable reads take part in the order (3 message delays), or ask a quorum what it has prepared
    (2), which falls back to the order when no quorum answers in time."""

    observe: Seconds = 1.0
    """A member that hears of no decision for so long asks a voter what it missed. Guess."""

    fetch_timeout: Seconds = 1.0
    """How long a question to one member may take before another one is asked. Guess."""

    reconnect: Seconds = 1.0
    """Between two attempts to reach a member that is not connected. Guess."""

    handovers: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """Changes of voters remembered, so that a member that slept through fewer finds its way back."""

    max_state: Annotated[int, Meta(ge=1024, le=16 << 20)] = 16 << 20
    """Bytes of a state, ours and others'; the contract's bound for a record."""

    def __post_init__(self) -> None:
        if self.snapshot_every % self.checkpoint_every:
            raise ValueError(
                f"snapshot_every {self.snapshot_every} is not a multiple of checkpoint_every "
                f"{self.checkpoint_every}: a state is certified at a checkpoint"
            )
        if self.history < self.snapshot_every:
            raise ValueError(
                f"history {self.history} is less than snapshot_every {self.snapshot_every}: nothing "
                "would be left to catch up from"
            )
        if self.max_timeout < self.request_timeout:
            raise ValueError(
                f"max_timeout {self.max_timeout} s is less than request_timeout {self.request_timeout} s"
            )
        if len(set(self.voters)) != len(self.voters):
            raise ValueError("voters names a peer twice")
        if set(self.voters) & set(self.learners):
            raise ValueError("a peer is named in both voters and learners")
