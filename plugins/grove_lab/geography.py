"""Where nodes live, and how long a message takes from there to there.

The stock geography is that of libp2p's gossipsub-interop test-plans: eight regions, weighted as the
peers of a public network were found, and one-way latencies between them in milliseconds (their
network graph of 2025; the one pair they list with two values, South America and South Africa, 195
and 190, is kept as they have it: a row sends to a column).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec


class Geography(msgspec.Struct, frozen=True):
    """Regions, how many live there, and one-way delays in ms: delays[from][to]."""

    names: tuple[str, ...]
    weights: tuple[int, ...]
    delays: tuple[tuple[int, ...], ...]

    def place(self, rng: Random, count: int) -> bytes:
        """A region number for each of so many nodes, drawn by weight."""
        return bytes(rng.choices(range(len(self.names)), self.weights, k=count))

    def seconds(self) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(one / 1000 for one in row) for row in self.delays)


STOCK: dict[str, Geography] = {
    "gossipsub-interop": Geography(
        (
            "australia", "europe", "east_asia", "west_asia", "na_east", "na_west", "south_africa",
            "south_america",
        ),
        (290, 5599, 1059, 161, 2894, 1240, 47, 36),
        (
            (2, 165, 110, 180, 150, 110, 220, 190),
            (165, 2, 125, 60, 70, 110, 95, 140),
            (110, 125, 4, 110, 140, 100, 175, 175),
            (180, 60, 110, 5, 110, 150, 110, 145),
            (150, 70, 140, 110, 2, 60, 130, 100),
            (110, 110, 100, 150, 60, 2, 160, 100),
            (220, 95, 175, 110, 130, 160, 7, 190),
            (190, 140, 175, 145, 100, 100, 195, 7),
        ),
    ),
}  # fmt: skip
"""By name, as [network] geography says it."""


def drawn(geography: Geography, fixed: Sequence[str], rng: Random) -> bytes:
    """The region of each node: its class's if that names one, else drawn.

    fixed: per node a region name or "". A draw is made for everybody, so that naming one class's
    region moves nobody else.
    """
    places = bytearray(geography.place(rng, len(fixed)))
    for index, name in enumerate(fixed):
        if name:
            places[index] = geography.names.index(name)
    return bytes(places)
