"""What the papers measure of an overlay, over plain adjacency lists: node -> its neighbours."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from random import Random
from statistics import mean
from typing import Any


def average_path(graph: dict[Any, list[Any]], rng: Random) -> float:
    """Mean distance from 100 nodes to all others. Every node must be reached."""
    total = 0
    sources = rng.sample(list(graph), 100)
    for source in sources:
        distance = {source: 0}
        waiting = deque([source])
        while waiting:
            node = waiting.popleft()
            for other in graph[node]:
                if other not in distance:
                    distance[other] = distance[node] + 1
                    waiting.append(other)
        assert len(distance) == len(graph), "the overlay has fallen apart"
        total += sum(distance.values())
    return total / (len(sources) * (len(graph) - 1))


def reached_from(graph: dict[Any, list[Any]], living: Container[Any], start: Any) -> set[Any]:
    """Whom a flood from start reaches if only the living pass it on."""
    reached, waiting = {start}, [start]
    while waiting:
        for other in graph[waiting.pop()]:
            if other in living and other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached


def component_shares(graph: dict[Any, list[Any]], crashed: Iterable[Any] = ()) -> dict[Any, float]:
    """For each of the living, the share of them in its component."""
    gone = set(crashed)
    living = {node: None for node in graph if node not in gone}
    shares: dict[Any, float] = {}
    for start in living:
        if start not in shares:
            component = reached_from(graph, living, start)
            shares |= dict.fromkeys(component, len(component) / len(living))
    return shares


def clustering(graph: dict[Any, list[Any]]) -> float:
    """Mean share of a node's pairs of neighbours that are neighbours of each other. Undirected."""
    sets = {node: set(around) for node, around in graph.items()}
    shares = []
    for around in sets.values():
        pairs = len(around) * (len(around) - 1) / 2
        linked = sum(len(around & sets[other]) for other in around) / 2
        shares.append(linked / pairs if pairs else 0.0)
    return mean(shares)


def undirected(graph: dict[Any, list[Any]]) -> dict[Any, list[Any]]:
    """The same graph with every edge in both directions."""
    both: dict[Any, dict[Any, None]] = {node: dict.fromkeys(around) for node, around in graph.items()}
    for node, around in graph.items():
        for other in around:
            both[other][node] = None
    return {node: list(around) for node, around in both.items()}


def in_degrees(graph: dict[Any, list[Any]]) -> dict[Any, int]:
    """How many have each node in view."""
    count = dict.fromkeys(graph, 0)
    for around in graph.values():
        for other in around:
            count[other] += 1
    return count


def random_regular(nodes: int, degree: int, rng: Random) -> dict[Any, list[Any]]:
    """A random regular graph: the configuration model, without its few loops and double edges."""
    stubs = [node for node in range(nodes) for _ in range(degree)]
    rng.shuffle(stubs)
    graph: dict[Any, list[Any]] = {node: [] for node in range(nodes)}
    for a, b in zip(stubs[::2], stubs[1::2], strict=True):
        if a != b and b not in graph[a]:
            graph[a].append(b)
            graph[b].append(a)
    return graph


def random_views(nodes: int, size: int, rng: Random) -> dict[int, list[int]]:
    """Everybody has so many others in view, drawn evenly."""
    everybody: Sequence[int] = range(nodes)
    return {
        node: [other for other in rng.sample(everybody, size + 1) if other != node][:size]
        for node in everybody
    }
