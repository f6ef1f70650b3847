"""What a model's tensors mean: roles, and what is quantized already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import arrowquant as aq

FP8 = ml_dtypes.float8_e4m3fn
Rows = dict[str, dict[str, Any]]


def w(*shape: int, dtype: Any = np.float32) -> Any:
    return np.full(shape, 0.5, np.float32).astype(dtype)


def model(folder: Path, tensors: dict[str, Any], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def planned(source: Any, **options: Any) -> Rows:
    return {row["layer_name"]: row for row in aq.plan(source, **options).to_pylist()}


# Names as they are published, with the role that what loads them gives them.
ROLES = {
    "weight": [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.11.mlp.gate_proj.weight",
        "model.layers.0.mlp.experts.3.down_proj.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.mixer.in_proj.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.layers.0.encoder_attn.out_proj.weight",
        "transformer_blocks.0.norm1.linear.weight",
        "transformer_blocks.0.ff.net.0.proj.weight",
        "model.layers.0.self_attn.vision_expert_query_key_value.weight",
        "model.layers.0.normalizer_proj.weight",
        "blk.0.shortconv.in_proj.weight",
        "net.0.ffn.output_layer.weight",
        "net.0.self_attn.score.weight",
        "net.0.mlp.shared.weight",
        "time_embedding.linear_1.weight",
        "blocks.0.att.key.weight",
        "blk.0.attn_q.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_down_exps.weight",
        "blk.0.time_mix_key.weight",
        "blk.0.ssm_in.weight",
        "layers.0.attention.wq.weight",
        "w",
        "v.weight",
        "a.weight",
        "a",
        "mlp.gate.weight",
    ],
    "embedding": [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "embeddings.word_embeddings.weight",
        "gpt_neox.embed_in.weight",
        "tok_embeddings.weight",
        "shared.weight",
        "rwkv.embeddings.weight",
        "token_embd.weight",
        "per_layer_token_embd.weight",
        "model.language_model.embed_tokens_per_layer.weight",
        "decoder.model.decoder.embed_tokens.0.weight",
        "semantic.input_embeds_layer.weight",
        "codebook_embeds.weight",
    ],
    "head": [
        "lm_head.weight",
        "embed_out.weight",
        "output.weight",
        "head.weight",
        "classifier.weight",
        "score.weight",
        "cls.predictions.decoder.weight",
        "language_model.output.weight",
        "unembedding.weight",
        "vocab_projector.weight",
        "decoder.weight",
        "lm_loss.weight",
        "model.transformer.ff_out.weight",
        "class_labels_classifier.weight",
        "gen_head.output_mlp_projector.weight",
        "cls.weight",
    ],
    "router": [
        "model.layers.0.mlp.router.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
        "model.layers.0.feed_forward.router.weight",
        "model.layers.0.linear_attn.in_proj_ba.weight",
        "model.layers.0.linear_attn.in_proj_a.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_gate_inp_shexp.weight",
        "blk.0.ssm_ba.weight",
    ],
    "norm": [
        "model.layers.0.input_layernorm.weight",
        "model.norm.weight",
        "transformer.ln_f.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "blk.0.attn_norm.weight",
        "output_norm.weight",
        "embeddings.LayerNorm.weight",
        "blocks.0.ls1.gamma",
    ],
    "bias": [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.mlp.experts.gate_up_proj_bias",
        "model.layers.0.mlp.gate.e_score_correction_bias",
        "rnn.bias_ih_l0",
        "blk.0.attn_q.bias",
    ],
    "conv": [
        "model.layers.0.mixer.conv1d.weight",
        "blk.0.ssm_conv1d.weight",
        "model.layers.0.linear_attn.conv1d.weight",
    ],
    "position": [
        "transformer.wpe.weight",
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "cls_token",
        "pos_embed",
        "att.time_maa_x",
        "blocks.0.att.time_decay",
        "scale_shift_table",
        "rope_freqs.weight",
        "blk.0.attn_rel_b.weight",
        "blk.0.time_mix_w1.weight",
        "position_embd.weight",
        "blocks.0.att.w1",
        "blocks.0.att.r_k",
        "blocks.0.modulation",
        "quantizer.codevectors",
        "model.embed_positions.weight",
    ],
    "indexer": [
        "model.layers.0.self_attn.indexer.wq_b.weight",
        "blk.0.indexer.attn_k.weight",
    ],
    "vision": [
        "model.visual.blocks.0.attn.qkv.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "model.vision_backbone.image_projector.w1.weight",
        "aligner.layers.0.weight",
        "language_projection.weight",
        "model.embed_tokens_extend.image_embed.proj.weight",
        "mlp1.1.weight",
        "v.blk.0.attn_q.weight",
        "mm.0.weight",
    ],
    "audio": ["audio_tower.layers.0.self_attn.q_proj.weight", "a.blk.0.attn_q.weight"],
    "mtp": [
        "mtp.layers.0.mlp.up_proj.weight",
        "model.mtp_block.fc.weight",
        "blk.61.nextn.eh_proj.weight",
        "model.layers.61.eh_proj.weight",
    ],
    "other": [
        "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.q_proj.lora_B.default.weight",
        "model.layers.0.mixer.A_log",
        "model.language_model.per_layer_model_projection.weight",
        "model.layers.0.altup.prediction_coefs.weight",
    ],
}


@pytest.mark.parametrize("role", ROLES)
def test_names_tell_roles(role: str, tmp_path: Path) -> None:
    for name in ROLES[role]:
        # Beside a layer of a language model: a tower alone is a model itself.
        tensors = {name: w(64, 64), "model.layers.0.mlp.up_proj.weight": w(64, 64)}
        row = planned(model(tmp_path / "m", tensors))[name]
        assert row["role"] == role, name
        assert (row["scheme"] != "none") == (role == "weight"), name
        if role != "weight":
            assert row["reason"] == "kept_by_role", name


def test_every_role_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs/models.md").read_text()
    for role in [*ROLES, "companion"]:
        assert f"`{role}`" in page


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("norm.weight", (1, 768), True),
        ("cls_token", (1, 1, 768), True),
        ("x.weight", (1, 1, 4096), True),
        ("x.weight", (4096, 1), True),
        ("x.weight", (1, 64, 64), False),
    ],
)
def test_dimensions_of_one_make_no_matrix(
    name: str, shape: tuple[int, ...], kept: bool, tmp_path: Path
) -> None:
    row = planned(model(tmp_path / "m", {name: w(*shape)}))[name]
    assert (row["scheme"] == "none") == kept


def test_a_gate_is_a_router_where_it_has_a_row_for_each_expert(tmp_path: Path) -> None:
    gate = "model.layers.0.mlp.gate.weight"
    experts = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": w(64, 64) for i in range(8)}
    assert planned(model(tmp_path / "a", {gate: w(8, 64)} | experts))[gate]["role"] == "router"
    assert (
        planned(model(tmp_path / "b", {gate: w(8, 64)}, {"num_experts": 8}))[gate]["role"]
        == "router"
    )
    # A gate of a dense layer is a matrix like others.
    assert planned(model(tmp_path / "c", {gate: w(256, 64)} | experts))[gate]["role"] == "weight"


def test_layers_after_the_last_predict_further_tokens(tmp_path: Path) -> None:
    tensors = {f"model.layers.{i}.mlp.up_proj.weight": w(64, 64) for i in (0, 60, 61)}
    config = {"num_hidden_layers": 61, "num_nextn_predict_layers": 1}
    roles = {n: row["role"] for n, row in planned(model(tmp_path / "m", tensors, config)).items()}
    assert list(roles.values()).count("mtp") == 1
    assert roles["model.layers.61.mlp.up_proj.weight"] == "mtp"


def test_a_tower_alone_is_the_model(tmp_path: Path) -> None:
    name = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    tensors = {name: w(64, 64), "vision_model.embeddings.position_embedding.weight": w(50, 64)}
    roles = {n: row["role"] for n, row in planned(model(tmp_path / "m", tensors)).items()}
    assert list(roles.values()).count("weight") == 1
    assert roles[name] == "weight"


def test_keep_and_include_take_roles(tmp_path: Path) -> None:
    tensors = {"lm_head.weight": w(64, 64), "wte.weight": w(64, 64), "a.weight": w(64, 64)}
    folder = model(tmp_path / "m", tensors)

    def quantized(**options: Any) -> set[str]:
        return {n for n, row in planned(folder, **options).items() if row["scheme"] != "none"}

    assert quantized() == {"a.weight"}
    assert quantized(include=["role:embedding"]) == {"a.weight", "wte.weight"}
    assert quantized(include=["lm_*", "wte.weight"]) == set(tensors)
    assert quantized(include=["*"], keep=["role:head"]) == {"a.weight", "wte.weight"}
    assert quantized(keep=["role:weight"]) == set()
    with pytest.raises(ValueError, match=r"unknown role 'heads'.*weight, embedding, head, router"):
        planned(folder, keep=["role:heads"])
    with pytest.warns(aq.QuantizationWarning, match="include matches no layer: 'role:vision'"):
        planned(folder, include=["role:vision"])
    # Nothing makes a vector a matrix.
    bias = model(tmp_path / "b", {"a.bias": w(64)})
    assert planned(bias, include=["*"])["a.bias"]["reason"] == "one_dimensional"


def test_one_default_in_every_verb(tmp_path: Path) -> None:
    tensors = {
        "embed_tokens.weight": w(128, 64),
        "layers.0.mlp.up_proj.weight": w(64, 64),
        "layers.0.input_layernorm.weight": w(64),
        "lm_head.weight": w(128, 64),
    }
    folder = model(tmp_path / "m", tensors)
    expected = {name: row["scheme"] for name, row in planned(folder).items()}
    assert list(expected.values()).count("int4") == 1

    def schemes(relation: Any) -> dict[str, str]:
        table = pa.table(relation)
        pairs = zip(table["layer_name"].to_pylist(), table["scheme"].to_pylist(), strict=True)
        return dict(pairs)

    scan = aq.scan(folder)
    assert schemes(aq.quantize(scan).quantized) == expected
    assert schemes(aq.quantize(folder).quantized) == expected
    assert schemes(aq.quantize_stream(scan)) == expected
    assert schemes(aq.quantize_checkpoint(folder, tmp_path / "out")) == expected
    pq.write_table(pa.table(scan), tmp_path / "w.parquet")
    assert schemes(aq.quantize(tmp_path / "w.parquet").quantized) == expected
    import polars as pl

    assert schemes(aq.quantize(pl.DataFrame(pa.table(scan))).quantized) == expected
    # A plan of some layers leaves the others to the default; rows without roles are literal.
    plan = pa.table({"layer_name": ["lm_head.weight"], "scheme": ["int8"]})
    assert schemes(aq.quantize(scan, plan=plan).quantized) == expected | {"lm_head.weight": "int8"}
    literal = aq.quantize(pa.table(scan).drop_columns(["role"])).quantized
    assert set(schemes(literal).values()) == {"int4"}


def test_a_module_keeps_what_its_file_keeps() -> None:
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(128, 64)
            self.up_proj = torch.nn.Linear(64, 64)
            self.norm = torch.nn.LayerNorm(64)

    result = aq.quantize(Model())
    schemes = dict(
        zip(
            result.quantized["layer_name"].to_pylist(),
            result.quantized["scheme"].to_pylist(),
            strict=True,
        )
    )
    assert [name for name, scheme in schemes.items() if scheme != "none"] == ["up_proj.weight"]
    assert result.failed.num_rows == 0


PROJECTIONS = ("self_attn.q_proj", "mlp.down_proj")


def qwen3_fp8() -> tuple[dict[str, Any], dict[str, Any]]:
    """Qwen3-FP8: blocks of 128 by 128; norms, embeddings and the head in BF16."""
    tensors = {
        "model.embed_tokens.weight": w(512, 256, dtype=ml_dtypes.bfloat16),
        "model.norm.weight": w(256, dtype=ml_dtypes.bfloat16),
        "model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=ml_dtypes.bfloat16),
    }
    for name in PROJECTIONS:
        tensors[f"model.layers.0.{name}.weight"] = w(256, 384, dtype=FP8)
        tensors[f"model.layers.0.{name}.weight_scale_inv"] = w(2, 3)
    config = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn.o_proj"],
    }
    return tensors, config


def gptq() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}"
        tensors |= {
            f"{base}.qweight": np.ones((32, 256), np.int32),
            f"{base}.qzeros": np.ones((2, 32), np.int32),
            f"{base}.scales": w(2, 256, dtype=np.float16),
            f"{base}.g_idx": np.arange(256, dtype=np.int32) // 128,
        }
    return tensors, {"quant_method": "gptq", "bits": 4, "group_size": 128}


def awq() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}"
        tensors |= {
            f"{base}.qweight": np.ones((256, 32), np.int32),
            f"{base}.qzeros": np.ones((2, 32), np.int32),
            f"{base}.scales": w(2, 256, dtype=np.float16),
        }
    return tensors, {"quant_method": "awq", "bits": 4, "group_size": 128}


def mlx() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}"
        tensors |= {
            f"{base}.weight": np.ones((256, 32), np.uint32),
            f"{base}.scales": w(256, 4, dtype=np.float16),
            f"{base}.biases": w(256, 4, dtype=np.float16),
        }
    return tensors, {"group_size": 64, "bits": 4}


def bitsandbytes() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}.weight"
        tensors |= {
            base: np.ones((32768, 1), np.uint8),
            f"{base}.absmax": np.ones(1024, np.uint8),
            f"{base}.quant_map": w(16),
            f"{base}.nested_absmax": w(4),
            f"{base}.nested_quant_map": w(256),
            f"{base}.quant_state.bitsandbytes__nf4": np.ones(80, np.uint8),
        }
    return tensors, {"quant_method": "bitsandbytes", "load_in_4bit": True}


def bitsandbytes_int8() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        tensors[f"model.layers.0.{name}.weight"] = np.ones((256, 256), np.int8)
        tensors[f"model.layers.0.{name}.SCB"] = w(256)
    return tensors, {"quant_method": "bitsandbytes", "load_in_8bit": True}


def compressed_tensors() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=np.float16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}"
        tensors |= {
            f"{base}.weight_packed": np.ones((256, 32), np.int32),
            f"{base}.weight_scale": w(256, 2, dtype=np.float16),
            f"{base}.weight_zero_point": np.ones((32, 2), np.int32),
            f"{base}.weight_shape": np.array([256, 256]),
        }
    return tensors, {"quant_method": "compressed-tensors", "format": "pack-quantized"}


def mxfp4() -> tuple[dict[str, Any], dict[str, Any]]:
    base = "model.layers.0.mlp.experts"
    return {
        "model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=ml_dtypes.bfloat16),
        "model.layers.0.mlp.router.weight": w(4, 256, dtype=ml_dtypes.bfloat16),
        f"{base}.gate_up_proj_blocks": np.ones((4, 128, 8, 16), np.uint8),
        f"{base}.gate_up_proj_scales": np.ones((4, 128, 8), np.uint8),
        f"{base}.gate_up_proj_bias": w(4, 128, dtype=ml_dtypes.bfloat16),
    }, {"quant_method": "mxfp4"}


def modelopt() -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {"model.layers.0.self_attn.o_proj.weight": w(256, 256, dtype=ml_dtypes.bfloat16)}
    for name in PROJECTIONS:
        base = f"model.layers.0.{name}"
        tensors |= {
            f"{base}.weight": np.ones((256, 128), np.uint8),
            f"{base}.weight_scale": w(256, 16, dtype=FP8),
            f"{base}.weight_scale_2": w(1),
            f"{base}.input_scale": w(1),
        }
    return tensors, {"quant_method": "modelopt", "quant_algo": "NVFP4"}


FORMATS = {
    "fp8": qwen3_fp8,
    "gptq": gptq,
    "awq": awq,
    "mlx": mlx,
    "bitsandbytes": bitsandbytes,
    "bitsandbytes int8": bitsandbytes_int8,
    "compressed-tensors": compressed_tensors,
    "mxfp4": mxfp4,
    "modelopt": modelopt,
}


def packed(source: Path) -> dict[str, Any]:
    """How the rows of codes are packed, by name."""
    rows = aq.scan(source).outline().select(["layer_name", "packed"]).to_pylist()
    return {row["layer_name"]: row["packed"] for row in rows if row["packed"] is not None}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_quantized_already_is_kept(name: str, with_config: bool, tmp_path: Path) -> None:
    tensors, said = FORMATS[name]()
    key = "quantization" if name == "mlx" else "quantization_config"
    folder = model(tmp_path / "m", tensors, {key: said} if with_config else None)
    plan = planned(folder)
    plain = "model.layers.0.self_attn.o_proj.weight"
    assert {n for n, row in plan.items() if row["scheme"] != "none"} == {plain}
    method = said.get("quant_method", "mlx")
    codes = packed(folder)
    # What can be decoded is a row of its own; the tensors that it is made of have none.
    made_of = aq.scan(folder).made_of()
    read = {tensor for names in made_of.values() for tensor in names}
    for layer, row in plan.items():
        if layer in codes:
            assert row["reason"] == f"already_quantized ({codes[layer]['scheme']})"
            continue
        assert layer not in read
        is_part = any(p in layer for p in (*PROJECTIONS, "_blocks", "_scales"))
        if not is_part or layer.endswith("_bias"):
            continue
        reason = row["reason"]
        assert reason.startswith("already_quantized ("), layer
        if with_config:
            assert reason.startswith(f"already_quantized ({method}"), layer
        is_main = layer.endswith((".weight", ".qweight", ".weight_packed", "_blocks"))
        assert (row["role"] == "companion") == (not is_main), layer
        if not is_main:
            assert row["companion_of"] in tensors
            assert row["companion_of"].split("proj")[0] == layer.split("proj")[0]
    assert bool(codes) == ((name, with_config) in DECODABLE)
    out = tmp_path / "out"
    dataset = aq.quantize_checkpoint(folder, out)
    assert dataset.failed.num_rows == 0
    assert aq.verify(out, folder).problems.to_pylist() == []
    rows = {row["layer_name"]: row for row in pa.table(dataset).to_pylist()}
    for layer in codes:
        assert rows[layer]["scheme"] == codes[layer]["scheme"]
        assert rows[layer]["search"] == "kept"
    for layer, value in tensors.items():
        if layer not in {plain, *read}:
            assert rows[layer]["data"] == value.tobytes(), layer
    if not with_config:
        (folder / "config.json").write_text("{}")
    check_exports(out, codes, tmp_path)
    if with_config:
        config = json.loads((tmp_path / "e/config.json").read_text())
        assert config.get(key) == (None if codes else said)


def check_exports(out: Path, codes: dict[str, Any], tmp_path: Path) -> None:
    """What can be written of codes that are kept beside what is quantized here."""
    # compressed-tensors has these, whoever wrote them. Of others neither can be said in one
    # config.json beside what is quantized here, nor is one of both dropped.
    if codes and {one["scheme"] for one in codes.values()} <= {"int8", "int4", "fp8_e4m3", "nvfp4"}:
        aq.export(out, tmp_path / "ct")
        config = json.loads((tmp_path / "ct/config.json").read_text())
        assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    else:
        refused = r"quantized already, already_quantized|can't hold \d+ layers"
        with pytest.raises(ValueError, match=refused):
            aq.export(out, tmp_path / "e")
    aq.export(out, tmp_path / "e", to="safetensors")
    assert aq.scan(tmp_path / "e").layer_names


DECODABLE = {
    *((name, True) for name in ("fp8", "gptq", "awq", "mlx", "modelopt", "mxfp4")),
    *((name, True) for name in ("bitsandbytes int8", "compressed-tensors")),
    *((name, False) for name in ("fp8", "modelopt", "mxfp4")),
    *((name, False) for name in ("bitsandbytes int8", "compressed-tensors")),
}
"""What says enough of itself; GPTQ, AWQ and MLX don't without their configuration."""


def test_scales_in_another_shard_belong_to_their_weights(tmp_path: Path) -> None:
    tensors, _ = qwen3_fp8()
    folder = tmp_path / "m"
    folder.mkdir()
    scales = {n: v for n, v in tensors.items() if n.endswith("_inv")}
    rest = {n: v for n, v in tensors.items() if n not in scales}
    for number, part in enumerate((rest, scales), 1):
        save_file(part, folder / f"model-0000{number}-of-00002.safetensors")
    plan = planned(folder)
    companions = {n: one["companions"] for n, one in packed(folder).items()}
    assert companions == {n.removesuffix("_scale_inv"): [n] for n in scales}
    assert plan.keys() == rest.keys()
    # Of one shard alone the names still say enough.
    alone = planned(folder / "model-00002-of-00002.safetensors")
    assert {row["reason"] for row in alone.values()} == {"already_quantized (fp8)"}


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a.weight": w(256, 512, dtype=FP8), "a.weight_scale_inv": w(7, 5)}, "fit no blocks"),
        ({"a.weight": w(256, 512), "a.weight_scale_inv": w(2, 4)}, "weights that are F32"),
        (
            {"a.qweight": np.ones((32, 256), np.int32), "a.scales": w(2, 100)},
            "don't fit qweight",
        ),
        (
            {"a.weight": np.ones((64, 32), np.uint32), "a.scales": w(60, 4), "a.biases": w(60, 4)},
            "don't fit",
        ),
    ],
)
def test_names_and_shapes_that_disagree_are_kept_and_said(
    tensors: dict[str, Any], why: str, tmp_path: Path
) -> None:
    plan = planned(model(tmp_path / "m", tensors))
    assert {row["scheme"] for row in plan.values()} == {"none"}
    assert all(why in row["reason"] for row in plan.values()), plan


def test_names_alone_do_not_make_scales(tmp_path: Path) -> None:
    """Float matrices that are called so, without any codes, are nobody's companions."""
    tensors = {"a.weight": w(64, 64), "a.biases": w(64, 64), "b_scales": w(64, 64)}
    plan = planned(model(tmp_path / "m", tensors))
    assert all(row["companion_of"] is None for row in plan.values())
    assert plan["a.weight"]["scheme"] == "int4"


def test_the_plan_prints_roles_and_owners(tmp_path: Path) -> None:
    import subprocess
    import sys

    tensors, said = qwen3_fp8()
    folder = model(tmp_path / "m", tensors, {"quantization_config": said})
    command = [sys.executable, "-m", "arrowquant", "plan", str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "role:embedding" in out
    assert "already_quantized (fp8_e4m3)" in out


def test_scales_of_attention_do_not_make_a_model_quantized(tmp_path: Path) -> None:
    """Parameters of query and key norms are called so; caches have such scales, too."""
    base = "model.layers.0.self_attn"
    tensors = {f"{base}.{p}_proj.weight": w(64, 64) for p in "qkv"}
    tensors |= {f"{base}.q_scale": w(64), f"{base}.k_scale": w(1), f"{base}.input_scale": w(1)}
    folder = model(tmp_path / "m", tensors)
    plan = planned(folder)
    assert {n for n, row in plan.items() if row["scheme"] != "none"} == {
        f"{base}.{p}_proj.weight" for p in "qkv"
    }
    assert not any("already" in (row["reason"] or "") for row in plan.values())
    aq.quantize_checkpoint(folder, tmp_path / "out")
    with pytest.warns(aq.QuantizationWarning, match="config"):
        aq.export(tmp_path / "out", tmp_path / "e")


OTHERS = {
    "DeepSeek's own": ({"q.weight": w(512, 4096, dtype=FP8), "q.scale": w(32, 32)}, None),
    "fused experts": (
        {
            "e.experts.w13_weight": w(4, 256, 4096, dtype=FP8),
            "e.experts.w13_weight_scale": w(4, 2, 32),
            "e.experts.w2_weight": w(4, 256, 4096, dtype=FP8),
            "e.experts.w2_weight_scale_inv": w(4, 2, 32),
        },
        None,
    ),
    "HQQ": (
        {"h.W_q": np.ones((64, 64), np.uint8), "h.scale": w(64, 64), "h.zero": w(64, 64)},
        None,
    ),
    "AQLM": ({"a.codes": np.ones((64, 64, 2), np.int16), "a.codebooks": w(2, 256, 64)}, "aqlm"),
    "quanto": ({"k.weight._data": np.ones((64, 64), np.int8), "k.weight._scale": w(64, 64)}, None),
    "Marlin": ({"q.B": np.ones((64, 64), np.int32), "q.s": w(64, 64)}, None),
    "sparse": ({"m.weight_packed": w(64, 64), "m.weight_scale": w(64, 64)}, None),
    "AWQ, gemv": (
        {
            "g.qweight": np.ones((64, 16), np.int32),
            "g.qzeros": np.ones((64, 1), np.int32),
            "g.scales": w(64, 8),
        },
        "awq",
    ),
}


@pytest.mark.parametrize(("tensors", "method"), OTHERS.values(), ids=OTHERS)
def test_scales_of_any_tool_are_kept(
    tensors: dict[str, Any], method: str | None, tmp_path: Path
) -> None:
    config = None if method is None else {"quantization_config": {"quant_method": method}}
    plain = {"x.q_proj.weight": w(64, 64), "x.q_proj.bias": w(64)}
    plan = planned(model(tmp_path / "m", tensors | plain, config))
    assert {n for n, row in plan.items() if row["scheme"] != "none"} == {"x.q_proj.weight"}
    for name in tensors:
        assert plan[name]["reason"].startswith("already_quantized ("), (name, plan[name]["reason"])
        assert "fit" not in plan[name]["reason"]


def test_a_base_model_beside_an_adapters_configuration_is_quantized(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", {"model.layers.0.mlp.up_proj.weight": w(64, 64)})
    (folder / "adapter_config.json").write_text("{}")
    (row,) = planned(folder).values()
    assert (row["role"], row["scheme"]) == ("weight", "int4")


def test_a_modules_classes_say_what_their_weights_are() -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(
        torch.nn.Embedding(64, 64), torch.nn.Linear(64, 64), torch.nn.Conv1d(64, 64, 64)
    )
    roles = {name: row["role"] for name, row in planned(layers).items()}
    assert roles["0.weight"] == "embedding"
    assert roles["1.weight"] == "weight"
    assert roles["2.weight"] == "conv"


@pytest.mark.parametrize("method", ["compressed-tensors", "fp8"])
def test_how_the_cache_is_quantized_is_not_forgotten(method: str, tmp_path: Path) -> None:
    """A model of BF16 weights with scales of its cache: one configuration states both, or none."""
    base = "model.layers.0.self_attn"
    tensors = {
        f"{base}.q_proj.weight": w(64, 128),
        f"{base}.k_scale": w(1),
        f"{base}.v_scale": w(1),
    }
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    said = {"quant_method": method, "kv_cache_scheme": scheme, "config_groups": {}}
    folder = model(tmp_path / "m", tensors, {"quantization_config": said})
    assert planned(folder)[f"{base}.q_proj.weight"]["scheme"] == "int4"
    aq.quantize_checkpoint(folder, tmp_path / "out")
    if method == "fp8":
        with pytest.raises(ValueError, match="is quantized already"):
            aq.export(tmp_path / "out", tmp_path / "e")
        return
    aq.export(tmp_path / "out", tmp_path / "e")
    config = json.loads((tmp_path / "e/config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"] == scheme
    assert config["config_groups"]["group_0"]["targets"] == [f"{base}.q_proj"]
