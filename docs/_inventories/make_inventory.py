"""Write ``python.inv`` from ``python.txt``: a version 2 inventory, as Sphinx itself writes them."""

import zlib
from pathlib import Path

HEADER = """\
# Sphinx inventory version 2
# Project: Python
# Version: 3
# The remainder of this file is compressed using zlib.
"""


def inventory_lines(source: str) -> list[str]:
    """Turn ``name role address`` into the lines of an inventory."""
    lines = []
    for line in source.splitlines():
        if not line or line.startswith("#"):
            continue
        name, role, address = line.split()
        lines.append(f"{name} {role} 1 {address} -\n")
    return lines


if __name__ == "__main__":
    here = Path(__file__).parent
    lines = inventory_lines((here / "python.txt").read_text(encoding="utf-8"))
    body = zlib.compress("".join(lines).encode(), 9)
    (here / "python.inv").write_bytes(HEADER.encode() + body)
