"""`grove up`: run a node until told to stop, and tell what happens.

With `--json` one object per line goes to standard output: `{"event": "listening", "peer_id": …,
"addrs": […]}` first, then every event of the node, in the words of `outward.py`. Without it, the same
for people. SIGINT, SIGTERM and a reader that is gone end the node in order, with exit code 0.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Final

import click

from grove_core.cli.options import Options, common

BACKLOG: Final = 4096  # events waiting to be told


@click.command()
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Where to listen. Repeatable.")
@click.option("--peer", multiple=True, metavar="MULTIADDR", help="Whom to dial and keep. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for programs.")
@common
def up(options: Options, listen: tuple[str, ...], peer: tuple[str, ...], as_json: bool) -> None:
    """Run a node on this machine until Ctrl-C."""
    flags = [("--listen", "node.listen", list(listen))] if listen else []
    flags += [("--peer", "node.peers", list(peer))] if peer else []
    asyncio.run(_run(options, flags, as_json))


async def _run(options: Options, flags: list[tuple[str, str, Any]], as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    _on_signals(loop, stop)

    from grove_core import Node
    from grove_core.cli.telling import JsonTeller, Narrator
    from grove_core.events import Connected, Delivered, Disconnected, NeighborDown, NeighborUp
    from grove_core.registry import Registry

    def reader_gone() -> None:
        loop.call_soon_threadsafe(stop.set)

    registry = Registry()
    plan = registry.assemble(options.config(*flags, registry=registry))
    teller = JsonTeller(reader_gone) if as_json else Narrator(reader_gone)
    told = (Connected, Disconnected, NeighborUp, NeighborDown, Delivered)
    node = Node(plan, registry=registry)
    async with node.watch(*told, limit=BACKLOG) as events, node:
        teller.started(node)
        telling = asyncio.create_task(_tell(events, teller))  # ends by itself only if the node does
        ended = asyncio.create_task(stop.wait())
        await asyncio.wait({telling, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, ended):
            task.cancel()
        await asyncio.gather(telling, ended, return_exceptions=True)
    teller.ended()


async def _tell(events: Any, teller: Any) -> None:
    missed = 0
    async for event in events:
        lost, missed = events.missed - missed, events.missed
        teller.told(event, lost)


def _on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: asyncio has none there
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
