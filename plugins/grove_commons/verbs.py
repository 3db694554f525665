"""The verbs `grove claim | renew | release | submit | task`, and `grove kv` with its own.

Each is one request at the local door of the running node. Exit codes: 0 done, 1 the village decided
against it (the task is held, the token is old, the key is not as expected), 3 no node runs here,
5 no outcome in time (no majority can be reached; asking again is safe).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import click

from grove_core.cli.door import Door, open_door
from grove_core.cli.options import Options, common, json_option
from grove_core.cli.show import print_json, print_table
from grove_core.errors import GroveError
from grove_core.outward import json_line, printable, short

FAILED = 1
LONGEST = 256 * 1024  # bytes of a result
POLL = 1.0  # s between two looks at a task that somebody holds


@click.command()
@click.argument("task")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--lease", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True,
              metavar="SECONDS", help="How long it is yours without a renewal.")  # fmt: skip
@click.option("--agent", default="", metavar="NAME", help="Who claims, for the others to read.")
@click.option("--wait", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
              help="Wait so long for a task that somebody holds.")  # fmt: skip
@common
@json_option
def claim(
    options: Options,
    task: str,
    command: tuple[str, ...],
    lease: float,
    agent: str,
    wait: float,
    as_json: bool,
) -> int | None:
    """Claim TASK, so that nobody else does it: one agent of the village holds it at a time.

    Prints the fencing token. Renew it in good time, and hand in the result, with:

    \b
        grove renew TASK TOKEN
        grove submit TASK TOKEN RESULT

    With a COMMAND (after --) the claim is held and renewed while it runs, with GROVE_TASK and
    GROVE_TOKEN in its environment. What it prints is submitted if it succeeds; if it fails the task is
    released; if the claim is lost meanwhile, the command is stopped.
    """

    async def act(door: Door) -> int:
        granted = await _claim(door, {"task": task, "lease": lease, "agent": agent}, wait)
        token = granted["token"]
        if command:
            return await _hold(door, granted, command, as_json)
        if as_json:
            print_json("grove.claim", **granted)
        else:
            click.echo(f"{task} is yours: fence {token}, for {granted['left']:.1f} s")
            click.echo(f"then: grove renew {task} {token}, grove submit {task} {token} RESULT", err=True)
        return 0

    return _run(options, act)


@click.command()
@click.argument("task")
@click.argument("token", type=click.IntRange(0))
@common
@json_option
def renew(options: Options, task: str, token: int, as_json: bool) -> int | None:
    """Let the lease of TASK, claimed with TOKEN, begin anew."""
    body = {"task": task, "token": token}
    return _one(options, "renew", body, as_json, lambda a: f"{task} is yours for {a['left']:.1f} s")


@click.command()
@click.argument("task")
@click.argument("token", type=click.IntRange(0))
@common
@json_option
def release(options: Options, task: str, token: int, as_json: bool) -> int | None:
    """Give TASK, claimed with TOKEN, back undone."""
    body = {"task": task, "token": token}
    return _one(options, "release", body, as_json, lambda _: f"{task} is free again")


@click.command()
@click.argument("task")
@click.argument("token", type=click.IntRange(0))
@click.argument("result", required=False)
@common
@json_option
def submit(options: Options, task: str, token: int, result: str | None, as_json: bool) -> int | None:
    """Hand in the RESULT of TASK, claimed with TOKEN; without RESULT, standard input.

    A result with an old token is refused: somebody else has taken the task over.
    """
    data = _given(result)
    body = {"task": task, "token": token, "result": data}
    return _one(options, "submit", body, as_json, lambda _: f"{task} is done")


@click.command()
@click.argument("task")
@common
@json_option
def task(options: Options, task: str, as_json: bool) -> int | None:
    """Show who holds TASK, or its result."""

    def tell(answer: dict[str, Any]) -> str:
        if answer["state"] == "free":
            return f"{task} is free"
        who = f"agent {answer['agent']} at " if answer["agent"] else ""
        said = f"{task} is {answer['state']} by {who}{short(answer['holder'])}, fence {answer['token']}"
        return said if answer["result"] is None else f"{said}: {printable(answer['result'])}"

    return _one(options, "task", {"task": task}, as_json, tell)


@click.group(no_args_is_help=True)
def kv() -> None:
    """The map that the village agrees on: small values, the same for everybody."""


@kv.command()
@click.argument("key")
@click.option("--stale", is_flag=True, help="At once, as of what this node has heard.")
@common
@json_option
def get(options: Options, key: str, stale: bool, as_json: bool) -> int | None:
    """Print the value of KEY as of now. Exits 1 if it has none."""

    async def act(door: Door) -> int:
        answer = await door.request("kv-get", {"key": key, "stale": stale})
        if as_json:
            _json("grove.kv.get", answer)
        elif answer["value"] is not None:
            sys.stdout.buffer.write(answer["value"] + (b"\n" if sys.stdout.isatty() else b""))
            sys.stdout.flush()
        else:
            click.echo(f"{key} has no value", err=True)
        return FAILED if answer["value"] is None else 0

    return _run(options, act)


@kv.command()
@click.argument("key")
@click.argument("value", required=False)
@common
@json_option
def put(options: Options, key: str, value: str | None, as_json: bool) -> int | None:
    """Let KEY have VALUE; without VALUE, standard input."""
    body = {"key": key, "value": _given(value)}
    return _one(options, "kv-put", body, as_json, lambda a: f"{key} is at version {a['version']}")


@kv.command()
@click.argument("key")
@common
@json_option
def delete(options: Options, key: str, as_json: bool) -> int | None:
    """Let KEY have no value."""
    return _one(options, "kv-delete", {"key": key}, as_json, lambda _: f"{key} has no value")


@kv.command()
@click.argument("key")
@click.argument("expected", required=False)
@click.argument("value", required=False)
@click.option("--absent", is_flag=True, help="Only if KEY has no value: grove kv cas --absent KEY VALUE")
@click.option("--version", type=click.IntRange(0), help="Only if KEY is at this version.")
@common
@json_option
def cas(
    options: Options,
    key: str,
    expected: str | None,
    value: str | None,
    absent: bool,
    version: int | None,
    as_json: bool,
) -> int | None:
    """Change KEY from EXPECTED to VALUE, if it is EXPECTED; else exit 1 and change nothing.

    \b
        grove kv cas KEY EXPECTED VALUE
        grove kv cas --absent KEY VALUE
        grove kv cas --version 12 KEY VALUE
    """
    short_form = absent or version is not None
    if (value is not None) is short_form or expected is None or (absent and version is not None):
        raise click.UsageError(
            "give KEY EXPECTED VALUE, or KEY VALUE with either --absent or --version N"
        )
    new = expected if value is None else value
    body = {
        "key": key,
        "value": new.encode(),
        "expected": None if short_form else expected.encode(),
        "version": version,
    }
    return _one(options, "kv-cas", body, as_json, lambda a: f"{key} is at version {a['version']}")


@kv.command("list")
@click.argument("prefix", default="")
@common
@json_option
def list_(options: Options, prefix: str, as_json: bool) -> int | None:
    """List the keys, all or those that begin with PREFIX."""

    async def act(door: Door) -> int:
        answer = await door.request("kv-list", {"prefix": prefix})
        if as_json:
            print_json("grove.kv.list", **answer)
        else:
            rows = [
                (printable(row["key"]), str(row["version"]), f"{row['bytes']:,}")
                for row in answer["keys"]
            ]
            print_table(("key", "version", "bytes"), rows)
            if answer["more"]:
                click.echo(f"and {answer['more']} more; give a PREFIX", err=True)
        return 0

    return _run(options, act)


# How a verb is run.


def _run(options: Options, act: Callable[[Door], Awaitable[int]]) -> int:
    async def main() -> int:
        async with open_door(options.data) as door:
            return await act(door)

    return asyncio.run(main())


def _one(
    options: Options,
    verb: str,
    body: dict[str, Any],
    as_json: bool,
    tell: Callable[[dict[str, Any]], str],
) -> int:
    async def act(door: Door) -> int:
        answer = await door.request(verb, body)
        if as_json:
            _json(f"grove.{verb.replace('-', '.')}", answer)
        else:
            click.echo(tell(answer))
        return 0

    return _run(options, act)


def _json(schema: str, answer: dict[str, Any]) -> None:
    """An answer that may hold bytes: text where it is text, base64 where it is not."""
    click.echo(json_line({"schema": schema, "version": 1, **_apart(answer)}))


def _apart(answer: dict[str, Any]) -> dict[str, Any]:
    """`version` is the schema's at the front of every object; a key's is `key_version`."""
    return {("key_version" if name == "version" else name): value for name, value in answer.items()}


def _given(text: str | None) -> bytes:
    return sys.stdin.buffer.read(LONGEST + 1) if text is None else text.encode()


# Holding a claim while a command runs.


async def _claim(door: Door, ask: dict[str, Any], wait: float) -> dict[str, Any]:
    """The grant, waiting for the task to become free if asked to."""
    end = asyncio.get_running_loop().time() + wait
    while True:
        try:
            return await door.request("claim", ask)
        except GroveError as error:
            left = end - asyncio.get_running_loop().time()
            if getattr(error, "code", "") != "held" or left <= 0:
                raise
            await asyncio.sleep(min(POLL, left))


async def _hold(door: Door, granted: dict[str, Any], command: tuple[str, ...], as_json: bool) -> int:
    task, token = granted["task"], granted["token"]
    held = {"task": task, "token": token}
    environment = {**os.environ, "GROVE_TASK": task, "GROVE_TOKEN": str(token)}
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, env=environment
        )
    except OSError as error:
        await door.request("release", held)
        raise GroveError(
            f"cannot run {command[0]}: {error.strerror or error}; {task} is free again"
        ) from None
    keeper = asyncio.create_task(_keep(door, granted))
    work = asyncio.create_task(child.communicate())
    try:
        await asyncio.wait({keeper, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            child.terminate()
            await work
            raise GroveError(f"{task} was lost and the command stopped: {keeper.exception()}")
        result, _ = work.result()
    finally:
        keeper.cancel()
        if child.returncode is None:
            child.terminate()
    if child.returncode != 0:
        await door.request("release", held)
        raise GroveError(f"{command[0]} ended with {child.returncode}; {task} is free again")
    answer = await door.request("submit", {**held, "result": result})
    if as_json:
        print_json("grove.submit", **answer)
    else:
        click.echo(f"{task} is done: {len(result):,} bytes submitted with fence {token}")
    return 0


async def _keep(door: Door, granted: dict[str, Any]) -> None:
    """Renew until it fails for good, or in time: raises what ended it."""
    loop = asyncio.get_running_loop()
    until = loop.time() + granted["left"]
    held = {"task": granted["task"], "token": granted["token"]}
    while True:
        await asyncio.sleep(min(granted["lease"] / 3, max(0.0, until - loop.time())))
        try:
            async with asyncio.timeout(max(0.001, until - loop.time())):
                asked = loop.time()
                until = asked + (await door.request("renew", held))["left"]
        except TimeoutError:
            raise GroveError("no renewal was confirmed in time") from None
        except GroveError as error:
            if error.exit_code != 5 or loop.time() >= until:  # else: try again while there is time
                raise
