"""What the timeline's entries do: each act gets (ctx, a, b) and moves one machine. Then all settles."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from grove_core.machine import CONNECT, PeerId

if TYPE_CHECKING:
    from grove_core.drive.virtual.context import Exchange, VirtualContext
    from grove_core.drive.virtual.link import Link
    from grove_core.drive.virtual.node import VirtualNode
    from grove_core.drive.virtual.world import World


def outside(ctx: None, act: Callable[[], None], _: None) -> None:
    act()


def start(_ctx: None, node: VirtualNode, _: None) -> None:
    if node.alive:
        return
    node.wake()
    for ctx in node.contexts:
        ctx.machine.on_start(ctx)
        node.world.settle()


def arrive(ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    """A message is at its target's door."""
    world = ctx.world
    if not ctx.alive:
        world.undeliverable += 1
        if world.mourned:
            world.miss(world.nodes[peer], ctx.node)
        return
    if world.is_plain or _passes(world, ctx, peer, msg):
        ctx.handlers[type(msg)](ctx.machine, ctx, peer, msg)


def _passes(world: World, ctx: VirtualContext, peer: PeerId, msg: Any) -> bool:
    """Whether a message may be handed over now: no cut, its proofs hold, the processor is free."""
    source = world.nodes[peer]
    if not world.reaches(source, ctx.node):
        world.undeliverable += 1
        return False
    bad = world.forged(ctx, msg)
    if bad != ():
        world.refused += 1
        if bad is None or ctx.slot.spec.forged == "disconnect":
            world.reset(ctx.node, source)
        else:
            ctx.machine.on_forged(ctx, peer, msg, bad)
        return False
    if world.cost is not None:
        done = world.occupy(ctx.node, world.cost(ctx, msg))
        if done > world.now:
            world.push((done, deliver, ctx, peer, msg))
            return False
    return True


def deliver(ctx: VirtualContext, peer: PeerId, msg: Any) -> None:
    """A message that had to wait for its receiver's processor."""
    if not ctx.alive:
        ctx.world.undeliverable += 1
    else:
        ctx.machine.on_message(ctx, peer, msg)


def visited(source: VirtualContext, target: VirtualNode, msg: Any) -> None:
    """A message that came over a temporary connection, if it could be opened."""
    world = source.world
    ctx = world.counterparts(source.node, target)[source.index]
    if ctx is None or (not world.is_plain and not world.reaches(target, source.node)):
        world.undeliverable += 1
    else:
        arrive(ctx, source.me, msg)


def fire(ctx: VirtualContext, key: Hashable, number: int) -> None:
    if ctx.alive and ctx.timers.get(key) == number:
        del ctx.timers[key]
        ctx.machine.on_timer(ctx, key)


def durable(ctx: VirtualContext, _a: None, _b: None) -> None:
    """The oldest record is durable: whatever waited for it, up to the next record, takes place."""
    held = ctx.held_back
    if not ctx.alive or held is None:
        return
    _, key, value = held.popleft()
    ctx.node.write(ctx.slot.name, key, value)
    ctx.held_back = None
    while held and held[0][0] is not None:
        effect = held.popleft()
        effect[0](ctx, *effect[1:])
    if held:
        ctx.held_back = held


def ask(asker: VirtualContext, exchange: Exchange, what: tuple[VirtualNode, Any]) -> None:
    target, msg = what
    world = asker.world
    if not world.is_plain and not world.reaches(asker.node, target):
        return  # the asker's deadline answers
    back = world.now + world.delay(target.index, asker.node.index)
    if not target.alive:
        world.push((back, fail, asker, exchange, "unreachable"))
        return
    server = world.counterparts(asker.node, target)[asker.index]
    if server is None:
        world.push((back, fail, asker, exchange, "refused"))
        return
    if server.owed is None:
        server.owed = {}
    waiting = sum(1 for other in server.owed.values() if other.asker.node is asker.node)
    if waiting >= server.slot.spec.requests or not world.holds(server, msg):
        world.refused += 1
        world.push((back, fail, asker, exchange, "refused"))
        return
    exchange.server = server
    exchange.token = world.next_token()
    server.owed[exchange.token] = exchange
    server.machine.on_request(server, asker.me, msg, exchange.token)


def answer(asker: VirtualContext, exchange: Exchange, what: tuple[VirtualContext, Any]) -> None:
    server, msg = what
    world = asker.world
    if not asker.alive or not asker.asked or asker.asked.get(exchange.key) is not exchange:
        return
    if not world.is_plain and not world.reaches(server.node, asker.node):
        return
    del asker.asked[exchange.key]
    if world.holds(asker, msg):
        asker.machine.on_reply(asker, exchange.key, exchange.peer, msg)
    else:
        world.refused += 1
        asker.machine.on_failure(asker, exchange.key, exchange.peer, "invalid")


def fail(asker: VirtualContext, exchange: Exchange, reason: str) -> None:
    if exchange.server is not None and exchange.server.owed:
        exchange.server.owed.pop(exchange.token, None)
    if asker.alive and asker.asked and asker.asked.get(exchange.key) is exchange:
        del asker.asked[exchange.key]
        asker.machine.on_failure(asker, exchange.key, exchange.peer, reason)


def dialled(ctx: VirtualContext, peer: PeerId, failure: str) -> None:
    node = ctx.node
    world = node.world
    if not ctx.alive:
        return
    waiting = node.dialling.pop(peer, {})
    target = world.nodes.get(peer)
    if not failure and (target is None or not target.alive):
        failure = "unreachable"
    end = node.links.get(peer)  # the other side may have dialled us meanwhile
    if end is None and (failure or target is None):
        for one in waiting:
            one.machine.on_failure(one, CONNECT, peer, failure)
        return
    is_new = end is None
    if end is None:
        assert target is not None
        world.open(node, target)
        end = node.links[peer]
    for one in waiting:
        world.hold(one, end, announce=not is_new)


def refused(ctx: VirtualContext, peer: PeerId, _: None) -> None:
    """The peer is up but does not speak this machine's protocol."""
    if ctx.alive:
        ctx.machine.on_failure(ctx, CONNECT, peer, "refused")


def up(ctx: VirtualContext, peer: PeerId, link: Link) -> None:
    if ctx.alive and link.is_open:
        ctx.machine.on_peer_up(ctx, peer)


def lost(_ctx: None, node: VirtualNode, what: tuple[PeerId, Link]) -> None:
    """A node notices that a connection is gone."""
    peer, link = what
    current = node.links.get(peer)
    if current is not None:
        if current.link is not link:
            return  # already replaced by a newer connection
        del node.links[peer]
    uses = node.world.match(node, node.world.nodes[peer])[1]
    for ctx in node.contexts:
        if uses[ctx.index]:
            ctx.machine.on_peer_down(ctx, peer)


def idle(ctx: VirtualContext, link: Link, _: None) -> None:
    """A connection that nobody held is closed if still nobody holds it."""
    if link.is_open and not link.held:
        ctx.world.reset(link.ends[1].other, link.ends[0].other)
