"""etcd's consensus in virtual time, against a model of etcd: on good days and on bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grove_consensus_etcd
import msgspec
import pytest
from grove_consensus_etcd import SPEC
from grove_consensus_etcd.api import Done, Failed, Put, Txn
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.events import Asked
from grove_consensus_etcd.layout import Layout
from grove_consensus_etcd.machine import Etcd as Machine
from grove_consensus_etcd.testing.model import Etcd, Model
from grove_consensus_etcd.testing.town import Town

from grove_core.errors import LocalProtocolError
from grove_core.events import Committed, LeaderChanged, ReadReady, Rejected, Restored, SnapshotTaken
from grove_core.specs import Part
from grove_core.testing import Recorder, Village, peer
from grove_core.testing.conformance.protocol import ProtocolConformance
from grove_core.testing.purity import assert_pure


class TestConformance(ProtocolConformance):
    part = Part(SPEC, Config(probe=0.5))

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        """Three nodes that agree, read, lose etcd for a while, and one crashes and returns."""
        village = Village([part], 3, seed=seed, **world)
        etcd = Etcd(village.world, seed)
        village.grow(0.1)
        for node in village.nodes:
            etcd.join(node)
        village.run_for(1.0)
        for number, node in enumerate(village.nodes * 4):
            node.consensus.propose(b"%d" % number)
            node.consensus.read()
        village.run_for(0.2)
        etcd.down(1.0)
        village.nodes[0].consensus.propose(b"while nobody decides")
        village.world.crash(village.nodes[1])
        village.world.restart(village.nodes[1], at=0.5)
        village.world.at(village.world.now + 0.6, lambda: etcd.join(village.nodes[1]))
        return village.run_for(4.0)


def test_every_file_of_the_machine_is_pure() -> None:
    folder = Path(grove_consensus_etcd.__file__).parent
    files = [*sorted((folder / "machine").glob("*.py")), folder / "api.py", folder / "events.py"]
    assert len(files) == 9
    assert_pure(*files, folder / "layout.py")


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.mark.claim("etcd.order")
def test_all_hear_the_same_commands_in_the_same_order_with_who_proposed_them(town: Town) -> None:
    for number in range(20):
        for node in town.nodes:
            node.consensus.propose(b"%d from %d" % (number, node.index))
    town.run_for(2.0)
    first = town.heard(0, Committed)
    assert len(first) == 60
    assert first == town.heard(1, Committed) == town.heard(2, Committed)
    assert [event.index for event in first] == sorted({event.index for event in first})
    for event in first:
        assert event.proposer == town.nodes[int(event.command.split()[-1])].peer


def test_who_joins_later_hears_everything(town: Town) -> None:
    for number in range(100):
        town.nodes[number % 3].consensus.propose(b"%d" % number)
    town.run_for(1.0)
    late = town.world.add(town.parts)
    town.world.at(town.world.now + 0.05, lambda: town.etcd.join(late))
    town.run_for(1.0)
    assert town.heard(late.index, Committed) == town.heard(0, Committed)


@pytest.mark.claim("etcd.once")
def test_a_proposal_tried_again_is_created_once(town: Town) -> None:
    town.etcd.loss = 0.5
    for number in range(30):
        town.nodes[number % 3].consensus.propose(b"%d" % number)
    town.run_for(4.0)
    town.etcd.loss = 0.0
    town.run_for(10.0)
    assert set(town.etcd.model.created.values()) == {1}
    assert len(set(town.commands(0))) == len(town.commands(0)) >= 25
    assert town.commands(0) == town.commands(1) == town.commands(2)


@pytest.mark.claim("etcd.once")
def test_a_request_that_comes_late_does_not_bring_back_what_was_trimmed() -> None:
    """A copy of the request is carried out when its entry was heard, snapshotted and deleted."""
    town = Town(trailing=0)
    node, model = town.nodes[0], town.etcd.model
    late: list[Any] = []
    carry = town.etcd._do

    def twice(request: Any) -> Any:
        if getattr(request, "conditions", ()) and b"/log/" in request.conditions[0].key:
            late.append(request)
        return carry(request)

    town.etcd._do = twice  # type: ignore[method-assign]
    node.consensus.propose(b"once")
    town.run_for(1.0)
    assert len(late) == 1
    index = town.heard(0, Committed)[-1].index
    _trim(town, 0, index)
    assert not [key for key in model.keys if b"/log/" in key]
    again = model.do(late[0])
    assert isinstance(again, Done)
    assert not again.succeeded
    town.run_for(1.0)
    assert town.commands(1) == [b"once"]


def _trim(town: Town, number: int, index: int) -> None:
    """Let one node store a snapshot as of index, behind which nothing is kept."""
    town.nodes[number].consensus.call(
        lambda machine, ctx: machine.on_snapshot_taken(ctx, SnapshotTaken(index, b"state" * 300_000))
    )
    town.run_for(2.0)


@pytest.mark.claim("etcd.reads")
def test_a_read_comes_after_every_commit_agreed_on_before_it_was_asked(town: Town) -> None:
    town.etcd.deaf = 1.0  # from now on no new watch tells anything
    town.etcd.end_watches()
    town.run_for(0.2)
    town.nodes[0].consensus.propose(b"first")
    town.run_for(0.1)
    id = town.nodes[1].consensus.read()
    town.run_for(0.1)
    assert ReadReady not in {type(event) for event in town.heard(1, ReadReady)}
    town.etcd.deaf = 0.0
    town.run_for(2.0)
    told = town.heard(1, Committed, ReadReady)
    (answer,) = [event for event in told if isinstance(event, ReadReady) and event.id == id]
    before = told[: told.index(answer)]
    assert b"first" in [event.command for event in before if isinstance(event, Committed)]


@pytest.mark.claim("etcd.reads")
def test_a_look_that_was_under_way_answers_no_read_that_was_asked_later() -> None:
    """Its transaction may have been carried out before the read was asked."""
    machine, ctx = Machine(Config()), Recorder(peer(1))
    machine.on_start(ctx)
    machine.linked(ctx)
    page, look = [event for event in ctx.emitted() if isinstance(event, Asked)]
    later = machine.read(ctx)
    machine.answered(ctx, page.number, Done(7, 5, True, ((), (), ())))
    machine.answered(ctx, look.number, Done(7, 5, True, ((), (), ())))
    assert not [event for event in ctx.emitted() if isinstance(event, ReadReady)]
    ctx.fire(machine, "look")
    (own,) = [event for event in ctx.emitted() if isinstance(event, Asked) and _reads(event)]
    machine.answered(ctx, own.number, Done(7, 6, True, ((), (), ())))
    assert [event.id for event in ctx.emitted() if isinstance(event, ReadReady)] == [later]


def _reads(asked: Asked) -> bool:
    return isinstance(asked.request, Txn) and not asked.request.conditions


def test_reads_of_one_moment_share_one_look(town: Town) -> None:
    town.run_for(0.3)
    before = town.etcd.asked
    ids = [town.nodes[0].consensus.read() for _ in range(50)]
    town.run_for(0.1)
    assert {event.id for event in town.heard(0, ReadReady)} == set(ids)
    assert town.etcd.asked - before <= 3 + 3  # one look; the probes of three nodes may fall in between


@pytest.mark.claim("etcd.follows")
def test_a_watch_that_falls_silent_is_begun_anew(town: Town) -> None:
    town.etcd.deaf = 1.0
    town.etcd.end_watches()
    town.run_for(0.3)
    town.etcd.deaf = 0.0
    town.nodes[0].consensus.propose(b"unheard")
    town.run_for(2.0)
    assert all(town.commands(n) == [b"unheard"] for n in range(3))


@pytest.mark.claim("etcd.follows")
def test_compaction_costs_nothing(town: Town) -> None:
    town.nodes[0].consensus.propose(b"one")
    town.run_for(0.5)
    town.etcd.cut[2] = None
    town.etcd.end_watches()
    for number in range(40):
        town.nodes[0].consensus.propose(b"%d" % number)
    town.run_for(1.0)
    town.etcd.model.compact()
    del town.etcd.cut[2]
    town.run_for(3.0)
    assert len(town.commands(2)) == 41
    assert town.commands(2) == town.commands(0)


@pytest.mark.claim("etcd.snapshots")
def test_who_lags_behind_the_log_is_given_the_snapshot_and_then_the_rest() -> None:
    town = Town(trailing=0)
    town.etcd.cut[2] = None
    town.etcd.end_watches()
    for number in range(40):
        town.nodes[0].consensus.propose(b"%d" % number)
    town.run_for(1.0)
    index = town.heard(0, Committed)[-1].index
    _trim(town, 0, index)
    assert not town.machine(0).writing
    town.nodes[1].consensus.propose(b"after")
    town.run_for(0.5)
    del town.etcd.cut[2]
    late = town.world.add(town.parts)
    town.world.at(town.world.now + 0.05, lambda: town.etcd.join(late))
    town.run_for(4.0)
    for number in (2, late.index):
        (restored,) = town.heard(number, Restored)
        assert (restored.index, restored.state) == (index, b"state" * 300_000)
        assert town.commands(number) == [b"after"]
    assert town.heard(0, Restored) == []


def test_a_snapshot_that_its_writer_did_not_finish_is_stored_by_another() -> None:
    town = Town(trailing=0, snapshot_delay=2.0)
    town.nodes[0].consensus.propose(b"one")
    town.run_for(0.5)
    index = town.heard(0, Committed)[-1].index
    for node in town.nodes:
        node.consensus.call(
            lambda machine, ctx: machine.on_snapshot_taken(ctx, SnapshotTaken(index, bytes(3_000_000)))
        )
    town.run_for(0.006)
    town.world.crash(town.nodes[0])
    layout = Layout("/grove/")
    assert layout.head not in town.etcd.model.keys
    town.run_for(8.0)
    assert layout.head in town.etcd.model.keys
    folders = {key.split(b"/")[3] for key in town.etcd.model.keys if key.startswith(layout.state)}
    assert len(folders) <= 2  # of the survivors: the one the head names, and one that lost the race
    assert town.machine(1).head == town.machine(2).head


@pytest.mark.claim("etcd.leader")
def test_one_leads_and_when_it_falls_silent_another_does(town: Town) -> None:
    assert len({town.machine(n).leads for n in range(3)}) == 1
    leader = next(n for n in town.nodes if n.peer == town.machine(0).leads)
    others = [n for n in town.nodes if n is not leader]
    epoch = town.machine(0).epoch
    town.world.crash(leader)
    town.run_for(13.0)
    machines = [town.machine(n.index) for n in others]
    assert len({machine.leads for machine in machines}) == 1
    assert machines[0].leads in {n.peer for n in others}
    assert machines[0].epoch > epoch


def test_a_leader_whose_lease_etcd_forgot_leads_no_longer_and_somebody_does_again(town: Town) -> None:
    leader = next(n for n in town.nodes if n.peer == town.machine(0).leads)
    (lease,) = [lease for lease, ttl in town.etcd.model.leases.items() if ttl]
    town.etcd.model.end(lease)
    town.run_for(6.0)
    changes = [event.leader for event in town.heard(leader.index, LeaderChanged)]
    assert changes[:2] == [leader.peer, None]
    assert town.machine(0).leads is not None


def test_a_leader_cut_off_says_so_before_its_lease_can_be_another_s(town: Town) -> None:
    leader = next(n for n in town.nodes if n.peer == town.machine(0).leads)
    town.etcd.cut[leader.index] = None
    town.etcd.end_watches()
    town.run_for(14.0)
    assert town.machine(leader.index).leads is None
    assert len([n for n in town.nodes if town.machine(n.index).leads is not None]) == 2


def test_a_leader_that_stops_in_order_gives_the_lease_back(town: Town) -> None:
    leader = next(n for n in town.nodes if n.peer == town.machine(0).leads)
    last = leader.consensus.call(lambda machine, ctx: machine.unlinked(ctx))
    town.etcd.model.do(last)
    town.world.stop(leader)
    town.run_for(1.5)
    other = next(n for n in town.nodes if n is not leader)
    assert town.machine(other.index).leads not in (None, leader.peer)


@pytest.mark.claim("etcd.unreachable")
def test_what_never_left_is_rejected_and_says_where_how_long_and_what_to_do(town: Town) -> None:
    town.etcd.down(60.0)
    town.run_for(1.0)
    proposal = town.nodes[0].consensus.propose(b"nobody there")
    question = town.nodes[0].consensus.read()
    town.run_for(7.0)
    rejected = {event.id: event.reason for event in town.heard(0, Rejected)}
    assert set(rejected) == {proposal, question}
    for reason in rejected.values():
        assert reason.startswith("etcd does not do its work for ")
        assert "http://m0: connection refused" in reason
        assert "etcdctl endpoint health" in reason
        assert "plugins.etcd.endpoints" in reason
    town.run_for(60.0)
    assert town.commands(0) == []


def test_a_dead_etcd_is_asked_ever_more_rarely() -> None:
    town = Town(count=1, probe=60.0)
    town.etcd.down(1000.0)
    for _ in range(100):
        town.nodes[0].consensus.propose(b"x")
    before = town.etcd.asked
    town.run_for(60.0)
    assert town.etcd.asked - before < 300


@pytest.mark.claim("etcd.unreachable")
def test_nothing_is_said_about_what_may_have_taken_place(town: Town) -> None:
    town.etcd.loss, town.etcd.late = 1.0, 0.1
    ids = [town.nodes[0].consensus.propose(b"%d" % number) for number in range(8)]
    town.run_for(8.0)
    assert not {event.id for event in town.heard(0, Rejected)} & set(ids)
    town.etcd.loss = 0.0
    town.run_for(5.0)
    done = {entry.value for key, entry in town.etcd.model.keys.items() if b"/log/" in key}
    assert set(town.commands(0)) == done


def test_what_etcd_refuses_is_rejected_in_its_words(town: Town) -> None:
    town.etcd.model.do = lambda request: Failed("refused", "etcdserver: request is too large")  # type: ignore[method-assign]
    id = town.nodes[0].consensus.propose(b"x")
    town.run_for(0.5)
    (rejected,) = [event for event in town.heard(0, Rejected) if event.id == id]
    assert rejected.reason == "etcd refuses: etcdserver: request is too large"


@pytest.mark.claim("etcd.distrust")
def test_a_cluster_that_went_back_is_not_believed_any_more(town: Town) -> None:
    for number in range(10):
        town.nodes[0].consensus.propose(b"%d" % number)
    town.run_for(1.0)
    town.etcd.model.revision -= 5
    id = town.nodes[0].consensus.propose(b"x")
    town.run_for(3.0)
    assert "went back from" in town.machine(0).broken
    assert "plugins.etcd.prefix" in town.machine(0).broken
    assert town.heard(0, Rejected)[-1].id == id or town.commands(0)[-1] != b"x"
    with_reason = town.nodes[1].consensus.propose(b"y")
    town.run_for(6.0)
    assert [event for event in town.heard(1, Rejected) if event.id == with_reason]


@pytest.mark.claim("etcd.distrust")
def test_another_cluster_is_not_believed_in_this_life_nor_in_the_next(town: Town) -> None:
    town.nodes[0].consensus.propose(b"x")
    town.run_for(1.0)
    other = Model(cluster=8)
    other.revision = 10_000
    other.told = town.etcd.model.told
    town.etcd.model = other
    town.run_for(3.0)
    assert "cluster 8, this node knew 7" in town.machine(0).broken
    town.restart(town.nodes[0], 0.1)
    town.run_for(2.0)
    assert "cluster 8, this node knew 7" in town.machine(0).broken


def test_what_strangers_write_below_our_prefix_is_passed_over_everywhere(town: Town) -> None:
    for key in (b"junk", b"/", b"x/y", b"x" * 5000, b"\xff/00"):
        town.etcd.model.do(Txn(then=(Put(b"/grove/log/" + key, b"?"),)))
    town.nodes[0].consensus.propose(b"x")
    town.run_for(1.0)
    town.restart(town.nodes[1], 0.1)
    town.run_for(1.0)
    assert town.commands(0) == [b"x"]
    assert town.commands(1) == [b"x", b"x"]  # once in each life
    assert all(not town.machine(n).broken for n in range(3))


def test_a_command_that_somebody_changed_breaks_the_log(town: Town) -> None:
    town.nodes[0].consensus.propose(b"x")
    town.run_for(1.0)
    (key,) = [key for key in town.etcd.model.keys if b"/log/" in key]
    town.etcd.model.do(Txn(then=(Put(key, b"y"),)))
    town.run_for(1.0)
    assert "somebody changed the command" in town.machine(0).broken


def test_what_is_beyond_a_bound_is_refused_with_the_limit(town: Town) -> None:
    with pytest.raises(LocalProtocolError, match="command of 1048577 bytes; limit 1048576"):
        town.nodes[0].consensus.propose(bytes((1 << 20) + 1))
    with pytest.raises(LocalProtocolError, match="etcdctl member add"):
        town.nodes[0].consensus.reconfigure((town.nodes[0].peer,))
    full = Town(count=1, pending=10)
    full.etcd.down(100.0)
    for _ in range(30):
        full.nodes[0].consensus.propose(b"x")
    full.run_for(0.1)
    rejected = full.heard(0, Rejected)
    assert len(rejected) == 20
    assert "plugins.etcd.pending" in rejected[0].reason


@pytest.mark.parametrize(
    "bad", [{"endpoints": ["etcd:2379"]}, {"endpoints": ["http://a:x"]}, {"user": "u"}, {"lease": 1}]
)
def test_a_bad_setting_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        msgspec.convert(bad, Config)
