"""How much columns matter as the weights alone say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import arrowquant as aq
from arrowquant._importance import calibrate
from arrowquant._importance.propagated import propagated
from conftest import run
from test_importance import payload

Array = np.ndarray[Any, Any]
HIDDEN, INNER, HEADS, GROUPS, WIDTH = 64, 96, 4, 2, 16


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, Array]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (100, HIDDEN)}
    for block in ("model.layers.0.", "model.layers.1."):
        shapes |= {
            f"{block}input_layernorm.weight": (HIDDEN,),
            f"{block}post_attention_layernorm.weight": (HIDDEN,),
            f"{block}self_attn.q_proj.weight": (HEADS * WIDTH, HIDDEN),
            f"{block}self_attn.k_proj.weight": (GROUPS * WIDTH, HIDDEN),
            f"{block}self_attn.v_proj.weight": (GROUPS * WIDTH, HIDDEN),
            f"{block}self_attn.o_proj.weight": (HIDDEN, HEADS * WIDTH),
            f"{block}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.down_proj.weight": (HIDDEN, INNER),
        }
    return {
        name: (rng.lognormal(-2, 0.5, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def save(folder: Path, tensors: dict[str, Array], **config: Any) -> Path:
    folder.mkdir()
    said = {
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
    }
    (folder / "config.json").write_text(json.dumps(said | config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_moments_are_those_of_independent_normal_inputs(
    tensors: dict[str, Array], tmp_path: Path, rng: np.random.Generator
) -> None:
    table = propagated(save(tmp_path / "m", tensors))
    assert table is not None
    found = {row["layer_name"]: np.array(row["importance"]) for row in table.to_pylist()}
    block = "model.layers.0."
    assert found.keys() == {name for name in tensors if "_proj" in name}

    def drawn(moments: Array) -> Array:
        return rng.standard_normal((200_000, len(moments))) * np.sqrt(moments)

    def weights(name: str) -> Array:
        return tensors[f"{block}{name}.weight"].astype(np.float64)

    residual = np.square(tensors["model.embed_tokens.weight"], dtype=np.float64).mean(0)
    into = weights("input_layernorm") ** 2 * residual / residual.mean()
    for name in ("q_proj", "k_proj", "v_proj"):
        np.testing.assert_allclose(found[f"{block}self_attn.{name}.weight"], into, rtol=1e-3)
    values = np.square(drawn(into) @ weights("self_attn.v_proj").T).mean(0)
    # Query heads 0 and 1 have the first head of values, 2 and 3 the second.
    mixed = values.reshape(GROUPS, WIDTH)[[0, 0, 1, 1]].reshape(-1)
    np.testing.assert_allclose(found[f"{block}self_attn.o_proj.weight"], mixed, rtol=0.03)

    residual = residual + 0.5 * (weights("self_attn.o_proj") ** 2 @ mixed)
    into = weights("post_attention_layernorm") ** 2 * residual / residual.mean()
    np.testing.assert_allclose(found[f"{block}mlp.up_proj.weight"], into, rtol=0.03)
    gates = drawn(into) @ weights("mlp.gate_proj").T
    lifts = np.square(drawn(into) @ weights("mlp.up_proj").T).mean(0)
    inner = np.square(gates / (1 + np.exp(-gates))).mean(0) * lifts
    np.testing.assert_allclose(found[f"{block}mlp.down_proj.weight"], inner, rtol=0.08)


def test_numbers_have_few_digits(tensors: dict[str, Array], tmp_path: Path) -> None:
    table = propagated(save(tmp_path / "m", tensors))
    assert table is not None
    numbers = np.concatenate([np.array(x, np.float32) for x in table["importance"].to_pylist()])
    assert not np.any(numbers.view(np.uint32) & 0x7FF)


def test_auto_takes_them_where_the_model_can_t_be_run(
    tensors: dict[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("there is no torch.")

    folder = save(tmp_path / "m", tensors)
    monkeypatch.setattr(calibrate, "importance", missing)
    found = aq.quantize_checkpoint(folder, tmp_path / "d", scheme="mlx4", importance="auto")
    wanted = aq.quantize_checkpoint(
        folder, tmp_path / "w", scheme="mlx4", importance=propagated(folder)
    )
    alone = aq.quantize_checkpoint(folder, tmp_path / "a", scheme="mlx4", search="weighted")
    assert payload(found) == payload(wanted) != payload(alone)


def test_no_tokens_are_the_weights_alone(tensors: dict[str, Array], tmp_path: Path) -> None:
    folder = save(tmp_path / "m", tensors)
    assert aq.importance(folder, tokens=0).equals(propagated(folder))
    done = run("importance", folder, "-o", tmp_path / "i.parquet", "--tokens", 0)
    assert "i.parquet: 14 layers, of the weights alone" in done.stdout
    other = save(tmp_path / "o", tensors, model_type="gpt2")
    with pytest.raises(ValueError, match="of this model the weights alone say nothing; that is"):
        aq.importance(other, tokens=0)


def test_of_other_models_nothing_is_said(tensors: dict[str, Array], tmp_path: Path) -> None:
    assert propagated(save(tmp_path / "kind", tensors, model_type="gpt2")) is None
    assert propagated(tmp_path / "kind" / "model.safetensors") is None
    fewer = {name: x for name, x in tensors.items() if "1.mlp.up_proj" not in name}
    assert propagated(save(tmp_path / "lacks", fewer)) is None
    assert propagated(save(tmp_path / "heads", tensors, num_key_value_heads=3)) is None
    assert propagated(save(tmp_path / "none", {"model.norm.weight": np.ones(4, "f4")})) is None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.layers.0.mlp.up_proj.weight", lambda w: w * np.nan),
        ("model.layers.0.mlp.up_proj.weight", lambda w: w * np.float32(1e30)),
        ("model.layers.1.input_layernorm.weight", lambda w: w * np.inf),
        ("model.embed_tokens.weight", np.zeros_like),
    ],
)
def test_what_is_no_finite_number_has_no_row(
    tensors: dict[str, Array], name: str, change: Any, tmp_path: Path
) -> None:
    tensors[name] = change(tensors[name])
    table = propagated(save(tmp_path / "m", tensors))
    if name == "model.embed_tokens.weight":
        assert table is None
        return
    assert table is not None
    assert 0 < len(table) < 14
    assert all(np.isfinite(row).all() and np.any(row) for row in table["importance"].to_pylist())


@pytest.mark.filterwarnings("ignore:.*lacks .* of 14 layers")
def test_a_layer_that_fails_spoils_no_other(tensors: dict[str, Array], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    whole = tensors[name].copy()
    tensors[name][0, 3] = np.nan
    model, out = save(tmp_path / "m", tensors), tmp_path / "out"
    table = propagated(model)
    options: dict[str, Any] = {"scheme": "int4", "symmetric": True, "continue_on_error": True}
    dataset = aq.quantize_checkpoint(model, out, importance=table, **options)
    assert dataset.failed["layer_name"].to_pylist() == [name]
    save_file(tensors | {name: whole}, model / "model.safetensors")
    with pytest.warns(aq.QuantizationWarning, match="changed since the job began"):
        again = aq.quantize_checkpoint(model, out, retry_failed=True)
    assert len(again.failed) == 0
