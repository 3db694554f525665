"""Forming groups, and how easily one is captured (consensus.md 3.6)."""

from __future__ import annotations

from random import Random

import pytest
from grove_hierarchy.config import Config
from grove_hierarchy.groups import Village, form
from grove_hierarchy.machine import build

from grove_core.identity import peer_text
from grove_core.testing import Recorder, peer


def test_all_members_draw_the_same_groups_from_the_same_seed() -> None:
    members = [peer(number) for number in range(103)]
    groups = form(members, 10, b"a")
    assert groups == form(list(reversed(members)), 10, b"a") != form(members, 10, b"b")
    assert sorted(member for group in groups for member in group) == sorted(members)
    assert {len(group) for group in groups} == {10, 11}


def test_a_group_is_what_pbft_makes_of_its_size() -> None:
    texts = tuple(peer_text(peer(number)) for number in range(10))
    village = Village(Config(members=texts, size=10))
    (group,) = village.groups
    assert (group.weak, group.quorum) == (4, 7)
    assert Village(Config(members=texts, size=4, seed="x")).name != village.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": ("a",), "groups": (("a",),)},
        {"members": ("a", "a")},
        {"members": ("a",), "size": 2},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"members|twice"):
        Config(**{"size": 1, **wrong})  # type: ignore[arg-type]


@pytest.mark.claim("hierarchy.capture")
@pytest.mark.parametrize(("size", "expected", "tolerance"), [(4, 0.80, 0.04), (10, 0.081, 0.025)])
def test_random_groups_are_captured_as_often_as_computed(
    size: int, expected: float, tolerance: float
) -> None:
    members = [peer(number) for number in range(100)]
    liars = set(Random(7).sample(members, 10))
    captured = 0
    for draw in range(1500):
        groups = form(members, size, b"%d" % draw)
        captured += any(
            sum(member in liars for member in group) > (len(group) - 1) // 3 for group in groups
        )
    print(f"size {size}: {captured} of 1,500 draws")
    assert captured / 1500 == pytest.approx(expected, abs=tolerance)


def test_who_is_in_no_group_is_told_so() -> None:
    machine, recorder = build(Config()), Recorder(peer(0))
    machine.on_start(recorder)
    machine.propose(recorder, b"x")
    (told,) = recorder.take()
    assert "no group" in str(told)
