"""Where the door is: a socket file in the node's data folder, and the note that points to it.

    <data>/gateway/           0700
    <data>/gateway/socket     0600, the ipc endpoint
    <data>/gateway/door.json  0600, {"version": 1, "endpoint": "ipc:///…/socket", "pid": …, "peer": …}

A socket path holds at most 103 bytes on every system we know (sun_path is 104 on macOS, 108 on
Linux). Where the data folder lies deeper, the socket moves into a fresh private folder below
$XDG_RUNTIME_DIR or the temp folder, and the note says where. Programs read the note, then connect.

Whether a node lives behind the door is asked of the kernel: connecting to the socket file of a dead
process is refused at once. No pid is trusted, so none can be mistaken.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from grove_core.errors import GroveError, NotRunning

FOLDER: Final = "gateway"
MAX_PATH: Final = 103  # bytes, without the closing NUL
MAX_NOTE: Final = 4096  # bytes
_SCHEME: Final = "ipc://"
_PREFIX: Final = "grove-door-"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What door.json says."""

    version: int
    endpoint: str
    pid: int
    peer: str

    @property
    def path(self) -> Path:
        return Path(self.endpoint.removeprefix(_SCHEME))


class Place:
    """A node's side: makes the private folder, chooses the path, leaves the note, clears up."""

    def __init__(self, data: Path) -> None:
        self.folder = data / FOLDER
        self.note = self.folder / "door.json"
        self.path = self.folder / "socket"
        self._elsewhere: Path | None = None

    @property
    def endpoint(self) -> str:
        return _SCHEME + str(self.path)

    def prepare(self) -> None:
        """Make everything ready to bind. Raises GroveError if a living node is behind the door."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        old = read_note(self.folder.parent)
        if old is not None and is_open(old.path):
            raise GroveError(
                f"another node (process {old.pid}) already runs with data folder {self.folder.parent}; "
                "stop it, or give this one its own with --data"
            )
        self._forget(old)
        if len(os.fsencode(self.path)) > MAX_PATH:
            self._elsewhere = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_runtime_folder()))
            self.path = self._elsewhere / "socket"

    def announce(self, peer: str) -> None:
        """After binding: close the socket to others and write the note, whole or not at all."""
        self.path.chmod(0o600)
        note = Note(version=1, endpoint=self.endpoint, pid=os.getpid(), peer=peer)
        draft = self.note.with_suffix(".new")
        with open(draft, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(note) + b"\n")
        draft.replace(self.note)

    def clear(self) -> None:
        """Remove socket and note; a folder made elsewhere goes with them. Idempotent."""
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        if self._elsewhere is not None:
            shutil.rmtree(self._elsewhere, ignore_errors=True)

    def _forget(self, old: Note | None) -> None:
        """A node that was killed left its socket, perhaps in a folder of its own."""
        if old is not None:
            with contextlib.suppress(OSError):
                home = old.path.parent
                if home.name.startswith(_PREFIX) and home.stat().st_uid == os.getuid():
                    old.path.unlink(missing_ok=True)
                    home.rmdir()
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def find(data: Path) -> Note:
    """The note of the node that runs at a data folder. Raises NotRunning at once if none does."""
    note = read_note(data)
    if note is None:
        raise NotRunning(f"no node is running at {data}; start one with: grove up --data {data}")
    if not is_open(note.path):
        raise NotRunning(
            f"the node at {data} (process {note.pid}) is gone; start it with: grove up --data {data}"
        )
    return note


def read_note(data: Path) -> Note | None:
    """What door.json says, or None if there is none or it is not one of ours."""
    try:
        with open(data / FOLDER / "door.json", "rb") as file:
            note = msgspec.json.decode(file.read(MAX_NOTE), type=Note)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    ours = note.version == 1 and note.endpoint.startswith(_SCHEME) and "\0" not in note.endpoint
    return note if ours else None


def is_open(path: Path) -> bool:
    """Whether a living process listens at a socket file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (OSError, ValueError):
            return False
        return True


def _runtime_folder() -> str | None:
    folder = os.environ.get("XDG_RUNTIME_DIR")
    fits = folder and os.path.isdir(folder) and len(os.fsencode(folder)) < MAX_PATH - 40
    return folder if fits else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
