"""etcd's JSON gateway: requests as bodies, bodies as answers (etcd docs, "gRPC gateway", 3.4 on).

Protobuf's JSON: bytes are base64, 64-bit integers are strings, whatever is zero is left out. Decoders
raise RemoteProtocolError and nothing else; what is longer than `MAX_BODY` was refused before.
"""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from grove_consensus_etcd.api import (
    Delete,
    Done,
    Ended,
    Entry,
    Failed,
    Get,
    Grant,
    Heard,
    KeepAlive,
    Leased,
    Operation,
    Put,
    Request,
    Revoke,
    Txn,
)
from grove_core.errors import RemoteProtocolError
from grove_core.outward import printable

MAX_BODY: Final = 32 << 20
"""Bytes of one answer, and of one line of a watch."""

HAS_LEADER: Final = ("Grpc-Metadata-hasleader", "true")
"""With this a member that lost its leader ends our watch instead of keeping silent (etcd#10819)."""

_Count = Annotated[int, Meta(ge=0, lt=1 << 62)]


class _Header(msgspec.Struct):
    cluster_id: int = 0
    revision: _Count = 0


class _KeyValue(msgspec.Struct):
    key: bytes
    value: bytes = b""
    create_revision: _Count = 0
    mod_revision: _Count = 0
    version: _Count = 0


class _Range(msgspec.Struct):
    kvs: tuple[_KeyValue, ...] = ()
    more: bool = False


class _Response(msgspec.Struct):
    response_range: _Range | None = None


class _Txn(msgspec.Struct):
    header: _Header
    succeeded: bool = False
    responses: tuple[_Response, ...] = ()


class _Grant(msgspec.Struct):
    header: _Header
    ID: _Count
    TTL: int = 0


class _Error(msgspec.Struct):
    message: str = ""
    error: str | dict[str, Any] = ""
    code: int = 0


class _Alive(msgspec.Struct):
    result: _Grant


class _Event(msgspec.Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Watch(msgspec.Struct):
    header: _Header
    created: bool = False
    canceled: bool = False
    compact_revision: _Count = 0
    cancel_reason: str = ""
    events: tuple[_Event, ...] = ()


class _Line(msgspec.Struct):
    result: _Watch | None = None
    error: _Error | str | None = None


class _Token(msgspec.Struct):
    token: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[!-~]+$")]


_T = TypeVar("_T")

_PATHS: Final = {
    Txn: "/v3/kv/txn",
    Grant: "/v3/lease/grant",
    KeepAlive: "/v3/lease/keepalive",
    Revoke: "/v3/lease/revoke",
}


# Requests.


def encode(request: Request) -> tuple[str, bytes]:
    """Path and body."""
    match request:
        case Txn(conditions, then, otherwise):
            body: dict[str, Any] = {
                "compare": [
                    {
                        "key": _text(condition.key),
                        "result": "EQUAL",
                        "target": "CREATE" if condition.what == "created" else "MOD",
                        ("create_revision" if condition.what == "created" else "mod_revision"): str(
                            condition.revision
                        ),
                    }
                    for condition in conditions
                ],
                "success": [_operation(one) for one in then],
                "failure": [_operation(one) for one in otherwise],
            }
        case Grant(ttl):
            body = {"TTL": str(ttl)}
        case KeepAlive(lease) | Revoke(lease):
            body = {"ID": str(lease)}
    return _PATHS[type(request)], msgspec.json.encode(body)


def _operation(one: Operation) -> dict[str, Any]:
    body: dict[str, Any] = {"key": _text(one.key)}
    if isinstance(one, Put):
        return {"request_put": body | {"value": _text(one.value), "lease": str(one.lease)}}
    if one.end:
        body["range_end"] = _text(one.end)
    if isinstance(one, Delete):
        return {"request_delete_range": body}
    body |= {"limit": str(one.limit), "keys_only": one.keys_only}
    if one.since:
        body["min_mod_revision"] = str(one.since)
    if one.until:
        body["max_mod_revision"] = str(one.until)
    if one.by_revision:
        body |= {"sort_target": "MOD", "sort_order": "ASCEND"}
    return {"request_range": body}


def watch(key: bytes, end: bytes, revision: int) -> tuple[str, bytes]:
    """Path and body. Deletions are not told; what is large comes in several lines."""
    create = {
        "key": _text(key),
        "range_end": _text(end),
        "start_revision": str(revision),
        "filters": ["NODELETE"],
        "fragment": True,
    }
    return "/v3/watch", msgspec.json.encode({"create_request": create})


def authenticate(user: str, password: str) -> tuple[str, bytes]:
    """Path and body."""
    return "/v3/auth/authenticate", msgspec.json.encode({"name": user, "password": password})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# Answers.


def decode(request: Request, body: bytes) -> Done | Leased:
    """The answer to a request that went well. Raises RemoteProtocolError, and nothing else."""
    match request:
        case Txn():
            return _done(request, _read(body, _Txn))
        case Grant():
            grant = _read(body, _Grant)
            if grant.ID == 0 or grant.TTL < 1:
                raise RemoteProtocolError(
                    f"a lease without a name or a length: {grant.ID}, {grant.TTL} s"
                )
            return Leased(grant.header.cluster_id, grant.ID, grant.TTL)
        case KeepAlive(lease):
            alive = _read(body, _Alive).result
            if lease != alive.ID:
                raise RemoteProtocolError(f"lease {alive.ID} was kept alive instead of {lease}")
            return Leased(alive.header.cluster_id, lease, max(0, alive.TTL))
        case Revoke(lease):
            return Leased(_read(body, _Txn).header.cluster_id, lease, 0)


def _done(txn: Txn, told: _Txn) -> Done:
    """Also sees that etcd answered what was asked: a short list must not look like absent keys."""
    if not (told.succeeded or txn.conditions):
        raise RemoteProtocolError("a transaction without conditions that did not succeed")
    branch = txn.then if told.succeeded else txn.otherwise
    if len(told.responses) != len(branch):
        raise RemoteProtocolError(f"{len(told.responses)} answers to {len(branch)} operations")
    if told.header.revision == 0:
        raise RemoteProtocolError("a transaction without a revision")
    found: list[tuple[Entry, ...]] = []
    more = False
    for operation, response in zip(branch, told.responses, strict=True):
        if not isinstance(operation, Get):
            found.append(())
            continue
        ranged = response.response_range
        if ranged is None:
            raise RemoteProtocolError("a range was asked for, and something else answered")
        entries = tuple(map(_entry, ranged.kvs))
        for one in entries:
            if not _is_in(one.key, operation.key, operation.end):
                raise RemoteProtocolError(f"key {one.key[:64]!r} is outside the range asked for")
        if operation.by_revision and any(a.modified > b.modified for a, b in pairwise(entries)):
            raise RemoteProtocolError("a range in order of revisions is not in order")
        more = ranged.more
        found.append(entries)
    return Done(told.header.cluster_id, told.header.revision, told.succeeded, tuple(found), more)


def decode_watch(line: bytes, key: bytes, end: bytes) -> Heard | Ended | None:
    """One line of a watch on [key, end); None if it tells nothing. Raises RemoteProtocolError only."""
    told = _read(line, _Line)
    if told.error is not None:
        text = told.error if isinstance(told.error, str) else told.error.message or str(told.error.error)
        return Ended(_safe(text))
    result = told.result
    if result is None:
        raise RemoteProtocolError("a line of a watch with neither result nor error")
    if result.canceled:
        if result.compact_revision:
            return Ended(f"compacted up to {result.compact_revision}", compacted=True)
        return Ended(_safe(result.cancel_reason) or "canceled")
    for event in result.events:
        if not _is_in(event.kv.key, key, end):
            raise RemoteProtocolError(f"key {event.kv.key[:64]!r} is outside what is watched")
    entries = tuple(_entry(event.kv) for event in result.events if event.type == "PUT")
    if any(a.modified > b.modified for a, b in pairwise(entries)):
        raise RemoteProtocolError("a watch whose events are not in order")
    return Heard(result.header.cluster_id, entries) if entries else None


def decode_token(body: bytes) -> str:
    """What to show from now on. Raises RemoteProtocolError, and nothing else."""
    return _read(body, _Token).token


WRONG_USER: Final = 16
"""gRPC's UNAUTHENTICATED: also a token that was forgotten."""

_DEFINITE: Final = {
    3: "",  # INVALID_ARGUMENT
    5: "",  # NOT_FOUND
    7: "",  # PERMISSION_DENIED
    9: "",  # FAILED_PRECONDITION
    11: "",  # OUT_OF_RANGE
    12: "",  # UNIMPLEMENTED
    16: "",  # UNAUTHENTICATED
}
_NO_SPACE: Final = "; make room: etcdctl compact, etcdctl defrag, etcdctl alarm disarm"


def failure(status: int, body: bytes) -> tuple[Failed, int]:
    """What an HTTP status other than 200 means, and gRPC's code. Never raises.

    Only what etcd judges before it proposes anything is a refusal; a leader that changed, a time that
    ran out, or too many requests leave open what became of ours.
    """
    try:
        told = _read(body, _Error)
    except RemoteProtocolError:
        return Failed("unknown", f"HTTP status {status}: {_safe(body[:200])}"), 0
    text = told.message or (told.error if isinstance(told.error, str) else "") or f"HTTP status {status}"
    reason = _safe(text)
    if "database space exceeded" in text:
        return Failed("refused", reason + _NO_SPACE), told.code
    is_definite = told.code in _DEFINITE or "request is too large" in text
    return Failed("refused" if is_definite else "unknown", reason), told.code


def _entry(kv: _KeyValue) -> Entry:
    if not 1 <= kv.create_revision <= kv.mod_revision or kv.version < 1:
        raise RemoteProtocolError(
            f"key {kv.key[:64]!r} with revisions {kv.create_revision}, {kv.mod_revision}"
        )
    return Entry(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version)


def _is_in(key: bytes, first: bytes, end: bytes) -> bool:
    return first <= key < end if end else key == first


def _safe(text: str | bytes) -> str:
    return printable(text[:300])


_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind, strict=False)  # numbers come as strings
    for kind in (_Txn, _Grant, _Error, _Alive, _Line, _Token)
}


def _read(body: bytes, kind: type[_T]) -> _T:
    if len(body) > MAX_BODY:
        raise RemoteProtocolError(f"an answer of {len(body):,} bytes; limit {MAX_BODY:,}")
    try:
        found: _T = _DECODERS[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise RemoteProtocolError(f"not etcd's JSON: {error}") from None
    return found
