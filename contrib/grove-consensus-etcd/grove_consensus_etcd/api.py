"""What we use of etcd's v3 API, as data: a transaction over three operations, and leases.

Everything that touches keys is a `Txn`, reads too: a read-only transaction is linearizable, and
several keys are then read as of one revision (etcd API guarantees). Not so one without any operation:
etcd takes that for serializable, and a member that lags answers with an old revision (3.4.23).

Names are etcd's but for `end` (range_end), `created` (create_revision) and `modified` (mod_revision).

A range is [key, end), or key alone if end is empty.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec


class Put(msgspec.Struct, frozen=True, gc=False):
    """Let a key have a value; lease 0: for good."""

    key: bytes
    value: bytes
    lease: int = 0


class Get(msgspec.Struct, frozen=True, gc=False):
    """Keys of a range. since, until: bounds of `modified`, both included, 0: none. limit 0: all.

    by_revision: ascending by `modified` instead of by key.
    """

    key: bytes
    end: bytes = b""
    limit: int = 0
    since: int = 0
    until: int = 0
    keys_only: bool = False
    by_revision: bool = False


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Let the keys of a range be gone."""

    key: bytes
    end: bytes = b""


Operation: TypeAlias = Put | Get | Delete


class If(msgspec.Struct, frozen=True, gc=False):
    """A condition: the revision in which a key was created, or last modified, is exactly this.

    0: the key is not there.
    """

    key: bytes
    what: Literal["created", "modified"]
    revision: int


class Txn(msgspec.Struct, frozen=True):
    """If all conditions hold, all of `then` at one revision; else all of `otherwise`."""

    conditions: tuple[If, ...] = ()
    then: tuple[Operation, ...] = ()
    otherwise: tuple[Operation, ...] = ()


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A new lease of ttl seconds."""

    ttl: int


class KeepAlive(msgspec.Struct, frozen=True, gc=False):
    """Let a lease begin anew."""

    lease: int


class Revoke(msgspec.Struct, frozen=True, gc=False):
    """End a lease, and with it the keys that hang on it."""

    lease: int


Request: TypeAlias = Txn | Grant | KeepAlive | Revoke


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A key as it is. version: how often it was written since it was created."""

    key: bytes
    value: bytes
    created: int
    modified: int
    version: int


class Done(msgspec.Struct, frozen=True):
    """A transaction took place. found: one tuple per operation of the branch that was taken, empty for
    what is not a Get. more: whether the last Get had more to give. cluster: etcd's name for itself."""

    cluster: int
    revision: int
    succeeded: bool
    found: tuple[tuple[Entry, ...], ...] = ()
    more: bool = False


class Leased(msgspec.Struct, frozen=True, gc=False):
    """A lease, and how many seconds it lasts; ttl 0: there is no such lease (any more)."""

    cluster: int
    lease: int
    ttl: int


class Failed(msgspec.Struct, frozen=True, gc=False):
    """No answer that can be used.

    kind: "unsent" if it never left us; "refused" if etcd says that it did not and will not do it;
    "unknown" if it may have been done, or may yet be. reason: for people.
    """

    kind: Literal["unsent", "refused", "unknown"]
    reason: str


Answer: TypeAlias = Done | Leased | Failed


class Heard(msgspec.Struct, frozen=True):
    """What a watch tells: entries written, in the order of their revisions."""

    cluster: int
    entries: tuple[Entry, ...]


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A watch is over. compacted: because what it asked for is forgotten already."""

    reason: str
    compacted: bool = False
