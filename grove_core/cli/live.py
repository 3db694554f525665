"""Verbs that talk to a running node: status, id, peers, ping, pub, sub, ticket, join, connect …

Each is one or two requests at the local door and a picture of the answer. `--json` prints the answer
as it came, with `schema` and `version` in front. Exit codes: ecosystem survey 1.4 G3; 3 says that no
node is running, 4 that a ping went through a relay, 5 that nobody could be reached.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from grove_core.cli.door import Door, open_door
from grove_core.cli.options import Options, common, json_option
from grove_core.cli.show import print_json
from grove_core.outward import json_line, printable, short

RELAYED = 4

PATH_STYLE = {
    "loopback": "dim",
    "lan": "green",
    "direct": "green",
    "punched": "cyan",
    "relayed": "yellow",
}
LINK_STYLE = {"eager": "bold green", "lazy": "blue"}

watching = click.option(
    "--watch", type=click.FloatRange(0.1, 3600), metavar="SECONDS", help="Ask again and again."
)


@click.command()
@common
@json_option
@watching
def status(options: Options, as_json: bool, watch: float | None) -> int | None:
    """Show how the node is: who it is, whom it reaches and how."""
    return _read(options, "status", _status, as_json, watch)


@click.command("id")
@common
@json_option
def id_(options: Options, as_json: bool) -> int | None:
    """Show the node's peer id and addresses."""
    return _read(options, "id", _id, as_json, None)


@click.command()
@common
@json_option
@watching
def peers(options: Options, as_json: bool, watch: float | None) -> int | None:
    """List connected peers: how each is reached, and why so."""
    return _read(options, "peers", _peers, as_json, watch)


@click.command()
@click.argument("peer")
@click.option("-c", "--count", type=click.IntRange(1, 10_000), default=3, help="Round trips to make.")
@common
@json_option
def ping(options: Options, peer: str, count: int, as_json: bool) -> int | None:
    """Measure the round trip to PEER: a peer id, or the ending of a connected one's.

    Exits 0 if the path is direct, 4 if it is relayed, 5 if the peer cannot be reached.
    """

    async def act(door: Door) -> int:
        paths = []
        for _ in range(count):
            answer = await door.request("ping", {"peer": peer})
            paths.append(answer["path"])
            if as_json:
                print_json("grove.ping", **answer)
            else:
                path = answer["path"]
                click.echo(
                    f"{short(answer['peer'])}  {answer['rtt_ms']:8.3f} ms  "
                    f"{path}  {answer['transport']}  {answer['address']}"
                )
        return RELAYED if paths[-1] == "relayed" else 0

    return _run(options, act)


@click.command()
@click.argument("topic")
@click.argument("text", required=False)
@common
@json_option
def pub(options: Options, topic: str, text: str | None, as_json: bool) -> int | None:
    """Publish TEXT on TOPIC; without TEXT, each line of standard input is a message."""

    async def act(door: Door) -> int:
        count = 0
        async for data in _lines() if text is None else _once(text.encode()):
            answer = await door.request("publish", {"topic": topic, "data": data})
            count += 1
            if as_json:
                print_json("grove.pub", topic=topic, **answer)
        if not as_json:
            click.echo(f"published {count} on {topic}", err=True)
        return 0

    return _run(options, act)


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many messages.")
@common
@json_option
def sub(options: Options, topics: tuple[str, ...], count: int | None, as_json: bool) -> int | None:
    """Print what arrives on each TOPIC, one line a message, until stopped."""

    async def act(door: Door) -> int:
        async with door.subscribe(*topics) as events:
            told = 0
            while count is None or told < count:
                event = await events.next()
                told += 1
                if as_json:
                    click.echo(json_line(event))
                else:
                    topic = f"{event['topic']}  " if len(topics) > 1 else ""
                    text = printable(event["data"])
                    click.echo(f"{short(event['author'])}  {topic}{text}")
            if events.missed:
                click.echo(f"{events.missed} messages were lost: this reader was too slow", err=True)
        return 0

    return _run(options, act)


@click.command()
@common
@json_option
def ticket(options: Options, as_json: bool) -> int | None:
    """Print an invitation to this node's village."""

    async def act(door: Door) -> int:
        answer = await door.request("ticket")
        if as_json:
            print_json("grove.ticket", **answer)
        else:
            click.echo(answer["ticket"])
            if sys.stdout.isatty():
                click.echo(f"\non the other machine:  grove join {answer['ticket']}", err=True)
        return 0

    return _run(options, act)


@click.command()
@click.argument("ticket")
@common
@json_option
def join(options: Options, ticket: str, as_json: bool) -> int | None:
    """Enter a village with a TICKET somebody gave you."""
    return _act(options, "join", {"ticket": ticket}, "joined through", as_json)


@click.command()
@click.argument("target")
@common
@json_option
def connect(options: Options, target: str, as_json: bool) -> int | None:
    """Connect to TARGET, a multiaddr or a known peer id, and stay connected."""
    return _act(options, "connect", {"target": target}, "connected to", as_json)


@click.command()
@click.argument("peer")
@common
@json_option
def disconnect(options: Options, peer: str, as_json: bool) -> int | None:
    """Close every connection to PEER."""

    async def act(door: Door) -> int:
        answer = await door.request("disconnect", {"peer": peer})
        if as_json:
            print_json("grove.disconnect", **answer)
        elif answer["closed"]:
            click.echo(f"disconnected from {short(answer['peer'])}")
        else:
            click.echo(f"there was no connection to {short(answer['peer'])}")
        return 0

    return _run(options, act)


# Asking


def _run(options: Options, act: Callable[[Door], Awaitable[int]]) -> int:
    """Open the door, act, and return the exit code. Ctrl-C is an end like any other."""

    async def main() -> int:
        async with open_door(options.data) as door:
            return await act(door)

    with suppress(KeyboardInterrupt):
        return asyncio.run(main())
    return 0


def _read(
    options: Options,
    verb: str,
    picture: Callable[[dict[str, Any]], RenderableType],
    as_json: bool,
    watch: float | None,
) -> int:
    console = Console(highlight=False)

    async def act(door: Door) -> int:
        while True:
            answer = await door.request(verb)
            if as_json:
                print_json(f"grove.{verb}", **answer)
            else:
                if watch and console.is_terminal:
                    console.clear()
                console.print(picture(answer))
            if watch is None:
                return 0
            await asyncio.sleep(watch)

    return _run(options, act)


def _act(options: Options, verb: str, body: dict[str, Any], done: str, as_json: bool) -> int:
    async def act(door: Door) -> int:
        answer = await door.request(verb, body)
        if as_json:
            print_json(f"grove.{verb}", **answer)
        else:
            how = (
                f"  {answer['path']} · {answer['transport']} · {answer['address']}"
                if "path" in answer
                else ""
            )
            click.echo(f"{done} {short(answer['peer'])}{how}")
        return 0

    return _run(options, act)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _lines() -> AsyncIterator[bytes]:
    """Standard input line by line, without holding up the connection to the node."""
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        yield line.rstrip(b"\r\n")


# Pictures


def _status(answer: dict[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    plugins = answer["plugins"]
    overlay = (
        [f"{answer['neighbors']} neighbours by {plugins['membership']}"]
        if "membership" in plugins
        else []
    )
    if "broadcast" in plugins:
        topics = ", ".join(answer["topics"]) or "none"
        overlay.append(f"{plugins['broadcast']}, topics: {topics}")
    connections = f"{answer['connections']} of at most {answer['limit']}"
    rows = {
        "identity": answer["peer"],
        "network": f"{answer['network']} · profile {answer['profile']} · up {_span(answer['uptime'])}",
        "listening": "\n".join(answer["addrs"]) or "nowhere",
        "peers": " · ".join([connections, *_counts(answer["paths"]), *_counts(answer["transports"])]),
        "overlay": " · ".join(overlay) or "none",
        "data": f"{answer['data']} (process {answer['pid']}, {answer['agent']})",
    }
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def _id(answer: dict[str, Any]) -> RenderableType:
    return Text("\n".join([answer["peer"], *answer["addrs"]]))


def _peers(answer: dict[str, Any]) -> RenderableType:
    if not answer["peers"]:
        return Text("no peers; join a village with: grove join TICKET")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("peer", "path", "transport", "rtt", "link", "agent", "since", "why"):
        table.add_column(name, justify="right" if name == "rtt" else "left", no_wrap=name != "why")
    for row in answer["peers"]:
        link = row["link"] or ("neighbour" if row["neighbor"] else "–")
        table.add_row(
            short(row["peer"]),
            Text(row["path"], PATH_STYLE.get(row["path"], "")),
            row["transport"],
            f"{row['rtt_ms']:.1f} ms" if row["rtt_ms"] else "–",
            Text(link, LINK_STYLE.get(link, "")),
            printable(row["agent"]) or "–",
            _span(row["since"]),
            row["why"],
        )
    return table


def _counts(counted: dict[str, int]) -> list[str]:
    return [f"{name} {count}" for name, count in sorted(counted.items())]


def _span(seconds: float) -> str:
    """A length of time in its two largest units: `3 d 4 h`, `41 m 2 s`, `7 s`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
