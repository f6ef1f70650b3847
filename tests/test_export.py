"""`aq.export`: what is written, and what is refused; `test_export_runtimes.py` has others judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import arrowquant as aq


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, Any]:
    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(ml_dtypes.bfloat16)

    attention = {f"layers.0.attn.{n}_proj.weight": floats(50, 64) for n in "qkv"}
    return attention | {
        "layers.0.mlp.down.weight": floats(24, 96),
        "layers.0.norm.weight": floats(64),
        "embed_tokens.weight": floats(100, 64),
        "ids": np.arange(3),
    }


@pytest.fixture
def model(tensors: dict[str, Any], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "tokenizer.json").write_text("[]")
    (folder / "1_Pooling/config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("weights of another format")
    (folder / ".cache").mkdir()
    return folder


def unpacked(words: Any, bits: int, axis: int, count: int) -> Any:
    """Codes of int32 words, lowest bits first: the definition, by NumPy."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * bits
    codes = words.view(np.uint32)[..., None] >> shifts & (2**bits - 1)
    codes = codes.reshape(words.shape[0], -1) if axis == 1 else np.moveaxis(codes, -1, 1)
    codes = codes if axis == 1 else codes.reshape(-1, words.shape[1])
    return codes.take(np.arange(count), axis).astype(np.float32)


KEEP = ("embed*",)


def test_codes_scales_and_zero_points(model: Path, tensors: dict[str, Any], tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["*down*"], "scheme": ["int8"], "group_size": [-1]})
    dataset = aq.quantize_checkpoint(
        model, tmp_path / "d", plan=plan, keep=KEEP, group_size=32, part_bytes=3000
    )
    assert any((count or 1) > 1 for count in pa.table(dataset)["part_count"].to_pylist())
    folder = aq.export(tmp_path / "d", tmp_path / "out")
    written = load_file(folder / "model.safetensors")
    restored = aq.to_numpy(aq.dequantize(dataset, dtype="F32"))
    for name in ("layers.0.attn.q_proj.weight", "layers.0.mlp.down.weight"):
        bits = 8 if "down" in name else 4
        rows, columns = tensors[name].shape
        assert written[f"{name}_shape"].tolist() == [rows, columns]
        codes = unpacked(written[f"{name}_packed"], bits, 1, columns)
        scales = written[f"{name}_scale"]
        assert scales.dtype == ml_dtypes.bfloat16
        scales = scales.astype(np.float32)
        points = np.full(scales.shape, 2.0 ** (bits - 1), np.float32)
        assert (f"{name}_zero_point" in written) == (bits == 4)
        if bits == 4:
            points = unpacked(written[f"{name}_zero_point"], bits, 0, rows)
        width = columns // scales.shape[1]
        decoded = (codes - points.repeat(width, 1)) * scales.repeat(width, 1)
        assert np.array_equal(decoded, restored[name])
    for name in ("layers.0.norm.weight", "embed_tokens.weight", "ids"):
        assert written[name].tobytes() == tensors[name].tobytes()


def test_the_configuration(model: Path, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["*down*"], "scheme": ["int8"], "group_size": [-1]})
    aq.quantize_checkpoint(model, tmp_path / "d", plan=plan, keep=KEEP, group_size=32)
    folder = aq.export(tmp_path / "d", tmp_path / "out")
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    assert sorted(p.relative_to(folder).as_posix() for p in files) == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "tiny"
    said = config["quantization_config"]
    assert (said["quant_method"], said["format"]) == ("compressed-tensors", "pack-quantized")
    assert said["quantization_status"] == "compressed"
    assert said["ignore"] == ["embed_tokens"]
    groups = {tuple(g["targets"]): g["weights"] for g in said["config_groups"].values()}
    attention = tuple(f"layers.0.attn.{n}_proj" for n in "kqv")
    assert groups[attention] == {
        "num_bits": 4,
        "type": "int",
        "symmetric": False,
        "strategy": "group",
        "group_size": 32,
        "dynamic": False,
    }
    down = groups["layers.0.mlp.down",]
    assert (down["num_bits"], down["strategy"], down["group_size"]) == (8, "channel", None)
    with safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_their_index(model: Path, tensors: dict[str, Any], tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, group_size=32)
    folder = aq.export(tmp_path / "d", tmp_path / "out", to="safetensors", shard_bytes=10_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    assert names == [f"model-{i + 1:05}-of-{len(names):05}.safetensors" for i in range(len(names))]
    assert len(names) > 2
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "tiny"}
    restored = aq.to_numpy(aq.dequantize(aq.scan(tmp_path / "d")))
    for name, shard in index["weight_map"].items():
        assert load_file(folder / shard)[name].tobytes() == restored[name].tobytes()
    again = aq.to_numpy(aq.scan(folder))
    assert again.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"layer_name": "*down*", "scheme": "int2"}, "scheme 'int2' is none of those"),
        ({"layer_name": "*down*", "group_size": 64}, "rows of 96 are no multiple of the group si"),
        ({"layer_name": "embed*", "group_size": 32}, "it is a table of embeddings"),
        ({"layer_name": "*norm*", "group_size": 32}, "the format takes matrices only"),
    ],
)
def test_what_the_format_cant_say_is_refused(
    model: Path, tmp_path: Path, plan: dict[str, Any], message: str
) -> None:
    keep = () if plan["layer_name"] == "embed*" else KEEP
    table = pa.Table.from_pylist([plan])
    aq.quantize_checkpoint(model, tmp_path / "d", plan=table, keep=keep, group_size=32)
    with pytest.raises(ValueError, match=message) as caught:
        aq.export(tmp_path / "d", tmp_path / "out")
    assert "(--decode GLOB)" in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    folder = aq.export(tmp_path / "d", tmp_path / "out", decode=[plan["layer_name"]])
    written = load_file(folder / "model.safetensors")
    restored = aq.to_numpy(aq.dequantize(aq.scan(tmp_path / "d")))
    (name,) = (name for name in restored if plan["layer_name"].strip("*") in name)
    assert written[name].tobytes() == restored[name].tobytes()


def test_a_checkpoint_that_is_not_whole_is_refused(
    model: Path, tensors: dict[str, Any], tmp_path: Path
) -> None:
    tensors["layers.0.mlp.down.weight"][0, 0] = np.nan
    save_file(tensors, model / "model.safetensors")
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, continue_on_error=True)
    for to in ("compressed-tensors", "safetensors"):
        with pytest.raises(ValueError, match=r"layers failed, .*: 'layers.0.mlp.down.weight'"):
            aq.export(tmp_path / "d", tmp_path / "out", to=to)
    with pytest.raises(aq.CheckpointStoppedError):
        aq.quantize_checkpoint(model, tmp_path / "e", keep=KEEP, part_bytes=8000)
    with pytest.raises(ValueError, match=r"only \d of 7 layers are finished"):
        aq.export(tmp_path / "e", tmp_path / "out")


def test_a_parquet_file_can_be_exported(model: Path, tmp_path: Path) -> None:
    scan = aq.scan(model)
    result = aq.quantize(scan, plan=aq.plan(scan, keep=KEEP, group_size=32))
    aq.write_parquet(result, tmp_path / "q.parquet")
    folder = aq.export(tmp_path / "q.parquet", tmp_path / "out", source=model)
    assert (folder / "tokenizer.json").exists()
    with pytest.warns(aq.QuantizationWarning, match="there is no config.json"):
        aq.export(tmp_path / "q.parquet", tmp_path / "bare")


def test_what_vllm_fuses_should_agree(model: Path, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["*k_proj*"], "scheme": ["int8"]})
    aq.quantize_checkpoint(model, tmp_path / "d", plan=plan, keep=KEEP, group_size=32)
    with pytest.warns(aq.QuantizationWarning, match="layers.0.attn.q_proj/k_proj/v_proj together"):
        aq.export(tmp_path / "d", tmp_path / "out")


def test_wrong_calls(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, group_size=32)
    with pytest.raises(ValueError, match="unknown format"):
        aq.export(tmp_path / "d", tmp_path / "out", to="exl2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decode matches no layer"):
        aq.export(tmp_path / "d", tmp_path / "out", decode=["*none*"])
    with pytest.raises(ValueError, match="is no quantized checkpoint"):
        aq.export(model, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        aq.export(tmp_path / "d", tmp_path / "out", source=tmp_path / "none")
    aq.export(tmp_path / "d", tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists"):
        aq.export(tmp_path / "d", tmp_path / "out")
    aq.export(tmp_path / "d", tmp_path / "out", to="safetensors", overwrite=True)
    assert "quantization_config" not in (tmp_path / "out/config.json").read_text()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_is_read_is_never_replaced(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, group_size=32)
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    for destination in (tmp_path / "d", model, tmp_path, model / "exported", tmp_path / "d/out"):
        with pytest.raises(ValueError, match="is, holds or lies in"):
            aq.export(tmp_path / "d", destination, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    with pytest.raises(FileExistsError, match="is no earlier export"):
        aq.export(tmp_path / "d", tmp_path / "thesis", overwrite=True)
    after = sorted(
        path.as_posix() for path in tmp_path.rglob("*") if "thesis" not in path.as_posix()
    )
    assert after == before


def test_what_a_killed_export_left_is_removed(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, group_size=32)
    (tmp_path / ".out.new").mkdir()
    (tmp_path / ".out.new/precious").touch()
    with pytest.raises(FileExistsError, match="is in the way, and no export"):
        aq.export(tmp_path / "d", tmp_path / "out")
    (tmp_path / ".out.new/precious").replace(tmp_path / ".out.new/.arrowquant-export")
    folder = aq.export(tmp_path / "d", tmp_path / "out")
    folder.replace(tmp_path / ".out.old")  # Killed between the two renames.
    with pytest.raises(FileExistsError, match="--overwrite"):
        aq.export(tmp_path / "d", tmp_path / "out")
    assert (folder / "model.safetensors").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_beside_a_single_file_only_what_is_known_is_copied(model: Path, tmp_path: Path) -> None:
    (model / "notes.txt").write_text("private")
    (model / "loop").symlink_to(model)
    aq.quantize_checkpoint(model / "model.safetensors", tmp_path / "d", keep=KEEP, group_size=32)
    folder = aq.export(tmp_path / "d", tmp_path / "out")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"config.json", "tokenizer.json", "model.safetensors"}
    whole = aq.export(tmp_path / "d", tmp_path / "whole", source=model)
    names = {path.name for path in whole.iterdir() if not path.name.startswith(".")}
    assert names == {*names, "notes.txt", "1_Pooling"}
    assert "loop" not in names


def test_a_config_that_is_none(model: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(model, tmp_path / "d", keep=KEEP, group_size=32)
    (model / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="is no JSON object"):
        aq.export(tmp_path / "d", tmp_path / "out")
