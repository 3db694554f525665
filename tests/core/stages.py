"""The drivers the contract is tested under."""

from tests.core.aio_stage import AioStage
from tests.core.virtual_stage import VirtualStage

STAGES = [VirtualStage, AioStage]
