"""The lab: the same protocol objects in a world of virtual time, measured, broken and compared.

Scenarios, faults, workloads, checkers, metrics and pictures over `grove_core.drive.virtual`, and
the verbs ``grove sim run``, ``grove sim shrink``, ``grove replay``, ``grove compare`` and
``grove reproduce``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grove_core.hookspecs import hookimpl

if TYPE_CHECKING:
    import click

GROVE_API = 1


@hookimpl
def grove_commands() -> Sequence[click.Command]:
    from grove_lab.compare.verbs import compare, reproduce
    from grove_lab.verbs import replay, sim

    return (sim, replay, compare, reproduce)
