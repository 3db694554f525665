"""``grove-gossipsub-interop --params params.json``: one node, as gossipsub-interop starts them.

Shadow runs one such process per host and calls the hosts node0, node1, …; a node's name is its number,
its key follows from that, and the others are where their names say, TCP port 9000. With this command in
place of go's, Grove is one more `--composition`. The process ends with its script.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from grove_core.errors import GroveError, LocalProtocolError
from grove_gossipsub_interop import script
from grove_gossipsub_interop.player import Player

PORT: Final = 9000


async def by_name(number: int) -> str:
    """Where Shadow puts a node: its host's name, port 9000."""
    found = await asyncio.get_running_loop().getaddrinfo(f"node{number}", PORT, family=socket.AF_INET)
    return f"/ip4/{found[0][4][0]}/tcp/{PORT}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--params", "-params", type=Path, required=True, help="the script")
    parser.add_argument("--node", type=int, help="this node's number, if the host is not called by it")
    chosen = parser.parse_args()
    try:
        number = chosen.node
        if number is None:
            named = re.match(r"node(\d+)", socket.gethostname())
            if named is None:
                raise LocalProtocolError(
                    f"host {socket.gethostname()!r} is not called node<number>; say --node"
                )
            number = int(named[1])
        if not 0 <= number < 1 << 31:
            raise LocalProtocolError(f"node {number}; a node's number is 0 to 2147483647")
        played = script.read(chosen.params.read_bytes())
        with tempfile.TemporaryDirectory() as data:
            player = Player(played, number, by_name, f"/ip4/0.0.0.0/tcp/{PORT}", sys.stdout, Path(data))
            asyncio.run(player.play())
    except (GroveError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
