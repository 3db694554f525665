"""The peer score of GossipSub v1.1: counters, and one pure function from counters to a number.

    score = cap(sum over topics of w (w1 P1 + w2 P2 + w3 P3 + w3b P3b + w4 P4)) + w5 P5 + w6 P6 + w7 P7

    P1   time in the mesh, in quanta, capped          P4  invalid messages, squared
    P2   messages this peer brought first, capped     P5  what the application says
    P3   squared deficit of deliveries in the mesh    P6  squared surplus of peers on one host
    P3b  deficits of meshes it left, kept             P7  squared misbehaviour above a threshold

libp2p/specs pubsub/gossipsub v1.1, "Peer Scoring"; order and edge cases are go-libp2p-pubsub's score.go.
`topic_score` and `peer_score` hold for any numbers, fractions too: what was proved of the
specification (Kumar et al., IEEE S&P 2024) can be checked on them exactly.

Invariants of `Scores`:
1. A counter decays once per `decay_interval`, and is 0 below `decay_to_zero`.
2. Who leaves with a score above 0 is forgotten at once; another is remembered for `retain` seconds,
   and what it was blamed for is there again when it comes back.
3. Tables: one entry per connected peer and scored topic, at most RETAINED who left, and a delivery
   record per message for as long as a copy may still count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from grove_core.machine import PeerId

RETAINED: Final = 4096
"""Peers remembered after they left; the longest gone makes room."""
RECORDED: Final = 120.0
"""Seconds for which the copies of a message are accounted for; go's TimeCacheDuration."""
RECORDS: Final = 65_536
"""Messages whose late copies may still count; the oldest makes room."""


class TopicParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What matters in one topic. Durations are seconds; decays are factors per decay interval.

    Weights of time and first deliveries are >= 0, the others <= 0; a weight of 0 switches a part off.
    """

    weight: float = 1.0
    time_weight: float = 0.0
    time_quantum: float = 1.0
    time_cap: float = 3600.0
    first_weight: float = 0.0
    first_decay: float = 0.5
    first_cap: float = 2000.0
    mesh_weight: float = 0.0
    mesh_decay: float = 0.5
    mesh_cap: float = 100.0
    mesh_threshold: float = 20.0
    mesh_window: float = 0.01
    mesh_activation: float = 5.0
    failure_weight: float = 0.0
    failure_decay: float = 0.5
    invalid_weight: float = 0.0
    invalid_decay: float = 0.3


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What matters beyond topics, and from which score on something happens. Durations are seconds.

    topics: by a word in the topic's name, the first that fits; "" fits every name.
    topic_cap: most that all topics together can bring; 0 is no cap.
    """

    topics: dict[str, TopicParams] = {}
    topic_cap: float = 0.0
    app_weight: float = 0.0
    ip_weight: float = 0.0
    ip_threshold: int = 1
    ip_allowed: tuple[str, ...] = ()
    behaviour_weight: float = 0.0
    behaviour_threshold: float = 0.0
    behaviour_decay: float = 0.2
    decay_interval: float = 1.0
    decay_to_zero: float = 0.01
    retain: float = 3600.0
    gossip_threshold: float = -10.0
    """Below: no gossip to or from the peer."""
    publish_threshold: float = -50.0
    """Below: own messages are not flooded to the peer."""
    graylist_threshold: float = -80.0
    """Below: everything from the peer is ignored."""
    accept_px_threshold: float = 10.0
    """From here on: peers named in its PRUNE are believed."""
    opportunistic_graft_threshold: float = 0.0
    """Median of a mesh below which better peers are grafted."""

    def __post_init__(self) -> None:
        if not self.graylist_threshold <= self.publish_threshold <= self.gossip_threshold <= 0:
            raise ValueError(
                f"graylist_threshold {self.graylist_threshold} <= publish_threshold"
                f" {self.publish_threshold} <= gossip_threshold {self.gossip_threshold} <= 0 must hold"
            )
        if self.accept_px_threshold < 0 or self.opportunistic_graft_threshold < 0:
            raise ValueError("accept_px_threshold and opportunistic_graft_threshold must be 0 or more")


def decay(seconds: float, interval: float = 1.0, to_zero: float = 0.01) -> float:
    """The factor per interval that brings a counter from 1 to to_zero in so many seconds."""
    return float(to_zero ** (interval / seconds))


class TopicCounters:
    """What one peer did in one topic. mesh_time: seconds, as of the last decay; in the mesh or not."""

    __slots__ = ("failures", "first", "grafted_at", "invalid", "is_active", "mesh", "mesh_time")

    def __init__(
        self,
        *,
        grafted_at: float | None = None,
        mesh_time: Any = 0.0,
        is_active: bool = False,
        first: Any = 0.0,
        mesh: Any = 0.0,
        failures: Any = 0.0,
        invalid: Any = 0.0,
    ) -> None:
        self.grafted_at = grafted_at
        self.mesh_time = mesh_time
        self.is_active = is_active
        """Long enough in the mesh for P3 to count."""
        self.first = first
        self.mesh = mesh
        self.failures = failures
        self.invalid = invalid


def topic_score(p: TopicParams, c: TopicCounters) -> Any:
    """P1 to P4 of one topic, weighted, the topic's own weight included."""
    score = p.first_weight * c.first + p.failure_weight * c.failures
    score += p.invalid_weight * (c.invalid * c.invalid)
    if c.grafted_at is not None:
        score += p.time_weight * min(c.mesh_time / p.time_quantum, p.time_cap)
        if c.is_active and c.mesh < p.mesh_threshold:
            deficit = p.mesh_threshold - c.mesh
            score += p.mesh_weight * (deficit * deficit)
    return p.weight * score


def capped(params: Params, topics: Any) -> Any:
    """The sum over topics, no more than the cap."""
    return min(topics, params.topic_cap) if params.topic_cap > 0 else topics


def peer_score(params: Params, topics: Any, app: Any, on_host: int, behaviour: Any) -> Any:
    """The whole score: the sum of the topic scores, P5, how many peers share the host, P7's counter."""
    score = capped(params, topics) + params.app_weight * app
    surplus = on_host - params.ip_threshold
    if surplus > 0:
        score += params.ip_weight * (surplus * surplus)
    excess = behaviour - params.behaviour_threshold
    if excess > 0:
        score += params.behaviour_weight * (excess * excess)
    return score


class _Peer:
    __slots__ = ("app", "behaviour", "cached", "host", "left_at", "topics")

    def __init__(self) -> None:
        self.topics: dict[str, TopicCounters] = {}
        self.app = 0.0
        self.behaviour = 0.0
        self.host = ""
        self.left_at: float | None = None
        self.cached: float | None = None


class _Delivery:
    """A message, first seen `at`. validated_at: None before it was accepted; verdict: "" before any."""

    __slots__ = ("at", "peers", "validated_at", "verdict")

    def __init__(self, at: float) -> None:
        self.at = at
        self.peers: dict[PeerId, None] = {}
        self.validated_at: float | None = None
        self.verdict = ""


class Scores:
    """The counters of all peers, and their scores."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._peers: dict[PeerId, _Peer] = {}
        self._hosts: dict[str, dict[PeerId, None]] = {}
        self._left: dict[PeerId, float] = {}
        self._deliveries: dict[bytes, _Delivery] = {}
        self._topics: dict[str, TopicParams | None] = {}
        self._next_decay: float | None = None

    def score(self, peer: PeerId) -> float:
        """The score now; 0 for who is not known."""
        one = self._peers.get(peer)
        if one is None:
            return 0.0
        if one.cached is None:
            topics = 0.0
            for topic, counters in one.topics.items():
                p = self.topic(topic)
                if p is not None:
                    topics += topic_score(p, counters)
            host = one.host if one.host not in self.params.ip_allowed else ""
            sharing = len(self._hosts.get(host, ())) if host else 0
            one.cached = float(peer_score(self.params, topics, one.app, sharing, one.behaviour))
        return one.cached

    def topic(self, topic: str) -> TopicParams | None:
        """The parameters of a topic, or None if it is not scored."""
        found = self._topics.get(topic)
        if found is None and topic not in self._topics:
            for word, p in self.params.topics.items():
                if word in topic:
                    found = p
                    break
            if len(self._topics) < RETAINED:
                self._topics[topic] = found
        return found

    # Peers come and go.

    def add(self, peer: PeerId, host: str) -> None:
        """A peer is connected; what is remembered of it counts again."""
        one = self._peers.get(peer)
        if one is None:
            one = self._peers[peer] = _Peer()
        self._left.pop(peer, None)
        one.left_at = None
        one.cached = None
        one.host = host
        if host:
            self._hosts.setdefault(host, {})[peer] = None
            self._forget_scores_on(host)

    def remove(self, peer: PeerId, now: float) -> None:
        """A peer is gone: forgotten if its score is above 0, else remembered for a while."""
        one = self._peers.get(peer)
        if one is None or one.left_at is not None:
            return
        is_good = self.score(peer) > 0
        sharing = self._hosts.get(one.host)
        if sharing is not None:
            sharing.pop(peer, None)
            if not sharing:
                del self._hosts[one.host]
            self._forget_scores_on(one.host)
        if is_good:
            del self._peers[peer]
            return
        for topic, counters in one.topics.items():
            counters.first = 0.0
            self._leave_mesh(topic, counters)
        one.left_at = now
        one.cached = None
        self._left[peer] = now
        if len(self._left) > RETAINED:
            longest = next(iter(self._left))
            del self._left[longest], self._peers[longest]

    def graft(self, peer: PeerId, topic: str, now: float) -> None:
        """A peer enters the mesh of a topic."""
        counters = self._counters(peer, topic)
        if counters is not None:
            counters.grafted_at = now
            counters.mesh_time = 0.0
            counters.is_active = False

    def prune(self, peer: PeerId, topic: str) -> None:
        """A peer leaves the mesh of a topic: an open deficit becomes a lasting one (P3b)."""
        counters = self._counters(peer, topic)
        if counters is not None:
            self._leave_mesh(topic, counters)

    def _leave_mesh(self, topic: str, counters: TopicCounters) -> None:
        p = self.topic(topic)
        if p is not None and counters.grafted_at is not None and counters.is_active:
            deficit = p.mesh_threshold - counters.mesh
            if deficit > 0:
                counters.failures += deficit * deficit
        counters.grafted_at = None
        counters.is_active = False

    # Messages.

    def validating(self, message_id: bytes, now: float) -> None:
        """A message was seen first and is being validated."""
        self._deliveries.setdefault(message_id, _Delivery(now))
        if len(self._deliveries) > RECORDS:
            del self._deliveries[next(iter(self._deliveries))]

    def delivered(self, peer: PeerId, message_id: bytes, topic: str, now: float) -> None:
        """A message was accepted: its bringer was first, who brought it meanwhile was in time."""
        delivery = self._deliveries.get(message_id)
        if delivery is None or delivery.verdict:
            return
        delivery.verdict = "accept"
        delivery.validated_at = now
        self._first(peer, topic)
        for other in delivery.peers:
            if other != peer:
                self._copy(other, topic)

    def refused(self, peer: PeerId, message_id: bytes, topic: str) -> None:
        """A message was rejected: P4 for everybody who brought it."""
        delivery = self._deliveries.get(message_id)
        if delivery is None or delivery.verdict:
            return
        delivery.verdict = "reject"
        for other in {peer: None} | delivery.peers:
            self.invalid(other, topic)
        delivery.peers = {}

    def ignored(self, message_id: bytes) -> None:
        """A message was dropped without blame."""
        self._deliveries.pop(message_id, None)

    def duplicate(self, peer: PeerId, message_id: bytes, topic: str, now: float) -> None:
        """Another copy of a message that was seen before."""
        delivery = self._deliveries.get(message_id)
        if delivery is None or peer in delivery.peers:
            return
        delivery.peers[peer] = None
        if delivery.verdict == "reject":
            self.invalid(peer, topic)
        elif delivery.validated_at is not None:
            p = self.topic(topic)
            if p is not None and now - delivery.validated_at <= p.mesh_window:
                self._copy(peer, topic)

    def invalid(self, peer: PeerId, topic: str) -> None:
        """P4: one message more that should not have been passed on."""
        counters = self._counters(peer, topic)
        if counters is not None:
            counters.invalid += 1.0

    def _first(self, peer: PeerId, topic: str) -> None:
        counters, p = self._counters(peer, topic), self.topic(topic)
        if counters is not None and p is not None:
            counters.first = min(counters.first + 1.0, p.first_cap)
            if counters.grafted_at is not None:
                counters.mesh = min(counters.mesh + 1.0, p.mesh_cap)

    def _copy(self, peer: PeerId, topic: str) -> None:
        counters, p = self._counters(peer, topic), self.topic(topic)
        if counters is not None and p is not None and counters.grafted_at is not None:
            counters.mesh = min(counters.mesh + 1.0, p.mesh_cap)

    # Beyond topics.

    def misbehaved(self, peer: PeerId, count: float = 1.0) -> None:
        """P7."""
        one = self._peers.get(peer)
        if one is not None and one.left_at is None:
            one.behaviour += count
            one.cached = None

    def behaviour(self, peer: PeerId) -> float:
        """P7's counter."""
        one = self._peers.get(peer)
        return 0.0 if one is None else one.behaviour

    def counters(self, peer: PeerId, topic: str) -> TopicCounters | None:
        """To look at: what a peer did in a topic, or None."""
        one = self._peers.get(peer)
        return None if one is None else one.topics.get(topic)

    def set_app(self, peer: PeerId, value: float) -> None:
        """P5."""
        one = self._peers.get(peer)
        if one is not None:
            one.app = value
            one.cached = None

    # Time.

    def tick(self, now: float) -> None:
        """Decay for every interval that has passed, and bring the times in meshes up to now."""
        interval = self.params.decay_interval
        if self._next_decay is None:
            self._next_decay = now + interval
            return
        while self._next_decay <= now + 1e-9:
            self._decay(self._next_decay)
            self._next_decay += interval
        horizon = now - RECORDED
        while self._deliveries:
            oldest = next(iter(self._deliveries))
            if self._deliveries[oldest].at > horizon:
                break
            del self._deliveries[oldest]
        while self._left:
            longest, left_at = next(iter(self._left.items()))
            if left_at + self.params.retain > now:
                break
            del self._left[longest], self._peers[longest]

    def _decay(self, now: float) -> None:
        zero = self.params.decay_to_zero
        for one in self._peers.values():
            if one.left_at is not None:
                continue  # what is kept does not fade, or leaving would pay
            one.behaviour = _faded(one.behaviour, self.params.behaviour_decay, zero)
            one.cached = None
            for topic, c in one.topics.items():
                p = self.topic(topic)
                if p is None:
                    continue
                c.first = _faded(c.first, p.first_decay, zero)
                c.mesh = _faded(c.mesh, p.mesh_decay, zero)
                c.failures = _faded(c.failures, p.failure_decay, zero)
                c.invalid = _faded(c.invalid, p.invalid_decay, zero)
                if c.grafted_at is not None:
                    c.mesh_time = max(now - c.grafted_at, 0.0)
                    if c.mesh_time > p.mesh_activation:
                        c.is_active = True

    # Inside.

    def _counters(self, peer: PeerId, topic: str) -> TopicCounters | None:
        one = self._peers.get(peer)
        if one is None or self.topic(topic) is None:
            return None
        one.cached = None
        found = one.topics.get(topic)
        if found is None:
            found = one.topics[topic] = TopicCounters()
        return found

    def _forget_scores_on(self, host: str) -> None:
        for peer in self._hosts.get(host, ()):
            self._peers[peer].cached = None


def _faded(value: float, factor: float, zero: float) -> float:
    value *= factor
    return value if value >= zero else 0.0


def sum_of(params: Params, topics: Iterable[tuple[TopicParams, TopicCounters]]) -> Any:
    """The sum of topic scores, before the cap."""
    total: Any = 0
    for p, counters in topics:
        total += topic_score(p, counters)
    return total
