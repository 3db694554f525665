"""The `grove` command: which verb lives where, and how anything that goes wrong is told.

A verb is imported when it is called, and a plugin's verb is looked for only when the name is not in
the table: `grove --help` imports neither plugins nor heavy libraries, and a broken plugin breaks
nothing but itself.

Exit codes: 0 done, 1 failed, 2 used wrongly, 3 no node runs here, 4 degraded (it works, but relayed
or below target), 5 unreachable, 6 the configuration is wrong, 7 a plugin failed. A verb's function
returns its code, None being 0; a `GroveError` brings its own.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from grove_core.errors import ConfigError, GroveError, PluginError


class Verb(NamedTuple):
    """A line of the help, and where its function is."""

    target: str
    does: str


SECTIONS: dict[str, dict[str, Verb]] = {
    "Run a node": {
        "demo": Verb("grove_core.cli.demo:demo", "Watch five real nodes meet, lose one, and heal."),
        "up": Verb("grove_core.cli.up:up", "Run a node on this machine."),
        "join": Verb("grove_core.cli.live:join", "Enter the village of whoever gave you a ticket."),
        "ticket": Verb("grove_core.cli.live:ticket", "Print an invitation to this node."),
    },
    "Look around": {
        "status": Verb("grove_core.cli.live:status", "One screen about the running node."),
        "id": Verb("grove_core.cli.live:id_", "This node's peer id and addresses."),
        "peers": Verb("grove_core.cli.live:peers", "Who is connected, how, and why."),
        "ping": Verb("grove_core.cli.live:ping", "Measure the way to a peer."),
        "connect": Verb("grove_core.cli.live:connect", "Open and hold a connection to a peer."),
        "disconnect": Verb("grove_core.cli.live:disconnect", "Close every connection to a peer."),
    },
    "Speak and listen": {
        "pub": Verb("grove_core.cli.live:pub", "Publish to a topic."),
        "sub": Verb("grove_core.cli.live:sub", "Print what arrives on a topic."),
    },
    "Set up": {
        "profile": Verb("grove_core.cli.profile:profile", "The profiles there are, and what they say."),
        "config": Verb("grove_core.cli.config:config", "What is configured, by whom, and if it holds."),
        "plugins": Verb(
            "grove_core.cli.plugins:plugins", "What is installed, what is broken, a new one."
        ),
    },
}
"""The verbs of Grove's own, as the help shows them."""

VERBS = {name: verb for section in SECTIONS.values() for name, verb in section.items()}


class Grove(click.Group):
    """Finds verbs in the table first, then among the plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return self.plugin_verbs()[0].get(name)
        module, _, function = VERBS[name].target.partition(":")
        command = getattr(importlib.import_module(module), function)
        assert isinstance(command, click.Command), f"{VERBS[name].target} is not a click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in VERBS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        found, silent = self.plugin_verbs()
        if name in found:
            return name, found[name], args[1:]
        from grove_core.words import did_you_mean

        said = f"no verb {name!r}{did_you_mean(name, [*VERBS, *found])}"
        if silent:
            names = ", ".join(silent)
            said += f" (it may belong to a plugin that did not load: {names}; see: grove plugins list)"
        raise click.UsageError(said, ctx)

    def plugin_verbs(self) -> tuple[dict[str, click.Command], list[str]]:
        """The verbs that plugins bring, and the plugins that could not be asked."""
        from grove_core.registry import Registry

        registry = Registry()
        found: dict[str, click.Command] = {}
        silent: list[str] = []
        for one in registry.survey():
            try:
                commands = registry.commands(one.plugin) if one.plugin else []
            except PluginError:
                silent.append(one.name)
                continue
            found.update((str(command.name), command) for command in commands)
            silent += [] if one.plugin else [one.name]
        return found, silent

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, verb.does) for name, verb in verbs.items()])
        if not ctx.meta.get("grove.all"):
            formatter.write_paragraph()
            formatter.write_text("Plugins bring more verbs: grove --help-all")
            return
        found, silent = self.plugin_verbs()
        with formatter.section("From plugins"):
            lines = [(name, found[name].get_short_help_str(80)) for name in sorted(found)]
            lines += [(name, "(did not load; see: grove plugins list)") for name in silent]
            formatter.write_dl(lines or [("none", "no installed plugin brings a verb")])


def _help_all(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta["grove.all"] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"grove {version('grove-node')}")
        ctx.exit()


@click.command(
    cls=Grove,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Errors say what to do next. With --debug, anywhere, they also show where they come from.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print it."
)
@click.option(
    "--help-all",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_help_all,
    help="Help with the verbs of plugins, too.",
)
def grove() -> None:
    """A peer-to-peer node for villages of home computers.

    Start with `grove demo`; then `grove up` here, and `grove join TICKET` on another machine.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Every error becomes a sentence on standard error.

    argv: without the program's name; sys.argv if None.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    args = [arg for arg in given[:end] if arg != "--debug"] + given[end:]
    try:
        code = grove.main(args, prog_name="grove", standalone_mode=False)
        sys.stdout.flush()
        return code if type(code) is int else 0
    except GroveError as error:
        if debug:
            raise
        _tell(error, as_json="--json" in args[:end])
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as shells have it
    except BrokenPipeError:  # the reader has seen enough, as in `grove peers | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush into
        return 1
    except Exception as error:
        if debug:
            raise
        first = next(iter(str(error).splitlines()), "")
        told = f"{type(error).__name__}: {first}" if first else type(error).__name__
        click.echo(f"grove made a mistake ({told}); to see where, add --debug", err=True)
        return 1


def _tell(error: GroveError, *, as_json: bool) -> None:
    problems: tuple[str, ...] = (str(error),)
    if isinstance(error, ConfigError):
        problems = error.problems
        number = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        click.echo(f"{number} in the configuration; nothing was started", err=True)
    for problem in problems:
        click.echo(problem, err=True)
    if as_json:
        from grove_core.cli.show import print_json

        told: dict[str, Any] = {"exit_code": error.exit_code, "problems": problems}
        print_json("grove.error", **told)
