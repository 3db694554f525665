"""`python -m tests.claims`: see the package."""

from __future__ import annotations

import argparse
import sys
import tomllib

from tests.claims import __doc__ as story
from tests.claims import figures, page, running, store

CLAIMS = store.ROOT / "tests" / "claims.toml"
PAGE = store.ROOT / "docs" / "claims.md"


def main() -> int:
    """Exit code 1 if a claim failed and tests/claims.toml gives no reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.claims", description=story.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="test files or folders; all if none")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page of what is kept")
    chosen = parser.parse_args()
    try:
        if not chosen.page:
            running.run(running.files(chosen.paths), chosen.jobs)
    finally:  # what came out before an interrupt is kept too
        kept = store.read()
        claims = tomllib.loads(CLAIMS.read_text())
        PAGE.write_text(page.page(claims, kept, figures.draw(kept)))
        print(page.terminal(claims, kept, running.files(chosen.paths)))
        print(f"wrote {PAGE.relative_to(store.ROOT)}")
    return int(page.has_riddles(claims, kept))


if __name__ == "__main__":
    sys.exit(main())
