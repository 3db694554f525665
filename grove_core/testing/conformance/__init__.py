"""What every plugin of a role must do, as test classes to subclass. Contrib runs them too.

from grove_core.testing import part
from grove_core.testing.conformance import BroadcastConformance

class TestConformance(BroadcastConformance):
    part = part("flood")
"""

from grove_core.testing.conformance.broadcast import BroadcastConformance
from grove_core.testing.conformance.membership import MembershipConformance
from grove_core.testing.conformance.transport import TransportConformance

__all__ = ["BroadcastConformance", "MembershipConformance", "TransportConformance"]
