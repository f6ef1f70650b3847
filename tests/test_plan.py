"""`aq.plan`: what will be done with each layer, and exactly what it will take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
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


def _schemes(plan: pa.Table) -> dict[str, tuple[Any, ...]]:
    columns = ["scheme", "group_size", "is_symmetric", "reason"]
    return {row["layer_name"]: tuple(row[c] for c in columns) for row in plan.to_pylist()}


@pytest.fixture
def layers() -> dict[str, Any]:
    names = ["model.0.q.weight", "model.1.q.weight", "model.1.k.weight", "norm", "odd[0].weight"]
    arrays = {name: np.ones((4, 64), np.float32) for name in names}
    return arrays | {"norm": np.ones(64, np.float32), "ids": np.arange(9)}


def test_the_first_rule_that_matches_counts(layers: dict[str, Any]) -> None:
    rules = pa.table(
        {
            "layer_name": ["model.1.k.*", "model.1.*", "*.q.*", "norm"],
            "scheme": ["none", "int8", None, "int8"],
            "group_size": [None, 32, 64, None],
            "is_symmetric": [None, None, True, None],
        }
    )
    assert _schemes(aq.plan(layers, plan=rules)) == {
        "model.0.q.weight": ("int4", 64, True, None),
        "model.1.q.weight": ("int8", 32, True, None),
        "model.1.k.weight": ("none", None, None, "kept_by_user"),
        "norm": ("int8", 128, True, None),  # asked for, and so done
        "odd[0].weight": ("int4", 128, False, None),
        "ids": ("none", None, None, "not_float"),
    }
    plan = aq.plan(layers, plan=rules)
    result = aq.quantize(layers, plan=plan)
    sizes = [
        math.ceil(bits * np.prod(shape) / 8)
        for bits, shape in zip(
            result.quantized["bits_per_weight"].to_pylist(),
            result.quantized["shape"].to_pylist(),
            strict=True,
        )
    ]
    assert sizes == plan["predicted_bytes"].to_pylist()
    kept = aq.plan(layers, keep=["model.*"], plan=rules.slice(3))
    assert _schemes(kept)["model.0.q.weight"][0] == "none"


def test_a_rule_may_ask_for_what_fails(layers: dict[str, Any]) -> None:
    plan = aq.plan(layers, plan=pa.table({"layer_name": ["ids"], "scheme": ["int8"]}))
    (row,) = (row for row in plan.to_pylist() if row["layer_name"] == "ids")
    assert (row["scheme"], row["predicted_bytes"], row["reason"]) == ("int8", None, None)
    failed = aq.quantize(layers, plan=plan, continue_on_error=True).failed
    assert failed["error_code"].to_pylist() == ["unsupported_dtype"]


def test_a_name_with_a_patterns_characters_matches_itself(layers: dict[str, Any]) -> None:
    rules = pa.table({"layer_name": ["odd[0].weight"], "scheme": ["int8"]})
    assert _schemes(aq.plan(layers, plan=rules))["odd[0].weight"][0] == "int8"


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "lines"])
def test_rules_come_from_files(layers: dict[str, Any], tmp_path: Path, kind: str) -> None:
    table = pa.table({"layer_name": ["*.q.*", "norm"], "scheme": ["int8", None], "snr": [1, 2]})
    suffix = "json" if kind == "lines" else kind
    path = tmp_path / f"plan.{suffix}"
    options = {"parquet": "", "csv": "(header)", "json": "(array true)", "lines": ""}[kind]
    connection = duckdb.connect()
    connection.register("rules", table)
    connection.sql(f"copy (from rules) to '{path}' {options}")
    schemes = _schemes(aq.plan(layers, plan=path))
    assert schemes["model.0.q.weight"] == ("int8", 128, True, None)
    assert schemes["norm"] == ("int4", 128, False, None)
    assert schemes["model.1.k.weight"] == ("int4", 128, False, None)


def test_wrong_rules(layers: dict[str, Any], tmp_path: Path) -> None:
    def rules(**columns: Any) -> pa.Table:
        return pa.table({"layer_name": ["model.*"]} | columns)

    with pytest.warns(
        aq.QuantizationWarning, match=r"no layer follows the plan's rows: 'nothing\*'"
    ):
        aq.plan(layers, plan=pa.table({"layer_name": ["nothing*"], "scheme": ["int8"]}))
    with pytest.raises(ValueError, match="'q4' is 'int4' here"):
        aq.plan(layers, plan=rules(scheme=["q4"]))
    with pytest.raises(ValueError, match="invalid group_size 0"):
        aq.plan(layers, plan=rules(group_size=[0]))
    with pytest.raises(ValueError, match="Plans need a column 'layer_name'"):
        aq.plan(layers, plan=pa.table({"name": ["*"]}))
    for name, text in {
        "a.json": "{nonsense",
        "b.json": '{"name": 1}',
        "c.json": "[1]",
        "d.csv": "layer_name,group_size\na,many\n",
        "e.yaml": "",
        "f.json": '{"layer_name": "a", "schema": "int8"}',
        "g.csv": "layer_name,schema\na,int8\n",
        "h.json": '{"layer_name": 3, "scheme": "int8"}',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            aq.plan(layers, plan=tmp_path / name)
    with pytest.raises(FileNotFoundError):
        aq.plan(layers, plan=tmp_path / "none.csv")
