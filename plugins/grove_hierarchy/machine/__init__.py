"""Hierarchical consensus as a machine that hosts others.

    order.py       what both variants share: the role, and the way to the group
    history.py     the global order at one member: kept, forgotten, fetched
    epochs.py      members come and go, groups are drawn anew
    trusting.py    the leaders run the upper protocol, as DLCA_R_P is published
    told.py        what a leader told its group, until the group has it all
    certified.py   the groups run it, each by a quorum of its members
    replica.py     how a group runs one machine

Left to others: agreement itself, inside the groups and between them (the hosted plugins), signatures (the
driver), the state machine.
"""

from __future__ import annotations

from grove_core.specs import Part
from grove_hierarchy.config import Config
from grove_hierarchy.machine.certified import Certifying
from grove_hierarchy.machine.order import Order
from grove_hierarchy.machine.trusting import Trusting

__all__ = ["Certifying", "Order", "Trusting", "build"]


def build(config: Config, group: Part | None = None, leaders: Part | None = None) -> Order:
    """A fresh machine of the configured variant; a member needs both parts to start."""
    kind = Trusting if config.variant == "trusting" else Certifying
    return kind(config, group=group, leaders=leaders)
