"""`grove config`: what is in force, who set it, and whether a node could start with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from grove_core.cli.options import Options, common, json_option

if TYPE_CHECKING:
    import msgspec

    from grove_core.config import Configuration
    from grove_core.layers import Key
    from grove_core.node import Plan


@click.group(no_args_is_help=True)
def config() -> None:
    """What is configured, by whom, and whether it holds."""


@config.command()
@common
@json_option
def show(options: Options, as_json: bool) -> None:
    """Every setting of the node that would start, defaults too, with who set it."""
    import msgspec

    from grove_core.cli.show import print_json, toml
    from grove_core.registry import assemble

    found = options.config()
    plan = assemble(found)
    if as_json:
        tables = {".".join(table): msgspec.to_builtins(struct) for table, struct in _tables(found, plan)}
        origins = {
            ".".join((*table, name)): str(found.origin((*table, name)))
            for table, struct in _tables(found, plan)
            for name in struct.__struct_encode_fields__
        }
        print_json(
            "grove.config", profile=plan.profile, chain=found.chain, settings=tables, origins=origins
        )
        return
    click.echo(f"profile = {toml(plan.profile)}")
    for table, struct in _tables(found, plan):
        click.echo(f"\n[{'.'.join(table)}]")
        for name, value in msgspec.to_builtins(struct).items():
            line = f"{name} = {toml(value)}"
            click.echo(f"{line:<44} # {found.origin((*table, name))}")


@config.command()
@click.argument("key")
@common
@json_option
def explain(key: str, options: Options, as_json: bool) -> None:
    """Who set KEY (as plugins.hyparview.active_size), weakest first, and what it means."""
    from grove_core.cli.fields import fields_of
    from grove_core.cli.show import print_json, toml
    from grove_core.lines import key_path
    from grove_core.words import did_you_mean

    try:
        path = key_path(key)
    except ValueError as error:
        raise click.UsageError(f"{error}; expected TABLE.KEY, as limits.dials") from error
    if len(path) < 2 and path != ("profile",):
        raise click.UsageError(f"{key}: expected TABLE.KEY, as limits.dials")
    found = options.config()
    fields = {field.name: field for field in fields_of(_kind(path[:-1]))} if path[1:] else {}
    field = fields.get(path[-1])
    if field is None and path[1:]:
        hint = did_you_mean(path[-1], fields)
        raise click.UsageError(f"{key}: unknown key{hint} (keys here: {', '.join(fields) or 'none'})")
    said: list[dict[str, Any]] = []
    if field is not None and field.default:
        said.append({"origin": "default", "layer": "default", "value": field.default})
    said += [
        {"origin": str(setting.origin), "layer": setting.origin.layer, "value": toml(setting.value)}
        for setting in found.history(path)
    ]
    if not path[1:] and not said:
        said.append({"origin": "default", "layer": "default", "value": toml(found.profile)})
    if as_json:
        about = field.about if field else ""
        print_json(
            "grove.explain", key=key, about=about, expects=field.expects if field else "", set_by=said
        )
        return
    width = max(len(one["origin"]) for one in said)
    for one in said:
        click.echo(f"{one['origin']:<{width}}  {key} = {one['value']}")
    click.echo(f"\nin force: {said[-1]['value']}, set by {said[-1]['origin']}")
    if field is not None:
        click.echo(f"expected: {field.expects}")
        if field.about:
            click.echo(f"meaning:  {field.about}")


@config.command()
@common
@json_option
def check(options: Options, as_json: bool) -> None:
    """Find every mistake at once; exit 6 if there is one. Starts nothing."""
    from grove_core.cli.show import print_json
    from grove_core.registry import Registry

    registry = Registry()
    found = options.config(registry=registry)
    plan = registry.assemble(found)
    names = list(_chosen_plugins(plan))
    unread = [name for name in found.names(("plugins",)) if name not in names]
    if as_json:
        print_json("grove.check", ok=True, profile=plan.profile, plugins=names, not_checked=unread)
        return
    click.echo(f"profile {plan.profile} is in order: {', '.join(names) or 'no plugins'}")
    if unread:
        click.echo(
            f"not checked, since no role names them: {', '.join(f'[plugins.{name}]' for name in unread)}"
        )


def _chosen_plugins(plan: Plan) -> dict[str, Any]:
    """The plugins of a plan and their configurations; hosted ones after their hosts."""
    found: dict[str, Any] = {spec.name: given for spec, given in plan.transports}
    waiting = list(plan.parts)
    while waiting:
        part = waiting.pop(0)
        found.setdefault(part.spec.name, part.config)
        waiting[:0] = part.hosted.values()
    return found | {spec.name: given for spec, given in plan.services}


def _tables(found: Configuration, plan: Plan) -> Iterator[tuple[Key, msgspec.Struct]]:
    yield ("node",), plan.settings
    yield ("limits",), plan.limits
    yield ("roles",), found.roles
    for name, struct in _chosen_plugins(plan).items():
        yield ("plugins", name), struct


def _kind(table: Key) -> type[msgspec.Struct]:
    """The struct behind a table. Raises UsageError, or PluginError if its plugin is broken."""
    from grove_core.config import TABLES
    from grove_core.registry import Registry
    from grove_core.words import did_you_mean

    if len(table) == 1 and table[0] in TABLES:
        return TABLES[table[0]]
    if len(table) == 2 and table[0] == "plugins":
        for spec in Registry().load(table[1]).specs.values():
            return spec.config
        raise click.UsageError(f"plugin {table[1]!r} plays no role and has no configuration")
    name = ".".join(table)
    hint = did_you_mean(name, [*TABLES, "plugins"])
    raise click.UsageError(
        f"[{name}]: no such table{hint} (there are: {', '.join(TABLES)}, plugins.<name>)"
    )
