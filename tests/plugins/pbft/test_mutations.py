"""Known bugs put back in, one at a time: each must be found within 1,000 runs (consensus reference
5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grove_pbft.machine import views
from grove_pbft.machine.ordering import Ordering
from grove_pbft.machine.views import Views
from grove_pbft.messages import NULL

from tests.plugins.pbft.liars import Forger
from tests.plugins.pbft.test_byzantine import scenario
from tests.plugins.pbft.test_faults import Troubles
from tests.plugins.pbft.twins import Twins, conflicts

Patch = pytest.MonkeyPatch
HONEST = views.outcome


def forgets_what_was_prepared(patch: Patch) -> None:
    """A new view in which every number above the checkpoint is null."""
    patch.setattr(views, "outcome", lambda changes: _map(HONEST(changes), lambda digest: NULL))


def prepares_with_one_too_few(patch: Patch) -> None:
    """2f PREPAREs, the primary's among them, make a certificate, also in a VIEW-CHANGE."""
    plain, valid = Ordering.check_prepared, Views.is_valid

    def is_valid(self: Any, msg: Any) -> bool:
        self.configuration.quorum -= 1
        found = valid(self, msg)
        self.configuration.quorum += 1
        return found

    patch.setattr(Views, "is_valid", is_valid)

    def check(self: Any, ctx: Any, seq: int) -> None:
        here = self.configuration
        here.quorum -= 1
        plain(self, ctx, seq)
        here.quorum += 1

    patch.setattr(Ordering, "check_prepared", check)


@pytest.mark.claim("pbft.mutations")
@pytest.mark.parametrize(
    "mutate",
    [forgets_what_was_prepared, prepares_with_one_too_few],
    ids=lambda mutate: mutate.__name__,
)
def test_twins_find_it(mutate: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutate(monkeypatch)
    assert next((seed for seed in range(1_000) if conflicts(Twins(seed))), None) is not None


@pytest.mark.claim("pbft.mutations")
def test_troubles_find_a_view_change_without_null_requests(monkeypatch: Patch) -> None:
    """Holes that nobody fills stop the group."""

    def outcome(changes: Any) -> Any:
        lowest, chosen = HONEST(changes)
        return lowest, {seq: digest for seq, digest in chosen.items() if digest != NULL}

    monkeypatch.setattr(views, "outcome", outcome)
    for seed in range(1_000):
        try:
            Troubles(seed).run(25.0)
        except Exception:
            return
    pytest.fail("1,000 seeds found nothing")


@pytest.mark.claim("pbft.mutations")
def test_a_forger_is_believed_where_certificates_are_not_checked(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Views, "is_valid", lambda self, msg: msg.voter in self.configuration.rank)
    for seed in range(20):
        group = scenario(Forger, 4, seed)
        if any(len(group.commands(index)) < 40 for index in group.honest()):
            return
    pytest.fail("nothing found")


def _map(found: Any, change: Callable[[bytes], bytes]) -> Any:
    lowest, chosen = found
    return lowest, {seq: change(digest) for seq, digest in chosen.items()}
