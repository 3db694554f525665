"""The options that every verb about a node shares, and what they choose.

@click.command()
@node_options
@json_option
def status(chosen: Chosen, as_json: bool) -> int | None: ...
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from grove_core.config import Configuration
    from grove_core.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


class Options(NamedTuple):
    """What --profile, --config, --data and --set say. Nothing is read before it is asked for."""

    profile: str | None = None
    file: Path | None = None
    folder: str | None = None
    sets: tuple[str, ...] = ()

    def config(self, *flags: tuple[str, str, Any], registry: Registry | None = None) -> Configuration:
        """The configuration, mistakes and all; `registry.assemble` raises them.

        flags: a verb's own, as ("--listen", "node.listen", [...]); they are stronger than --set.
        registry: give one to keep the plugins (and their hooks) that reading and assembling load.
        """
        from grove_core.config import load

        own = [("--data", "node.data", self.folder)] if self.folder is not None else []
        return load(
            self.profile,
            file=self.file or usual_file(),
            flags=[*own, *flags],
            sets=self.sets,
            registry=registry,
        )

    @property
    def data(self) -> Path:
        """Where the node lives, absolute. With --data nothing is read; else ConfigError for mistakes."""
        if self.folder is not None:
            return Path(self.folder).expanduser().absolute()
        config = self.config()
        config.check()
        return Path(config.settings.data).expanduser().absolute()


def usual_file() -> Path | None:
    """The configuration to use without --config: $GROVE_CONFIG, ./grove.toml, or the user's own."""
    if said := os.environ.get("GROVE_CONFIG"):
        return Path(said)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    usual = (Path("grove.toml"), home / "grove" / "grove.toml")
    return next((path for path in usual if path.is_file()), None)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --profile, --config, --data and --set; the function gets them as `options`."""

    @click.option("--profile", metavar="NAME", help="Profile to start from. [$GROVE_PROFILE]")
    @click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Instead of ./grove.toml or ~/.config/grove/grove.toml. [$GROVE_CONFIG]",
    )
    @click.option(
        "--data",
        "folder",
        metavar="FOLDER",
        help="Where the node keeps its key and its records. [$GROVE_DATA]",
    )
    @click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting: roles.broadcast=flood."
    )
    @wraps(function)
    def with_options(
        profile: str | None, file: Path | None, folder: str | None, sets: tuple[str, ...], **rest: Any
    ) -> Any:
        return function(options=Options(profile, file, folder, sets), **rest)

    return with_options


def json_option(function: F) -> F:
    """Add --json; the function gets `as_json`. Every command that reads has it."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")(
        function
    )
