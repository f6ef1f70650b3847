"""Stacks of experts: what is one, which axis is contracted, and the way back.

Each synthetic checkpoint gives every expert, half and row values of its own, so that a wrong axis,
half or order fails by value. The layouts are those that transformers writes and that are published.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq

E, H, M = 4, 64, 48
LAYER = "model.layers.0"
Tensors = dict[str, Any]


def matrix(expert: int, part: str, out: int, contracted: int) -> Any:
    """`[out, in]` of an expert's projection: each value says where it belongs."""
    number = {"gate": 1, "up": 2, "down": 3}[part]
    rows = np.arange(out, dtype=np.float32)[:, None]
    columns = np.arange(contracted, dtype=np.float32)[None, :]
    return 1000 * (expert * 10 + number) + rows + columns / 128


def expert(index: int, width: int = M, hidden: int = H) -> Tensors:
    return {
        "gate": matrix(index, "gate", width, hidden),
        "up": matrix(index, "up", width, hidden),
        "down": matrix(index, "down", hidden, width),
    }


def gate_up(index: int, width: int, hidden: int, *, interleaved: bool = False) -> Any:
    one = expert(index, width, hidden)
    if not interleaved:
        return np.concatenate([one["gate"], one["up"]])
    return np.stack([one["gate"], one["up"]], 1).reshape(2 * width, hidden)


def fused(
    prefix: str,
    *,
    turned: bool = False,
    names: tuple[str, str] = ("gate_up_proj", "down_proj"),
    width: int = M,
    hidden: int = H,
    interleaved: bool = False,
) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of fused stacks, and each of their matrices as it should come out."""
    first = [gate_up(i, width, hidden, interleaved=interleaved) for i in range(E)]
    second = [expert(i, width, hidden)["down"] for i in range(E)]
    tensors, expected = {}, {}
    for name, matrices in zip(names, (first, second), strict=True):
        stack = [m.T if turned else m for m in matrices]
        tensors[f"{prefix}.{name}"] = np.ascontiguousarray(np.stack(stack))
        expected |= {f"{prefix}.{name}[{i}]": m for i, m in enumerate(matrices)}
    return tensors, expected


def router(name: str = "mlp.gate.weight", hidden: int = H) -> Tensors:
    return {f"{LAYER}.{name}": np.ones((E, hidden), np.float32)}


def write(folder: Path, tensors: Tensors, config: dict[str, Any] | None) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def config(model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "num_experts": E, "hidden_size": H} | more


def qwen3_5() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    tensors, expected = fused(f"{LAYER}.mlp.experts")
    shared = {f"{LAYER}.mlp.shared_expert.up_proj.weight": matrix(9, "up", M, H)}
    gates = {f"{LAYER}.mlp.shared_expert_gate.weight": np.ones((1, H), np.float32)}
    mtp = {
        f"mtp.layers.0.mlp.experts.{i}.up_proj.weight": expert(i)["up"].astype("f4")
        for i in range(E)
    }
    return tensors | router() | shared | gates | mtp, expected, config("qwen3_5_moe")


def qwen3_vl(turned: bool, width: int = M) -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    prefix = "model.language_model.layers.0.mlp.experts"
    tensors, expected = fused(prefix, turned=turned, width=width)
    said = {"model_type": "qwen3_vl_moe", "text_config": config("qwen3_vl_moe_text")}
    return tensors, expected, said


def llama4() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    tensors, expected = fused(f"{LAYER}.feed_forward.experts", turned=True)
    said = {"text_config": config("llama4_text", num_local_experts=E), "model_type": "llama4"}
    return tensors | router("feed_forward.router.weight"), expected, said


def gpt_oss() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    prefix = f"{LAYER}.mlp.experts"
    tensors, expected = fused(prefix, turned=True, width=H, interleaved=True)
    biases = {
        f"{prefix}.gate_up_proj_bias": np.ones((E, 2 * H), np.float32),
        f"{prefix}.down_proj_bias": np.ones((E, H), np.float32),
    }
    said = config("gpt_oss", num_local_experts=E)
    return tensors | biases | router("mlp.router.weight"), expected, said


def granite() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    prefix = f"{LAYER}.block_sparse_moe"
    names = ("input_linear.weight", "output_linear.weight")
    tensors, expected = fused(prefix, names=names)
    said = config("granitemoe", num_local_experts=E)
    return tensors | router("block_sparse_moe.router.layer.weight"), expected, said


def gemma4() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    tensors, expected = fused(f"{LAYER}.experts")
    scale = {f"{LAYER}.router.per_expert_scale": np.ones(E, np.float32)}
    return tensors | scale | router("router.proj.weight"), expected, config("gemma4")


def dbrx() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    prefix = "transformer.blocks.0.ffn.experts.mlp"
    ones = [expert(i) for i in range(E)]
    tensors = {
        f"{prefix}.w1": np.concatenate([one["gate"] for one in ones]),
        f"{prefix}.v1": np.concatenate([one["up"] for one in ones]),
        f"{prefix}.w2": np.concatenate([one["down"].T for one in ones]),
    }
    expected = {
        f"{prefix}.{name}[{i}]": one[part]
        for i, one in enumerate(ones)
        for name, part in (("w1", "gate"), ("v1", "up"), ("w2", "down"))
    }
    said = {"model_type": "dbrx", "ffn_config": {"moe_num_experts": E}, "d_model": H}
    return tensors, expected, said


def gguf_names() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    names = ("ffn_gate_up_exps.weight", "ffn_down_exps.weight")
    tensors, expected = fused("blk.0", names=names)
    return tensors, expected, {}


def nemotron() -> tuple[Tensors, dict[str, Any], dict[str, Any]]:
    """No gate: the model's width says which axis is which."""
    prefix = f"{LAYER}.mixer.experts"
    ups, downs = ([expert(i)[part] for i in range(E)] for part in ("up", "down"))
    tensors = {f"{prefix}.up_proj": np.stack(ups), f"{prefix}.down_proj": np.stack(downs)}
    expected = {f"{prefix}.up_proj[{i}]": m for i, m in enumerate(ups)}
    expected |= {f"{prefix}.down_proj[{i}]": m for i, m in enumerate(downs)}
    return tensors, expected, config("nemotron_h", n_routed_experts=E)


STACKS: dict[str, Callable[[], tuple[Tensors, dict[str, Any], dict[str, Any]]]] = {
    "qwen3_5_moe": qwen3_5,
    "qwen3_vl_moe as published": lambda: qwen3_vl(turned=True),
    "qwen3_vl_moe saved again": lambda: qwen3_vl(turned=False),
    "qwen3_vl_moe, 2M = H, published": lambda: qwen3_vl(turned=True, width=H // 2),
    "qwen3_vl_moe, 2M = H, saved again": lambda: qwen3_vl(turned=False, width=H // 2),
    "llama4": llama4,
    "gpt_oss": gpt_oss,
    "granitemoe": granite,
    "gemma4": gemma4,
    "dbrx": dbrx,
    "nemotron_h": nemotron,
    "GGUF's names": gguf_names,
}


@pytest.mark.parametrize("part_bytes", [1 << 28, 4096])
@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS)
def test_each_expert_is_a_row_and_comes_back(
    make: Callable[[], tuple[Tensors, dict[str, Any], dict[str, Any]]],
    part_bytes: int,
    tmp_path: Path,
) -> None:
    tensors, expected, said = make()
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    model = write(tmp_path / "m", tensors, said)
    scan = aq.scan(model, part_bytes=part_bytes)
    for name, value in expected.items():
        assert scan[name].shape == value.shape, name
        assert np.array_equal(scan[name], value.astype(np.float32)), name
    plan = {row["layer_name"]: row for row in aq.plan(scan).to_pylist()}
    assert all(plan[name]["scheme"] == "int4" for name in expected)
    assert all(plan[name]["role"] == "weight" for name in expected)
    others = {name: row["role"] for name, row in plan.items() if name not in expected}
    assert not [name for name in others if name in tensors and "[" in name]
    for name, role in others.items():
        wanted = "weight"
        if name.endswith("_bias"):
            wanted = "bias"
        elif "mtp" in name:
            wanted = "mtp"
        elif "gate" in name or "router" in name:
            wanted = "router"
        assert role == wanted, name
    out, back = tmp_path / "out", tmp_path / "back"
    aq.quantize_checkpoint(model, out, scheme="none", part_bytes=part_bytes)
    assert aq.verify(out, model).ok
    aq.export(out, back, to="safetensors")
    assert (back / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    quantized = tmp_path / "q.parquet"
    aq.write_parquet(aq.quantize_stream(scan, scheme="int8"), quantized)
    aq.write_safetensors(aq.dequantize(aq.scan(quantized)), tmp_path / "d.safetensors")
    decoded = load_file(tmp_path / "d.safetensors")
    assert decoded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert decoded[name].shape == value.shape
        assert np.abs(decoded[name] - value).max() <= np.abs(value).max() / 127, name


def test_both_layouts_of_qwen3_vl_are_the_same_layers(tmp_path: Path) -> None:
    made = [write(tmp_path / f"m{t}", *_without(qwen3_vl(turned=bool(t)))) for t in (0, 1)]
    tables = [pa.table(aq.quantize(aq.scan(model)).quantized) for model in made]
    columns = ["layer_name", "shape", "data", "scales", "zero_points"]
    rows = [table.select(columns).sort_by("layer_name").to_pylist() for table in tables]
    assert rows[0] == rows[1]


def _without(made: tuple[Tensors, dict[str, Any], dict[str, Any]]) -> tuple[Tensors, Any]:
    tensors, _, said = made
    return {name: value.astype(np.float32) for name, value in tensors.items()}, said


ASKED = {
    "unknown model_type": (lambda: fused(f"{LAYER}.mlp.experts")[0], config("newest_moe"), "model"),
    "no config": (lambda: fused(f"{LAYER}.mlp.experts")[0], None, "no config.json"),
    "alone": (
        lambda: {f"{LAYER}.mlp.experts.gate_up_proj": np.ones((E, 2 * M, H), np.float32)},
        config("qwen3_5_moe"),
        "alone",
    ),
    "no gate, M = H": (
        lambda: {f"{LAYER}.mixer.experts.{n}_proj": np.ones((E, H, H)) for n in ("up", "down")},
        config("nemotron_h"),
        "width",
    ),
}

REFUSED = {
    "a pair that fits no layout": (
        lambda: {
            f"{LAYER}.mlp.experts.gate_up_proj": np.ones((E, 64, 128), np.float32),
            f"{LAYER}.mlp.experts.down_proj": np.ones((E, 128, 64), np.float32),
        },
        config("qwen3_5_moe"),
        "fit no layout",
    ),
    "the other layout than the model's": (
        lambda: fused(f"{LAYER}.feed_forward.experts")[0],
        config("llama4"),
        "not the layout of model_type 'llama4'",
    ),
    "another number of experts": (
        lambda: fused(f"{LAYER}.mlp.experts")[0],
        config("qwen3_5_moe", num_experts=8),
        r"\[4\] matrices, config.json says 8",
    ),
    "fused and single experts": (
        lambda: (
            fused(f"{LAYER}.mlp.experts")[0]
            | {f"{LAYER}.mlp.experts.0.up_proj.weight": np.ones((M, H), np.float32)}
        ),
        config("qwen3_5_moe"),
        "single experts",
    ),
}


@pytest.mark.parametrize(("make", "said", "why"), ASKED.values(), ids=ASKED)
def test_what_cannot_be_told_is_kept_and_asked_for(
    make: Callable[[], Tensors], said: dict[str, Any] | None, why: str, tmp_path: Path
) -> None:
    tensors = {name: value.astype(np.float32) for name, value in make().items()}
    model = write(tmp_path / "m", tensors, said)
    stacks = [name for name, value in tensors.items() if value.ndim == 3]
    plan = [row for row in aq.plan(model).to_pylist() if row["layer_name"].split("[")[0] in stacks]
    assert len(plan) == E * len(stacks)
    assert {row["scheme"] for row in plan} == {"none"}
    assert all(row["reason"].startswith("unknown_axis (") for row in plan)
    assert any(re.search(why, row["reason"]) for row in plan)
    assert all("--stack-axis" in row["reason"] for row in plan)
    for axis in (-1, -2):
        answered = aq.plan(aq.scan(model, stack_axis=axis)).to_pylist()
        of_stacks = {
            r["layer_name"]: r for r in answered if r["layer_name"].split("[")[0] in stacks
        }
        assert {row["scheme"] for row in of_stacks.values()} == {"int4"}
        shape = list(tensors[stacks[0]].shape[1:])
        assert of_stacks[f"{stacks[0]}[0]"]["shape"] == (shape if axis == -1 else shape[::-1])
    aq.quantize_checkpoint(model, tmp_path / "out", stack_axis=-2)
    assert aq.verify(tmp_path / "out", model).ok


def test_a_plan_says_how_stacks_lie(tmp_path: Path) -> None:
    names = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.gate_up_proj"]
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(E, 48, 64)).astype(np.float32) for name in names}
    model = write(tmp_path / "m", values, None)
    plan = aq.plan(model)
    assert {row["reason"].split(" ")[0] for row in plan.to_pylist()} == {"unknown_axis"}
    assert plan["stack_axis"].null_count == plan.num_rows
    # Filled in by hand, as for any other plan; one matrix speaks for its stack.
    filled = [
        row | {"scheme": None, "stack_axis": -2 if row["layer_name"] == f"{names[1]}[0]" else None}
        for row in plan.to_pylist()
    ]
    filled = pa.Table.from_pylist(filled, plan.schema)
    rows = {row["layer_name"]: row for row in aq.plan(model, plan=filled).to_pylist()}
    one, other = rows[f"{names[1]}[1]"], rows[f"{names[0]}[1]"]
    assert (one["scheme"], one["shape"], one["stack_axis"]) == ("int4", [64, 48], -2)
    assert other["stack_axis"] is None
    rules = pa.table({"layer_name": ["*layers.1*"], "stack_axis": [-2]})
    table = aq.plan(model, plan=rules)
    kept = {row["layer_name"]: row["scheme"] for row in table.to_pylist()}
    assert {kept[f"{names[0]}[{at}]"] for at in range(E)} == {"none"}
    assert {kept[f"{names[1]}[{at}]"] for at in range(E)} == {"int4"}
    for given in (model, aq.scan(model)):
        result = aq.quantize(given, plan=table)
        found = {row["layer_name"]: row for row in result.quantized.to_pylist()}
        assert found[f"{names[1]}[2]"]["shape"] == [64, 48]
        assert found[f"{names[1]}[2]"]["scheme"] == "int4"
    path = tmp_path / "rules.csv"
    path.write_text("layer_name,stack_axis\n*layers.1*,-2\n")
    out = tmp_path / "out"
    aq.quantize_checkpoint(model, out, plan=path)
    assert aq.verify(out, model).ok
    decoded = aq.scan(out)[f"{names[1]}[3]"]
    assert np.allclose(decoded, values[names[1]][3].T, atol=0.3)
    aq.quantize_checkpoint(model, out)  # The dataset knows what was said.
    assert len(aq.scan(out).manifest.attempts) == 2
    with pytest.raises(ValueError, match="axis_rules"):
        aq.quantize_checkpoint(
            model, out, plan=pa.table({"layer_name": ["*layers.1*"], "stack_axis": [-1]})
        )
    for bad, message in (([-3], "must be -1 or -2"), ([-1, -2], "Give all of a stack the same")):
        rules = pa.table({"layer_name": [f"x[{at}]" for at in range(len(bad))], "stack_axis": bad})
        with pytest.raises(ValueError, match=message):
            aq.plan(model, plan=rules)


@pytest.mark.parametrize(("make", "said", "why"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("axis", [None, -1, -2])
def test_what_contradicts_itself_is_kept_whatever_is_said(
    make: Callable[[], Tensors],
    said: dict[str, Any] | None,
    why: str,
    axis: Any,
    tmp_path: Path,
) -> None:
    tensors = {name: value.astype(np.float32) for name, value in make().items()}
    model = write(tmp_path / "m", tensors, said)
    stacks = [name for name, value in tensors.items() if value.ndim == 3]
    plan = aq.plan(aq.scan(model, stack_axis=axis)).to_pylist()
    rows = [row for row in plan if row["layer_name"].split("[")[0] in stacks]
    assert {row["scheme"] for row in rows} == {"none"}
    assert all(row["reason"].startswith("contradictory_stack (") for row in rows)
    assert any(re.search(why, row["reason"]) for row in rows)
    assert not any("--stack-axis" in row["reason"] for row in rows)


def test_dbrx_without_its_configuration_is_kept(tmp_path: Path) -> None:
    tensors, _, _ = dbrx()
    plan = aq.plan(write(tmp_path / "m", tensors, None)).to_pylist()
    assert len(plan) == 3
    assert all("how many experts" in row["reason"] for row in plan)


def test_what_is_no_stack(tmp_path: Path) -> None:
    tensors = {
        "backbone.layers.0.mixer.conv1d.weight": np.ones((64, 1, 4), np.float32),
        "model.layers.0.attn.rel": np.ones((E, 64, 64), np.float32),
        **{
            f"{LAYER}.block_sparse_moe.experts.{i}.{w}.weight": np.ones((48, 64), np.float32)
            for i in range(E)
            for w in ("w1", "w2", "w3")
        },
        f"{LAYER}.block_sparse_moe.gate.weight": np.ones((E, 64), np.float32),
    }
    model = write(tmp_path / "m", tensors, config("mixtral", num_local_experts=64))
    plan = {row["layer_name"]: row for row in aq.plan(model).to_pylist()}
    assert plan.keys() == tensors.keys()
    assert plan["backbone.layers.0.mixer.conv1d.weight"]["role"] == "conv"
    quantized = [name for name, row in plan.items() if row["scheme"] != "none"]
    assert len(quantized) == 3 * E + 1


def test_a_model_in_two_shards_is_seen_as_one(tmp_path: Path) -> None:
    """Qwen3's experts one by one, gate and up in different files; and a pair of stacks likewise."""
    folder = tmp_path / "m"
    folder.mkdir()
    stacks, expected = fused(f"{LAYER}.mlp.experts")
    first, second = ({name: value} for name, value in stacks.items())
    for number, part in enumerate((first, second), 1):
        save_file(
            {name: value.astype(np.float32) for name, value in part.items()},
            folder / f"model-0000{number}-of-00002.safetensors",
        )
    (folder / "config.json").write_text(json.dumps(config("qwen3_5_moe")))
    scan = aq.scan(folder)
    assert all(np.array_equal(scan[name], value) for name, value in expected.items())


def test_a_bad_value_costs_one_expert(tmp_path: Path) -> None:
    tensors, _ = fused(f"{LAYER}.mlp.experts", turned=True)
    name = f"{LAYER}.mlp.experts.down_proj"
    tensors[name][2, 7, 9] = np.inf  # In [M, H], so row 9 and column 7 of the matrix.
    model = write(tmp_path / "m", {n: v.astype("f4") for n, v in tensors.items()}, config("llama4"))
    result = aq.quantize(aq.scan(model), continue_on_error=True)
    (failed,) = result.failed.to_pylist()
    assert (failed["layer_name"], failed["error_code"]) == (f"{name}[2]", "non_finite")
    assert failed["error_element"] == 9 * M + 7
    assert "The first is at [9, 7]." in failed["error_message"]
    assert len(result.succeeded) == 2 * E - 1
    kept = aq.plan(aq.scan(model), keep=[f"{name}[2]"])
    assert aq.quantize(aq.scan(model), plan=kept).failed.num_rows == 0
    back = aq.dequantize(pa.table(result.succeeded))
    with pytest.raises(ValueError, match=r"has 3 of its 4 matrices"):
        aq.write_safetensors(back, tmp_path / "b.safetensors")


def test_a_table_a_mapping_file_and_a_module_have_stacks_too(tmp_path: Path) -> None:
    tensors, expected = fused(f"{LAYER}.feed_forward.experts", turned=True)
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    folder = write(tmp_path / "m", tensors, config("llama4"))
    table = pa.table(aq.scan(folder)).select(["layer_name", "dtype", "shape", "data"])
    assert table.num_rows == 2 * E
    whole = {"layer_name": list(tensors), "dtype": ["F32"] * 2}
    whole |= {"shape": [list(v.shape) for v in tensors.values()]}
    whole |= {"data": [v.tobytes() for v in tensors.values()]}
    other = tmp_path / "t"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config("llama4")))
    pa.parquet.write_table(pa.table(whole), other / "m.parquet")
    np.savez(other / "n.npz", **tensors)
    for file in ("m.parquet", "n.npz"):
        scan = aq.scan(other / file)
        assert all(np.array_equal(scan[name], value) for name, value in expected.items()), file
        assert len(aq.plan(scan)) == 2 * E
        aq.quantize_checkpoint(scan, tmp_path / f"out-{file}")
        assert aq.verify(tmp_path / f"out-{file}", scan).ok


def test_stacks_in_tables_of_any_type(tmp_path: Path) -> None:
    """Lists, tensors of one shape, null data, and batches without rows."""
    name = f"{LAYER}.mlp.experts.down_proj"
    other = f"{LAYER}.mlp.experts.gate_up_proj"
    (tmp_path / "config.json").write_text(json.dumps(config("qwen3_5_moe")))
    down, up = np.ones((E, H, M), np.float32), np.full((E, 2 * M, H), 2, np.float32)
    lists = pa.array([down.ravel(), up.ravel(), None], pa.list_(pa.float32()))
    table = pa.table(
        {
            "layer_name": [name, other, f"{LAYER}.x.weight"],
            "data": lists,
            "shape": [list(down.shape), list(up.shape), [64, 64]],
        }
    )
    path = tmp_path / "t.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist([], table.schema))
        for at in (0, 2):
            writer.write_table(table.slice(at, 2).combine_chunks())
    result = aq.quantize(path, continue_on_error=True)
    assert result.failed["error_code"].to_pylist() == ["null_data"]
    assert len(result.succeeded) == 2 * E
    pair = np.stack([down, 2 * down])
    names = [name, name.replace("layers.0", "layers.1")]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(pair)
    pa.parquet.write_table(pa.table({"layer_name": names, "data": tensors}), tmp_path / "f.parquet")
    scan = aq.scan(tmp_path / "f.parquet", stack_axis=-1)
    assert pa.table(scan)["shape"].to_pylist() == [[H, M]] * 2 * E
    assert np.array_equal(scan[f"{names[1]}[1]"], 2 * down[1])


@pytest.mark.parametrize("size", [0, 1, 20, 24])
def test_a_matrix_of_another_size_is_refused(size: int, tmp_path: Path) -> None:
    row = {
        "layer_name": ["e[0]"],
        "dtype": ["F16"],
        "shape": [[2, 4]],
        "data": [b"\0" * size],
        "stack_name": ["e"],
        "stack_index": [0],
        "stack_shape": [[1, 4, 2]],
        "stack_axis": [-2],
    }
    with pytest.raises(OSError, match=r"layer 'e"):
        aq.write_safetensors(pa.table(row), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_lies_takes_no_memory(tmp_path: Path) -> None:
    table = pa.table(
        {
            "layer_name": [f"{LAYER}.mlp.experts.gate_up_proj"],
            "dtype": ["F32"],
            "shape": [[20_000_000, 128, 64]],
            "data": [b"\0" * 16],
        }
    )
    pa.parquet.write_table(table, tmp_path / "m.parquet")
    failed = aq.quantize(tmp_path / "m.parquet", continue_on_error=True).failed
    assert set(failed["error_code"].to_pylist()) == {"shape_mismatch"}
    assert failed.num_rows < 1 << 16


def test_verify_misses_a_matrix_that_the_rows_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files' own headers say what there must be, for a directory, too."""
    tensors, _ = fused(f"{LAYER}.mlp.experts")
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    model = write(tmp_path / "m", tensors, config("qwen3_5_moe"))
    aq.quantize_checkpoint(model, tmp_path / "out")
    scan = aq.scan(model)
    known = scan.tensor_elements()
    assert known == {name: value.size for name, value in tensors.items()}
    name = f"{LAYER}.mlp.experts.down_proj"
    monkeypatch.setattr(scan, "tensor_elements", lambda: known | {name: known[name] + 1})
    (problem,) = aq.verify(tmp_path / "out", scan).problems.to_pylist()
    assert problem["layer_name"] == name
    assert "elements" in problem["problem"]


def test_a_plan_asks_on_any_screen(tmp_path: Path) -> None:
    tensors, _ = fused(f"{LAYER}.mlp.experts")
    model = write(tmp_path / "m", {n: v.astype("f4") for n, v in tensors.items()}, None)
    command = [sys.executable, "-m", "arrowquant", "plan", str(model)]
    narrow = os.environ | {"COLUMNS": "80"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=narrow).stdout
    assert "unknown_axis (no config.json says which model it is). Say it with" in out
    assert out.count("--stack-axis") == 1
    answered = subprocess.run(
        [*command, "--stack-axis", "-1"], capture_output=True, text=True, check=True
    ).stdout
    assert "8 layers to quantize, 0 to keep" in answered
    assert "--stack-axis -1 -o OUT" in answered
