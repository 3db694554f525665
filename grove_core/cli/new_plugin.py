"""Writes a new plugin: a package that works and passes the conformance suite of its role as it stands.

The files lie in `template/`: `shared` for every role, and one folder per role. A name between two @
signs is replaced, the folder `module` gets the module's name, and the suffix `.in` goes.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from grove_core.errors import GroveError
from grove_core.registry import Registry

TEMPLATE = Path(__file__).parent / "template"


def write_plugin(role: str, name: str, into: Path) -> Path:
    """Write the package `grove-ROLE-NAME` into a folder and return its path.

    role: a folder of the template. name: what profiles will call the plugin; letters, digits and
    hyphens. Raises GroveError, before anything is written, if the name will not do or is taken.
    """
    if not re.fullmatch(r"[a-z](-?[a-z0-9]){0,39}", name) or keyword.iskeyword(name):
        raise GroveError(
            f"{name!r} will not do as a plugin's name: expected 1 to 40 lower-case letters, digits and "
            f"single hyphens, beginning with a letter, as in my-flood"
        )
    if takers := Registry().offers(name):
        taken = ", ".join(f"{offer.distribution} {offer.version}" for offer in takers)
        raise GroveError(f"the name {name!r} is taken by {taken}; two plugins of one name refuse to load")
    distribution = f"grove-{role}-{name}"
    module = distribution.replace("-", "_")
    folder = into / distribution
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GroveError(f"{folder} exists and is not empty; choose another name, or another --into")
    words = {
        "@NAME@": name,
        "@ROLE@": role,
        "@DIST@": distribution,
        "@MODULE@": module,
        "@CLASS@": "".join(part.capitalize() for part in name.split("-")),
    }
    for source in (TEMPLATE / "shared", TEMPLATE / role):
        for path in sorted(source.rglob("*")):
            if path.is_file():
                parts = path.relative_to(source).parts
                inside = (module if part == "module" else part.removesuffix(".in") for part in parts)
                written = folder.joinpath(*inside)
                written.parent.mkdir(parents=True, exist_ok=True)
                text = path.read_text(encoding="utf-8")
                for word, meant in words.items():
                    text = text.replace(word, meant)
                written.write_text(text, encoding="utf-8")
    return folder
