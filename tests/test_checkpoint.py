"""A real checkpoint, whole: every tensor accounted for, and the quality that int4 and int8 have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

import arrowquant as aq

WORST = "embeddings.token_type_embeddings.weight"


def _cosine(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_every_tensor_is_accounted_for(checkpoint: Path) -> None:
    original = load_file(checkpoint)
    assert len(original) == 104
    kept = aq.quantize(aq.scan(checkpoint))
    assert sorted(kept.quantized["layer_name"].to_pylist()) == sorted(original)
    assert kept.quantized["scheme"].to_pylist().count("none") == 104 - 37
    # Without roles, rows are taken literally.
    literal = pa.table(aq.scan(checkpoint)).drop_columns(["role"])
    result = aq.quantize(literal, continue_on_error=True)
    assert len(result) == 104
    assert sorted(result.quantized["layer_name"].to_pylist()) == sorted(original)
    assert result.failed["layer_name"].to_pylist() == ["embeddings.position_ids"]
    assert result.failed["error_code"].to_pylist() == ["unsupported_dtype"]
    assert result.succeeded.num_rows == 103
    with pytest.raises(aq.QuantizationError, match=r"'embeddings.position_ids' \(I64 \[1, 512\]"):
        aq.quantize(literal)


@pytest.mark.parametrize(
    ("scheme", "symmetric", "snr", "snr_of_worst", "cosine", "cosine_of_worst"),
    [
        ("int4", False, 18, 12.5, 0.99, 0.97),
        ("int8", False, 35, 35, 0.9998, 0.9998),
        # The symmetric form cuts the largest magnitude by half a step, which shows in a matrix
        # of two rows whose groups have one outlier each.
        ("int8", True, 35, 33.5, 0.9998, 0.9997),
    ],
)
def test_quality(
    checkpoint: Path,
    scheme: str,
    symmetric: bool,
    snr: float,
    snr_of_worst: float,
    cosine: float,
    cosine_of_worst: float,
) -> None:
    original = load_file(checkpoint)
    scan = aq.scan(checkpoint)
    tables = ["role:embedding", "role:position"]
    plan = aq.plan(scan, scheme=scheme, symmetric=symmetric, include=tables)
    result = aq.quantize(scan, plan=plan)
    restored = aq.to_numpy(aq.dequantize(result))
    assert restored.keys() == original.keys()
    matrices = 0
    for row in result.quantized.select(["layer_name", "scheme", "snr_db"]).to_pylist():
        name = row["layer_name"]
        before, after = original[name], restored[name]
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        if row["scheme"] == "none":
            assert before.tobytes() == after.tobytes()
            continue
        matrices += 1
        error = before.astype(np.float64) - after
        measured = 10 * np.log10((before.astype(np.float64) ** 2).sum() / (error**2).sum())
        assert row["snr_db"] == pytest.approx(measured, abs=1e-6)
        assert measured > (snr_of_worst if name == WORST else snr), name
        assert _cosine(before, after) > (cosine_of_worst if name == WORST else cosine), name
    assert matrices == 40


def test_threads_and_batching_change_nothing(checkpoint: Path) -> None:
    scan = aq.scan(checkpoint)
    plan = aq.plan(scan)
    expected = aq.quantize(scan, plan=plan, threads=1).quantized.combine_chunks()
    for threads in (2, 7):
        assert aq.quantize(scan, plan=plan, threads=threads).quantized.combine_chunks() == expected
    table = pa.table(scan)
    rebatched = pa.Table.from_batches(table.to_batches(max_chunksize=3))
    assert aq.quantize(rebatched, plan=plan).quantized.combine_chunks() == expected


def test_progress_goes_by_bytes(checkpoint: Path) -> None:
    calls: list[tuple[str | None, float | None]] = []
    aq.quantize(aq.scan(checkpoint), scheme="none", progress=lambda *call: calls.append(call))
    assert len(calls) == 104
    fractions = [fraction for _, fraction in calls if fraction is not None]
    assert len(fractions) == 104
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
