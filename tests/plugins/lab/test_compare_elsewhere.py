"""Comparisons that run elsewhere: on a real dask.distributed scheduler, and on real nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from grove_lab.compare import live
from grove_lab.compare.cluster import on_cluster
from grove_lab.compare.pairing import Outcome, execute, here, plan

from grove_core.errors import GroveError

SMALL = Path(__file__).with_name("small.toml")
CHOICES = ["broadcast=plumtree", "broadcast=flood"]

SCHEDULER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, memory_limit="1GiB",
                      dashboard_address=None, host="127.0.0.1") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
"""A scheduler with two workers, until its standard input ends."""


def bare(outcomes: list[Outcome]) -> list[Outcome]:
    return [msgspec.structs.replace(one, cpu_s=0.0, wall_s=0.0) for one in outcomes]


def test_a_cluster_gives_what_this_machine_gives(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    study = plan(SMALL, CHOICES, seeds=[1, 2, 3], sizes=[8])
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("tcp://127.0.0.1:")
            assert bare(execute(study, on_cluster(address))) == bare(execute(study, here))
        finally:
            process.stdin.close()
            process.wait(timeout=30)


def test_without_the_extra_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(GroveError, match=r"pip install 'grove-node\[cluster\]'"):
        on_cluster("tcp://127.0.0.1:1")


@pytest.mark.claim("compare.live")
@pytest.mark.parametrize("transport", ["tcp", "quic"])
def test_real_nodes_publish_hear_and_are_counted(transport: str) -> None:
    study = live.plan(SMALL, CHOICES, seeds=[1], sizes=[5], sets=["duration=1", "join.settle=0.5"])
    study = msgspec.structs.replace(study, sides=study.sides[:1])
    (one,) = execute(study, live.over(transport))
    assert one.violation == ""
    assert one.metrics["published"] == 10.0
    assert one.metrics["delivery_ratio"] == 1.0
    assert one.deliveries == 40
    assert one.metrics["messages_per_delivery"] > 0.9
    seconds = 1.0 + study.world(5).measure.deadline
    payloads = 100 * one.deliveries / 5  # bytes that each node must have sent, at the least
    assert one.metrics["bytes_up_per_node_s"] > payloads / seconds
    assert one.metrics["bytes_up_busiest_node_s"] >= one.metrics["bytes_up_per_node_s"]
    assert 0.0 < one.metrics["latency_p50_ms"] < 5000.0
    assert one.quantiles == sorted(one.quantiles)
    assert one.digest == ""


@pytest.mark.parametrize(
    ("sets", "nodes", "text"),
    [
        ((), 4, "5 to 20 nodes; 4"),
        ((), 21, "5 to 20 nodes; 21"),
        (("faults.cut.kind=partition", "faults.cut.share=0.5"), 8, r"\[faults.cut\] partition"),
        (("workloads.talk.kind=propose",), 8, r"\[workloads.talk\] propose"),
        (("classes.super.share=1",), 8, r"\[classes\]"),
    ],
)
def test_what_real_nodes_cannot_play_is_refused(sets: tuple[str, ...], nodes: int, text: str) -> None:
    with pytest.raises(GroveError, match=text):
        live.plan(SMALL, CHOICES, seeds=[1], sizes=[nodes], sets=sets)
