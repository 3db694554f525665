"""Parts by plugin name, for tests: what the registry would build, without a profile."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import msgspec

from grove_core.errors import PluginError
from grove_core.specs import Part, ProtocolSpec

_HOOKS = ("grove_discovery", "grove_membership", "grove_broadcast", "grove_storage", "grove_consensus")


def part(name: str, **config: Any) -> Part:
    """The protocol of an installed plugin with the given config fields; the rest are defaults.

    Raises PluginError if no installed plugin has the name, msgspec.ValidationError for a bad field.
    """
    found = entry_points(group="grove", name=name)
    if not found:
        raise PluginError(f"no installed plugin is named {name!r}; `grove plugins list` shows them")
    module = next(iter(found)).load()
    for hook in _HOOKS:
        specs: list[ProtocolSpec] = list(getattr(module, hook, list)())
        for spec in specs:
            if spec.name == name:
                return Part(spec, msgspec.convert(config, spec.config))
    raise PluginError(f"plugin {name!r} offers no protocol of that name")
