"""Every figure that arrowquant claims: `python bench/run.py [quality] [--quick]`.

Writes `bench/results.json`, `bench/RESULTS.md` and `bench/results.svg`. Needs what
`pip install '.[bench]'` brings; heavy peers (torch, mlx, bitsandbytes, hqq, torchao,
ik-llama-cpp-python for ggml's own code) are measured where they are installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

# One thread for peers that would otherwise take all; set before any of them is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import calibration
import checkpoint
import core
import defaults
import distortion
import distribute
import divergence
import embeddings
import exports
import files
import frontier
import peers
import report
import scaling
import search
import startup
from measure import Figure

BENCH = Path(__file__).resolve().parent


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def main() -> None:
    """Measure, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["all", "quality"],
        default="all",
        help="quality: what searches and importance are worth, printed as tables",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--only", choices=report.SECTIONS, help="one section, printed as JSON")
    parser.add_argument("--models", type=Path, default=BENCH / "models", help="made checkpoints")
    options = parser.parse_args()
    quick = options.quick
    options.models.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Callable[[], list[Figure]]] = {
        "core": lambda: core.run(quick=quick),
        "peers": lambda: peers.run(quick=quick),
        "files": lambda: files.run(options.models, quick=quick),
        "checkpoint": lambda: checkpoint.run(options.models, quick=quick),
        "exports": lambda: exports.run(options.models, quick=quick),
        "distribute": lambda: distribute.run(options.models, quick=quick),
        "scaling": lambda: scaling.run(quick=quick),
        "startup": lambda: startup.run(quick=quick),
        "distortion": lambda: distortion.run(quick=quick),
        "frontier": lambda: frontier.run(quick=quick),
        "search": lambda: search.run(quick=quick),
        "defaults": lambda: defaults.run(options.models, quick=quick),
        "signed_scales": lambda: defaults.signed_scales(options.models, quick=quick),
        "importance": lambda: calibration.run(options.models, quick=quick),
        "divergence": lambda: divergence.run(options.models, quick=quick),
        "embeddings": lambda: embeddings.run(quick=quick),
    }
    wanted = list(report.SECTIONS) if options.what == "all" else list(report.QUALITY)
    wanted = wanted if options.only is None else [options.only]
    figures: dict[str, list[Figure]] = {}
    for name, section in sections.items():
        if name in wanted:
            print(f"{name} ...", file=sys.stderr)
            figures[name] = section()
    if options.only:
        print(json.dumps(figures[options.only], indent=2))
        return
    if options.what == "quality":
        report.draw_frontier(figures["frontier"], BENCH / "search.svg")
        print(report.tables(figures))
        return
    machine = {
        "CPU": _cpu(),
        "Python": platform.python_version(),
        "arrowquant": importlib.metadata.version("arrowquantize"),
        "pyarrow": importlib.metadata.version("pyarrow"),
        "date": datetime.date.today().isoformat(),
    }
    results = {"machine": machine, "quick": quick, "figures": figures}
    (BENCH / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, BENCH)


if __name__ == "__main__":
    main()
