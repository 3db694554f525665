"""`python -m grove_core.cli`: the command where no script is installed."""

import sys

from grove_core.cli import main

sys.exit(main())
