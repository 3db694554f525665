"""Plugins with a bug in them, for the checkers to find: the sources of modules that `Shelf` installs."""

from __future__ import annotations

HEAD = """
from grove_core.hookspecs import hookimpl
from grove_core.machine import handles
import msgspec
GROVE_API = 1
"""

AGAIN = (
    HEAD
    + """
import grove_plumtree
from grove_plumtree.machine import Plumtree
from grove_plumtree.messages import Gossip, message_id

class Again(Plumtree):
    '''Forgets what it has seen: every copy is delivered.'''
    @handles(Gossip)
    def on_gossip(self, ctx, peer, msg):
        mid = message_id(msg.publication)
        if mid in self.received.seen:
            self.received.payloads.pop(mid, None)
            del self.received.seen[mid]
        Plumtree.on_gossip(self, ctx, peer, msg)

SPEC = msgspec.structs.replace(grove_plumtree.SPEC, name="again", build=Again)

@hookimpl
def grove_broadcast():
    return (SPEC,)
"""
)

UNPRUNED = (
    HEAD
    + """
import grove_plumtree
from grove_plumtree.machine import Plumtree
from grove_plumtree.messages import Prune

class Unpruned(Plumtree):
    '''Says PRUNE and hears it, and goes on as before: no tree ever forms.'''
    @handles(Prune)
    def on_prune(self, ctx, peer, msg):
        pass
    def _duplicate(self, ctx, peer, mid):
        ctx.send(peer, Prune())

SPEC = msgspec.structs.replace(grove_plumtree.SPEC, name="unpruned", build=Unpruned)

@hookimpl
def grove_broadcast():
    return (SPEC,)
"""
)

CLINGING = (
    HEAD
    + """
import grove_hyparview
from grove_hyparview.machine import HyParView
from grove_hyparview.messages import Disconnect

class Clinging(HyParView):
    '''Does not hear DISCONNECT, and tells nobody that they are none of its neighbours.'''
    @handles(Disconnect)
    def on_disconnect(self, ctx, peer, msg):
        pass
    def _not_neighbors(self, ctx, peer):
        pass

SPEC = msgspec.structs.replace(grove_hyparview.SPEC, name="clinging", build=Clinging)

@hookimpl
def grove_membership():
    return (SPEC,)
"""
)

BUGS = {
    "again": ("broadcast=again", AGAIN, "exactly-once"),
    "unpruned": ("broadcast=unpruned", UNPRUNED, "redundancy"),
    "clinging": ("membership=clinging", CLINGING, "symmetric"),
}
"""Name -> how it is chosen, its source, and the invariant it breaks."""
