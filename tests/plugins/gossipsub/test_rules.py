"""GossipSub rule by rule, those that most implementers miss among them (libp2p/specs, go's gossipsub.go).

`me` is peer 0. Peers 1, 2, … are subscribed to "t" and speak 1.2; odd ones dialled us, even ones we.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from grove_gossipsub.config import Config
from grove_gossipsub.events import ValidationRequested
from grove_gossipsub.machine import FIRST_SEQNO, HEARTBEAT, SEQNO, SEQNO_BLOCK, GossipSub
from grove_gossipsub.messages import (
    Graft,
    IDontWant,
    IHave,
    IWant,
    PeerInfo,
    Prune,
    Publication,
    Rpc,
    Subscription,
    content_id,
)
from grove_gossipsub.presets import HARDENING, JS
from grove_gossipsub.scoring import Params, TopicParams

from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, PeerFound
from grove_core.identity import peer_text
from grove_core.machine import LOST, Terms
from grove_core.testing import Connect, Disconnect, Emit, Recorder, Save, Send, peer
from tests.plugins.gossipsub.scene import AUTHOR, ME, Scene, carrying, said

LONG = 1024

BLAME = Params(
    topics={"": TopicParams(invalid_weight=-1.0, first_weight=1.0)},
    behaviour_weight=-1.0,
    app_weight=1.0,
    gossip_threshold=-10.0,
    publish_threshold=-20.0,
    graylist_threshold=-30.0,
    accept_px_threshold=5.0,
)


# Subscriptions.


def test_the_first_rpc_to_a_new_peer_is_the_whole_subscription_list() -> None:
    scene = Scene()
    scene.machine.subscribe(scene.ctx, "u")
    scene.ctx.take()
    scene.meet(1, topics=())
    assert scene.sent(1) == [Rpc((Subscription(True, "t"), Subscription(True, "u")))]


def test_subscriptions_are_told_again_after_a_reconnection() -> None:
    scene = Scene(1)
    scene.machine.on_peer_down(scene.ctx, peer(1))
    scene.ctx.take()
    scene.meet(1, topics=())
    assert scene.sent(1) == [Rpc((Subscription(True, "t"),))]


def test_a_peer_that_speaks_1_3_hears_empty_extensions_in_the_first_rpc_and_only_there() -> None:
    scene = Scene()
    scene.meet(1, "/meshsub/1.3.0", topics=())
    assert scene.sent(1) == [Rpc((Subscription(True, "t"),), extensions=True)]
    scene.machine.on_peer_up(scene.ctx, peer(1))
    scene.machine.subscribe(scene.ctx, "u")
    assert scene.sent(1) == [Rpc((Subscription(True, "t"),)), Rpc((Subscription(True, "u"),))]


def test_a_peer_whose_stream_was_lost_is_told_subscriptions_and_meshes_again() -> None:
    """js forgets all of a peer whose stream it lost. The answer to our own `connect` is no such thing."""
    scene = Scene(1)
    scene.machine.subscribe(scene.ctx, "u")
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.ctx.take(Connect)
    scene.machine.on_peer_up(scene.ctx, peer(1))
    assert scene.sent(1) == []
    scene.machine.on_peer_up(scene.ctx, peer(1))
    assert scene.sent(1) == [
        Rpc((Subscription(True, "t"), Subscription(True, "u")), graft=(Graft("t"),)),
    ]


def test_extensions_after_the_first_rpc_are_misbehaviour() -> None:
    scene = Scene(scores=BLAME)
    scene.meet(1, "/meshsub/1.3.0", topics=())
    scene.hear(1, Rpc(extensions=True))
    assert scene.behaviour(1) == 0.0
    scene.hear(1, Rpc(extensions=True))
    assert scene.behaviour(1) == 10.0


def test_unsubscribing_prunes_the_mesh_with_the_short_backoff() -> None:
    scene = Scene(3, mesh=2)
    scene.machine.unsubscribe(scene.ctx, "t")
    gone = Rpc((Subscription(False, "t"),))
    pruned = Rpc(prune=(Prune("t", (), 10),))
    assert scene.told() == {1: [gone, pruned], 2: [gone, pruned], 3: [gone]}
    scene.machine.subscribe(scene.ctx, "t")
    assert scene.mesh == {3}  # the others must wait


def test_a_peer_that_unsubscribes_leaves_the_mesh() -> None:
    scene = Scene(2, mesh=2)
    scene.hear(1, Rpc((Subscription(False, "t"),)))
    assert scene.mesh == {2}


def test_topics_of_one_peer_are_bounded() -> None:
    scene = Scene(topics_per_peer=3)
    scene.meet(1, topics=[f"topic {n}" for n in range(10)])
    assert len(scene.machine.topic_peers) == 3


def test_joining_takes_the_fanout_first() -> None:
    scene = Scene(10, subscribe=False, flood_publish=False)
    scene.machine.publish(scene.ctx, "t", b"x")
    fanout = set(scene.machine.fanout["t"])
    assert len(fanout) == 6
    scene.machine.subscribe(scene.ctx, "t")
    assert set(scene.machine.mesh["t"]) == fanout
    assert "t" not in scene.machine.fanout


# Messages.


def test_a_message_is_delivered_once_and_goes_to_the_mesh_without_sender_and_author() -> None:
    scene = Scene(5, mesh=4)
    rpc = carrying(msgspec.structs.replace(said(), author=peer(2)))
    mid = content_id(rpc.publish[0])
    scene.hear(1, rpc)
    scene.hear(3, rpc)
    assert scene.ctx.take(Emit, Send) == [
        Emit(Delivered("t", mid, peer(2), b"hello", 1)),
        Send(peer(3), rpc),
        Send(peer(4), rpc),
    ]


def test_a_message_of_a_topic_we_do_not_want_is_nothing() -> None:
    scene = Scene(3, mesh=2, scores=BLAME)
    scene.hear(1, carrying(said(topic="other")))
    assert scene.ctx.take(Emit, Send) == []
    assert scene.machine.score(peer(1)) == 0.0


def test_our_own_message_that_comes_back_is_dropped() -> None:
    scene = Scene(3, mesh=2)
    scene.hear(1, carrying(msgspec.structs.replace(said(), author=ME)))
    assert scene.ctx.take(Emit, Send) == []


@pytest.mark.claim("gossipsub.remembered-bytes")
def test_a_payload_beyond_max_payload_is_nothing_and_is_not_even_hashed() -> None:
    scene = Scene(3, mesh=2, max_payload=10)

    def never(publication: Publication) -> bytes:
        raise AssertionError(f"{len(publication.data)} bytes were hashed")

    scene.machine.id_of = never
    scene.hear(1, carrying(said(data=bytes(11))))
    assert scene.ctx.take(Emit, Send) == []


@pytest.mark.claim("gossipsub.forgery-is-p4")
def test_a_forged_message_costs_its_bringer_p4_and_the_others_in_the_frame_are_delivered() -> None:
    scene = Scene(2, mesh=2, scores=BLAME)
    rpc = carrying(said(1), said(2), said(3))
    scene.machine.on_forged(scene.ctx, peer(1), rpc, (1,))
    delivered = [event.id for event in scene.ctx.emitted() if isinstance(event, Delivered)]
    assert delivered == [content_id(said(1)), content_id(said(3))]
    counters = scene.machine.scores.counters(peer(1), "t")  # type: ignore[union-attr]
    assert counters is not None
    assert counters.invalid == 1.0
    scene.hear(2, carrying(said(2)))  # the forger could not make us take it for seen
    assert len(scene.ctx.emitted()) == 1


@pytest.mark.parametrize(
    "broken", [{"author": b""}, {"seqno": b""}, {"seqno": b"1234567"}, {"signature": b""}]
)
def test_strict_sign_wants_author_seqno_and_signature(broken: dict[str, Any]) -> None:
    scene = Scene(2, mesh=2, scores=BLAME)
    scene.hear(1, carrying(msgspec.structs.replace(said(), **broken)))
    assert scene.ctx.take(Emit, Send) == []
    assert scene.machine.score(peer(1)) == -1.0


@pytest.mark.parametrize(
    "extra", [{"author": AUTHOR}, {"seqno": bytes(8)}, {"signature": b"s"}, {"key": b"k"}]
)
def test_strict_no_sign_wants_none_of_them(extra: dict[str, Any]) -> None:
    scene = Scene(2, mesh=2, scores=BLAME, signing="none")
    scene.hear(1, carrying(Publication("t", b"a", **extra)))
    assert scene.machine.score(peer(1)) == -1.0
    scene.hear(2, carrying(Publication("t", b"b")))
    assert [event.data for event in scene.ctx.emitted() if isinstance(event, Delivered)] == [b"b"]
    scene.machine.publish(scene.ctx, "t", b"c")
    assert [rpc.publish for rpc in scene.sent(1)] == [(Publication("t", b"c"),)]


def test_seqnos_rise_across_restarts_and_cost_the_disk_once_a_block() -> None:
    records: dict[str, bytes] = {}
    last = -1
    for _ in range(3):
        machine, ctx = GossipSub(Config()), Recorder(ME, records=records)
        machine.on_start(ctx)
        machine.subscribe(ctx, "t")
        ctx.agreed[peer(1)] = Terms("/meshsub/1.2.0")
        machine.on_peer_up(ctx, peer(1))
        machine.on_message(ctx, peer(1), Rpc((Subscription(True, "t"),)))
        ctx.take()
        for _ in range(5):
            machine.publish(ctx, "t", b"x")
        effects = ctx.take(Save, Send)
        assert [type(effect) for effect in effects] == [Save] + [Send] * 5
        for effect in effects[1:]:
            assert isinstance(effect, Send)
            (publication,) = effect.msg.publish
            number = int.from_bytes(publication.seqno, "big")
            assert len(publication.seqno) == 8
            assert number > last
            last = number
    assert int.from_bytes(records[SEQNO], "big") == FIRST_SEQNO + 3 * SEQNO_BLOCK


def test_after_the_disk_forgot_seqnos_begin_where_none_was_used() -> None:
    records = {LOST: b"a loss"}  # what was reserved is gone with the rest
    machine, ctx = GossipSub(Config()), Recorder(ME, records=records)
    machine.on_start(ctx)
    assert LOST not in records
    drawn = int.from_bytes(records[SEQNO], "big")
    assert FIRST_SEQNO + SEQNO_BLOCK < drawn < 2 * FIRST_SEQNO
    machine, ctx = GossipSub(Config()), Recorder(ME, records=records)
    machine.on_start(ctx)
    machine.publish(ctx, "t", b"x")
    assert int.from_bytes(records[SEQNO], "big") == drawn + SEQNO_BLOCK


@pytest.mark.parametrize(("topic", "size", "said"), [("", 1, "512"), ("t", 60_000_000, "limit")])
def test_what_cannot_be_published_is_refused_in_words(topic: str, size: int, said: str) -> None:
    scene = Scene()
    with pytest.raises(LocalProtocolError, match=said):
        scene.machine.publish(scene.ctx, topic, bytes(size))


# Whom own messages go to.


def test_with_flood_publishing_own_messages_go_to_all_subscribers_that_are_not_too_bad() -> None:
    scene = Scene(8, mesh=2, scores=BLAME)
    scene.meet(9, topics=())
    scene.machine.set_app_score(scene.ctx, peer(7), -20.0)
    scene.machine.set_app_score(scene.ctx, peer(8), -20.5)
    scene.ctx.take()
    scene.machine.publish(scene.ctx, "t", b"x")
    assert sorted(scene.told()) == [1, 2, 3, 4, 5, 6, 7]


def test_without_it_they_go_to_the_mesh_and_to_floodsub_peers() -> None:
    scene = Scene(6, mesh=2, flood_publish=False)
    scene.meet(7, "/floodsub/1.0.0")
    scene.ctx.take()
    scene.machine.publish(scene.ctx, "t", b"x")
    assert sorted(scene.told()) == [1, 2, 7]


def test_publishing_to_a_topic_we_are_not_in_uses_a_fanout_that_is_kept_for_its_ttl() -> None:
    scene = Scene(20, subscribe=False, flood_publish=False)
    scene.machine.publish(scene.ctx, "t", b"x")
    first = set(scene.told())
    assert len(first) == 6
    scene.machine.publish(scene.ctx, "t", b"y")
    assert set(scene.told()) == first
    assert len(scene.machine.links()["fanout"]) == 6
    assert scene.machine.links()["mesh"] == ()
    scene.beat(61)
    assert scene.machine.links()["fanout"] == ()


def test_a_fanout_that_loses_a_peer_is_filled_up_at_the_heartbeat() -> None:
    scene = Scene(20, subscribe=False, flood_publish=False)
    scene.machine.publish(scene.ctx, "t", b"x")
    scene.machine.on_peer_down(scene.ctx, next(iter(scene.machine.fanout["t"])))
    assert len(scene.machine.fanout["t"]) == 5
    scene.beat()
    assert len(scene.machine.fanout["t"]) == 6


def test_fanouts_are_bounded_and_the_longest_unused_goes() -> None:
    scene = Scene(subscribe=False, flood_publish=False, fanout_topics=2)
    for topic in ("a", "b", "a", "c"):
        scene.machine.publish(scene.ctx, topic, b"x")
    assert list(scene.machine.fanout) == ["a", "c"]


# GRAFT and PRUNE.


def test_a_graft_is_taken_in_and_held() -> None:
    scene = Scene(1)
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.ctx.take(Send, Connect) == [Connect(peer(1))]
    scene.hear(1, Rpc(graft=(Graft("t"),)))  # already in: nothing
    assert scene.ctx.take(Send, Connect) == []
    scene.hear(1, Rpc(prune=(Prune("t", (), 60),)))
    assert scene.ctx.take(Send, Disconnect) == [Disconnect(peer(1), "in no mesh")]


def test_a_graft_for_an_unknown_topic_is_not_answered() -> None:
    scene = Scene(1)
    scene.hear(1, Rpc(graft=(Graft("other"),)))
    assert scene.ctx.take(Send) == []


@pytest.mark.claim("gossip.35-backoff-punished")
@pytest.mark.parametrize(("after", "penalty"), [(5.0, 2.0), (20.0, 1.0)])
def test_a_graft_during_backoff_is_pruned_and_punished_twice_if_it_is_very_early(
    after: float, penalty: float
) -> None:
    scene = Scene(1, mesh=1, scores=BLAME, peer_exchange=True)
    scene.hear(1, Rpc(prune=(Prune("t", (), 60),)))
    scene.ctx.advance(after)
    scene.ctx.take()
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.sent(1) == [Rpc(prune=(Prune("t", (), 60),))]
    assert scene.behaviour(1) == penalty
    assert scene.mesh == set()
    scene.ctx.advance(59.0)  # the backoff began anew
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.mesh == set()


def test_a_graft_after_the_backoff_is_welcome() -> None:
    scene = Scene(1, mesh=1, scores=BLAME)
    scene.hear(1, Rpc(prune=(Prune("t", (), 7),)))
    scene.ctx.advance(7.0)
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.mesh == {1}
    assert scene.behaviour(1) == 0.0


def test_a_graft_from_a_negative_score_is_pruned_without_peer_exchange() -> None:
    scene = Scene(3, scores=BLAME, peer_exchange=True)
    scene.machine.set_app_score(scene.ctx, peer(1), -1.0)
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.sent(1) == [Rpc(prune=(Prune("t", (), 60),))]
    assert scene.behaviour(1) == 0.0


def test_a_full_mesh_refuses_who_dialled_us_with_peer_exchange_and_takes_whom_we_dialled() -> None:
    scene = Scene(14, mesh=12, peer_exchange=True, prune_peers=3)
    scene.ctx.known = {peer(n): b"record %d" % n for n in range(20)}
    scene.hear(13, Rpc(graft=(Graft("t"),)))
    ((prune,),) = [rpc.prune for rpc in scene.sent(13)]
    assert (prune.topic, prune.backoff, len(prune.peers)) == ("t", 60, 3)
    assert all(info.record.startswith(b"record") and info.peer != peer(13) for info in prune.peers)
    scene.hear(14, Rpc(graft=(Graft("t"),)))
    assert scene.sent(14) == []
    assert len(scene.mesh) == 13


def test_a_direct_peer_is_never_in_the_mesh_and_always_served() -> None:
    scene = Scene(0, direct=(peer_text(peer(2)),), scores=BLAME)
    assert Connect(peer(2)) not in scene.ctx.take()
    scene.meet(1)
    scene.meet(2)
    scene.ctx.take()
    scene.hear(2, Rpc(graft=(Graft("t"),)))
    assert scene.sent(2) == [Rpc(prune=(Prune("t", (), 60),))]
    scene.beat()
    assert scene.mesh == {1}
    scene.hear(1, carrying(said()))
    assert scene.sent(2) == [carrying(said())]


def test_direct_peers_are_dialled_at_the_start_and_again() -> None:
    machine, ctx = GossipSub(Config(direct=(peer_text(peer(2)),), direct_ticks=5)), Recorder(ME)
    machine.on_start(ctx)
    assert ctx.take(Connect) == [Connect(peer(2))]
    for _ in range(9):
        ctx.fire(machine, HEARTBEAT)
    assert ctx.take(Connect) == [Connect(peer(2))]  # at the fifth heartbeat


def test_a_1_0_peer_gets_a_prune_without_peers_and_backoff() -> None:
    scene = Scene(12, mesh=12, peer_exchange=True)
    scene.meet(13, "/meshsub/1.0.0")
    scene.ctx.take()
    scene.hear(13, Rpc(graft=(Graft("t"),)))
    assert scene.sent(13) == [Rpc(prune=(Prune("t"),))]


def test_a_prune_without_backoff_means_the_usual_one() -> None:
    scene = Scene(1, mesh=1, scores=BLAME)
    scene.hear(1, Rpc(prune=(Prune("t"),)))
    scene.ctx.advance(59.0)
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    assert scene.behaviour(1) == 1.0


@pytest.mark.parametrize(("score", "believed"), [(4.9, False), (5.0, True)])
def test_peer_exchange_is_believed_from_good_peers_only(score: float, believed: bool) -> None:
    scene = Scene(2, mesh=1, scores=BLAME, prune_peers=2)
    scene.machine.set_app_score(scene.ctx, peer(1), score)
    named = (PeerInfo(peer(50), b"signed record"), PeerInfo(peer(2), b"known"), PeerInfo(b""))
    scene.machine.config = msgspec.structs.replace(scene.machine.config, prune_peers=16)
    scene.hear(1, Rpc(prune=(Prune("t", named, 60),)))
    effects = scene.ctx.take(Emit, Connect)
    assert effects == ([Emit(PeerFound(peer(50), b"signed record")), Connect(peer(50))] * believed)


def test_a_peer_we_were_pointed_to_is_let_go_if_it_enters_no_mesh() -> None:
    scene = Scene(1, mesh=1)
    scene.hear(1, Rpc(prune=(Prune("t", (PeerInfo(peer(50)),), 60),)))
    scene.meet(50, topics=())
    scene.ctx.take()
    scene.beat(31)
    assert scene.ctx.take(Disconnect) == [Disconnect(peer(50), "in no mesh")]


# Gossip.


@pytest.mark.claim("gossip.36-iwant-abuse")
def test_one_message_is_given_to_one_peer_three_times_and_no_more() -> None:
    scene = Scene(2, mesh=1)
    scene.hear(1, carrying(said()))
    scene.ctx.take()
    for _ in range(5):
        scene.hear(2, Rpc(iwant=(IWant((content_id(said()),)),)))
    assert scene.sent(2) == [carrying(said())] * 3


def test_an_id_named_many_times_in_one_iwant_is_given_once() -> None:
    scene = Scene(2, mesh=1)
    scene.hear(1, carrying(said()))
    scene.ctx.take()
    scene.hear(2, Rpc(iwant=(IWant((content_id(said()),) * 1000), IWant((content_id(said()),)))))
    assert len(scene.sent(2)) == 1


@pytest.mark.claim("gossip.36-iwant-abuse")
def test_the_eleventh_ihave_between_two_heartbeats_is_ignored() -> None:
    scene = Scene(1)
    for number in range(12):
        scene.hear(1, Rpc(ihave=(IHave("t", (b"id %d" % number,)),)))
    assert len(scene.sent(1)) == 10
    scene.beat()
    scene.ctx.take()
    scene.hear(1, Rpc(ihave=(IHave("t", (b"another",)),)))
    assert scene.sent(1) == [Rpc(iwant=(IWant((b"another",)),))]


def test_ids_asked_of_one_peer_between_two_heartbeats_are_bounded() -> None:
    scene = Scene(1, max_ihave_ids=50)
    scene.hear(1, Rpc(ihave=(IHave("t", tuple(b"%d" % n for n in range(40))),)))
    scene.hear(1, Rpc(ihave=(IHave("t", tuple(b"%d" % n for n in range(40, 99))),)))
    scene.hear(1, Rpc(ihave=(IHave("t", (b"x",)),)))
    assert [sum(len(one.ids) for one in rpc.iwant) for rpc in scene.sent(1)] == [40, 10]


def test_what_was_seen_and_topics_we_are_not_in_are_not_asked_for() -> None:
    scene = Scene(2, mesh=1)
    scene.hear(1, carrying(said()))
    scene.ctx.take()
    scene.hear(2, Rpc(ihave=(IHave("t", (content_id(said()),)), IHave("other", (b"x",)))))
    assert scene.sent(2) == []


@pytest.mark.claim("gossip.36-iwant-abuse")
def test_a_broken_promise_is_misbehaviour_and_a_kept_one_is_not() -> None:
    scene = Scene(3, mesh=3, scores=BLAME)
    kept, broken = content_id(said(1)), content_id(said(2))
    scene.hear(1, Rpc(ihave=(IHave("t", (kept,)),)))
    scene.hear(2, Rpc(ihave=(IHave("t", (broken,)),)))
    scene.hear(3, carrying(said(1)))  # from whomever it comes
    assert scene.machine.scores is not None
    scene.beat(2)
    assert (scene.behaviour(1), scene.behaviour(2)) == (0.0, 0.0)
    scene.beat(2)
    assert (scene.behaviour(1), scene.behaviour(2)) == (0.0, 1.0)


def test_below_the_gossip_threshold_ihave_and_iwant_are_ignored() -> None:
    scene = Scene(3, mesh=2, scores=BLAME)
    scene.hear(1, carrying(said()))
    scene.machine.set_app_score(scene.ctx, peer(3), -10.5)
    scene.ctx.take()
    scene.hear(3, Rpc(ihave=(IHave("t", (b"x",)),), iwant=(IWant((content_id(said()),)),)))
    assert scene.sent(3) == []


def test_below_the_graylist_threshold_everything_is_ignored() -> None:
    scene = Scene(3, mesh=2, scores=BLAME)
    scene.machine.set_app_score(scene.ctx, peer(3), -30.5)
    scene.hear(3, Rpc((Subscription(True, "u"),), (said(),), graft=(Graft("t"),)))
    assert scene.ctx.take(Emit, Send) == []
    assert "u" not in scene.machine.topic_peers


def test_a_heartbeat_announces_the_last_three_windows_to_peers_outside_the_mesh() -> None:
    scene = Scene(14, mesh=8)
    scene.beat()
    scene.hear(1, carrying(said()))
    heard: list[dict[int, list[Rpc]]] = []
    for _ in range(5):
        scene.ctx.take()
        scene.beat()
        heard.append(scene.told())
    announcement = Rpc(ihave=(IHave("t", (content_id(said()),)),))
    assert [set(one) for one in heard] == [{9, 10, 11, 12, 13, 14}] * 3 + [set()] * 2
    assert all(rpcs == [announcement] for one in heard for rpcs in one.values())


def go_id(p: Publication) -> bytes:
    return p.author + p.seqno


def js_id(p: Publication) -> bytes:
    return p.author[2:] + p.seqno  # the key's protobuf, without the identity multihash's header


def rust_id(p: Publication) -> bytes:
    return peer_text(p.author).encode() + str(int.from_bytes(p.seqno, "big")).encode()


@pytest.mark.claim("gossip.40-message-id-trap")
@pytest.mark.parametrize(
    ("ours", "theirs", "wanted"),
    [
        (go_id, js_id, 1),
        (go_id, rust_id, 1),
        (js_id, rust_id, 1),
        (go_id, go_id, 0),
        (content_id, content_id, 0),
    ],
)
def test_peers_that_name_messages_differently_ask_for_what_they_have(
    ours: Any, theirs: Any, wanted: int
) -> None:
    """And IDONTWANT spares nothing between them, and a scorer books a broken promise."""
    scene = Scene(3, mesh=2, scores=BLAME)
    scene.machine.id_of = ours
    scene.hear(2, Rpc(idontwant=(IDontWant((theirs(said()),)),)))
    scene.hear(1, carrying(said()))
    assert len(scene.sent(2)) == wanted
    scene.hear(3, Rpc(ihave=(IHave("t", (theirs(said()),)),)))
    assert sum(len(rpc.iwant) for rpc in scene.sent(3)) == wanted
    scene.beat(5)
    assert (scene.behaviour(3) > 0) == bool(wanted)


def test_gossip_goes_to_a_quarter_of_the_peers_if_that_is_more() -> None:
    scene = Scene(68, mesh=8)
    scene.hear(1, carrying(said()))
    scene.ctx.take()
    scene.beat()
    assert len(scene.told()) == 15


# IDONTWANT.


def test_idontwant_goes_out_on_receipt_before_validation_to_mesh_peers_that_speak_1_2() -> None:
    scene = Scene(3, mesh=3)
    scene.meet(4, "/meshsub/1.1.0")
    scene.hear(4, Rpc(graft=(Graft("t"),)))
    scene.machine.ask_application(scene.ctx, "t")
    scene.ctx.take()
    large = said(data=bytes(LONG))
    scene.hear(1, carrying(large))
    spare = Rpc(idontwant=(IDontWant((content_id(large),)),))
    effects = scene.ctx.take(Send, Emit)
    assert effects[:2] == [Send(peer(2), spare), Send(peer(3), spare)]
    assert [type(e.event) for e in effects[2:] if isinstance(e, Emit)] == [ValidationRequested]
    scene.hear(2, carrying(said(1, bytes(LONG - 1))))  # too small to be worth it
    assert not any(rpc.idontwant for rpc in scene.sent(3))


def test_who_does_not_want_a_message_is_not_sent_it() -> None:
    scene = Scene(3, mesh=3)
    mid = content_id(said())
    scene.hear(2, Rpc(idontwant=(IDontWant((mid,)),)))
    scene.hear(1, carrying(said()))
    assert sorted(scene.told()) == [3]
    scene.hear(2, Rpc(iwant=(IWant((mid,)),)))
    assert scene.sent(2) == []
    scene.beat(4)  # forgotten after three heartbeats
    scene.ctx.take()
    scene.hear(2, Rpc(iwant=(IWant((mid,)),)))
    assert scene.sent(2) == [carrying(said())]


def test_idontwant_beyond_its_bounds_is_ignored() -> None:
    scene = Scene(1, mesh=1, max_idontwant_ids=20)
    for number in range(12):
        scene.hear(1, Rpc(idontwant=(IDontWant((b"%d" % number,)),)))
    assert len(scene.machine.peers[peer(1)].unwanted or ()) == 10
    scene.beat()
    scene.hear(1, Rpc(idontwant=(IDontWant(tuple(b"x%d" % n for n in range(99))),)))
    assert len(scene.machine.peers[peer(1)].unwanted or ()) == 30


# Validators.


@pytest.mark.parametrize(
    ("verdict", "delivered", "score"), [("accept", 1, 1.0), ("reject", 0, -1.0), ("ignore", 0, 0.0)]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_validator_decides_over_delivery_forwarding_and_blame(
    verdict: Any, delivered: int, score: float, late: bool
) -> None:
    scene = Scene(3, mesh=3, scores=BLAME)
    if late:
        scene.machine.ask_application(scene.ctx, "t")
    else:
        scene.machine.set_validator(scene.ctx, "t", lambda publication: verdict)
    scene.hear(1, carrying(said()))
    mid = content_id(said())
    if late:
        assert scene.ctx.take(Emit, Send) == [
            Emit(ValidationRequested(mid, "t", AUTHOR, b"hello", peer(1)))
        ]
        scene.machine.validated(scene.ctx, mid, verdict)
        scene.machine.validated(scene.ctx, mid, "reject")  # nobody waits any more
    effects = scene.ctx.take(Emit, Send)
    assert len(effects) == 3 * delivered
    assert scene.machine.score(peer(1)) == score


def test_messages_that_wait_for_a_verdict_are_bounded_in_number_and_time() -> None:
    scene = Scene(2, mesh=2, validations=2, validation_timeout=5.0)
    scene.machine.ask_application(scene.ctx, "t")
    for number in range(3):
        scene.hear(1, carrying(said(number)))
    assert len(scene.machine.pending) == 2
    scene.beat(6)
    assert not scene.machine.pending
    scene.machine.validated(scene.ctx, content_id(said(0)), "accept")
    assert not any(isinstance(event, Delivered) for event in scene.ctx.emitted())


# The heartbeat.


def test_a_mesh_below_d_lo_is_filled_to_d() -> None:
    scene = Scene(20, mesh=4)
    scene.beat()
    grafted = [n for n, rpcs in scene.told().items() if rpcs == [Rpc(graft=(Graft("t"),))]]
    assert len(scene.mesh) == 6
    assert scene.mesh - {1, 2, 3, 4} == set(grafted)


def test_peers_in_backoff_floodsub_peers_and_bad_ones_are_not_grafted() -> None:
    scene = Scene(3, mesh=1, scores=BLAME)
    scene.hear(1, Rpc(prune=(Prune("t", (), 60),)))
    scene.machine.set_app_score(scene.ctx, peer(2), -0.1)
    scene.meet(4, "/floodsub/1.0.0")
    scene.beat()
    assert scene.mesh == {3}


def test_backoff_has_two_heartbeats_of_slack_before_we_graft_again() -> None:
    scene = Scene(1, mesh=1)
    scene.hear(1, Rpc(prune=(Prune("t", (), 10),)))
    scene.beat(11)
    assert scene.mesh == set()
    scene.beat(3)
    assert scene.mesh == {1}


def test_a_mesh_at_d_hi_is_cut_to_d_keeping_the_best_and_d_out_that_we_dialled() -> None:
    scene = Scene(0, scores=BLAME, peer_exchange=True)
    for number in range(1, 12):
        scene.meet(number, outbound=False)
        scene.hear(number, Rpc(graft=(Graft("t"),)))
    for number in (12, 13):
        scene.meet(number, outbound=True)
        scene.hear(number, Rpc(graft=(Graft("t"),)))
    for number in (3, 5, 7, 9):
        scene.machine.set_app_score(scene.ctx, peer(number), 5.0)
    scene.ctx.take()
    scene.beat()
    assert scene.mesh == {3, 5, 7, 9, 12, 13}
    pruned = {n: rpc for n, rpcs in scene.told().items() for rpc in rpcs if rpc.prune}
    assert set(pruned) == {1, 2, 4, 6, 8, 10, 11}
    assert all(rpc.prune[0].backoff == 60 and rpc.prune[0].peers for rpc in pruned.values())


def test_eleven_are_not_too_many() -> None:
    scene = Scene(11, mesh=11)
    scene.beat()
    assert len(scene.mesh) == 11


def test_a_mesh_without_peers_we_dialled_takes_some_in() -> None:
    scene = Scene(0)
    for number in range(1, 8):
        scene.meet(number, outbound=False)
        scene.hear(number, Rpc(graft=(Graft("t"),)))
    for number in (20, 21, 22):
        scene.meet(number, outbound=True)
    scene.beat()
    assert len(scene.mesh & {20, 21, 22}) == 2
    assert len(scene.mesh) == 9


def test_mesh_peers_with_a_negative_score_are_pruned_without_peer_exchange() -> None:
    scene = Scene(8, mesh=8, scores=BLAME, peer_exchange=True)
    scene.machine.set_app_score(scene.ctx, peer(3), -0.5)
    scene.ctx.take()
    scene.beat()
    assert 3 not in scene.mesh
    assert scene.sent(3) == [Rpc(prune=(Prune("t", (), 60),))]


def test_opportunistic_grafting_takes_two_above_the_median_into_a_mediocre_mesh() -> None:
    scores = msgspec.structs.replace(BLAME, opportunistic_graft_threshold=2.0)
    scene = Scene(12, mesh=8, scores=scores, opportunistic_ticks=10)
    for number in range(1, 9):
        scene.machine.set_app_score(scene.ctx, peer(number), 1.0)
    for number in (9, 10, 11):
        scene.machine.set_app_score(scene.ctx, peer(number), 1.5)
    scene.beat(9)
    assert len(scene.mesh) == 8
    scene.beat(3)
    assert len(scene.mesh & {9, 10, 11}) == 2
    assert 12 not in scene.mesh


@pytest.mark.claim("gossip.34-silent-sybil")
def test_a_silent_mesh_peer_is_pruned_at_the_heartbeat_after_activation_and_stays_out() -> None:
    scene = Scene(1, mesh=1, scores=HARDENING)
    scene.beat(60)
    assert scene.mesh == {1}
    scene.beat(2)
    assert scene.mesh == set()
    assert round(scene.machine.score(peer(1)), 2) <= -6.18
    for _ in range(60):
        scene.beat(50)
        scene.hear(1, Rpc(graft=(Graft("t"),)))
        assert scene.mesh == set()  # its score is below 0 for 3,066 ticks
    assert scene.machine.score(peer(1)) < 0


def test_peers_of_one_host_are_counted_together() -> None:
    scene = Scene(scores=JS)
    for number in range(1, 13):
        scene.meet(number, host="192.0.2.1")
    assert scene.machine.score(peer(1)) == -20.0


# Floodsub.


def test_a_floodsub_peer_gets_every_message_and_no_control() -> None:
    scene = Scene(2, mesh=2)
    scene.meet(3, "/floodsub/1.0.0")
    scene.ctx.take()
    scene.hear(1, carrying(said(1)))
    scene.hear(3, carrying(said(2)))
    assert scene.sent(3) == [carrying(said(1))]
    scene.hear(3, Rpc(graft=(Graft("t"),), iwant=(IWant((content_id(said(1)),)),)))
    scene.beat(3)
    assert scene.sent(3) == []
    assert scene.mesh == {1, 2}


# Quiet nodes, and copies.


def test_a_node_with_nothing_to_tend_sets_no_timer_and_wakes_when_something_happens() -> None:
    scene = Scene(6, mesh=6)
    scene.beat(2)
    assert HEARTBEAT not in scene.ctx.timers
    scene.ctx.advance(1000.25)
    scene.hear(1, carrying(said()))
    assert scene.ctx.timers[HEARTBEAT] - scene.ctx.now <= 1.0
    phase = (scene.ctx.timers[HEARTBEAT] - 0.1) % 1.0
    assert min(phase, 1 - phase) < 1e-6  # in step with the beats it would have had


def test_ids_are_forgotten_after_their_ttl_also_by_a_quiet_node() -> None:
    scene = Scene(6, mesh=6)
    scene.hear(1, carrying(said()))
    scene.beat(10)
    assert scene.machine.seen.times
    scene.beat(121)
    assert not scene.machine.seen.times
    assert HEARTBEAT not in scene.ctx.timers


def test_a_peer_that_speaks_before_it_is_announced_is_heard() -> None:
    scene = Scene()
    scene.hear(1, Rpc((Subscription(True, "t"),)))
    scene.ctx.agreed[peer(1)] = Terms("/floodsub/1.0.0")
    scene.machine.on_peer_up(scene.ctx, peer(1))
    scene.beat()
    assert scene.mesh == set()  # now we know better than to graft it
    assert peer(1) in scene.machine.beside["t"]


def test_a_peer_that_was_never_announced_is_forgotten_when_it_is_gone() -> None:
    scene = Scene()
    for number in (1, 2):
        scene.ctx.agreed[peer(number)] = Terms("/meshsub/1.2.0")
        scene.hear(number, Rpc((Subscription(True, "t"),)))
    scene.machine.on_peer_up(scene.ctx, peer(2))
    scene.ctx.agreed.clear()
    scene.beat(2)
    assert list(scene.machine.peers) == [peer(2)]  # whose end will be told


def test_known_peers_are_bounded() -> None:
    scene = Scene()
    scene.machine.config = msgspec.structs.replace(scene.machine.config, peers=3)
    for number in range(1, 6):
        scene.meet(number)
    assert len(scene.machine.peers) == 3


def test_a_machine_can_be_copied_in_mid_life() -> None:
    scene = Scene(8, mesh=6, scores=HARDENING)
    scene.hear(1, carrying(said()))
    twin = copy.deepcopy(scene.machine)
    assert twin.mesh == scene.machine.mesh
    assert twin.score(peer(1)) == scene.machine.score(peer(1))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"degree": 3}, "degree_low"),
        ({"degree_out": 4}, "degree_out"),
        ({"degree_score": 7}, "degree_score"),
        ({"mcache_gossip": 6}, "mcache_gossip"),
    ],
)
def test_contradictions_in_the_configuration_are_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Config(**bad)


def test_a_bootstrapper_has_no_mesh_and_names_peers() -> None:
    scene = Scene(
        4, degree=0, degree_low=0, degree_high=0, degree_out=0, degree_score=0, peer_exchange=True
    )
    scene.hear(1, Rpc(graft=(Graft("t"),)))
    ((prune,),) = [rpc.prune for rpc in scene.sent(1)]
    assert {info.peer for info in prune.peers} == {peer(2), peer(3), peer(4)}
