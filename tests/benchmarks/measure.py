"""Measures one entry of one row and prints the sample: the program of one round's process."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from .processes import pin
from .rows import rows


def main() -> None:
    """Command line of the measuring process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row")
    parser.add_argument("entry")
    parser.add_argument("--core", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    pin(options.core)
    row = rows(quick=options.quick, uvloop=options.uvloop)[options.row]
    print(json.dumps(asdict(row.entries[options.entry]())))


if __name__ == "__main__":
    main()
