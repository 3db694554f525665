"""Cells on many machines: handed to a dask.distributed scheduler that already runs (extra `cluster`).

    dask scheduler & dask worker tcp://…:8786        (each with Grove and the same plugins installed)
    grove compare A B --nodes 100000 --seeds 50 --cluster tcp://…:8786

The same `run_cell` runs there as here, so outcomes are the same to the last bit, provided the
software is: each worker is asked for the digests of its sources first, and one that differs ends the
comparison.
Scheduling, retries and lost workers are dask's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from grove_core.errors import GroveError, Unreachable
from grove_lab.compare.manifest import Software, changed_software, software
from grove_lab.compare.pairing import Cell, Executor, Outcome, Tell, Working, assembled, run_cell

CONNECT = 10.0  # s until a scheduler must have answered


def on_cluster(address: str) -> Executor:
    """An executor on the workers of a scheduler. Raises GroveError if the extra is not installed."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise GroveError("--cluster needs dask.distributed: pip install 'grove-node[cluster]'") from None

    def executor(cells: Sequence[Cell], tell: Tell) -> Working:
        try:
            client = Client(address, timeout=CONNECT)
        except (OSError, ValueError) as error:
            raise Unreachable(f"--cluster {address}: no scheduler answers there ({error})") from None
        with client:
            theirs = client.run(_software, cells[0])
            if not theirs:
                raise Unreachable(f"--cluster {address}: the scheduler has no worker")
            ours = _software(cells[0])
            for worker, found in theirs.items():
                changed = changed_software(ours, found)
                if changed:
                    raise GroveError(
                        f"worker {worker} has other software than this machine, so its figures would not "
                        f"be comparable: {'; '.join(changed)}"
                    )
            waiting = {client.submit(_work, cell, pure=False, key=_key(cell)): cell for cell in cells}
            for future, outcomes in as_completed(waiting, with_results=True):
                yield waiting[future], outcomes

    return executor


def _software(cell: Cell) -> Software:
    """What a worker would run a study with; the platform may differ, digests do not depend on it."""
    parts = [
        part
        for side in cell.study.sides
        for one in assembled(cell.study, cell.nodes, side).values()
        for part in one
    ]
    found = software(parts)
    found.platform = ""
    return found


def _work(cell: Cell) -> list[Outcome]:
    return run_cell(cell, lambda cell, share: None)


def _key(cell: Cell) -> str:
    return f"grove-{cell.nodes}-{cell.seed}-{id(cell)}"
