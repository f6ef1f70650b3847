"""What a scan reads of each mixture: its experts, and everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open

import arrowquant as aq
from mixtures import ALL, E, Experts, H, Mixture, Part

NAMES: dict[str, Part] = {
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "w1": "gate",
    "w3": "up",
    "v1": "up",
    "w2": "down",
    "output_linear": "down",
}
FUSED = {"gate_up_proj", "input_linear"}


@pytest.fixture(params=ALL)
def mixture(request: pytest.FixtureRequest, tmp_path: Path) -> Mixture:
    return ALL[request.param](tmp_path / request.param)


def split(name: str, block: str) -> tuple[int, str]:
    """The expert and the projection that a layer's name says: `block.part[e]`, `block.e.part`."""
    rest = name.removeprefix(f"{block}.").replace(".weight", "")
    if rest.endswith("]"):
        part, _, index = rest.removesuffix("]").partition("[")
    else:
        index, _, part = rest.partition(".")
    return int(index), part


def of_experts(mixture: Mixture, names: list[str]) -> list[str]:
    return [n for n in names if n.startswith(f"{mixture.block}.") and n not in mixture.others]


def read(mixture: Mixture, scan: Any) -> Experts:
    """The canonical matrices, from the layers that a scan has of the experts."""
    found: Experts = {}
    for name in of_experts(mixture, pa.table(scan)["layer_name"].to_pylist()):
        index, part = split(name, mixture.block)
        value = np.asarray(scan[name]).astype(np.float32)
        if part not in FUSED:
            found[index, NAMES[part]] = value
        elif mixture.model_type == "gpt_oss":
            found[index, "gate"], found[index, "up"] = value[::2], value[1::2]
        else:
            found[index, "gate"], found[index, "up"] = np.split(value, 2)
    return found


def assert_same(found: Experts, wanted: Experts) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].shape == value.shape, key
        assert np.array_equal(found[key], value), key


def test_each_experts_matrices_are_read(mixture: Mixture) -> None:
    if not mixture.asks:
        assert_same(read(mixture, aq.scan(mixture.folder)), mixture.experts)
        return
    plan = aq.plan(aq.scan(mixture.folder)).to_pylist()
    rows = {row["layer_name"]: row for row in plan}
    kept = [rows[name] for name in of_experts(mixture, list(rows))]
    assert len({split(row["layer_name"], mixture.block) for row in kept}) == len(kept)
    assert len(kept) == 2 * (1 + max(index for index, _ in mixture.experts))
    assert {row["scheme"] for row in kept} == {"none"}
    assert {row["reason"].split(" ")[0] for row in kept} == {"unknown_axis"}
    assert {row["stack_axis"] for row in kept} == {None}
    answered = aq.scan(mixture.folder, stack_axis=-1)
    assert_same(read(mixture, answered), mixture.experts)


def test_all_others_are_read_as_they_are(mixture: Mixture) -> None:
    scan = aq.scan(mixture.folder)
    rows = {row["layer_name"]: row for row in aq.plan(scan).to_pylist()}
    assert set(rows) == {*of_experts(mixture, list(rows)), *mixture.others}
    for name, value in mixture.others.items():
        assert rows[name]["shape"] == list(value.shape), name
        assert np.array_equal(np.asarray(scan[name]).astype(np.float32), value), name


def test_experts_are_quantized_and_routers_are_not(mixture: Mixture) -> None:
    rows = {row["layer_name"]: row for row in aq.plan(mixture.folder).to_pylist()}
    if not mixture.asks:
        for name in of_experts(mixture, list(rows)):
            packed = mixture.folder.name.endswith("mxfp4")
            assert packed or rows[name]["scheme"] == "int4", name
            assert rows[name]["role"] == "weight", name
    ends = (".gate.weight", "router.weight", "router.layer.weight", "router.proj.weight")
    routers = [name for name in mixture.others if name.endswith((*ends, "expert_gate.weight"))]
    assert routers
    for name in routers:
        assert rows[name]["role"] in ({"router", "mtp"} if "mtp." in name else {"router"}), name
        assert rows[name]["scheme"] == "none", name
    for name in mixture.others:
        if name.startswith("mtp.") and name not in routers:
            assert rows[name]["role"] == "mtp", name
    if "conv1d" in mixture.folder.name:
        (kernel,) = [name for name in rows if name.endswith("conv1d.weight")]
        assert (rows[kernel]["role"], rows[kernel]["scheme"]) == ("conv", "none")
        assert rows[kernel]["stack_axis"] is None


def test_the_same_model_twice_is_the_same(tmp_path: Path) -> None:
    for one, two in (
        ("qwen3_vl_moe_published", "qwen3_vl_moe_saved_again"),
        ("qwen3_vl_moe_square", "qwen3_vl_moe_square_saved_again"),
    ):
        first, second = ALL[one](tmp_path / one), ALL[two](tmp_path / two)
        assert_same(read(first, aq.scan(first.folder)), read(second, aq.scan(second.folder)))
        assert first.others.keys() == second.others.keys()


def test_a_checkpoint_comes_back_byte_for_byte(mixture: Mixture, tmp_path: Path) -> None:
    """But for codes, which come back as the BF16 layout of their model."""
    out, back = tmp_path / "out", tmp_path / "back"
    aq.quantize_checkpoint(mixture.folder, out, scheme="none")
    assert aq.verify(out, mixture.folder).ok
    aq.export(out, back, to="safetensors")
    if mixture.folder.name.endswith("mxfp4"):
        assert_same(read(mixture, aq.scan(back)), mixture.experts)
        assert tensors(back)[f"{mixture.block}.gate_up_proj"][0] == [E, H, 2 * H]
        return
    assert tensors(back) == tensors(mixture.folder)


def test_int8_decodes_close_to_each_matrix(mixture: Mixture, tmp_path: Path) -> None:
    """Quantized and decoded in each layout: rounding is all that differs."""
    out, axis = tmp_path / "out", -1 if mixture.asks else None
    scan = aq.scan(mixture.folder, stack_axis=axis)
    aq.quantize_checkpoint(scan, out, scheme="int8")
    found = read(mixture, aq.scan(out))
    assert found.keys() == mixture.experts.keys()
    for key, value in mixture.experts.items():
        limit = np.abs(value).max() / 100
        assert np.abs(found[key] - value).max() <= limit, key


def test_the_numbers_tell_layouts_apart(mixture: Mixture) -> None:
    """No two rows of experts are the same, nor is a square matrix its own transpose."""
    rows = {row.tobytes() for value in mixture.experts.values() for row in value}
    assert len(rows) == sum(len(value) for value in mixture.experts.values())
    for value in mixture.experts.values():
        assert value.shape[0] != value.shape[1] or not np.array_equal(value, value.T)


def test_the_other_answer_reads_other_numbers(tmp_path: Path) -> None:
    """Square stacks turned the wrong way are the same shapes, and not the same matrices."""
    mixture = ALL["nemotron_h_square"](tmp_path / "m")
    found = read(mixture, aq.scan(mixture.folder, stack_axis=-2))
    for key, value in mixture.experts.items():
        assert np.array_equal(found[key], value.T)
        assert not np.array_equal(found[key], value)


def test_shards_hold_gates_apart_from_ups(tmp_path: Path) -> None:
    mixture = ALL["qwen3_moe"](tmp_path / "m")
    index = json.loads((mixture.folder / "model.safetensors.index.json").read_text())
    files = index["weight_map"]
    for name in of_experts(mixture, list(files)):
        if name.endswith("gate_proj.weight"):
            assert files[name] != files[name.replace("gate_proj", "up_proj")]
    assert set(tensors(mixture.folder)) == set(files)


def tensors(folder: Path) -> dict[str, tuple[list[int], bytes]]:
    """All tensors of a folder's files, by name."""
    found: dict[str, tuple[list[int], bytes]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as opened:
            found |= {
                name: (list(value.shape), value.tobytes())
                for name in opened.keys()  # noqa: SIM118
                for value in (opened.get_tensor(name),)
            }
    return found
