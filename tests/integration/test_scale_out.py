"""The example of spreading work over processes, run as its page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "scale_out.py"


@pytest.mark.timeout(60)  # worker processes of Dask take seconds to start
@pytest.mark.parametrize("arguments", [[], ["--dask"]], ids=["process-pool", "dask"])
def test_the_example_spreads_work_and_keeps_connections(
    arguments: list[str], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        cwd=tmp_path,
        # On a busy machine Dask's parts end one by one, and each calls the others' end an error.
        env={**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    *workers, total, connections = ended.stdout.splitlines()
    pages = re.findall(r"process \d+ fetched (\d+) pages", "\n".join(workers))
    assert sum(map(int, pages)) == 200
    assert total == "2700 bytes in 200 pages"
    counted = re.fullmatch(r"(\d+) connections, at most 4 for each of 2 workers", connections)
    assert counted
    assert len(workers) <= int(counted[1]) <= 8
