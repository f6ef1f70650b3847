"""A sharded checkpoint's journey: time and peak memory of each step."""

from __future__ import annotations

import shutil
from pathlib import Path

from measure import Figure, make_model, watched

_STEPS = {
    "quantize": "aq.quantize_checkpoint(source, dataset, search='none', threads=2)",
    "verify": "aq.verify(dataset, source, threads=2)",
    "export": "aq.export(dataset, exported, threads=2)",
}
_STEP = """
import time, warnings
import arrowquant as aq
source, dataset, exported = sys.argv[1:]
warnings.simplefilter("ignore")
started = time.perf_counter()
peak = peak_of(lambda: {step})
print(json.dumps({{"seconds": time.perf_counter() - started, "peak_mb": peak}}))
"""


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return seconds and peak memory of each step, for 4 GB (1 GB if quick)."""
    source = make_model(folder, 1.0 if quick else 4.0, shards=4)
    size = sum(_read(path) for path in source.glob("*.safetensors"))
    dataset, exported = folder / "dataset", folder / "exported"
    figures: list[Figure] = []
    for what, step in _STEPS.items():
        for path in (dataset, exported) if what == "quantize" else ():
            shutil.rmtree(path, ignore_errors=True)
        paths = [str(path) for path in (source, dataset, exported)]
        figure = watched(_STEP.format(step=step), *paths)
        figures.append({"what": what, "source_mb": size / 1e6, **figure})
    for path in (dataset, exported):
        shutil.rmtree(path)
    return figures


def _read(path: Path) -> int:
    """Bring a file into the page cache; its size."""
    with path.open("rb") as file:
        return sum(map(len, iter(lambda: file.read(1 << 24), b"")))
