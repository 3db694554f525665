"""Figures about a run: delivery, latency, cost, and the shape of the overlay. Names, units, sense.

Definitions follow the papers: reliability is the share of live nodes that delivered (HyParView TR
section 5.1), relative message redundancy is payloads / (deliveries) - 1 (Plumtree TR section 4.1),
clustering and path length are those of the graph of neighbours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from grove_lab.deliveries import Samples

UNITS: dict[str, tuple[str, str]] = {
    "delivery_ratio": ("", "up"),
    "latency_p50_ms": ("ms", "down"),
    "latency_p95_ms": ("ms", "down"),
    "latency_p99_ms": ("ms", "down"),
    "latency_p999_ms": ("ms", "down"),
    "latency_last_ms": ("ms", "down"),
    "duplicates_per_delivery": ("", "down"),
    "messages_per_delivery": ("", "down"),
    "bytes_up_per_node_s": ("B/s", "down"),
    "bytes_up_busiest_node_s": ("B/s", "down"),
    "bytes_down_per_node_s": ("B/s", "down"),
    "control_share": ("", "down"),
    "hops_mean": ("", "down"),
    "hops_last": ("", "down"),
    "recovery_s": ("s", "down"),
    "commit_ratio": ("", "up"),
    "commit_mean_ms": ("ms", "down"),
    "commit_p50_ms": ("ms", "down"),
    "commit_p99_ms": ("ms", "down"),
    "commits_per_s": ("1/s", "up"),
    "capacity_per_s": ("1/s", "up"),
    "messages_per_commit": ("", "down"),
    "bytes_per_commit": ("B", "down"),
    "cpu_ms_per_commit": ("ms", "down"),
    "busiest_cpu_ms_per_commit": ("ms", "down"),
    "busiest_uplink_ms_per_commit": ("ms", "down"),
    "connectivity": ("", "up"),
    "degree_mean": ("", ""),
    "degree_sd": ("", "down"),
    "degree_max": ("", "down"),
    "clustering": ("", "down"),
    "path_length": ("hops", "down"),
    "attacker_links": ("", "down"),
    "undeliverable": ("messages", "down"),
    "overflowed": ("messages", "down"),
    "events_per_node_s": ("1/s", "down"),
    "published": ("messages", ""),
}
"""Metric -> (unit, which way is better; "" for neither)."""

FAR = 10_000
"""Deliveries from which a p99.9 is told: ten lie beyond it."""

BOX = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of a box and its whiskers."""

Graph = Mapping[int, Sequence[int]]
"""Node index -> the indices of its neighbours, the living only."""


class Message(msgspec.Struct, kw_only=True):
    """One publication and what became of it. Times in seconds; `published` after settling."""

    id: str
    workload: str
    published: float
    sender: int
    size: int
    expected: int  # nodes that were there from before it was published until its deadline
    delivered: int  # of those, how many delivered it in time
    last: float  # seconds until the last delivery; 0 if there was none
    hops: int  # longest way it came


class Way(msgspec.Struct, kw_only=True):
    """How one message went: who had it from whom, and when. times: seconds after publishing."""

    root: int
    published: float  # seconds after settling
    parents: dict[int, int]
    times: dict[int, float]


class Point(msgspec.Struct, kw_only=True):
    """One slice of time that ended `at` seconds after settling. Counts are of this slice."""

    at: float
    alive: int
    published: int
    delivered: int
    sent: int  # messages; 0 if traffic is not counted
    bytes: int


def quantile(ascending: Sequence[float], q: float) -> float:
    """The smallest value that at least a share q of all do not exceed. ascending: not empty."""
    return ascending[max(0, math.ceil(q * len(ascending)) - 1)]


def by_stream(messages: Sequence[Message], samples: Mapping[str, Samples]) -> dict[str, float]:
    """Delivery and latency of each workload: ``delivery_ratio.NAME``, ``latency_p99_ms.NAME``, …"""
    found = {}
    for name, latencies in samples.items():
        own = [one for one in messages if one.workload == name]
        if own:
            found[f"delivery_ratio.{name}"] = sum(m.delivered for m in own) / sum(m.expected for m in own)
        ascending = sorted(latencies.values)
        if ascending:
            for word, q in (("p50", 0.5), ("p99", 0.99)):
                found[f"latency_{word}_ms.{name}"] = 1e3 * quantile(ascending, q)
            found[f"latency_max_ms.{name}"] = 1e3 * ascending[-1]
    return found


def pieces(graph: Graph) -> list[list[int]]:
    """Connected components, largest first, links taken both ways."""
    both: dict[int, list[int]] = {node: list(others) for node, others in graph.items()}
    for node, others in graph.items():
        for other in others:
            if other in both:
                both[other].append(node)
    found: list[list[int]] = []
    seen: set[int] = set()
    for start in both:
        if start in seen:
            continue
        seen.add(start)
        piece, todo = [start], [start]
        while todo:
            for other in both[todo.pop()]:
                if other in both and other not in seen:
                    seen.add(other)
                    piece.append(other)
                    todo.append(other)
        found.append(piece)
    found.sort(key=len, reverse=True)
    return found


def clustering(graph: Graph) -> float:
    """Mean over nodes of the share of pairs of neighbours that are neighbours."""
    if not graph:
        return 0.0
    views = {node: set(others) for node, others in graph.items()}
    total = 0.0
    for others in graph.values():
        count = len(others)
        if count > 1:
            linked = sum(1 for a in others for b in others if b in views.get(a, ()))
            total += linked / (count * (count - 1))
    return total / len(graph)


def path_length(graph: Graph, starts: int, rng: Random) -> float:
    """Mean hops from so many drawn nodes to all they reach."""
    nodes = list(graph)
    hops = reached = 0
    for start in rng.sample(nodes, min(starts, len(nodes))):
        seen = {start: 0}
        todo = deque([start])
        while todo:
            node = todo.popleft()
            for other in graph[node]:
                if other not in seen and other in graph:
                    seen[other] = seen[node] + 1
                    todo.append(other)
        hops += sum(seen.values())
        reached += len(seen) - 1
    return hops / reached if reached else 0.0


def shape(graph: Graph, starts: int, rng: Random) -> dict[str, float]:
    """Connectivity, degrees, clustering and path length of an overlay."""
    if not graph:
        return {}
    degrees = [len(others) for others in graph.values()]
    mean = sum(degrees) / len(degrees)
    spread = math.sqrt(sum((degree - mean) ** 2 for degree in degrees) / len(degrees))
    found = {
        "connectivity": len(pieces(graph)[0]) / len(graph),
        "degree_mean": mean,
        "degree_sd": spread,
        "degree_max": float(max(degrees)),
        "clustering": clustering(graph),
    }
    if starts and max(degrees):
        found["path_length"] = path_length(graph, starts, rng)
    return found


def recovery(messages: Sequence[Message], faults: Sequence[float], share: float) -> float | None:
    """Seconds from the last fault until messages are delivered as well as before the first.

    share: of the mean delivery before the first fault. None if nothing was measured before a fault or
    it never recovered; 0 if it never fell. faults: when they began, seconds after settling.
    """
    if not faults:
        return None
    ratio = [(one.published, one.delivered / one.expected) for one in messages if one.expected]
    before = [value for at, value in ratio if at < min(faults)]
    after = [(at, value) for at, value in ratio if at >= max(faults)]
    if not before or not after:
        return None
    wanted = share * sum(before) / len(before)
    low = [index for index, (_, value) in enumerate(after) if value < wanted]
    if not low:
        return 0.0
    if low[-1] + 1 == len(after):
        return None
    return after[low[-1] + 1][0] - max(faults)
