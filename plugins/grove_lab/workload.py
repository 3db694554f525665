"""Who says what, when: publications as a scenario wants them, drawn ahead of everything else.

Sizes, times and senders come from one stream per workload and do not depend on what protocols do;
a drawn sender that is not alive gives way to the next living one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grove_core.drive.virtual import VirtualNode
from grove_lab.scenario import Workload, may_publish
from grove_lab.streams import stream
from grove_lab.traffic import MARK

if TYPE_CHECKING:
    from grove_lab.stage import Stage


class Publishing:
    """One workload under way: each message schedules the next."""

    def __init__(self, stage: Stage, name: str, workload: Workload) -> None:
        self.stage = stage
        self.name = name
        self.workload = workload
        self.rng = stream(stage.seed, "publish", name)
        self.senders = [
            index
            for index, kind in enumerate(stage.kinds)
            if may_publish(name := stage.class_names[kind], stage.scenario.class_of(name), workload)
        ]
        self.one = self.rng.choice(self.senders)
        self.number = 0
        stop = workload.stop or stage.scenario.duration
        self.ends = stage.begins + min(stop, stage.scenario.duration)
        first = stage.begins + workload.start
        if workload.arrivals == "poisson":
            first += self.rng.expovariate(workload.rate)
        self.schedule(first)

    def schedule(self, at: float) -> None:
        if at < self.ends and (not self.workload.count or self.number < self.workload.count):
            self.stage.world.at(at, self.say)

    def say(self) -> None:
        """One message, then the next."""
        workload, world = self.workload, self.stage.world
        sender = self.sender()
        size = workload.size
        if workload.size_high:
            size = self.rng.randint(workload.size, workload.size_high)
        number = self.stage.next_number()
        data = payload(number, size)
        self.number += 1
        gap = 1 / workload.rate
        if workload.arrivals == "poisson":
            gap = self.rng.expovariate(workload.rate)
        self.schedule(world.now + gap)
        if sender is None:
            return
        self.stage.conduct.authors[number] = self.stage.class_names[self.stage.kinds[sender.index]]
        if workload.kind == "publish":
            self.stage.deliveries.publish(self.name, workload.topic, sender, data)
        else:
            self.stage.clients.propose(workload, sender, data)

    def sender(self) -> VirtualNode | None:
        """Who speaks now; the next living one if it is not there, None if nobody is."""
        if self.workload.senders == "one":
            wanted = self.one
        elif self.workload.senders == "all":
            wanted = self.senders[self.number % len(self.senders)]
        elif self.workload.senders == "leader" and (leader := self.stage.clients.leader()) is not None:
            wanted = leader
        else:
            wanted = self.senders[int(self.rng.random() * len(self.senders))]
        order = self.stage.world.order
        if order[wanted].alive:
            return order[wanted]
        at = self.senders.index(wanted) if wanted in self.senders else 0
        around = self.senders[at:] + self.senders[:at]
        return next((order[index] for index in around if order[index].alive), None)


def payload(number: int, size: int) -> bytes:
    """Data of a message, 16 bytes or more: the mark, a number (u24), its size (u24), zeros."""
    return MARK + number.to_bytes(3, "big") + size.to_bytes(3, "big") + bytes(size - 16)
