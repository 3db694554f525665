"""From a configuration to the plan of a node: which parts, with which settings, in which order.

All mistakes are collected before anything is raised: those of the configuration first, those of
plugins with them. Nothing is started here, and only the plugins that are named are imported.

Invariants of a plan:
1. Everything a part requires is provided by a part, transport or service of the same plan.
2. No two plugins in it sign in overlapping domains.
3. Whatever a part hosts was named in its own table, and no part hosts itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from grove_core.errors import ConfigError, PluginError
from grove_core.layers import Problem, in_order
from grove_core.node import Plan
from grove_core.registry import KINDS, Registry, Spec
from grove_core.specs import Part, ProtocolSpec, ServiceSpec, TransportSpec

if TYPE_CHECKING:
    from grove_core.config import Configuration


class Planning:
    """One run from configuration to plan; `plan` is the only method to call."""

    def __init__(self, registry: Registry, config: Configuration) -> None:
        self.registry = registry
        self.config = config
        self.problems: list[Problem] = list(config.problems)
        self.configs: dict[str, Any] = {}  # converted tables by plugin; None: it has mistakes
        self.is_whole = True  # every plugin that was named is there

    def plan(self) -> Plan:
        chosen: dict[str, list[tuple[Spec, Any]]] = {role: [] for role in KINDS}
        parts: list[Part] = []
        self.unknown_tables()
        for role in KINDS:
            names = self.config.roles.of(role)
            for name in dict.fromkeys(names):
                if names.count(name) > 1:
                    self.tell(("roles", role), f"{name!r} is named twice")
                spec = self.spec(("roles", role), name, role)
                if spec is None:
                    continue
                config = self.table(spec)
                if not isinstance(spec, ProtocolSpec):
                    chosen[role].append((spec, config))
                elif any(part.spec.name == name for part in parts):
                    self.tell(("roles", role), f"{name!r} already plays another role on this node")
                elif config is not None:
                    parts.append(Part(spec, config, self.hosted(spec, config, (name,))))
                else:
                    parts.append(Part(spec, config))
        specs = [spec for pairs in chosen.values() for spec, _ in pairs] + [part.spec for part in parts]
        inside = [part.spec for part in _all_parts(parts)]
        if self.is_whole:  # else what it lacks may be what is missing, and was told
            self.capabilities(specs, inside)
        self.domains(inside)
        self.stop()
        return Plan(
            profile=self.config.profile,
            settings=self.config.settings,
            limits=self.config.limits,
            parts=tuple(parts),
            transports=tuple(cast(list[tuple[TransportSpec, Any]], chosen["transport"])),
            services=tuple(cast(list[tuple[ServiceSpec, Any]], chosen["service"])),
        )

    def stop(self) -> None:
        """Raise what was found, mistakes of the person before those of plugins."""
        if any(not problem.is_plugin for problem in self.problems):
            raise ConfigError(in_order(self.problems))
        if self.problems:
            raise PluginError("\n".join(in_order(self.problems)))

    def tell(self, key: tuple[str, ...], text: str, *, is_plugin: bool = False) -> None:
        said = f"[{'.'.join(key[:-1])}] {key[-1]}"
        self.problems.append(Problem(self.config.origin(key), f"{said}: {text}", is_plugin=is_plugin))

    def unknown_tables(self) -> None:
        for name in self.config.names(("plugins",)):
            if name not in self.registry.names():
                self.tell(("plugins", name), self.registry.no_such(name))

    def spec(self, key: tuple[str, ...], name: str, role: str) -> Spec | None:
        """The spec of a plugin in a role, or None and a problem that cites the key that asked for it."""
        found = self._spec(key, name, role)
        self.is_whole &= found is not None
        return found

    def _spec(self, key: tuple[str, ...], name: str, role: str) -> Spec | None:
        if name not in self.registry.names():
            self.tell(key, self.registry.no_such(name))
            return None
        try:
            plugin = self.registry.load(name)
        except PluginError as error:
            self.tell(key, str(error), is_plugin=True)
            return None
        if role not in plugin.specs:
            plays = ", ".join(plugin.specs) or "no role"
            self.tell(key, f"{plugin.offer} does not play {role}; it plays {plays}")
            for other in plugin.specs.values():  # its table may hold more mistakes: tell them too
                self.table(other)
        return plugin.specs.get(role)

    def table(self, spec: Spec) -> Any:
        """The plugin's own table as its struct, converted once; None if it has mistakes."""
        if spec.name not in self.configs:
            table = ("plugins", spec.name)
            self.configs[spec.name] = self.config.read(table, spec.config, self.problems)
        return self.configs[spec.name]

    def hosted(self, spec: ProtocolSpec, config: Any, chain: Sequence[str]) -> dict[str, Part]:
        """The parts that a hosting protocol names in its own table, and theirs in turn."""
        found: dict[str, Part] = {}
        for field, role in spec.hosts.items():
            key = ("plugins", spec.name, field)
            name = getattr(config, field, None)
            if not isinstance(name, str) or not name:
                self.tell(key, f"expected the name of a {role} plugin to host, got {name!r}")
                continue
            if name in chain:
                self.tell(key, f"plugins host each other in a circle: {' → '.join((*chain, name))}")
                continue
            guest = self.spec(key, name, role)
            if guest is None:
                continue
            assert isinstance(guest, ProtocolSpec)  # roles of hosts are machine roles
            table = self.table(guest)
            if table is not None:
                found[field] = Part(guest, table, self.hosted(guest, table, (*chain, name)))
        return found

    def capabilities(self, specs: Sequence[Spec], inside: Sequence[ProtocolSpec]) -> None:
        """Everything required must be provided by a chosen plugin; else say who would."""
        provided = {capability for spec in specs for capability in spec.provides}
        for spec in dict.fromkeys(map(_by_identity, (*specs, *inside))):
            for capability in sorted(spec.spec.requires - provided):
                self.tell(
                    self.asked(spec.spec),
                    f"plugin {spec.spec.name!r} needs {capability!r}, which no chosen plugin provides; "
                    + self.who_offers(capability),
                )

    def asked(self, spec: Spec) -> tuple[str, ...]:
        for role in KINDS:
            if spec.name in self.config.roles.of(role):
                return ("roles", role)
        return ("plugins", spec.name)

    def who_offers(self, capability: str) -> str:
        would = [
            str(one.plugin.offer)
            for one in Registry().survey()  # of its own: nothing more is registered for this node
            if one.plugin and any(capability in spec.provides for spec in one.plugin.specs.values())
        ]
        return f"{' or '.join(would)} would" if would else "nor does any installed one"

    def domains(self, specs: Sequence[ProtocolSpec]) -> None:
        """A signature made for one protocol must never count in another."""
        signing = {spec.name: spec for spec in specs if spec.domain}
        for one in signing.values():
            for other in signing.values():
                if one.name != other.name and other.domain.startswith(one.domain):
                    self.tell(
                        self.asked(one),
                        f"plugins {one.name!r} and {other.name!r} sign in overlapping domains "
                        f"({one.domain!r}, {other.domain!r}); they cannot be on one node",
                        is_plugin=True,
                    )


class _by_identity:
    """A spec as a dict key: specs hold dicts, so they do not hash."""

    __slots__ = ("spec",)

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _by_identity) and other.spec is self.spec


def _all_parts(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts and everything they host, at any depth."""
    for part in parts:
        yield part
        yield from _all_parts(part.hosted.values())
