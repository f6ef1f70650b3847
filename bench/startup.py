"""What starting up costs: importing the main names beyond pyarrow's own import, and the help."""

from __future__ import annotations

import statistics
import subprocess
import sys

from measure import Figure, in_process, seconds

_IMPORT = """
import json, time, pyarrow
start = time.perf_counter()
# The package's modules are imported when their names are asked for.
from arrowquant import dequantize, plan, quantize, quantize_stream, scan, to_numpy, write_parquet
print(json.dumps(time.perf_counter() - start))
"""


def run(*, quick: bool) -> list[Figure]:
    """Return both in seconds."""
    rounds = 3 if quick else 9
    imports = [in_process(_IMPORT) for _ in range(rounds)]
    command = [sys.executable, "-m", "arrowquant", "--help"]

    def call() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    helps = [seconds(call) for _ in range(rounds)]
    return [
        {"what": "import beyond pyarrow", "seconds": statistics.median(imports)},
        {"what": "arrowquant --help", "seconds": statistics.median(helps)},
    ]
