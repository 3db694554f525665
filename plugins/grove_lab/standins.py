"""Nodes by number in the settings of plugins: ``voters = ["@0-4"]`` means the first five nodes.

Peer ids of a world follow from its seed, so a scenario cannot write them down. It writes ``@3``,
``@0-4`` or ``@all`` in a list; `expanded` puts well-formed ids there that stand for the nodes, so that
plugins can check their settings as always, and `settled` puts the nodes' own ids once there is a world.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from grove_core.identity import peer_text
from grove_core.machine import PeerId
from grove_core.specs import Part
from grove_core.testing.village import peer

NUMBERS = re.compile(r"@(?:(\d{1,7})(?:-(\d{1,7}))?|all)")


@lru_cache(maxsize=4096)
def stand_in(number: int) -> str:
    """The id that stands for a node until there is a world."""
    return peer_text(peer(number))


def expanded(tree: Any, nodes: int) -> Any:
    """Settings with each ``@…`` in a list replaced by stand-ins; numbers beyond the nodes left out."""
    if isinstance(tree, dict):
        return {name: expanded(value, nodes) for name, value in tree.items()}
    if not isinstance(tree, list):
        return tree
    found: list[Any] = []
    for one in tree:
        match = NUMBERS.fullmatch(one) if isinstance(one, str) else None
        if match is None:
            found.append(expanded(one, nodes))
            continue
        first = int(match[1] or 0)
        last = int(match[2] or match[1] or nodes - 1)
        found += [stand_in(number) for number in range(first, min(last, nodes - 1) + 1)]
    return found


def settled(parts: tuple[Part, ...], peers: Sequence[PeerId]) -> tuple[Part, ...]:
    """Parts with the nodes' own ids in place of stand-ins; the same parts if there are none."""
    known: dict[str, str] = {}
    if any(_says_text_list(part) for part in parts):
        known = {stand_in(number): peer_text(one) for number, one in enumerate(peers[:4096])}
    return tuple(_settled(part, known) for part in parts)


def _settled(part: Part, known: Mapping[str, str]) -> Part:
    config = part.config
    changed = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, tuple) and (own := _named(value, known)) != value:
            changed[name] = own
    hosted = {name: _settled(guest, known) for name, guest in part.hosted.items()}
    if not changed and all(hosted[name] is guest for name, guest in part.hosted.items()):
        return part
    return Part(part.spec, msgspec.structs.replace(config, **changed), hosted)


def _named(value: Any, known: Mapping[str, str]) -> Any:
    """A text's own id, or those of the texts in a tuple, however deep."""
    if isinstance(value, tuple):
        return tuple(_named(one, known) for one in value)
    return known.get(value, value) if isinstance(value, str) else value


def _says_text_list(part: Part) -> bool:
    config = part.config
    values = (getattr(config, name) for name in config.__struct_fields__)
    return any(isinstance(value, tuple) and value for value in values) or any(
        map(_says_text_list, part.hosted.values())
    )
