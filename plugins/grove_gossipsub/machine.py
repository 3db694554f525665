"""GossipSub as a machine: a mesh per topic that carries messages, and gossip that mends it.

libp2p/specs pubsub/gossipsub v1.0 (mesh, fanout, gossip), v1.1 (scores, backoff, peer exchange,
outbound quota, flood publishing, opportunistic grafting, validators), v1.2 (IDONTWANT) and v1.3
(extensions, of which we have none); floodsub peers get every message of their topics. Where the texts
leave something open it is done as in go-libp2p-pubsub's gossipsub.go.

Left to others: connections (a membership that keeps a score of them, as the pool does), signatures (the
driver checks `messages.proofs` and names the forged ones), order: there is none. Scores are counted in
scoring.py, what was heard is kept in mcache.py.

Invariants, between two inputs:
1. A mesh holds connected peers that speak meshsub and want its topic, none of them direct or in
   backoff when they were grafted. Its values say whether we dialled them.
2. `mesh` has exactly the topics subscribed to; `fanout` has none of them.
3. A message is Delivered at most once in `seen_ttl`, and passed on only when it is found valid.
4. A heartbeat is due whenever there is something to tend (`_is_quiet` says what that is).

Deviations: a node with nothing to tend skips heartbeats, and counts them as if it had not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, Final, TypeAlias

from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, PeerFound
from grove_core.machine import CONNECT, LOST, Context, Machine, PeerId, Terms, handles
from grove_gossipsub.backoff import Backoffs
from grove_gossipsub.config import Config
from grove_gossipsub.events import ValidationRequested, Verdict
from grove_gossipsub.mcache import MessageCache, Seen
from grove_gossipsub.messages import (
    MAX_ID,
    MAX_TOPIC,
    NAMED,
    Graft,
    IDontWant,
    IHave,
    IWant,
    PeerInfo,
    Prune,
    Publication,
    Rpc,
    Subscription,
    forged,
    signed_bytes,
    split,
)
from grove_gossipsub.peers import VERSIONS, Neighbor, Promises
from grove_gossipsub.scoring import Scores

Ctx: TypeAlias = Context[Rpc]

Validator: TypeAlias = Callable[[Publication], Verdict]
"""Judges a message of a topic at once. Pure, for it runs in virtual time too."""

HEARTBEAT: Final = "heartbeat"
SEQNO: Final = "seqno"
FIRST_SEQNO: Final = 1 << 60
"""Its eight bytes begin with none that is zero: js floodsub checks signatures over the number written
anew, without leading zeros. Below the nanoseconds since 1970 with which others begin."""
SEQNO_BLOCK: Final = 1024
"""Sequence numbers made durable at a time, so that publishing waits for the disk once in 1024."""
BACKOFF_SLACK: Final = 2
"""Heartbeats after a backoff before we graft again."""
BACKOFF_CLEAR: Final = 15
"""Heartbeats between two clearings of expired backoffs."""
PX_BYTES: Final = 8 * 1024
"""Bytes of signed records in one PRUNE; peers beyond are named without one."""
MAX_BACKOFF: Final = 86_400
"""Seconds of backoff we believe."""
EXTENSIONS_ABUSE: Final = 10.0
"""P7 for extensions that do not come in a peer's first RPC."""
WOO: Final = 30.0
"""Seconds for which a peer we learnt of by peer exchange is held without being in a mesh."""
NOT_CONNECTED: Final = Terms()
NOTHING: Final[dict[int, None]] = {}


class _Pending:
    """A message that waits for the application's verdict."""

    __slots__ = ("at", "rpc", "sender")

    def __init__(self, rpc: Rpc, sender: PeerId, at: float) -> None:
        self.rpc = rpc
        self.sender = sender
        self.at = at


class _Control:
    """What one peer is told at the end of a heartbeat."""

    __slots__ = ("graft", "ihave", "prune")

    def __init__(self) -> None:
        self.graft: list[Graft] = []
        self.prune: list[Prune] = []
        self.ihave: list[IHave] = []


class GossipSub(Machine[Rpc]):
    """One node's broadcast. Emits Delivered, ValidationRequested and PeerFound."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.peers: dict[PeerId, Neighbor] = {}
        self.strays: dict[PeerId, None] = {}
        """Of these, who spoke before they were announced; their end may not be announced either."""
        self.topic_peers: dict[str, dict[PeerId, None]] = {}
        """Who subscribes to what, as far as we are connected."""
        self.mesh: dict[str, dict[PeerId, bool]] = {}
        self.fanout: dict[str, dict[PeerId, None]] = {}
        self.published: dict[str, float] = {}
        """When we last published to a fanout topic; the longest unused first."""
        self.beside: dict[str, dict[PeerId, None]] = {}
        """Subscribers that get every message outside any mesh: direct and floodsub peers."""
        self.backoff = Backoffs(BACKOFF_SLACK * config.heartbeat, config.backoffs)
        self.mcache = MessageCache(config.mcache_len, config.mcache_gossip, config.mcache_bytes)
        self.seen = Seen(config.seen_ttl, config.seen_messages)
        self.promises = Promises()
        self.params = config.params
        self.scores = None if self.params is None else Scores(self.params)
        self.pending: dict[bytes, _Pending] = {}
        self.direct = dict.fromkeys(config.direct_peers)
        self.wooed: dict[PeerId, float] = {}
        """Peers dialled because a PRUNE named them, and until when they are held for it."""
        self.validators: dict[str, Validator] = {}
        self.asks: dict[str, None] = {}
        """Topics whose messages wait for the application's verdict."""
        self.id_of: Callable[[Publication], bytes] = NAMED[config.message_id]
        """Names messages. Every node of a network must use the same."""
        self.ticks = 0
        self._begun_at = 0.0
        self._beat_at = inf
        """When the next heartbeat is due; inf if none is needed."""
        self._counted: dict[PeerId, None] = {}
        self._seqno = self._reserved = FIRST_SEQNO

    # The role (grove_core.roles.BroadcastMachine).

    def publish(self, ctx: Ctx, topic: str, data: bytes) -> bytes:
        """Send data to the subscribers of a topic, subscribed to or not. Returns the message's id.

        topic: 1 to 512 bytes of UTF-8. data: at most `max_payload` bytes. LocalProtocolError otherwise.
        Under StrictNoSign equal data is an equal message, and is sent once in `seen_ttl`.
        """
        _check_topic(topic)
        if len(data) > self.config.max_payload:
            raise LocalProtocolError(
                f"payload of {len(data)} bytes; limit {self.config.max_payload} (gossipsub.max_payload)."
                " Store it and publish its hash"
            )
        publication = self._sign(ctx, topic, bytes(data))
        mid = self.id_of(publication)
        if mid in self.seen.times:
            return mid
        rpc = Rpc(publish=(publication,))
        self.seen.add(mid, ctx.now)
        self.mcache.put(mid, topic, rpc)
        if topic in self.mesh:
            ctx.emit(Delivered(topic, mid, publication.author, publication.data, 0))
        for peer in self._audience(ctx, topic):
            unwanted = self.peers[peer].unwanted
            if unwanted is None or mid not in unwanted:
                ctx.send(peer, rpc)
        self._wake(ctx)
        return mid

    def subscribe(self, ctx: Ctx, topic: str) -> None:
        """Want Delivered events of a topic: 1 to 512 bytes of UTF-8. JOIN, and all peers are told."""
        _check_topic(topic)
        if topic in self.mesh:
            return
        told = Rpc(subscriptions=(Subscription(True, topic),))
        for peer in self.peers:
            ctx.send(peer, told)
        self.mesh[topic] = {}
        self.published.pop(topic, None)
        wanted = [
            peer
            for peer in self.fanout.pop(topic, ())
            if self._score(peer) >= 0 and not self.backoff.forbids(topic, peer, ctx.now)
        ][: self.config.degree]
        chosen = dict.fromkeys(wanted)
        if len(chosen) < self.config.degree:
            others = [peer for peer in self._candidates(ctx, topic) if peer not in chosen]
            chosen |= dict.fromkeys(_some(ctx, others, self.config.degree - len(chosen)))
        graft = Rpc(graft=(Graft(topic),))
        for peer in chosen:
            self._enter_mesh(ctx, topic, peer)
            ctx.send(peer, graft)
        self._wake(ctx)

    def unsubscribe(self, ctx: Ctx, topic: str) -> None:
        """Want them no longer. LEAVE: the mesh is pruned with the shorter backoff, all peers are told."""
        mesh = self.mesh.get(topic)
        if mesh is None:
            return
        told = Rpc(subscriptions=(Subscription(False, topic),))
        backoff = self.config.unsubscribe_backoff
        for peer in self.peers:
            ctx.send(peer, told)
        for peer in tuple(mesh):
            prune = self._pruned(ctx, topic, peer, backoff, exchange=self.config.peer_exchange)
            self._leave_mesh(ctx, topic, peer)
            ctx.send(peer, Rpc(prune=(prune,)))
        del self.mesh[topic]
        self._wake(ctx)

    def topics(self) -> tuple[str, ...]:
        """Topics subscribed to, in ascending order."""
        return tuple(sorted(self.mesh))

    def links(self) -> Mapping[str, tuple[PeerId, ...]]:
        """Peers that get our messages: of meshes (of topics we want) and of fanouts (of others)."""
        return {
            "mesh": tuple(dict.fromkeys(peer for mesh in self.mesh.values() for peer in mesh)),
            "fanout": tuple(dict.fromkeys(peer for fanout in self.fanout.values() for peer in fanout)),
        }

    # What only GossipSub can do.

    def set_validator(self, ctx: Ctx, topic: str, validator: Validator | None) -> None:
        """Judge every message of a topic at once, before it is delivered; None judges no more."""
        if validator is None:
            self.validators.pop(topic, None)
        else:
            self.validators[topic] = validator

    def ask_application(self, ctx: Ctx, topic: str, ask: bool = True) -> None:
        """Emit ValidationRequested for every message of a topic, and wait for `validated`."""
        if ask:
            self.asks[topic] = None
        else:
            self.asks.pop(topic, None)

    def validated(self, ctx: Ctx, message_id: bytes, verdict: Verdict) -> None:
        """The application's verdict on a message; one that nobody waits for is nothing."""
        pending = self.pending.pop(message_id, None)
        if pending is not None:
            self._judged(ctx, pending.sender, message_id, pending.rpc, verdict)
            self._wake(ctx)

    def set_app_score(self, ctx: Ctx, peer: PeerId, value: float) -> None:
        """P5: what the application thinks of a peer. Nothing if peers are not scored."""
        if self.scores is not None:
            self.scores.set_app(peer, value)

    def score(self, peer: PeerId) -> float:
        """A peer's score now; 0 if peers are not scored."""
        return self._score(peer)

    # Life, and peers that come and go.

    def on_start(self, ctx: Ctx) -> None:
        record = ctx.load(SEQNO)
        if record is not None:  # the last life may have used all it had reserved
            self._seqno = self._reserved = max(int.from_bytes(record[:8], "big"), FIRST_SEQNO)
        if ctx.load(LOST) is not None:
            # The disk forgot which numbers were used: begin where, all but surely, none was.
            self._seqno = self._reserved = FIRST_SEQNO + ctx.rng.getrandbits(60)
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
            ctx.save(LOST, None)
        self._begun_at = ctx.now + self.config.heartbeat_start
        for peer in self.direct:
            ctx.connect(peer)
        self._wake(ctx)

    def on_stop(self, ctx: Ctx) -> None:
        for topic in tuple(self.mesh):
            self.unsubscribe(ctx, topic)

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        """A new peer: the first thing it hears is what we subscribe to (and that we speak 1.3)."""
        neighbor = self._neighbor(ctx, peer)
        if neighbor is None:
            return
        if neighbor.is_up:
            self._again(ctx, peer, neighbor)
            return
        neighbor.is_up = True
        self.strays.pop(peer, None)
        subscriptions = tuple(Subscription(True, topic) for topic in self.mesh)
        if subscriptions or neighbor.version >= 13:
            _send(ctx, peer, Rpc(subscriptions, extensions=neighbor.version >= 13))
        self._wake(ctx)

    def _again(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor) -> None:
        """It was up already. If that does not answer a `connect`, our stream was lost and is open again:
        js forgets a peer whose stream it lost, so it is told our subscriptions and meshes once more."""
        if neighbor.holds:
            neighbor.holds -= 1
            return
        subscriptions = tuple(Subscription(True, topic) for topic in self.mesh)
        graft = tuple(Graft(topic) for topic, mesh in self.mesh.items() if peer in mesh)
        if subscriptions:
            _send(ctx, peer, Rpc(subscriptions, graft=graft))

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        self._forget(ctx, peer)

    def on_failure(self, ctx: Ctx, key: Any, peer: PeerId, reason: str) -> None:
        if key is CONNECT:
            self.wooed.pop(peer, None)

    def _neighbor(self, ctx: Ctx, peer: PeerId) -> Neighbor | None:
        """A peer's entry, made if there is room; a peer may speak before it is announced."""
        neighbor = self.peers.get(peer)
        if neighbor is not None and neighbor.is_up:
            return neighbor
        terms = ctx.terms(peer)
        version = VERSIONS.get(terms.protocol, 10)
        if neighbor is None:
            if len(self.peers) >= self.config.peers:
                return None
            neighbor = self.peers[peer] = Neighbor(version, terms.outbound)
            self.strays[peer] = None
            self._wake(ctx)
            if self.scores is not None and peer not in self.direct:
                self.scores.add(peer, terms.host)
        elif neighbor.version != version:
            neighbor.version = version
            for topic in neighbor.topics:
                self._place(topic, peer, neighbor)
        neighbor.outbound = terms.outbound
        return neighbor

    def _forget(self, ctx: Ctx, peer: PeerId) -> None:
        """A peer is gone: without PRUNE and backoff, for it may come back."""
        neighbor = self.peers.get(peer)
        if neighbor is None:
            return
        for topic in tuple(neighbor.topics):
            self._unsubscribed(ctx, peer, neighbor, topic)
        del self.peers[peer]
        self.strays.pop(peer, None)
        self._counted.pop(peer, None)
        self.wooed.pop(peer, None)
        self.promises.forget(peer)
        if self.scores is not None:
            self.scores.remove(peer, ctx.now)
        self._wake(ctx)

    # An RPC comes in: subscriptions, messages, control.

    @handles(Rpc)
    def on_rpc(self, ctx: Ctx, peer: PeerId, msg: Rpc) -> None:
        self._receive(ctx, peer, msg, NOTHING)

    def on_forged(self, ctx: Ctx, peer: PeerId, msg: Rpc, bad: tuple[int, ...]) -> None:
        """Some signatures do not hold: P4 for those messages, the rest is as good as ever."""
        self._receive(ctx, peer, msg, forged(msg, bad))

    def _receive(self, ctx: Ctx, peer: PeerId, msg: Rpc, bad: dict[int, None]) -> None:
        neighbor = self.peers.get(peer)
        if neighbor is None or not neighbor.is_up:
            neighbor = self._neighbor(ctx, peer)
            if neighbor is None:
                return
        params = self.params
        if params is not None and self._score(peer) < params.graylist_threshold:
            return
        for subscription in msg.subscriptions:
            self._subscription(ctx, peer, neighbor, subscription)
        for place, publication in enumerate(msg.publish):
            self._message(ctx, peer, msg, publication, is_forged=place in bad)
        if msg.extensions and neighbor.has_spoken:
            self._misbehaved(peer, EXTENSIONS_ABUSE)
        neighbor.has_spoken = True
        if neighbor.version < 10:
            return  # floodsub has no control
        if msg.idontwant:
            self._idontwant(ctx, peer, neighbor, msg.idontwant)
        if msg.ihave:
            self._ihave(ctx, peer, neighbor, msg.ihave)
        if msg.iwant:
            self._iwant(ctx, peer, neighbor, msg.iwant)
        if msg.graft:
            self._grafted(ctx, peer, neighbor, msg.graft)
        for prune in msg.prune:
            self._prune_received(ctx, peer, prune)

    def _subscription(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, told: Subscription) -> None:
        topic = told.topic
        if not told.subscribe:
            self._unsubscribed(ctx, peer, neighbor, topic)
        elif topic not in neighbor.topics and len(neighbor.topics) < self.config.topics_per_peer:
            neighbor.topics[topic] = None
            self.topic_peers.setdefault(topic, {})[peer] = None
            self._place(topic, peer, neighbor)
            if topic in self.mesh:
                self._wake(ctx)

    def _unsubscribed(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, topic: str) -> None:
        if topic not in neighbor.topics:
            return
        del neighbor.topics[topic]
        _discard(self.topic_peers, topic, peer)
        _discard(self.beside, topic, peer)
        if peer in self.mesh.get(topic, ()):
            self._leave_mesh(ctx, topic, peer)
            self._wake(ctx)
        if topic in self.fanout:
            self.fanout[topic].pop(peer, None)

    def _place(self, topic: str, peer: PeerId, neighbor: Neighbor) -> None:
        """Direct and floodsub peers stand beside the mesh."""
        if neighbor.version < 10 or peer in self.direct:
            self.beside.setdefault(topic, {})[peer] = None
        else:
            _discard(self.beside, topic, peer)

    # Messages: seen or new, valid or not, delivered and passed on.

    def _message(
        self, ctx: Ctx, peer: PeerId, rpc: Rpc, publication: Publication, *, is_forged: bool
    ) -> None:
        topic = publication.topic
        if topic not in self.mesh:
            return  # nobody here asked for it, so nobody is blamed for what it is
        scores = self.scores
        if is_forged or not self._keeps_policy(publication):
            if scores is not None:
                scores.invalid(peer, topic)
            return
        if len(publication.data) > self.config.max_payload:
            return  # more than we pass on, and not worth a hash
        mid = self.id_of(publication)
        if mid in self.seen.times:
            if scores is not None:
                scores.duplicate(peer, mid, topic, ctx.now)
            return
        if publication.author == ctx.me:
            return  # our own, come back
        self.seen.add(mid, ctx.now)
        if self.promises:
            self.promises.kept(mid)
        if scores is not None:
            scores.validating(mid, ctx.now)
        if self.config.idontwant and len(publication.data) >= self.config.idontwant_size:
            self._spare_copies(ctx, peer, topic, mid)
        if len(rpc.publish) != 1 or not _is_plain(rpc):
            rpc = Rpc(publish=(publication,))
        validator = self.validators.get(topic)
        verdict: Verdict = "accept" if validator is None else validator(publication)
        if verdict == "accept" and topic in self.asks:
            if len(self.pending) < self.config.validations:
                self.pending[mid] = _Pending(rpc, peer, ctx.now)
                ctx.emit(ValidationRequested(mid, topic, publication.author, publication.data, peer))
                self._wake(ctx)
                return
            verdict = "ignore"  # throttled, which is nobody's fault
        self._judged(ctx, peer, mid, rpc, verdict)
        self._wake(ctx)

    def _keeps_policy(self, p: Publication) -> bool:
        """StrictSign: author, seqno of 8 bytes and a signature. StrictNoSign: nothing of it."""
        if self.config.signing == "strict":
            return bool(p.author and p.signature) and len(p.seqno) == 8
        return not (p.author or p.seqno or p.signature or p.key)

    def _judged(self, ctx: Ctx, sender: PeerId, mid: bytes, rpc: Rpc, verdict: Verdict) -> None:
        publication = rpc.publish[0]
        topic = publication.topic
        if verdict != "accept":
            if self.scores is not None:
                if verdict == "reject":
                    self.scores.refused(sender, mid, topic)
                else:
                    self.scores.ignored(mid)
            return
        if self.scores is not None:
            self.scores.delivered(sender, mid, topic, ctx.now)
        if topic in self.mesh:
            ctx.emit(Delivered(topic, mid, publication.author, publication.data, 1))
        self.mcache.put(mid, topic, rpc)
        author = publication.author
        peers = self.peers
        for peer in self.mesh.get(topic, ()):
            if peer != sender and peer != author:
                unwanted = peers[peer].unwanted
                if unwanted is None or mid not in unwanted:
                    ctx.send(peer, rpc)
        for peer in self.beside.get(topic, ()):
            if peer not in (sender, author) and self._may_flood(peer):
                unwanted = peers[peer].unwanted
                if unwanted is None or mid not in unwanted:
                    ctx.send(peer, rpc)

    def _spare_copies(self, ctx: Ctx, sender: PeerId, topic: str, mid: bytes) -> None:
        """IDONTWANT, before validation: the others' copies may be on their way already."""
        told: Rpc | None = None
        for peer in self.mesh[topic]:
            if peer != sender and self.peers[peer].version >= 12:
                told = told or Rpc(idontwant=(IDontWant((mid,)),))
                ctx.send(peer, told)

    def _audience(self, ctx: Ctx, topic: str) -> Iterable[PeerId]:
        """Whom an own message goes to."""
        subscribed = self.topic_peers.get(topic, {})
        if self.config.flood_publish:
            return [peer for peer in subscribed if self._may_flood(peer)]
        beside = [peer for peer in self.beside.get(topic, ()) if self._may_flood(peer)]
        mesh: Mapping[PeerId, Any] | None = self.mesh.get(topic)
        if mesh is None:
            fanout = self.fanout.get(topic)
            if not fanout:
                able = [
                    peer
                    for peer in subscribed
                    if peer not in self.beside.get(topic, ()) and self._may_flood(peer)
                ]
                fanout = dict.fromkeys(_some(ctx, able, self.config.degree))
            self.published.pop(topic, None)
            self.published[topic] = ctx.now
            self.fanout[topic] = fanout
            if len(self.published) > self.config.fanout_topics:
                self._drop_fanout(next(iter(self.published)))
            mesh = fanout
        return (*mesh, *beside)

    def _may_flood(self, peer: PeerId) -> bool:
        """A direct peer, or one whose score is not below the publish threshold."""
        params = self.params
        return params is None or peer in self.direct or self._score(peer) >= params.publish_threshold

    def _drop_fanout(self, topic: str) -> None:
        self.fanout.pop(topic, None)
        self.published.pop(topic, None)

    # Control: gossip.

    def _ihave(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, told: tuple[IHave, ...]) -> None:
        """Ask for what we have not seen, within bounds, and hold the peer to one of the ids."""
        config, params = self.config, self.params
        if params is not None and self._score(peer) < params.gossip_threshold:
            return
        self._count(ctx, peer)
        neighbor.ihaves += 1
        if neighbor.ihaves > config.max_ihave_messages or neighbor.asked >= config.max_ihave_ids:
            return
        wanted: dict[bytes, None] = {}
        for ihave in told:
            if ihave.topic in self.mesh:
                for mid in ihave.ids:
                    if mid not in self.seen.times and len(mid) <= MAX_ID:
                        wanted[mid] = None
        if not wanted:
            return
        ids = _some(ctx, list(wanted), config.max_ihave_ids - neighbor.asked)
        neighbor.asked += len(ids)
        self.promises.add(ctx.rng.choice(ids), peer, ctx.now + config.iwant_followup)
        _send(ctx, peer, Rpc(iwant=(IWant(tuple(ids)),)))

    def _iwant(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, told: tuple[IWant, ...]) -> None:
        """Give what the cache still has, each message a few times and no more."""
        params = self.params
        if params is not None and self._score(peer) < params.gossip_threshold:
            return
        asked = dict.fromkeys(mid for iwant in told for mid in iwant.ids)
        for mid in asked:
            if neighbor.unwanted is not None and mid in neighbor.unwanted:
                continue
            rpc = self.mcache.give(mid, peer, self.config.retransmissions)
            if rpc is not None:
                ctx.send(peer, rpc)

    def _idontwant(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, told: tuple[IDontWant, ...]) -> None:
        """Remember for a few heartbeats what a peer has. What was sent already was sent."""
        self._count(ctx, peer)
        neighbor.idontwants += 1
        if neighbor.idontwants > self.config.max_idontwant_messages:
            return
        until = self._tick(ctx.now) + self.config.idontwant_heartbeats
        unwanted = neighbor.unwanted
        for one in told:
            for mid in one.ids:
                if neighbor.idontwant_ids >= self.config.max_idontwant_ids:
                    return
                neighbor.idontwant_ids += 1
                if len(mid) <= MAX_ID:
                    if unwanted is None:
                        unwanted = neighbor.unwanted = {}
                    unwanted[mid] = until

    # Control: the mesh.

    def _grafted(self, ctx: Ctx, peer: PeerId, neighbor: Neighbor, told: tuple[Graft, ...]) -> None:
        """Take a peer into the mesh, or answer PRUNE and say why by what it does to its score."""
        refused: list[Prune] = []
        for graft in dict.fromkeys(told):
            topic = graft.topic
            mesh = self.mesh.get(topic)
            if mesh is None or peer in mesh:
                continue  # an unknown topic is not answered: a flood of them would be amplified
            exchange = self.config.peer_exchange
            if peer in self.direct:
                exchange = False  # a misconfiguration: both sides should know
            elif self.backoff.holds(topic, peer, ctx.now):
                early = ctx.now - self.backoff.since(topic, peer) < self.config.graft_flood
                self._misbehaved(peer, 2.0 if early else 1.0)
                exchange = False
            elif self._score(peer) < 0:
                exchange = False
            elif len(mesh) < self.config.degree_high or neighbor.outbound:
                if topic not in neighbor.topics:  # its subscription was lost or is on its way
                    self._subscription(ctx, peer, neighbor, Subscription(True, topic))
                if topic in neighbor.topics:
                    self._enter_mesh(ctx, topic, peer)
                    self._wake(ctx)
                    continue
            refused.append(self._pruned(ctx, topic, peer, self.config.prune_backoff, exchange=exchange))
        if refused:
            _send(ctx, peer, Rpc(prune=tuple(refused)))

    def _prune_received(self, ctx: Ctx, peer: PeerId, prune: Prune) -> None:
        topic = prune.topic
        mesh = self.mesh.get(topic)
        if mesh is None:
            return
        if peer in mesh:
            self._leave_mesh(ctx, topic, peer)
        seconds = min(prune.backoff, MAX_BACKOFF) if prune.backoff else self.config.prune_backoff
        self.backoff.add(topic, peer, ctx.now, seconds)
        params = self.params
        if prune.peers and (params is None or self._score(peer) >= params.accept_px_threshold):
            self._exchange(ctx, topic, prune.peers)
        self._wake(ctx)

    def _exchange(self, ctx: Ctx, topic: str, named: tuple[PeerInfo, ...]) -> None:
        """Peers of the topic to try instead. The driver verifies their records."""
        for info in _some(ctx, list(named), self.config.prune_peers):
            peer = PeerId(info.peer)
            if not 1 <= len(peer) <= 64 or len(info.record) > 1024 or peer == ctx.me:
                continue
            if peer in self.peers or peer in self.wooed:
                continue
            if info.record:
                ctx.emit(PeerFound(peer, info.record))
            if len(self.mesh[topic]) < self.config.degree and (
                len(self.wooed) < 4 * self.config.prune_peers
            ):
                self.wooed[peer] = ctx.now + WOO
                ctx.connect(peer)

    def _enter_mesh(self, ctx: Ctx, topic: str, peer: PeerId) -> None:
        neighbor = self.peers[peer]
        self.mesh[topic][peer] = neighbor.outbound
        neighbor.meshes += 1
        if neighbor.meshes == 1:
            neighbor.holds += neighbor.is_up
            ctx.connect(peer)  # it is up: this only holds it
        if self.scores is not None:
            self.scores.graft(peer, topic, ctx.now)

    def _leave_mesh(self, ctx: Ctx, topic: str, peer: PeerId) -> None:
        del self.mesh[topic][peer]
        neighbor = self.peers[peer]
        neighbor.meshes -= 1
        if not neighbor.meshes and peer not in self.direct:
            ctx.disconnect(peer, "in no mesh")
        if self.scores is not None:
            self.scores.prune(peer, topic)

    def _pruned(self, ctx: Ctx, topic: str, peer: PeerId, seconds: float, *, exchange: bool) -> Prune:
        """A PRUNE for a peer, as its version understands it; from now on it is in backoff."""
        self.backoff.add(topic, peer, ctx.now, seconds)
        if self.peers[peer].version < 11:
            return Prune(topic)
        others: list[PeerInfo] = []
        if exchange:
            good = [
                other
                for other in self.topic_peers.get(topic, ())
                if other != peer and self._score(other) >= 0
            ]
            room = PX_BYTES
            for other in _some(ctx, good, self.config.prune_peers):
                record = ctx.record(other)
                room -= len(record)
                others.append(PeerInfo(other, record if room >= 0 else b""))
        return Prune(topic, tuple(others), round(seconds))

    def _candidates(self, ctx: Ctx, topic: str) -> list[PeerId]:
        """Whom we may graft: subscribed, meshsub, not direct, in no backoff, of no negative score."""
        mesh, beside = self.mesh[topic], self.beside.get(topic, ())
        forbids, now = self.backoff.forbids, ctx.now
        return [
            peer
            for peer in self.topic_peers.get(topic, ())
            if peer not in mesh
            and peer not in beside
            and not forbids(topic, peer, now)
            and self._score(peer) >= 0
        ]

    # The heartbeat.

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        now = ctx.now
        self._beat_at = inf
        self.ticks = self._tick(now)
        if self.scores is not None:
            self.scores.tick(now)
        self._clear_counters()
        for peer, count in self.promises.broken(now).items():
            self._misbehaved(peer, float(count))
        self.seen.forget(now)
        if self.backoff and self.ticks % BACKOFF_CLEAR == 0:
            self.backoff.clear(now)
        for mid, pending in tuple(self.pending.items()):
            if now - pending.at >= self.config.validation_timeout:
                self.validated(ctx, mid, "ignore")
        if self.ticks % self.config.direct_ticks == 0:
            for peer in self.direct:
                if peer not in self.peers:
                    ctx.connect(peer)
        for peer in tuple(self.strays):
            if ctx.terms(peer) == NOT_CONNECTED:
                self._forget(ctx, peer)
        self._end_wooing(ctx)
        told: dict[PeerId, _Control] = {}
        announced = self.mcache.announced() if self.mcache else {}
        for topic, mesh in self.mesh.items():
            self._tend_mesh(ctx, topic, mesh, told)
            if topic in announced:
                self._gossip(ctx, topic, mesh, announced[topic], told)
        for topic in tuple(self.fanout):
            self._tend_fanout(ctx, topic)
            if topic in announced and topic in self.fanout:
                self._gossip(ctx, topic, self.fanout[topic], announced[topic], told)
        for peer, control in told.items():
            _send(
                ctx,
                peer,
                Rpc(ihave=tuple(control.ihave), graft=tuple(control.graft), prune=tuple(control.prune)),
            )
        if self.mcache:
            self.mcache.shift()
        self._wake(ctx)

    def _tend_mesh(
        self, ctx: Ctx, topic: str, mesh: dict[PeerId, bool], told: dict[PeerId, _Control]
    ) -> None:
        config = self.config
        if self.scores is not None:
            for peer in tuple(mesh):
                if self._score(peer) < 0:
                    self._cut(ctx, topic, peer, told, exchange=False)
        if len(mesh) < config.degree_low:
            candidates = self._candidates(ctx, topic)
            self._join(ctx, topic, _some(ctx, candidates, config.degree - len(mesh)), told)
        elif len(mesh) >= config.degree_high:
            kept = self._worth_keeping(ctx, mesh)
            for peer in tuple(mesh):
                if peer not in kept:
                    self._cut(ctx, topic, peer, told, exchange=config.peer_exchange)
        if len(mesh) >= config.degree_low:
            missing = config.degree_out - sum(mesh.values())
            if missing > 0:
                peers = self.peers
                candidates = [p for p in self._candidates(ctx, topic) if peers[p].outbound]
                self._join(ctx, topic, _some(ctx, candidates, missing), told)
        if self.scores is not None and self.ticks % config.opportunistic_ticks == 0 and len(mesh) > 1:
            self._graft_better(ctx, topic, mesh, told)

    def _worth_keeping(self, ctx: Ctx, mesh: dict[PeerId, bool]) -> dict[PeerId, None]:
        """D of a mesh: the best by score, the rest at random, with D_out that we dialled among them."""
        config = self.config
        order = list(mesh)
        ctx.rng.shuffle(order)
        if self.scores is not None:
            order.sort(key=self._score, reverse=True)
        rest = order[config.degree_score :]
        ctx.rng.shuffle(rest)
        order[config.degree_score :] = rest
        kept, left = order[: config.degree], order[config.degree :]
        missing = config.degree_out - sum(mesh[peer] for peer in kept)
        for peer in [peer for peer in left if mesh[peer]][: max(missing, 0)]:
            worst = next(index for index in reversed(range(len(kept))) if not mesh[kept[index]])
            kept[worst] = peer
        return dict.fromkeys(kept)

    def _graft_better(
        self, ctx: Ctx, topic: str, mesh: dict[PeerId, bool], told: dict[PeerId, _Control]
    ) -> None:
        """Opportunistic grafting: a mesh of mediocre peers takes in some that are better."""
        params = self.params
        assert params is not None
        median = sorted(map(self._score, mesh))[len(mesh) // 2]
        if median < params.opportunistic_graft_threshold:
            better = [peer for peer in self._candidates(ctx, topic) if self._score(peer) > median]
            self._join(ctx, topic, _some(ctx, better, self.config.opportunistic_peers), told)

    def _join(self, ctx: Ctx, topic: str, peers: list[PeerId], told: dict[PeerId, _Control]) -> None:
        for peer in peers:
            self._enter_mesh(ctx, topic, peer)
            _of(told, peer).graft.append(Graft(topic))

    def _cut(
        self, ctx: Ctx, topic: str, peer: PeerId, told: dict[PeerId, _Control], *, exchange: bool
    ) -> None:
        self._leave_mesh(ctx, topic, peer)
        seconds = self.config.prune_backoff
        _of(told, peer).prune.append(self._pruned(ctx, topic, peer, seconds, exchange=exchange))

    def _tend_fanout(self, ctx: Ctx, topic: str) -> None:
        fanout = self.fanout[topic]
        if ctx.now - self.published[topic] >= self.config.fanout_ttl:
            self._drop_fanout(topic)
            return
        for peer in tuple(fanout):
            if not self._may_flood(peer):
                del fanout[peer]
        if len(fanout) < self.config.degree:
            beside = self.beside.get(topic, ())
            able = [
                peer
                for peer in self.topic_peers.get(topic, ())
                if peer not in fanout and peer not in beside and self._may_flood(peer)
            ]
            fanout |= dict.fromkeys(_some(ctx, able, self.config.degree - len(fanout)))

    def _gossip(
        self,
        ctx: Ctx,
        topic: str,
        already: Mapping[PeerId, Any],
        ids: list[bytes],
        told: dict[PeerId, _Control],
    ) -> None:
        """Announce what the last windows brought to some who are not sent it anyway."""
        if not ids:
            return
        config, params = self.config, self.params
        beside = self.beside.get(topic, ())
        able = [
            peer
            for peer in self.topic_peers.get(topic, ())
            if peer not in already
            and peer not in beside
            and (params is None or self._score(peer) >= params.gossip_threshold)
        ]
        if not able:
            return
        count = max(config.degree_lazy, int(config.gossip_factor * len(able)))
        if len(ids) <= config.max_ihave_ids:
            ihave = IHave(topic, tuple(ids))
            for peer in _some(ctx, able, count):
                _of(told, peer).ihave.append(ihave)
            return
        for peer in _some(ctx, able, count):  # to each a share of its own, so that all are spoken of
            share = tuple(_some(ctx, ids, config.max_ihave_ids))
            _of(told, peer).ihave.append(IHave(topic, share))

    def _clear_counters(self) -> None:
        for peer in tuple(self._counted):
            neighbor = self.peers[peer]
            neighbor.ihaves = neighbor.asked = neighbor.idontwants = neighbor.idontwant_ids = 0
            unwanted = neighbor.unwanted
            if unwanted is not None:
                for mid, until in tuple(unwanted.items()):
                    if until > self.ticks:
                        break
                    del unwanted[mid]
                if not unwanted:
                    neighbor.unwanted = None
            if neighbor.is_idle:
                del self._counted[peer]

    def _end_wooing(self, ctx: Ctx) -> None:
        for peer, until in tuple(self.wooed.items()):
            if until <= ctx.now:
                del self.wooed[peer]
                neighbor = self.peers.get(peer)
                if neighbor is None or not neighbor.meshes:
                    ctx.disconnect(peer, "in no mesh")

    def _wake(self, ctx: Ctx) -> None:
        """Something changed: see to it that a heartbeat comes when one is needed, and not before."""
        now, interval = ctx.now, self.config.heartbeat
        if self._beat_at <= now + interval:
            return
        if now < self._begun_at:
            due = self._begun_at
        elif self._is_quiet():
            due = self.seen.next_due()
        else:
            due = self._begun_at + self._tick(now) * interval
        if due < self._beat_at:
            self._beat_at = due
            ctx.set_timer(HEARTBEAT, max(due - now, 0.0))

    def _tick(self, now: float) -> int:
        """How many heartbeats have been due by now, skipped ones counted."""
        passed = (now - self._begun_at) / self.config.heartbeat + 0.001  # clocks round
        return int(passed) + 1 if passed >= 0 else 0

    def _is_quiet(self) -> bool:
        """Nothing for a heartbeat to do but to forget ids."""
        if (
            self.scores is not None
            or self.mcache
            or self.fanout
            or self.pending
            or self.wooed
            or self.strays
            or self.promises
            or self._counted
            or self.backoff
            or (self.direct and any(peer not in self.peers for peer in self.direct))
        ):
            return False
        config = self.config
        for topic, mesh in self.mesh.items():
            size = len(mesh)
            if size >= config.degree_high:
                return False
            if size < config.degree_low or sum(mesh.values()) < config.degree_out:
                beside = len(self.beside.get(topic, ()))
                if len(self.topic_peers.get(topic, ())) > size + beside:
                    return False
        return True

    # Inside.

    def _score(self, peer: PeerId) -> float:
        return 0.0 if self.scores is None else self.scores.score(peer)

    def _misbehaved(self, peer: PeerId, count: float) -> None:
        if self.scores is not None:
            self.scores.misbehaved(peer, count)

    def _count(self, ctx: Ctx, peer: PeerId) -> None:
        self._counted[peer] = None
        self._wake(ctx)

    def _sign(self, ctx: Ctx, topic: str, data: bytes) -> Publication:
        if self.config.signing == "none":
            return Publication(topic, data)
        seqno = self._next_seqno(ctx).to_bytes(8, "big")
        bare = Publication(topic, data, ctx.me, seqno)
        return Publication(topic, data, ctx.me, seqno, ctx.sign(signed_bytes(bare)))

    def _next_seqno(self, ctx: Ctx) -> int:
        """Greater than any before, in this life or an earlier one: kubo drops what is not."""
        if self._seqno >= self._reserved:
            self._reserved = self._seqno + SEQNO_BLOCK
            ctx.save(SEQNO, self._reserved.to_bytes(8, "big"))
        seqno = self._seqno
        self._seqno += 1
        return seqno


def _send(ctx: Ctx, peer: PeerId, rpc: Rpc) -> None:
    """Control, in pieces that every peer accepts."""
    for piece in split(rpc):
        ctx.send(peer, piece)


def _some(ctx: Ctx, things: list[Any], most: int) -> list[Any]:
    """At most so many, at random; all of them in their order if they are not more."""
    return things if len(things) <= most else ctx.rng.sample(things, most)


def _of(told: dict[PeerId, _Control], peer: PeerId) -> _Control:
    control = told.get(peer)
    if control is None:
        control = told[peer] = _Control()
    return control


def _discard(table: dict[str, dict[PeerId, None]], topic: str, peer: PeerId) -> None:
    peers = table.get(topic)
    if peers is not None and peer in peers:
        del peers[peer]
        if not peers:
            del table[topic]


def _is_plain(rpc: Rpc) -> bool:
    """Whether an RPC carries messages and nothing else."""
    return not (
        rpc.subscriptions
        or rpc.ihave
        or rpc.iwant
        or rpc.graft
        or rpc.prune
        or rpc.idontwant
        or rpc.extensions
    )


def _check_topic(topic: str) -> None:
    """LocalProtocolError unless a topic has 1 to 512 bytes of UTF-8."""
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise LocalProtocolError(f"topic {topic!r} has a lone surrogate, which UTF-8 lacks") from None
    if not 1 <= size <= MAX_TOPIC:
        raise LocalProtocolError(f"topic of {size} bytes; it must have 1 to {MAX_TOPIC}")
