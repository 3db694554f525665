"""For authors of plugins: record a machine's effects, run villages in virtual time, check a role.

    from grove_core.testing import Recorder, Send
    recorder = Recorder(me)
    machine.on_message(recorder, peer, Gossip(…))
    assert recorder.take() == [Emit(Delivered(…)), Send(other, Gossip(…))]

The package is under the same promise of stability as the contract itself.
"""

from grove_core.testing.determinism import assert_deterministic
from grove_core.testing.parts import part
from grove_core.testing.recorder import (
    CancelTimer,
    Connect,
    Disconnect,
    Effect,
    Emit,
    Recorder,
    Reply,
    Request,
    Save,
    Send,
    SetTimer,
)
from grove_core.testing.village import Village, peer

__all__ = [
    "CancelTimer",
    "Connect",
    "Disconnect",
    "Effect",
    "Emit",
    "Recorder",
    "Reply",
    "Request",
    "Save",
    "Send",
    "SetTimer",
    "Village",
    "assert_deterministic",
    "part",
    "peer",
]
