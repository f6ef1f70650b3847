"""`aq.plan`: what will be done with each layer, and exactly what it will take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import binary_weights, float_row


def _layer(name: str, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    width = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "F8_E4M3": 1}[dtype]
    data = bytes(width * int(np.prod(shape, dtype=int)))
    return {"layer_name": name, "data": data, "dtype": dtype, "shape": shape}


def test_what_is_quantized_and_why_the_rest_is_kept() -> None:
    layers = {
        "up": ([4, 64], "F32", None),
        "half": ([4, 64], "BF16", None),
        "experts": ([2, 3, 32], "F16", None),
        "double": ([4, 64], "F64", None),
        "bias": ([64], "F32", "one_dimensional"),
        "scalar": ([], "F32", "one_dimensional"),
        "positions": ([2, 64], "I64", "not_float"),
        "already": ([4, 64], "F8_E4M3", "not_float"),
        "narrow": ([64, 31], "F32", "no_gain"),
        "nothing": ([0, 64], "F32", "no_gain"),
        "model.lm_head.weight": ([4, 64], "F32", "kept_by_user"),
    }
    table = binary_weights([_layer(name, *what[:2]) for name, what in layers.items()])
    plan = aq.plan(table, keep=["*lm_head*"])
    assert plan["reason"].to_pylist() == [what[2] for what in layers.values()]
    kept = pa.compute.is_valid(plan["reason"])
    schemes = plan["scheme"].to_pylist()
    assert schemes == ["none" if keep.as_py() else "int4" for keep in kept]


@pytest.mark.parametrize("options", [{}, {"scheme": "int8"}, {"scheme": "int2", "group_size": 32}])
@pytest.mark.parametrize("symmetric", [True, False])
def test_predicted_bytes_are_exact(checkpoint: Path, options: Any, symmetric: bool) -> None:
    scan = aq.scan(checkpoint)
    plan = aq.plan(scan, symmetric=symmetric, **options)
    rows = aq.quantize(scan, plan=plan).quantized.to_pylist()
    for planned, row in zip(plan.to_pylist(), rows, strict=True):
        assert row["scheme"] == planned["scheme"]
        exact = row["bits_per_weight"] * np.prod(row["shape"]) / 8
        assert planned["predicted_bytes"] == np.ceil(exact)
        stored = len(row["data"]) + 4 * len(row["scales"] or [])
        points = len(row["zero_points"] or []) * {"int8": 8, "int4": 4, "int2": 2}.get(
            row["scheme"], 0
        )
        assert planned["predicted_bytes"] == stored + -(-points // 8)


def test_a_plan_needs_no_data_column() -> None:
    table = binary_weights([_layer("up", [4, 64]), _layer("bias", [4])])
    assert aq.plan(table.drop_columns(["data"])) == aq.plan(table)
    lists = pa.table({"layer_name": ["v"], "data": [[1.0] * 64]})
    assert aq.plan(lists)["shape"].to_pylist() == [[64]]


def test_layers_that_are_often_kept_are_named_not_kept() -> None:
    names = [
        "lm_head.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.gate_proj.weight",
    ]
    plan = aq.plan(binary_weights([_layer(name, [4, 64]) for name in names]))
    assert plan["note"].to_pylist() == ["often kept: output head", "often kept: router", None]
    assert plan["scheme"].to_pylist() == ["int4"] * 3


def test_plan_columns_of_the_rows_are_followed() -> None:
    table = binary_weights([float_row(name, np.ones((2, 64))) for name in "ab"])
    table = table.append_column("scheme", pa.array(["none", "int8"]))
    plan = aq.plan(table)
    assert plan["reason"].to_pylist() == ["kept_by_user", None]
    assert plan["scheme"].to_pylist() == ["none", "int8"]


def test_wrong_calls() -> None:
    table = binary_weights([_layer("up", [4, 64])])
    with pytest.warns(aq.QuantizationWarning, match=r"keep matches no layer: '\*head\*'"):
        aq.plan(table, keep=["*head*", "u?"])
    with pytest.raises(TypeError, match="keep must be a sequence of patterns"):
        aq.plan(table, keep="*head*")
    with pytest.raises(ValueError, match=r"invalid pattern '\[a'"):
        aq.plan(table, keep=["[a"])
    with pytest.raises(ValueError, match=r"unknown scheme 'q8'.*'int8' here"):
        aq.plan(table, scheme="q8")
