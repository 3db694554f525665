"""What programs at the local door can ask of the commons: verbs in the words of `grove claim` and `kv`.

A claim made here is not renewed by the node: the program does it, every third of its lease, so that
a program that died loses its task. Times are seconds; peers are text.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from grove_commons.client import Shared
from grove_commons.commands import MAX_AGENT, MAX_NAME, MAX_VALUE
from grove_commons.state import Finished, Held, Value
from grove_core.identity import peer_text
from grove_core.service import LiveNode
from grove_core.specs import DoorVerb

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Bytes = Annotated[bytes, Meta(max_length=MAX_VALUE)]
Token = Annotated[int, Meta(ge=0, lt=1 << 62)]


class ClaimAsk(msgspec.Struct, frozen=True):
    task: Name
    lease: Annotated[float, Meta(gt=0, le=31_536_000)] = 30.0
    agent: Annotated[str, Meta(max_length=MAX_AGENT)] = ""


class TokenAsk(msgspec.Struct, frozen=True):
    task: Name
    token: Token


class SubmitAsk(msgspec.Struct, frozen=True):
    task: Name
    token: Token
    result: Bytes


class TaskAsk(msgspec.Struct, frozen=True):
    task: Name


class KeyAsk(msgspec.Struct, frozen=True):
    """stale: answer at once, as of what this node has heard."""

    key: Name
    stale: bool = False


class PutAsk(msgspec.Struct, frozen=True):
    key: Name
    value: Bytes


class DeleteAsk(msgspec.Struct, frozen=True):
    key: Name


class CasAsk(msgspec.Struct, frozen=True):
    """expected, value: nil is absent. version: instead of expected, when the key was last written."""

    key: Name
    value: Bytes | None
    expected: Bytes | None = None
    version: Token | None = None


class ListAsk(msgspec.Struct, frozen=True):
    prefix: Annotated[str, Meta(max_length=MAX_NAME)] = ""
    limit: Annotated[int, Meta(ge=1, le=4096)] = 1024


def _shared(node: LiveNode) -> Shared:
    shared: Shared = node.plugin("commons")
    return shared


async def claim(node: LiveNode, ask: ClaimAsk) -> dict[str, Any]:
    token, left = await _shared(node).grant(ask.task, agent=ask.agent, lease=ask.lease)
    return {
        "task": ask.task,
        "holder": peer_text(node.peer),
        "agent": ask.agent,
        "token": token,
        "lease": ask.lease,
        "left": round(left, 3),
    }


async def renew(node: LiveNode, ask: TokenAsk) -> dict[str, Any]:
    left = await _shared(node).renew(ask.task, ask.token)
    return {"task": ask.task, "token": ask.token, "left": round(left, 3)}


async def release(node: LiveNode, ask: TokenAsk) -> dict[str, Any]:
    await _shared(node).release(ask.task, ask.token)
    return {"task": ask.task, "token": ask.token}


async def submit(node: LiveNode, ask: SubmitAsk) -> dict[str, Any]:
    await _shared(node).submit(ask.task, ask.token, ask.result)
    return {"task": ask.task, "token": ask.token}


async def task(node: LiveNode, ask: TaskAsk) -> dict[str, Any]:
    match await _shared(node).task(ask.task):
        case Held(holder, agent, token):
            said = {"state": "claimed", "holder": peer_text(holder), "agent": agent, "token": token}
        case Finished(holder, agent, token, _, result):
            said = {"state": "done", "holder": peer_text(holder), "agent": agent, "token": token}
            return {"task": ask.task, **said, "result": result}
        case _:
            said = {"state": "free", "holder": "", "agent": "", "token": 0}
    return {"task": ask.task, **said, "result": None}


def _entry(key: str, found: Value | None) -> dict[str, Any]:
    return {
        "key": key,
        "value": None if found is None else found.data,
        "version": 0 if found is None else found.version,
    }


async def kv_get(node: LiveNode, ask: KeyAsk) -> dict[str, Any]:
    shared = _shared(node)
    return _entry(ask.key, shared.machine.peek(ask.key) if ask.stale else await shared.entry(ask.key))


async def kv_put(node: LiveNode, ask: PutAsk) -> dict[str, Any]:
    return {"key": ask.key, "version": await _shared(node).put(ask.key, ask.value)}


async def kv_delete(node: LiveNode, ask: DeleteAsk) -> dict[str, Any]:
    await _shared(node).delete(ask.key)
    return {"key": ask.key}


async def kv_cas(node: LiveNode, ask: CasAsk) -> dict[str, Any]:
    shared = _shared(node)
    if ask.version is not None:
        return {"key": ask.key, "version": await shared.cas_version(ask.key, ask.version, ask.value)}
    return {"key": ask.key, "version": await shared.cas(ask.key, ask.expected, ask.value)}


async def kv_list(node: LiveNode, ask: ListAsk) -> dict[str, Any]:
    keys = await _shared(node).keys(ask.prefix)
    entries = _shared(node).machine.state.keys
    rows = [
        {"key": key, "version": entries[key].version, "bytes": len(entries[key].data)}
        for key in keys[: ask.limit]
    ]
    return {"keys": rows, "more": max(0, len(keys) - ask.limit)}


VERBS: tuple[DoorVerb, ...] = (
    DoorVerb(name="claim", takes=ClaimAsk, act=claim),
    DoorVerb(name="renew", takes=TokenAsk, act=renew),
    DoorVerb(name="release", takes=TokenAsk, act=release),
    DoorVerb(name="submit", takes=SubmitAsk, act=submit),
    DoorVerb(name="task", takes=TaskAsk, act=task),
    DoorVerb(name="kv-get", takes=KeyAsk, act=kv_get),
    DoorVerb(name="kv-put", takes=PutAsk, act=kv_put),
    DoorVerb(name="kv-delete", takes=DeleteAsk, act=kv_delete),
    DoorVerb(name="kv-cas", takes=CasAsk, act=kv_cas),
    DoorVerb(name="kv-list", takes=ListAsk, act=kv_list),
)
