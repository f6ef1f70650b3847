"""What the sections share: timing side by side, and running something in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Figure = dict[str, Any]


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(works: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each, after a first call that is not counted, taking turns."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, own in zip(works, times, strict=True):
            own.append(seconds(work))
    return [statistics.median(own) for own in times]


def in_process(script: str, *arguments: str) -> Any:
    """Run Python code in a new process and return what it prints as JSON."""
    command = [sys.executable, "-c", script, *arguments]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT / "bench")
    # Some libraries talk before.
    return json.loads(out.stdout.strip().splitlines()[-1])


_WATCH = """
import json, sys, threading

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def peak_of(work):
    before, peak, done = anonymous(), 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 1e6
"""


def watched(script: str, *arguments: str) -> Any:
    """Do the same where the code calls `peak_of(work)`: megabytes beyond mapped files."""
    return in_process(_WATCH + script, *arguments)


def make_model(folder: Path, gigabytes: float, dtype: str = "BF16", shards: int = 1) -> Path:
    """Return a checkpoint of that size, made once by `make_model.py`; a directory if sharded."""
    if shards > 1:
        path = folder / f"{dtype}-{gigabytes}-{shards}"
        if not (path / "model.safetensors.index.json").exists():
            script = [sys.executable, str(ROOT / "bench/make_model.py"), str(path)]
            size = ["--gigabytes", str(gigabytes), "--dtype", dtype, "--shards", str(shards)]
            subprocess.run([*script, *size], check=True)
        return path
    path = folder / f"{dtype}-{gigabytes}" / "model.safetensors"
    if not path.exists():
        script = [sys.executable, str(ROOT / "bench/make_model.py"), str(path.parent)]
        subprocess.run([*script, "--gigabytes", str(gigabytes), "--dtype", dtype], check=True)
    return path
