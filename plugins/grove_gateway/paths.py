"""How a connection runs, in the word people ask for first: is it direct or relayed, and why?

    loopback   both ends are this machine
    lan        the other end has a private or link-local address
    direct     the other end has a public address, or a name
    relayed    through a relay

(Ecosystem survey 1.4 G4; "punched" joins the list when hole punching reports it.)
"""

from __future__ import annotations

from typing import Final

from grove_core.transport import Connection

_WORDS: Final = {
    "loopback": ("loopback", "on this machine"),
    "link": ("lan", "at its link-local address"),
    "private": ("lan", "at its private address"),
    "public": ("direct", "at its public address"),
    "unknown": ("direct", "by name"),
}


def path_of(connection: Connection) -> tuple[str, str]:
    """The path's word, and the reason for it in a few words more."""
    came = "it dialled us" if connection.inbound else "we dialled it"
    if connection.remote.is_circuit:
        return "relayed", f"{came} through a relay"
    path, where = _WORDS[connection.remote.scope]
    return path, f"{came} {where}"
