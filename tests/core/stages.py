"""The drivers the contract is tested under."""

from tests.core.virtual_stage import VirtualStage

STAGES = [VirtualStage]
