"""Records on a real disk: one transaction per turn, a barrier that holds, and `kill -9`."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from grove_core.drive.records import Batch, Records
from grove_core.drive.store import MAX_VALUE, Store, StoreError
from grove_core.errors import LocalProtocolError
from grove_core.machine import LOST
from tests.core.killed import read


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


def test_a_value_is_seen_at_once_and_after_another_opening(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        store.put("raft", "term", b"7")
        assert store.load("raft", "term") == b"7"
        assert store.load("other", "term") is None
        await store.close()
        again = Store(tmp_path)
        assert again.load("raft", "term") == b"7"
        again.put("raft", "term", None)
        assert again.load("raft", "term") is None
        await again.close()

    run(main)


def test_keys_are_those_on_disk_and_those_not_yet_there_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        for key in ("log/2", "log/10", "log/é", "logs", "m_x", "m%"):
            store.put("p", key, b"")
        await store.flush()
        store.put("p", "log/1", b"")
        store.put("p", "log/2", None)
        assert store.keys("p", "log/") == ("log/1", "log/10", "log/é")
        assert store.keys("p", "m%") == ("m%",)  # a prefix, not a pattern
        assert store.keys("q") == ()
        await store.close()

    run(main)


def test_what_one_turn_puts_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    commit = Records.commit

    def counting(records: Records, batch: Batch) -> None:
        batches.append(len(batch))
        commit(records, batch)

    monkeypatch.setattr(Records, "commit", counting)

    async def main() -> None:
        store = Store(tmp_path)
        first = [store.put(plugin, str(n), b"x") for n in range(50) for plugin in ("a", "b")]
        assert len(set(first)) == 1
        await store.flush()
        assert store.put("a", "later", b"x") > first[0]
        await store.close()

    run(main)
    assert batches == [100, 1]


@pytest.mark.claim("store.durable-after-fsync")
def test_the_loop_goes_on_while_the_disk_works_and_durable_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    commit = Records.commit
    monkeypatch.setattr(Records, "commit", lambda self, batch: (gate.wait(10), commit(self, batch)))

    async def main() -> None:
        told: list[int] = []
        store = Store(tmp_path, told.append)
        first = store.put("a", "k", b"1")
        for _ in range(20):
            await asyncio.sleep(0)
        second = store.put("a", "k", b"2")
        assert (told, store.durable) == ([], 0)
        assert store.load("a", "k") == b"2"
        assert second > first
        gate.set()
        await store.flush()
        assert told == [first, second]
        assert store.durable == second
        await store.close()

    run(main)


@pytest.mark.claim("store.group-commit")
def test_what_is_put_while_the_disk_works_shares_the_next_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many turns a commit takes: one fsync for all of them, and the newest value of each key."""
    gate = threading.Event()
    batches: list[Batch] = []
    commit = Records.commit

    def slow(records: Records, batch: Batch) -> None:
        gate.wait(10)
        batches.append(dict(batch))
        commit(records, batch)

    monkeypatch.setattr(Records, "commit", slow)

    async def main() -> None:
        told: list[int] = []
        store = Store(tmp_path, told.append)
        numbers = [store.put("a", "first", b"0")]
        for turn in range(20):
            await asyncio.sleep(0)
            numbers.append(store.put("a", f"key-{turn}", b"1"))
            numbers.append(store.put("a", "every", b"%d" % turn))
        assert told == []
        gate.set()
        await store.flush()
        assert numbers == sorted(numbers)
        assert told == [numbers[0], numbers[-1]]
        assert store.load("a", "every") == b"19"
        await store.close()

    run(main)
    assert [len(batch) for batch in batches] == [1, 21]


def test_commits_are_synced_in_full(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        for pragma, value in (("synchronous", 2), ("journal_mode", "wal"), ("user_version", 2)):
            assert store.records._writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        await store.close()

    run(main)


@pytest.mark.claim("store.failed-write-is-fatal")
def test_a_full_disk_is_told_once_and_nothing_is_durable_afterwards(tmp_path: Path) -> None:
    async def main() -> None:
        failures: list[StoreError] = []
        told: list[int] = []
        store = Store(tmp_path, told.append, failures.append)
        pages = store.records._writer.execute("PRAGMA page_count").fetchone()[0]
        store.records._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
        store.put("a", "small", b"x")
        await store.flush()
        assert told == [1]
        store.put("a", "big", bytes(1_000_000))
        await store.flush()
        assert len(failures) == 1
        assert "records.sqlite: database or disk is full" in str(failures[0])
        assert told == [1]
        with pytest.raises(StoreError, match="full"):
            store.put("a", "small", b"y")
        await store.close()

    run(main)


def test_one_node_per_folder(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        with pytest.raises(StoreError, match=f"process {os.getpid()}.*is using the data folder"):
            Store(tmp_path)
        await store.close()
        await Store(tmp_path).close()

    run(main)


def test_tables_of_another_version_and_foreign_files_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        await Store(tmp_path).close()
        with sqlite3.connect(tmp_path / "records.sqlite") as file:
            file.execute("PRAGMA user_version = 9")
        file.close()
        (tmp_path / "promised").write_bytes(b"GRVE in later words")
        with pytest.raises(StoreError, match="version 9; this Grove reads version 2"):
            Store(tmp_path)
        (tmp_path / "records.sqlite").unlink()
        (tmp_path / "promised").unlink()
        with sqlite3.connect(tmp_path / "records.sqlite") as file:
            file.execute("CREATE TABLE mine (x)")
        file.close()
        with pytest.raises(StoreError, match="not a file of Grove"):
            Store(tmp_path)
        (tmp_path / "records.sqlite").write_bytes(b"no database at all" * 100)
        with pytest.raises(StoreError, match="not a database"):
            Store(tmp_path)

    run(main)


def test_bounds_of_keys_and_values(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        with pytest.raises(LocalProtocolError, match="256 characters; limit 255"):
            store.put("a", "k" * 256, b"")
        with pytest.raises(LocalProtocolError, match=f"limit {MAX_VALUE}"):
            store.put("a", "k", bytes(MAX_VALUE + 1))
        await store.close()

    run(main)


@pytest.mark.claim("store.tells-of-losses")
def test_a_loss_is_told_to_every_plugin_until_it_says_that_it_knows(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path)
        assert store.load("a", LOST) is None
        for number in range(9):
            store.put("a", "k", b"%d" % number)
            await store.flush()
        log = tmp_path / "records.sqlite-wal"
        data = log.read_bytes()
        await store.close()
        (tmp_path / "records.sqlite").unlink()
        log.write_bytes(data[: len(data) // 2])
        again = Store(tmp_path)
        assert again.load("a", LOST) == again.load("later", LOST) == (1).to_bytes(8, "big")
        assert LOST not in again.keys("a")
        again.put("a", LOST, None)
        assert again.load("a", LOST) is None
        await again.close()
        last = Store(tmp_path)
        assert last.load("a", LOST) is None
        assert last.load("later", LOST) is not None
        await last.close()

    run(main)


@pytest.mark.claim("store.survives-kill")
def test_kill_9_loses_nothing_that_was_promised_and_tears_nothing(tmp_path: Path) -> None:
    """GROVE_KILLS: how often (20). The same folder lives through all of them."""
    kills = int(os.environ.get("GROVE_KILLS", "20"))
    seed = int(os.environ.get("GROVE_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"GROVE_KILLS={kills} GROVE_SEED={seed}")
    rng = random.Random(seed)
    (tmp_path / "records").mkdir()
    promised = 0
    lives = 0
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.core.killed", str(tmp_path / "records")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            assert first, "the child died by itself"
            timer = threading.Timer(rng.uniform(0.0, 0.1), child.kill)
            timer.start()
            said = first + child.stdout.read()
            timer.join()
        numbers = [int(line) for line in said.split(b"\n")[:-1]]  # a cut line was not promised
        lives += bool(numbers)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] > promised, "a record that was promised is gone"
        promised = numbers[-1]
        # We look at a copy: whoever closes the file itself last empties its log, promised or not.
        seen = shutil.copytree(tmp_path / "records", tmp_path / f"seen {lives}", dirs_exist_ok=True)
        with sqlite3.connect(seen / "records.sqlite") as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            records = dict(file.execute("SELECT key, value FROM record WHERE plugin = 'busy'").fetchall())
        file.close()
        last = read(records["last"])
        assert last >= promised
        assert read(records["copy"]) == last  # saved in one turn, seen together
        assert max(read(value) for key, value in records.items() if key.startswith("log/")) == last
    assert lives == kills
    print(f"{promised} records were promised in {kills} lives")
