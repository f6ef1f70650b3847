"""The core in memory beside the limit: a program that reads and writes as much, in one run.

See `rust/core/examples/memory.rs`, which this builds and runs.
"""

from __future__ import annotations

import json
import subprocess

from measure import ROOT, Figure


def run(*, quick: bool) -> list[Figure]:
    """Return a figure for each case."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "arrowquant", "--example", "memory"]
    command += ["--", "--quick"] if quick else ["--"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    figures: list[Figure] = json.loads(out.stdout)
    return figures
