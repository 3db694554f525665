"""`make fuzz`: the long runs against hostile input, and docs/hardening.md.

    python -m tests.hardening [--fuzz 100000] [--kills 200] [--strikes 500]

Every test that mutates inputs makes as many as asked for and fails on any error but the declared one;
then groups of real processes are struck, and `benchmarks/hostile.py` attacks a whole node. The page holds
what came out, with what it ran on.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "hardening.md"

DECODERS = {
    "test_multistream.py::test_mutated": "multistream-select, each side",
    "test_noise.py::test_mutated_handshakes": "Noise XX, both sides, muxer inlined or not",
    "test_noise.py::test_mutated_payloads": "Noise handshake payload, behind good cryptography",
    "test_noise.py::test_mutated_transport": "Noise transport messages",
    "test_yamux.py::test_mutated": "yamux sessions",
    "test_identify.py::test_identify": "identify (protobuf)",
    "test_certificate.py::": "libp2p TLS certificates",
    "test_record.py::test_envelopes": "signed envelopes",
    "test_record.py::test_records": "peer records, behind a good signature",
    "test_identity.py::test_public": "public keys",
    "test_identity.py::test_private": "private keys",
    "test_identity.py::test_peer_ids": "peer ids, bytes and text",
    "test_multiaddr.py::test_decode": "multiaddr, bytes",
    "test_multiaddr.py::test_parse": "multiaddr, text",
    "test_ticket.py::test_tickets_survive_mutation ": "tickets",
    "test_ticket.py::test_tickets_survive_mutation_behind": "tickets, behind a good checksum",
    "test_config.py::": "configuration files",
    "hyparview/test_hyparview.py::test_mutated": "HyParView frames (msgpack)",
    "plumtree/test_plumtree.py::test_mutated": "Plumtree frames (msgpack)",
    "test_frames.py::": "local door: frames and verbs (msgpack)",
    "quic/test_wire.py::": "QUIC headers of strangers",
    "quic/test_engine.py::": "QUIC frames of a proven peer",
}
"""What a test decodes, by a part of its name that no other has."""

HEAD = """# Hardening

Written by `make fuzz`; do not edit. What hostile bytes and hostile peers do to Grove, measured.

A decoder may raise `RemoteProtocolError` and nothing else, on any bytes (a configuration: problems with
file and line). Inputs are good messages with one to four changes, a member of the corpus grafted onto
another, or noise (`tests/fuzz.py`); a failure prints seed, round and input.
"""

PEERS = """
## Hostile peers against a whole node

`python benchmarks/hostile.py`: a node in a process of its own with the residential profile as it ships,
the attacker in another, and an honest member of its village that pings it every 5 ms, all on one machine
of {cores} cores, so that latency includes the attacker's own hunger for them. Memory is what is private
to the node's process; latency is in milliseconds.

{table}

* **deaf**: 60 peers ask on every stream they get (ping, identify) and never read an answer.
* **streams**: 20 peers open streams as fast as they can and keep them.
* **garbage**: 40 peers prove who they are, then send noise: to HyParView, Plumtree, identify/push and
  ping, to yamux inside Noise, in place of Noise, as QUIC packets; whoever is thrown out comes again, as
  often as the node lets anybody in.
* **flood**: handshakes begun and left lying: 100 at once over TCP, first flights from 50 ports over QUIC.

What bounds a node's memory, by the configuration it ships with:

| what | bound | key |
|---|---|---|
| connections | 256 | `limits.connections` |
| inbound handshakes | 32 unfinished, 20 per second | `limits.inbound_pending`, \
`limits.inbound_per_second` |
| the same, QUIC | 64 unfinished; above 16 addresses must be proven | `plugins.quic.handshakes`, \
`plugins.quic.retry_above` |
| streams a peer may open | 256 per connection | `limits.streams_per_connection` |
| unread bytes of a peer, TCP | 256 KiB per stream; windows grow by 16 MiB per connection together | \
`plugins.tcp.max_window`, `plugins.tcp.growth` |
| unread bytes of a peer, QUIC | 512 KiB per stream, 1.5 MiB per connection | \
`plugins.quic.stream_window`, `plugins.quic.connection_window` |
| answers a peer does not read | 256 KiB per stream, then its requests wait; 2 ping streams, 16 of \
identify | `plugins.libp2p.ping_streams`, `plugins.libp2p.identify_streams` |
| bytes taken of one connection or socket per turn of the loop | 128 KiB | (constant) |
"""


STRUCK = """
## kill -9 of minorities, on disks that forget

`tests/plugins/raft/test_kills.py`, `tests/plugins/pbft/test_kills.py`: real processes write without
end; at random moments a random minority is killed, also while it is coming back. In many of the folders,
before the next life, the database, its log or the promise beside it is torn, flipped, overwritten or
removed (`tests/core/broken_disk.py`). Every life says what a linearizable read finds; at the end
everybody does. A loss is noticed when the store finds that something promised is missing; the member then
counts for nothing until the group has taken note of it (docs/decisions/0014).

| group | strikes | kills | disk faults | losses noticed | writes promised | lost | slowest return, s |
|---|---|---|---|---|---|---|---|
{table}
"""


def decoders(output: str, inputs: int) -> tuple[str, int]:
    """The table of decoders out of pytest's report, and how many of them failed."""
    rows, failed = [], 0
    times = {name + " ": seconds for seconds, name in re.findall(r"^([\d.]+)s call +(\S+)", output, re.M)}
    broken = re.findall(r"^FAILED (\S+)", output, re.M)
    for mark, what in DECODERS.items():
        (name,) = [name for name in times if mark in name] or [""]
        errors = "none" if name and name.strip() not in broken else "**SEE BELOW**" if name else "not run"
        failed += errors != "none"
        rows.append(f"| {what} | {inputs:,} | {errors} | {times.get(name, '')} |")
    head = "\n## Decoders\n\n| decoder | inputs | other errors than the declared | seconds |\n"
    return head + "|---|---|---|---|\n" + "\n".join(rows) + "\n", failed


def kills(output: str) -> str:
    """What the test of `save` under `kill -9` printed."""
    found = re.search(r"(\d+) records were promised in (\d+) lives", output)
    if found is None:
        return "\n## kill -9\n\nNot run, or failed.\n"
    return (
        f"\n## kill -9 while saving\n\n{found[2]} lives of one data folder, each ended by `kill -9` "
        f"within 100 ms: {int(found[1]):,} records were promised to be durable; none "
        "was missing in a later life, none was torn, and SQLite's own integrity check found nothing.\n"
    )


def struck(output: str) -> str:
    """What the tests of `kill -9` of minorities printed."""
    rows = []
    for group in ("Raft, 5 members", "PBFT, 4 replicas"):
        mark = group.split(",")[0].lower()
        found = re.search(
            rf"^{mark}: (\d+) strikes, (\d+) kills, (\d+) disk faults, (\d+) losses .*?, (\d+) writes "
            r"acknowledged, (\d+) lost; slowest return ([\d.]+) s",
            output,
            re.M,
        )
        cells = (
            " | ".join(f"{float(one):,g}" for one in found.groups()) if found else "not run, or failed"
        )
        rows.append(f"| {group} | {cells} |")
    return STRUCK.format(table="\n".join(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fuzz", type=int, default=100_000, help="inputs per decoder (100000)")
    parser.add_argument("--kills", type=int, default=200, help="kill -9 while saving (200)")
    parser.add_argument(
        "--fuzzed", type=Path, help="read pytest's report from here instead of running it"
    )
    parser.add_argument("--strikes", type=int, default=500, help="kill -9 of minorities (500)")
    parser.add_argument("--struck", type=Path, help="read pytest's report of these from here likewise")
    parser.add_argument("--attacked", type=Path, help="read the table of attacks from here likewise")
    given = parser.parse_args()
    if given.fuzzed:
        output = given.fuzzed.read_text()
    else:
        command = [sys.executable, "-m", "pytest", "-k", "mutat or fuzz or any_bytes or kill_9"]
        command += ["--durations=0", "-rAf", "tests/core", "tests/plugins"]
        environment = os.environ | {"GROVE_FUZZ": str(given.fuzz), "GROVE_KILLS": str(given.kills)}
        output = _said(command, environment)
    table, failed = decoders(output, given.fuzz)
    if given.attacked:
        attacks = given.attacked.read_text()
    else:
        attacks = _said([sys.executable, str(ROOT / "benchmarks" / "hostile.py")], dict(os.environ))
    attacks = "\n".join(line for line in attacks.splitlines() if line.startswith("|"))
    if given.struck:
        strikes = given.struck.read_text()
    else:
        command = [sys.executable, "-m", "pytest", "-q", "-s"]
        full = os.environ | {"GROVE_FULL": "1"}
        times = {"GROVE_KILLS": str(given.strikes)}
        raft = _said([*command, "tests/plugins/raft/test_kills.py"], full | times)
        pbft = _said([*command, "tests/plugins/pbft/test_kills.py"], full)
        strikes = raft + pbft
    machine = f"\n{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}.\n"
    told = PEERS.format(cores=os.cpu_count(), table=attacks)
    PAGE.write_text(HEAD + machine + table + kills(output) + struck(strikes) + told)
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 1 if failed else 0


def _said(command: list[str], environment: dict[str, str]) -> str:
    """Run a program, show what it says as it says it, and keep it."""
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
