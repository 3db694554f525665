"""From installed packages to plugins, and from a configuration to a plan.

A plugin is a module named in the entry-point group ``grove`` of an installed distribution. Only
what is asked for is imported, each in a `try` of its own: one broken plugin costs nobody else
anything (pluggy's own loader imports all of them and dies of the first, so it is not used).
`survey` is the exception: it looks at everything, for `grove plugins list`.

Invariants:
1. A `Registry` is an object, never a module global: whoever starts a node makes one.
2. A plugin is either registered whole (right API, known hooks, valid specs) or not at all.
3. Two distributions that offer one name offer nothing: which of them wins would be luck.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec
import pluggy

from grove_core import hookspecs
from grove_core.errors import PluginError
from grove_core.node import Plan
from grove_core.specs import API, ROLES, ProfileSpec, ProtocolSpec, ServiceSpec, TransportSpec
from grove_core.words import did_you_mean

if TYPE_CHECKING:
    import click

    from grove_core.config import Configuration

GROUP = "grove"
Spec = ProtocolSpec | TransportSpec | ServiceSpec

SPEC_HOOKS: dict[str, tuple[str, type[Spec]]] = {
    "grove_transports": ("transport", TransportSpec),
    **{f"grove_{role}": (role, ProtocolSpec) for role in ROLES},
    "grove_services": ("service", ServiceSpec),
}
"""Hook -> the role its specs play, and their type."""

KINDS = tuple(role for role, _ in SPEC_HOOKS.values())
"""Every role a profile can fill, in the order of a node's assembly: transports, machines, services."""


class Offer(msgspec.Struct, frozen=True):
    """One entry point: a distribution says that a module is the plugin of this name."""

    name: str
    target: str  # module, or module:object
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} ({self.distribution} {self.version})"


class Plugin(msgspec.Struct, frozen=True):
    """A plugin that was imported and found sound."""

    offer: Offer
    module: Any
    hooks: tuple[str, ...]
    specs: dict[str, Spec]  # by role
    profiles: tuple[ProfileSpec, ...]

    @property
    def name(self) -> str:
        """The entry-point name: what profiles and tables call it."""
        return self.offer.name


class Surveyed(msgspec.Struct, frozen=True):
    """One line of `grove plugins list`."""

    name: str
    state: Literal["ok", "broken", "wrong api", "duplicate"]
    offers: tuple[Offer, ...]
    cause: str = ""
    plugin: Plugin | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.plugin.specs) if self.plugin else ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """Wire ids of its message streams and of its exchanges."""
        specs = self.plugin.specs.values() if self.plugin else ()
        machines = [spec for spec in specs if isinstance(spec, ProtocolSpec)]
        return tuple(wire for spec in machines for wire in (*spec.protocols, *spec.rpc))


class WrongApi(PluginError):
    """A plugin speaks another major version of the hooks than this kernel."""


class Duplicate(PluginError):
    """More than one distribution offers a plugin name."""


def installed() -> dict[str, list[tuple[Offer, EntryPoint]]]:
    """Everything offered in the group, by name, ascending. Reads metadata only, imports nothing."""
    found: dict[str, list[tuple[Offer, EntryPoint]]] = {}
    for point in entry_points(group=GROUP):
        of = point.dist
        who = (of.name, of.version) if of is not None else ("?", "?")
        found.setdefault(point.name, []).append((Offer(point.name, point.value, *who), point))
    for offers in found.values():
        offers.sort(key=lambda pair: (pair[0].distribution, pair[0].version))
    return dict(sorted(found.items()))


class Registry:
    """The plugins of one node (or of one command): loads, remembers, looks up."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self._offers = installed()
        self._loaded: dict[str, Plugin | PluginError] = {}
        if os.environ.get("GROVE_TRACE_HOOKS") == "1":
            self.manager.add_hookcall_monitoring(_trace_call, _trace_result)

    @property
    def hooks(self) -> hookspecs.Hooks:
        """Calls to the hooks of the plugins loaded so far."""
        return cast(hookspecs.Hooks, self.manager.hook)

    def names(self) -> tuple[str, ...]:
        """Names of all installed plugins, ascending, sound or not. Imports nothing."""
        return tuple(self._offers)

    def offers(self, name: str) -> tuple[Offer, ...]:
        """Which distributions offer a name; more than one is an error, and `load` says so."""
        return tuple(offer for offer, _ in self._offers.get(name, ()))

    def load(self, name: str) -> Plugin:
        """Import and register a plugin, once. Raises PluginError, the same one every time."""
        found = self._loaded.get(name)
        if found is None:
            try:
                found = self._load(name)
            except PluginError as error:
                found = error
            self._loaded[name] = found
        if isinstance(found, PluginError):
            raise found
        return found

    def _load(self, name: str) -> Plugin:
        offers = self._offers.get(name)
        if not offers:
            raise PluginError(self.no_such(name))
        if len(offers) > 1:
            both = ", ".join(f"{one.distribution} {one.version} ({one.target})" for one, _ in offers)
            raise Duplicate(
                f"{_count(len(offers))} distributions provide plugin {name!r}: {both}; "
                f"uninstall one or rename its entry point"
            )
        offer, point = offers[0]
        try:
            module = point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{offer} failed while importing: {_cause(error)}") from error
        _check_api(offer, module)
        try:
            self.manager.register(module, name)
            self.manager.check_pending()
            return self._inspect(offer, module)
        except PluginError:
            self._forget(name)
            raise
        except (Exception, SystemExit) as error:
            self._forget(name)
            raise _unsound(offer, _cause(error)) from error

    def no_such(self, name: str) -> str:
        """The sentence for a name nobody offers."""
        hint = did_you_mean(name, self._offers)
        there = ", ".join(self._offers) or "none"
        return f"no installed plugin is called {name!r}{hint} (installed: {there})"

    def _forget(self, name: str) -> None:
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def _inspect(self, offer: Offer, module: Any) -> Plugin:
        """Ask a registered plugin what it offers, and see that it is what the hooks promise."""
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(module) or ()))
        specs: dict[str, Spec] = {}
        for hook, (role, kind) in SPEC_HOOKS.items():
            for spec in self._ask(module, hook) if hook in hooks else ():
                if not isinstance(spec, kind):
                    raise _unsound(offer, f"{hook} gave {spec!r:.80}; expected a {kind.__name__}")
                if spec.name != offer.name:
                    raise _unsound(
                        offer, f"{hook} gave a spec named {spec.name!r}; expected {offer.name!r}"
                    )
                if isinstance(spec, ProtocolSpec) and spec.role != role:
                    raise _unsound(offer, f"{hook} gave a spec of role {spec.role!r}")
                if role in specs:
                    raise _unsound(offer, f"{hook} gave two specs; a plugin plays a role once")
                if not (isinstance(spec.config, type) and issubclass(spec.config, msgspec.Struct)):
                    raise _unsound(offer, f"its config {spec.config!r:.80} is not a msgspec.Struct class")
                msgspec.structs.fields(spec.config)  # raises if an annotation cannot be resolved
                specs[role] = spec
        if len({spec.config for spec in specs.values()}) > 1:
            raise _unsound(offer, f"its roles want different Config structs for [plugins.{offer.name}]")
        profiles = tuple(self._ask(module, "grove_profiles")) if "grove_profiles" in hooks else ()
        for profile in profiles:
            if not isinstance(profile, ProfileSpec):
                raise _unsound(offer, f"grove_profiles gave {profile!r:.80}; expected a ProfileSpec")
        return Plugin(offer, module, hooks, specs, profiles)

    def _ask(self, module: Any, hook: str) -> list[Any]:
        """What one plugin answers to a hook that returns sequences."""
        others = [plugin for plugin in self.manager.get_plugins() if plugin is not module]
        answers = self.manager.subset_hook_caller(hook, others)()
        return [item for answer in answers for item in answer]

    def commands(self, plugin: Plugin) -> list[click.Command]:
        """The verbs a plugin brings. Raises PluginError if it fails to say."""
        try:
            return self._ask(plugin.module, "grove_commands")
        except Exception as error:
            raise PluginError(f"{plugin.offer} failed to name its verbs: {_cause(error)}") from error

    def survey(self) -> tuple[Surveyed, ...]:
        """Load everything there is and say how each plugin fares. Never raises for a plugin's sake."""
        return tuple(survey_one(self, name) for name in self.names())

    def assemble(self, config: Configuration) -> Plan:
        """The plan of a node. Imports the plugins that [roles] names and no others.

        Raises ConfigError with every mistake in the configuration, or PluginError if the
        configuration is right and a plugin is at fault. Nothing is started.
        """
        from grove_core.planning import Planning

        return Planning(self, config).plan()


def survey_one(registry: Registry, name: str) -> Surveyed:
    """How one installed plugin fares. Never raises for the plugin's sake."""
    state: Literal["ok", "broken", "wrong api", "duplicate"]
    try:
        return Surveyed(name, "ok", registry.offers(name), plugin=registry.load(name))
    except PluginError as error:
        state = "broken"
        if isinstance(error, WrongApi):
            state = "wrong api"
        elif isinstance(error, Duplicate):
            state = "duplicate"
        return Surveyed(name, state, registry.offers(name), str(error))


def assemble(config: Configuration, registry: Registry | None = None) -> Plan:
    """`Registry.assemble`, for who needs no hooks afterwards."""
    return (registry or Registry()).assemble(config)


def _check_api(offer: Offer, module: Any) -> None:
    spoken = getattr(module, "GROVE_API", None)
    if spoken == API:
        return
    if not isinstance(spoken, int):
        module_name = offer.target.partition(":")[0]
        raise WrongApi(
            f"{offer} does not say which hook API it speaks; GROVE_API = {API} belongs in {module_name}"
        )
    fix = "upgrade grove-node" if spoken > API else f"upgrade {offer.distribution}"
    raise WrongApi(f"{offer} speaks hook API {spoken}, this Grove speaks {API}; {fix}")


def _unsound(offer: Offer, what: str) -> PluginError:
    return PluginError(f"{offer} was refused: {what}")


def _cause(error: BaseException) -> str:
    """An exception in one line."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _count(number: int) -> str:
    return {2: "two", 3: "three"}.get(number, str(number))


def _trace_call(name: str, implementations: Sequence[Any], arguments: Any) -> None:
    given = ", ".join(f"{key}={value!r:.60}" for key, value in arguments.items())
    to = ", ".join(each.plugin_name for each in implementations) or "nobody"
    print(f"hook {name}({given}) -> {to}", file=sys.stderr)


def _trace_result(outcome: Any, name: str, implementations: Sequence[Any], arguments: Any) -> None:
    failed = outcome.exception
    gave = f"raised {failed!r}" if failed else f"{outcome.get_result()!r:.200}"
    print(f"hook {name} = {gave}", file=sys.stderr)
