"""What a node is to be, put together from layers, every value with its origin.

The layers, weakest first: the defaults of the structs, the chain of profiles (`extends`, one parent
each), the file `grove.toml`, the environment (``GROVE_PLUGINS__HYPARVIEW__ACTIVE_SIZE=6``), and the
flags of the command line (``--set roles.broadcast=flood``). How they are read:
`sources.py`. How they merge: `layers.py`.

This file follows the profiles and knows the tables [node], [limits] and [roles]; what belongs in
[plugins.<name>] the plan learns from the plugin, and reads it with `Configuration.read`.

Invariants:
1. Nothing is raised for what stands in a layer: it becomes a `Problem`, and all problems are told
   together, in the order of layers and lines. `Configuration.check` is where they stop the node.
2. Whoever set the offending value is named: file and line, variable or flag.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from grove_core.errors import ConfigError, PluginError
from grove_core.layers import Layer, Layers, Origin, Problem, in_order
from grove_core.node import Limits, Settings
from grove_core.sources import from_environment, from_file, from_flags, shown
from grove_core.words import did_you_mean, short

if TYPE_CHECKING:
    from grove_core.registry import Registry

DEFAULT_PROFILE = "residential"
PROFILES = Path(__file__).parent / "profiles"
"""Where Grove's own profiles lie, one TOML file each."""

MAX_CHAIN = 16  # profiles extending each other

Names = str | tuple[str, ...]


class Roles(msgspec.Struct, frozen=True, kw_only=True):
    """The table [roles]: which plugins play which part. A name, or a list of names."""

    transport: Names = ()  # carry connections; each listens on its own address
    discovery: Names = ()  # find peers
    membership: Names = ()  # keep a few good neighbours
    broadcast: Names = ()  # deliver one message to all
    storage: Names = ()  # keep logs and documents
    consensus: Names = ()  # agree
    service: Names = ()  # live beside the machines of a real node; absent in the simulator

    def of(self, role: str) -> tuple[str, ...]:
        """The names chosen for a role, in order; "" is nobody."""
        names: Names = getattr(self, role)
        return tuple(filter(None, (names,))) if isinstance(names, str) else names


TABLES: dict[str, type[msgspec.Struct]] = {"node": Settings, "limits": Limits, "roles": Roles}
"""The kernel's own tables. [plugins.<name>] is the plugin's."""


class Configuration(Layers):
    """Layers merged and understood. `load` makes one; `registry.assemble` turns it into a plan."""

    def __init__(self, profile: str, chain: Sequence[str] = (), problems: Iterable[Problem] = ()) -> None:
        super().__init__()
        self.profile = profile
        self.chain = tuple(chain)  # the profile and its ancestors, nearest first
        self.problems = list(problems)
        self.settings = Settings()
        self.limits = Limits()
        self.roles = Roles()

    def check(self) -> None:
        """Raises ConfigError with every problem found so far, if there is one."""
        if self.problems:
            raise ConfigError(in_order(self.problems))

    def settle(self) -> None:
        """Check what the kernel itself knows: top-level keys, [node], [limits], [roles]."""
        known = ("profile", "node", "limits", "roles", "plugins")
        for name in self.names(()):
            if name not in known:
                self.tell(self.problems, (name,), f"unknown key{did_you_mean(name, known)}")
        for name in self.names(("plugins",)):
            if self.is_leaf(("plugins", name)):
                self.tell(self.problems, ("plugins", name), f"expected a table, [plugins.{name}]")
        if self.is_leaf(("plugins",)):
            self.tell(self.problems, ("plugins",), "expected tables, [plugins.<name>]")
        self.settings = self.read(("node",), Settings, self.problems) or self.settings
        limits = self.read(("limits",), Limits, self.problems)
        if limits is not None:
            self.limits = limits
            self._contradictions(limits)
        self.roles = self.read(("roles",), Roles, self.problems) or self.roles

    def _contradictions(self, limits: Limits) -> None:
        for low, high in pairwise(("low_water", "high_water", "connections")):
            if getattr(limits, low) > getattr(limits, high):
                keys = ("limits", low), ("limits", high)
                last = max(keys, key=lambda key: (self.origin(key).rank, self.origin(key).line))
                text = f"{low} = {getattr(limits, low)} is above {high} = {getattr(limits, high)}"
                self.tell(self.problems, last, text)


def load(
    profile: str | None = None,
    *,
    file: Path | None = None,
    flags: Sequence[tuple[str, str, Any]] = (),
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> Configuration:
    """The configuration of a node, with whatever is wrong in `problems`.

    profile: stronger than what the layers say; "residential" if nobody says anything. A name of
        Grove's own, ``plugin/name``, or a path that ends in ``.toml``.
    file: a `grove.toml`; None reads none. flags: (flag, key, value), as ("--data", "node.data", "/x").
    sets: ``key=value`` texts of --set, in order. environ: os.environ if None.
    registry: who knows the installed plugins; a fresh one if None. No plugin is imported, unless a
        profile that it ships is asked for.
    """
    if registry is None:
        from grove_core.registry import Registry

        registry = Registry()
    problems: list[Problem] = []
    upper: list[Layer] = []
    if file is not None:
        upper.append(from_file(file, Origin("file", shown(file), rank=100), problems))
    upper += from_environment(os.environ if environ is None else environ, registry.names(), problems)
    if profile is not None:
        flags = [*flags, ("--profile", "profile", profile)]
    upper += from_flags(flags, sets, problems)

    asked, origin = DEFAULT_PROFILE, Origin("default")
    for layer in upper:
        said = layer.tree.get("profile", asked)
        if not isinstance(said, str):
            text = f"profile = {short(said)}: expected the name of a profile, as text"
            problems.append(Problem(layer.at(("profile",)), text))
        elif "profile" in layer.tree:
            asked, origin = said, layer.at(("profile",))
    chain = _chain(asked, origin, registry, problems)
    found = Configuration(asked, [name for name, _ in chain], problems)
    for rank, (_, layer) in enumerate(reversed(chain), start=1):
        found.add(msgspec.structs.replace(layer, origin=msgspec.structs.replace(layer.origin, rank=rank)))
    for layer in upper:
        found.add(layer)
    found.settle()
    return found


def profiles() -> dict[str, Path]:
    """Grove's own profiles by name, ascending."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.toml"))}


def profile_header(path: Path) -> dict[str, str]:
    """What a profile says of itself: its description, and the profile it extends. Empty if unreadable."""
    tree = from_file(path, Origin("profile", shown(path)), []).tree
    return {name: str(tree.get(name, "")) for name in ("extends", "description")}


def _chain(
    name: str, origin: Origin, registry: Registry, problems: list[Problem]
) -> list[tuple[str, Layer]]:
    chain: list[tuple[str, Layer]] = []
    seen: list[Path] = []
    base = Path(origin.place).parent if origin.layer == "file" else Path()
    while True:
        path = _profile_path(name, base, origin, registry, problems)
        if path is None:
            return chain
        names = [known for known, _ in chain] + [name]
        if path in seen:
            cycle = " → ".join(names[seen.index(path) :])
            problems.append(Problem(origin, f"extends = {short(name)}: profiles go in a circle: {cycle}"))
            return chain
        if len(chain) == MAX_CHAIN:
            text = f"more than {MAX_CHAIN} profiles extend each other: {' → '.join(names)}"
            problems.append(Problem(origin, text))
            return chain
        layer = from_file(path, Origin(f"profile {name}", shown(path)), problems)
        parent = layer.tree.pop("extends", None)
        layer.tree.pop("description", None)
        chain.append((name, layer))
        seen.append(path)
        if parent is None:
            return chain
        origin = layer.at(("extends",))
        if not isinstance(parent, str):
            text = f"extends = {short(parent)}: expected the name of one profile"
            problems.append(Problem(origin, text))
            return chain
        name, base = parent, path.parent


def _profile_path(
    name: str, base: Path, origin: Origin, registry: Registry, problems: list[Problem]
) -> Path | None:
    own = profiles()
    if name in own:
        return own[name].resolve()
    if name.endswith(".toml"):
        return (base / name).expanduser().resolve()
    plugin, slash, _ = name.partition("/")
    if slash and plugin in registry.names():
        try:
            shipped = {f"{plugin}/{spec.name}": spec.path for spec in registry.load(plugin).profiles}
        except PluginError as error:
            problems.append(Problem(origin, f"profile {name!r}: {error}", is_plugin=True))
            return None
        if name in shipped:
            return shipped[name].resolve()
        own = shipped
    hint = did_you_mean(name, own)
    text = f"profile = {short(name)}: no such profile{hint} (there are: {', '.join(own) or 'none'})"
    problems.append(Problem(origin, text))
    return None
