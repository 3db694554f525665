"""A few nodes on loopback that know each other: what each of them is told."""

from __future__ import annotations

from grove_core.identity import peer_text
from grove_core.testing.loopback import Loopback, free_ports


def test_each_listens_on_its_own_port_and_dials_the_others() -> None:
    group = Loopback(seed=1, ports=[4001, 4002, 4003])
    settings = group.settings(1)
    first, _, third = group.peers
    assert settings["node.listen"] == ["/ip4/127.0.0.1/tcp/4002"]
    assert settings["node.peers"] == [
        f"/ip4/127.0.0.1/tcp/4001/p2p/{first}",
        f"/ip4/127.0.0.1/tcp/4003/p2p/{third}",
    ]
    assert group.peers[1] == peer_text(group.identity(1).peer)


def test_it_may_dial_through_other_ports() -> None:
    group = Loopback(seed=1, ports=[4001, 4002])
    assert group.settings(1, through=[5001, 5002])["node.peers"] == [
        f"/ip4/127.0.0.1/tcp/5001/p2p/{group.peers[0]}"
    ]


def test_groups_of_different_seeds_are_strangers() -> None:
    one, other = Loopback(seed=1, ports=[1, 2]), Loopback(seed=2, ports=[1, 2])
    assert not set(one.peers) & set(other.peers)


def test_free_ports_differ_and_are_none_that_the_system_gives_to_who_dials() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < 32_768
