"""Which protocols a world's nodes run: a scenario's own, a profile, or ``role=plugin:param=value,…``.

    parts_for("", scenario)                            what the scenario says
    parts_for("broadcast=gossipsub:d=8,d_lo=6", …)     that role played by another, the rest as it was
    parts_for("membership=cyclon+broadcast=flood", …)  several, joined by +
    parts_for("lan", …), parts_for("mine.toml", …)     another profile, under the scenario's own tables

The registry assembles the parts, exactly as for a real node; transports and services stay outside.
The environment is not read: a world is what its scenario says and nothing else.
"""

from __future__ import annotations

from typing import Any

from grove_core.config import Configuration
from grove_core.config import load as load_config
from grove_core.errors import ConfigError
from grove_core.layers import Layer, Origin
from grove_core.registry import Registry
from grove_core.sources import from_flags
from grove_core.specs import ROLES, Part
from grove_core.words import short
from grove_lab.scenario import Scenario
from grove_lab.standins import expanded

EVERYBODY = ""
"""The class of all nodes where a scenario has no classes."""

Parts = dict[str, tuple[Part, ...]]
"""Class name -> what a node of it runs, in order."""


def parts_for(
    choice: str = "", scenario: Scenario | None = None, registry: Registry | None = None
) -> Parts:
    """The parts of each class of a scenario (of a bare one if None) under a choice.

    Raises ConfigError or PluginError with everything that is wrong.
    """
    scenario = scenario or Scenario()
    registry = registry or Registry()
    profile, sets = parse_choice(choice)
    found: Parts = {}
    for name in scenario.classes or (EVERYBODY,):
        config = configuration(scenario, name, profile, sets, registry)
        found[name] = registry.assemble(config).parts
    return found


def configuration(
    scenario: Scenario, name: str, profile: str | None, sets: list[str], registry: Registry
) -> Configuration:
    """What a node of a class is configured as, mistakes and all: profile, scenario, class, choice."""
    own = scenario.class_of(name).profile
    config = load_config(profile or own or scenario.profile, environ={}, registry=registry)
    place = scenario.path or scenario.name or "scenario"
    for rank, key in enumerate(("", f"classes.{name}"), start=100):
        tree = expanded(_tables(scenario, key), scenario.nodes)
        if tree:
            origin = Origin("file", f"{place} [{key}]" if key else place, rank=rank)
            config.add(Layer(tree, origin))
    # Nothing of the outside: no transports are imported, no services planned.
    config.add(Layer({"roles": {"transport": [], "service": []}}, Origin("the lab", rank=150)))
    for layer in from_flags((), sets, config.problems):
        config.add(layer)
    config.settle()
    return config


def _tables(scenario: Scenario, key: str) -> dict[str, Any]:
    if key:
        found: dict[str, Any] = scenario.protocols.get(key, {})
        return found
    return {name: tree for name, tree in scenario.protocols.items() if name in ("roles", "plugins")}


def parse_choice(choice: str) -> tuple[str | None, list[str]]:
    """The profile that a choice names, if any, and its settings as ``key=value`` texts.

    Raises ConfigError if it is neither a profile nor ``role=plugin[:param=value,…][+…]``.
    """
    if not choice:
        return None, []
    if "=" not in choice:
        return choice, []
    sets: list[str] = []
    for one in choice.split("+"):
        head, _, params = one.partition(":")
        role, equals, plugin = (part.strip() for part in head.partition("="))
        if not equals or role not in ROLES or not plugin:
            raise ConfigError(
                [
                    f"{short(one)}: expected a profile, a .toml file, or role=plugin:param=value,… "
                    f"with a role of {', '.join(ROLES)}"
                ]
            )
        sets.append(f"roles.{role}={plugin}")
        for param in filter(None, params.split(",")):
            name, equals, value = param.partition("=")
            if not equals:
                raise ConfigError([f"{short(param)} in {short(one)}: expected param=value"])
            sets.append(f"plugins.{plugin}.{name.strip()}={value.strip()}")
    return None, sets
