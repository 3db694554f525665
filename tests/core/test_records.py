"""What a disk may do to the records of a node that was killed, and what the next life makes of it.

GROVE_KILLS: how many damaged folders (150; at least 100).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import msgspec
import pytest

from grove_core.drive import records as records_module
from grove_core.drive.promise import SLOT, Promise, PromiseFile
from grove_core.drive.records import Batch, Records, StoreError
from tests.core.broken_disk import damage

State = dict[tuple[str, str], bytes]
PAGE = 4096


def state_of(records: Records) -> State:
    rows = records._rows("SELECT plugin, key, value FROM record WHERE plugin != ''", ())
    return {(plugin, key): bytes(value) for plugin, key, value in rows}


class Life:
    """A store that is written to, and the folder as `kill -9` would leave it at chosen moments."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder, self.rng = folder, rng
        (folder / "live").mkdir()
        self.records = Records(folder / "live")
        self.history: list[State] = [{}]
        self.promised = 0
        self.looking: sqlite3.Connection | None = None

    def look(self) -> None:
        """Somebody else reads for a while: meanwhile the log cannot be begun anew."""
        if self.looking is not None:
            self.looking.close()
            self.looking = None
        elif self.rng.random() < 0.2:
            self.looking = sqlite3.connect(self.folder / "live" / "records.sqlite", isolation_level=None)
            self.looking.execute("BEGIN")
            self.looking.execute("SELECT count(*) FROM record").fetchall()

    def write(self) -> None:
        rng = self.rng
        state = dict(self.history[-1])
        batch: Batch = {}
        for _ in range(rng.choice((1, 1, 2, 5))):
            slot = (rng.choice("ab"), f"key {rng.randrange(40)}")
            erases = rng.random() < 0.2
            value = None if erases else rng.randbytes(rng.choice((3, 50, 700, 9000)))
            batch[slot] = value
        for slot, value in batch.items():
            if value is None:
                state.pop(slot, None)
            else:
                state[slot] = value
        self.history.append(state)
        self.records.commit(batch)
        self.promised = len(self.history) - 1

    def killed(self, name: str) -> Path:
        """A copy of everything, as the kernel has it."""
        return Path(shutil.copytree(self.folder / "live", self.folder / name))

    def killed_while_copying(self, name: str) -> Path:
        """As if killed in the middle of bringing the log into the main file."""
        before = self.killed(f"{name} before")
        marked: list[Path] = []
        write = self.records._file.write

        def told(promise: Promise, *, sync: bool = False) -> None:
            write(promise, sync=sync)
            if not marked:
                marked.append(self.killed(name))

        self.records._file.write = told  # type: ignore[method-assign]
        self.records._copy()
        self.records._file.write = write  # type: ignore[method-assign]
        old = (before / "records.sqlite").read_bytes()
        new = (self.folder / "live" / "records.sqlite").read_bytes()
        pages = [
            (new if self.rng.random() < 0.5 or at >= len(old) else old)[at : at + PAGE]
            for at in range(0, len(new), PAGE)
        ]
        shutil.rmtree(before)
        (marked[0] / "records.sqlite").write_bytes(b"".join(pages))
        return marked[0]


def test_killed_at_any_moment_of_emptying_the_log_nothing_is_taken_for_lost(tmp_path: Path) -> None:
    """GROVE_KILLS=20 GROVE_SEED=4160059523 found the log empty and nobody's word that it may be."""
    life = Life(tmp_path, Random(1))
    for _ in range(20):
        life.write()
    moments: list[Path] = []
    write = life.records._file.write

    def told(promise: Promise, *, sync: bool = False) -> None:
        moments.append(life.killed(f"before {len(moments)}"))
        write(promise, sync=sync)
        moments.append(life.killed(f"after {len(moments)}"))

    life.records._file.write = told  # type: ignore[method-assign]
    life.records._copy_all()
    life.records._file.write = write  # type: ignore[method-assign]
    moments.append(life.killed("the end"))
    assert len(moments) == 5
    for folder in moments:
        again = Records(folder)
        assert (again.found, state_of(again)) == ("", life.history[-1]), folder.name
        again.close()
    life.records.close()


def _carelessly(path: Path, connect: Any = records_module._connect) -> sqlite3.Connection:
    connection: sqlite3.Connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def spoil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int, seed: int) -> dict[str, int]:
    """One store, killed in so many cases, each followed by one fault; what was met. AssertionError."""
    monkeypatch.setattr(records_module, "COPY_EVERY", 200_000)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # what the kernel has is what we look at
    monkeypatch.setattr(records_module, "_connect", _carelessly)
    rng = Random(seed)
    met = {"whole": 0, "older": 0, "damaged": 0, "begun anew": 0}
    life = Life(tmp_path, rng)
    for case in range(cases):
        for _ in range(rng.randrange(1, 12)):
            life.write()
        life.look()
        is_copying = rng.random() < 0.3
        folder = (life.killed_while_copying if is_copying else life.killed)(f"case {case}")
        fault = damage(folder, rng)
        where = f"case {case}, seed {seed}: {fault}{', while copying' if is_copying else ''}"
        again = Records(folder)
        found = state_of(again)
        if again.losses == life.records.losses:
            assert found == life.history[life.promised], where
            met["whole"] += 1
        elif found in life.history:
            met["begun anew" if not found else "older"] += 1
        else:
            part = [state for state in life.history[-3000:] if found.items() <= state.items()]
            assert part, where
            met["damaged"] += 1
        assert (folder / "promised").stat().st_size >= SLOT
        again.commit({("a", "later"): b"on"})
        again.close()
        for _ in range(2):  # once mended, it is whole
            once_more = Records(folder)
            assert (once_more.found, once_more.losses) == ("", again.losses), where
            assert once_more.load("a", "later") == b"on", where
            once_more.close()
        shutil.rmtree(folder)
    if life.looking is not None:
        life.looking.close()
    life.records.close()
    return met


@pytest.mark.claim("store.knows-what-it-lost")
def test_what_was_lost_is_known_and_what_is_left_is_one_past_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    cases = max(100, int(os.environ.get("GROVE_KILLS", "150")))
    seed = int(os.environ.get("GROVE_SEED", SystemRandom().randrange(1 << 32)))
    print(f"GROVE_KILLS={cases} GROVE_SEED={seed}")
    met = spoil(tmp_path, monkeypatch, cases, seed)
    record_property("measured", f"{cases} folders: {met}")
    print(met)
    assert min(met["whole"], met["older"]) > cases // 20, met


def _ignore_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every store on SQLite does."""
    read = PromiseFile.read

    def blind(file: PromiseFile) -> Promise | None:
        kept = read(file)
        return kept and msgspec.structs.replace(kept, turn=0)

    monkeypatch.setattr(PromiseFile, "read", blind)


def _ignore_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Promise, "is_broken_by", lambda self, salt, found: False)


def _ignore_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "_sum", lambda *row: 0)


@pytest.mark.claim("store.knows-what-it-lost")
@pytest.mark.parametrize("ignore", [_ignore_the_promise, _ignore_copies, _ignore_sums])
def test_a_store_that_ignores_one_of_its_signs_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore: Callable[[pytest.MonkeyPatch], None]
) -> None:
    ignore(monkeypatch)
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            spoil(folder, monkeypatch, 100, seed)
        except (AssertionError, StoreError) as error:
            print(f"seed {seed}: {str(error).splitlines()[0]}")
            return
    pytest.fail("20 stores and 2,000 faults found nothing")


def test_without_the_promise_a_damaged_tail_would_go_unnoticed(tmp_path: Path) -> None:
    """The control: SQLite itself says nothing, and the last transactions are gone."""
    (tmp_path / "live").mkdir()
    records = Records(tmp_path / "live")
    for number in range(20):
        records.commit({("a", "k"): b"%d" % number})
    folder = Path(shutil.copytree(tmp_path / "live", tmp_path / "killed"))
    records.close()
    log = folder / "records.sqlite-wal"
    os.truncate(log, log.stat().st_size - 1)
    with sqlite3.connect(folder / "records.sqlite") as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert file.execute("SELECT value FROM record").fetchone() == (b"18",)
    file.close()
    again = Records(folder)
    assert again.losses == 1
    again.close()


def test_a_version_that_was_never_written_is_damage_and_not_a_later_grove(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.commit({("raft", "vote"): b"ash"})
    records.close()
    with sqlite3.connect(tmp_path / "records.sqlite") as file:
        file.execute("PRAGMA user_version = 3")
    file.close()
    again = Records(tmp_path)
    assert (again.load("raft", "vote"), again.losses) == (None, 1)
    again.close()


def test_records_of_version_1_are_taken_over(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "records.sqlite") as file:
        file.executescript(
            "CREATE TABLE record (plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,"
            " PRIMARY KEY (plugin, key)); INSERT INTO record VALUES ('raft', 'life', x'07');"
            f"PRAGMA application_id = {0x47525645}; PRAGMA user_version = 1;"
        )
    file.close()
    records = Records(tmp_path)
    assert (records.load("raft", "life"), records.losses, records.found) == (b"\x07", 0, "")
    records.commit({("raft", "life"): b"\x08"})
    records.close()
    again = Records(tmp_path)
    assert (again.load("raft", "life"), again.losses) == (b"\x08", 0)
    again.close()


def test_a_promise_that_is_torn_leaves_the_one_before(tmp_path: Path) -> None:
    file = PromiseFile(tmp_path / "promised")
    assert file.read() is None
    file.write(Promise(turn=1))
    file.write(Promise(turn=2, losses=3))
    assert file.read() == Promise(turn=2, losses=3)
    file.close()
    data = bytearray((tmp_path / "promised").read_bytes())
    data[20] ^= 1  # of the second, which is in the first slot
    (tmp_path / "promised").write_bytes(data)
    again = PromiseFile(tmp_path / "promised")
    assert again.read() == Promise(turn=1)
    again.close()
