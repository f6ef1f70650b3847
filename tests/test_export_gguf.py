"""GGUF files that are written: read and decoded by the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import run
from test_gguf import smollm2, write

gguf = pytest.importorskip("gguf")

TYPES = [
    "q8_0",
    "q6_k",
    "q5_k",
    "q5_1",
    "q5_0",
    "q4_k",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "iq4_xs",
    "q3_k",
    "q2_k",
    "mxfp4",
    "nvfp4",
]
FILE_TYPES = {"q8_0": 7, "q4_k": 14, "q2_k": 10, "mxfp4": 38, "nvfp4": 39}


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, Any]:
    def floats(*shape: int) -> Any:
        return (rng.normal(size=shape) * 0.05).astype(np.float32)

    return {
        "token_embd.weight": floats(32, 256),
        "blk.0.attn_norm.weight": floats(256),
        "blk.0.attn_q.weight": floats(64, 256),
        "blk.0.attn_k.weight": floats(64, 256),
        "blk.0.attn_v.weight": floats(64, 256),
        "blk.0.ffn_gate_inp.weight": floats(3, 256),
        "blk.0.ffn_down_exps.weight": floats(3, 256, 512),
        "blk.0.ffn_up_exps.weight": floats(3, 512, 256),
        "output.weight": floats(32, 256),
    }


def decoded(path: Path) -> dict[str, Any]:
    """Every tensor as the package decodes it; the scales of tensors are multiplied in."""
    found = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors
    }
    for name in [name for name in found if name.endswith(".scale")]:
        scales = found.pop(name)
        weight = f"{name.removesuffix('.scale')}.weight"
        assert scales.shape in {(1,), found[weight].shape[:1]}
        found[weight] = found[weight] * scales.reshape(-1, *[1] * (found[weight].ndim - 1))
    return found


def keys(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {
        name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")
    }


def layers(dataset: Path) -> dict[str, Any]:
    """What a dataset decodes to, stacks put together."""
    found = aq.to_numpy(aq.dequantize(aq.scan(dataset), dtype="F32"))
    stacks: dict[str, list[Any]] = {}
    for name in [name for name in found if name.endswith("]")]:
        stacks.setdefault(name.split("[")[0], []).append(found.pop(name))
    return found | {name: np.stack(matrices) for name, matrices in stacks.items()}


@pytest.mark.parametrize("scheme", TYPES)
def test_every_type_decodes_to_our_numbers(
    scheme: str, tensors: dict[str, Any], tmp_path: Path
) -> None:
    source = write(tmp_path / "m.gguf", tensors)
    aq.quantize_checkpoint(source, tmp_path / "d", scheme=scheme, part_bytes=100_000)
    counts = pa.table(aq.scan(tmp_path / "d"))["part_count"].to_pylist()
    assert any((count or 1) > 1 for count in counts)
    path = aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")
    found, wanted = decoded(path), layers(tmp_path / "d")
    assert found.keys() == wanted.keys() == tensors.keys()
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_down_exps.weight"] == kinds["blk.0.attn_q.weight"] == scheme.upper()
    assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["token_embd.weight"] == "F32"
    stacks = 2 if scheme == "nvfp4" else 0  # Each matrix has a scale of its own.
    assert aq.scan(path).layers == len(tensors) + 2 * stacks
    aq.quantize_checkpoint(path, tmp_path / "again")  # Stacks of blocks are one layer each.
    again = aq.export(tmp_path / "again", tmp_path / "again.gguf", to="gguf")
    assert decoded(again).keys() == found.keys()
    for name, value in decoded(again).items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("alignment", [None, 64])
def test_all_keys_are_copied(
    alignment: int | None, tensors: dict[str, Any], tmp_path: Path
) -> None:
    source = write(tmp_path / "m.gguf", tensors, alignment=alignment)
    for scheme, number in FILE_TYPES.items():
        aq.quantize_checkpoint(source, tmp_path / "d", scheme=scheme, overwrite=True)
        path = aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf", overwrite=True)
        before, after = keys(source), keys(path)
        assert after.pop("general.file_type") == number
        assert after.pop("general.quantization_version") == 2
        assert after == before
        theirs, ours = gguf.GGUFReader(source).fields, gguf.GGUFReader(path).fields
        assert all(ours[name].types == theirs[name].types for name in before)


def test_split_files_are_joined(tensors: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    write(tmp_path / "split" / "m.gguf", tensors, split_max_tensors=3)
    aq.quantize_checkpoint(tmp_path / "split", tmp_path / "d", scheme="q4_0")
    path = aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")
    assert decoded(path).keys() == tensors.keys()
    said = keys(path)
    assert said["llama.block_count"] == 2
    assert not any(name.startswith("split.") for name in said)


def test_what_gguf_has_no_type_for_is_refused(tensors: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", tensors)
    aq.quantize_checkpoint(source, tmp_path / "d", scheme="int4")
    with pytest.raises(ValueError, match="'int4' is none of those that GGUF has"):
        aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")
    with pytest.raises(ValueError, match=r"what is written here is \.gguf"):
        aq.export(tmp_path / "d", tmp_path / "out", to="gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_what_exists_is_replaced_only_if_asked_for(tensors: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", tensors)
    aq.quantize_checkpoint(source, tmp_path / "d", scheme="q8_0")
    aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")
    with pytest.raises(FileExistsError, match="overwrite"):
        aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")
    with pytest.raises(ValueError, match="which is read"):
        aq.export(tmp_path / "d", source, to="gguf", overwrite=True)


def test_one_matrix_of_a_stack_is_not_kept_alone(tensors: dict[str, Any], tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", tensors)
    plan = pa.table({"layer_name": ["blk.0.ffn_up_exps.weight[1]"], "scheme": ["none"]})
    aq.quantize_checkpoint(source, tmp_path / "d", scheme="q8_0", plan=plan)
    with pytest.raises(ValueError, match=r"goes into .* with others"):
        aq.export(tmp_path / "d", tmp_path / "out.gguf", to="gguf")


def test_a_real_models_blocks_come_back_byte_for_byte(tmp_path: Path) -> None:
    source = smollm2()
    run("quantize", source, "-o", tmp_path / "d", "-q")
    done = run("export", tmp_path / "d", "-o", tmp_path / "out.gguf", "--to", "gguf")
    assert "Next: llama-cli -m" in done.stdout
    theirs, ours = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "out.gguf")
    found = {t.name: t for t in ours.tensors}
    assert found.keys() == {t.name for t in theirs.tensors}
    for tensor in theirs.tensors:
        assert found[tensor.name].tensor_type == tensor.tensor_type
        assert found[tensor.name].data.tobytes() == tensor.data.tobytes()
    assert keys(tmp_path / "out.gguf") == keys(source)
