"""Make a checkpoint of any size: seeded, heavy-tailed, sharded, as large models are published.

    python bench/make_model.py OUTDIR --gigabytes 1 --shards 2 --dtype BF16

Needs numpy, ml_dtypes and safetensors. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}
HIDDEN = 2048
INTERMEDIATE = 5632


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return Student-t values of 4 degrees of freedom, at the scale of trained matrices."""
    normal = rng.standard_normal(shape, np.float32)
    chi_square = rng.standard_gamma(2.0, shape, np.float32) / 2
    return 0.02 * normal / np.sqrt(chi_square)


def layers(rng: np.random.Generator, count: int) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the tensors of a decoder's blocks by name."""
    matrices = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN // 8, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 8, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }
    for block in range(count):
        for name, shape in matrices.items():
            yield f"model.layers.{block}.{name}.weight", weights(rng, shape)
        yield f"model.layers.{block}.input_layernorm.weight", np.ones(HIDDEN, np.float32)


def main() -> None:
    """Write the shards and their index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--gigabytes", type=float, default=0.25)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="BF16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    dtype = np.dtype(DTYPES[options.dtype])
    block = 2 * HIDDEN**2 + 2 * HIDDEN**2 // 8 + 3 * HIDDEN * INTERMEDIATE + HIDDEN
    blocks = max(options.shards, round(options.gigabytes * 1e9 / (block * dtype.itemsize)))
    rng = np.random.default_rng(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    source = layers(rng, blocks)
    weight_map: dict[str, str] = {}
    for shard in range(options.shards):
        mine = blocks * (shard + 1) // options.shards - blocks * shard // options.shards
        tensors = {
            name: array.astype(dtype) for name, array in (next(source) for _ in range(8 * mine))
        }
        file = f"model-{shard + 1:05}-of-{options.shards:05}.safetensors"
        if options.shards == 1:
            file = "model.safetensors"
        save_file(tensors, options.output / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    if options.shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        path = options.output / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    main()
