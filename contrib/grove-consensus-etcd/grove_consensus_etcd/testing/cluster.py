"""A real etcd cluster on loopback: Debian's etcd, three members, ports of our own, killed by pid."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from grove_consensus_etcd import wire
from grove_consensus_etcd.api import Done, Get, Request, Txn
from grove_consensus_etcd.http import Connection
from grove_core.testing.loopback import free_ports

ETCD = shutil.which("etcd")
MISSING = "needs etcd (Debian: apt-get install etcd-server)"


class Member:
    """One process."""

    def __init__(self, name: str, folder: Path, client: int, peer: int, founders: str) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{client}"
        self._folder = folder
        self._peer = f"http://127.0.0.1:{peer}"
        self._founders = founders
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert ETCD is not None
        # Elections of 0.3 s keep the tests short; no fsync would make kill -9 prove nothing.
        command = [
            *(ETCD, "--name", self.name, "--data-dir", str(self._folder / self.name)),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
            *("--initial-cluster", self._founders, "--initial-cluster-token", self._folder.name),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap"),
        ]
        log = (self._folder / f"{self.name}.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9, by pid."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """`with Cluster() as cluster`."""

    def __init__(self, size: int = 3) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="grove-etcd-"))
        ports = free_ports(2 * size)
        peers = ports[size:]
        founders = ",".join(f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        self.members = [Member(f"m{n}", self._folder, ports[n], peers[n], founders) for n in range(size)]

    @property
    def endpoints(self) -> list[str]:
        return [member.url for member in self.members]

    def __enter__(self) -> Cluster:
        for member in self.members:
            member.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def ready(self) -> None:
        """Until a majority answers a linearizable read at each member."""
        for member in self.members:
            while True:
                try:
                    await ask(member.url, Txn(then=(Get(b"x"),)))
                    break
                except (OSError, TimeoutError, AssertionError):
                    await asyncio.sleep(0.02)

    async def leader(self) -> Member:
        """Who leads the cluster now."""
        for member in self.members:
            if member.process is None:
                continue
            status = await post(member.url, "/v3/maintenance/status", {})
            if status.get("leader") == status["header"]["member_id"]:
                return member
        await asyncio.sleep(0.05)
        return await self.leader()

    async def compact(self) -> int:
        """Forget the history up to now, as auto-compaction does. Returns the revision."""
        done = await ask(self.endpoints[0], Txn(then=(Get(b"x"),)))
        body = {"revision": str(done.revision), "physical": True}
        await post(self.endpoints[0], "/v3/kv/compaction", body)
        revision: int = done.revision
        return revision


async def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    import json

    async with asyncio.timeout(5):
        connection = await Connection.open(url, None)
        try:
            status, told = await connection.post(path, json.dumps(body).encode(), wire.MAX_BODY)
        finally:
            await connection.close()
    assert status == 200, told
    found: dict[str, Any] = json.loads(told)
    return found


async def ask(url: str, request: Request) -> Any:
    """One request, past any companion."""
    path, body = wire.encode(request)
    async with asyncio.timeout(5):
        connection = await Connection.open(url, None)
        try:
            status, told = await connection.post(path, body, wire.MAX_BODY)
        finally:
            await connection.close()
    assert status == 200, told
    return wire.decode(request, told)


__all__ = ["ETCD", "MISSING", "Cluster", "Done", "Member", "ask", "post"]
