"""What can go wrong, by whose fault, and how the command line reports it.

The split between *local* and *remote* is h11's: a local error is a mistake in our own program and
should be loud; a remote error is somebody else's bad input and must never cost anyone but them.
"""

from __future__ import annotations

from collections.abc import Sequence


class GroveError(Exception):
    """Base of every error Grove raises on purpose. Its text is meant for the person at the keyboard."""

    exit_code = 1


class LocalProtocolError(GroveError):
    """Our side broke the rules: a machine or an application called something it must not call."""


class RemoteProtocolError(GroveError):
    """A peer sent something the protocol forbids. Decoders raise this and nothing else.

    The text says what came and what the limit is: ``"IHAVE with 5,001 ids; limit 5,000"``.
    """


class NotRunning(GroveError):
    """No node answers at the given data folder."""

    exit_code = 3


class Unreachable(GroveError):
    """A peer could not be reached on any address we know."""

    exit_code = 5


class Denied(GroveError):
    """The village decided against it, and nothing was changed. code: the reason, for programs."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Undecided(Unreachable):
    """No outcome came in time: it may have taken effect, or may yet. To ask again is safe."""

    code = "undecided"


class ConfigError(GroveError):
    """Everything that is wrong with a configuration, all at once.

    problems: one sentence each, beginning with ``file:line:`` where the origin is a file.
    """

    exit_code = 6

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class PluginError(GroveError):
    """A plugin that was asked for cannot be used; names it, its distribution and the way out."""

    exit_code = 7
