"""Histories that must be equal whatever the process and the hash seed."""

from __future__ import annotations

from grove_lab.run import run

from tests.plugins.lab.conftest import village

ROUGH = """
[classes.home]
share = 3
uplink = 200_000
[classes.super]
share = 1
[network]
latency = "regions"
jitter = 0.1
loss = 0.02
disk = 0.01
[cpu]
verify = 85e-6
message = 20e-6
sign = 28e-6
[workloads.news]
arrivals = "poisson"
rate = 2
size = 100
size_high = 5000
[faults.quake]
kind = "restart"
share = 0.2
at = 5
lasts = 4
[faults.homes]
kind = "churn"
share = 0.3
session_mean = 10
absence_mean = 3
noticed = "silent"
after = 2
[faults.cut]
kind = "partition"
share = 0.3
at = 8
lasts = 4
after = 2
[faults.late]
kind = "clock"
share = 0.2
factor = 1.1
"""


def rough() -> str:
    """A world in which everything happens, with every event in the digest."""
    one = run(village(ROUGH), seed=5, trace=True)
    assert one.violation is None, one.violation
    return f"{one.digest} {one.trace} {one.events}"
