"""What distributing a checkpoint costs on one machine: Ray's workers beside one process."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from measure import Figure, in_process, make_model

_RUN = """
import json, sys, time, logging, shutil
import arrowquant as aq
source, output, how, rounds = sys.argv[1:]
started = time.perf_counter()
if how == "ray":
    import ray
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    quantize = lambda: aq.ray.quantize_checkpoint(source, output, search="none")
else:
    quantize = lambda: aq.quantize_checkpoint(source, output, search="none", threads=2)
start, times = time.perf_counter() - started, []
for _ in range(int(rounds)):
    shutil.rmtree(output, ignore_errors=True)
    began = time.perf_counter()
    quantize()
    times.append(time.perf_counter() - began)
print("\\n" + json.dumps({"seconds": sorted(times)[len(times) // 2], "start_seconds": start}))
"""


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return seconds for 4 GB (1 GB if quick) by each, the first Ray job's start left out."""
    source = make_model(folder, 1.0 if quick else 4.0, shards=4)
    output = folder / "distributed"
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    ways = ["one process", "ray"] if importlib.util.find_spec("ray") else ["one process"]
    figures: list[Figure] = []
    for how in ways:
        figure = in_process(_RUN, str(source), str(output), how, "3")
        figures.append({"what": how, "source_mb": size / 1e6, **figure})
    shutil.rmtree(output)
    return figures
