from typing import Any

HONESTY = ""
plan: Any = None
executor: Any = None
