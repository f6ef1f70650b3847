"""Small mixtures of experts, one of each layout that is published or that a tool writes.

Every expert, half and row has values of its own, so that a wrong axis, half or order fails by
value. Weights are BF16, with all the other tensors that a model of the architecture has, but for
vision towers. What is written is only arranged differently from what `Mixture.experts` holds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Array = npt.NDArray[np.float32]
Part = Literal["gate", "up", "down"]
Experts = dict[tuple[int, str], Array]
Tensors = dict[str, Array]

E, H, M = 4, 64, 48
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
SHARED, VOCABULARY = 80, 128
PARTS: tuple[Part, ...] = ("gate", "up", "down")
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4 = np.concatenate([FP4, -FP4])
"""The numbers of E2M1's codes."""


@dataclass(frozen=True)
class Mixture:
    """A checkpoint that was written, and the numbers that are in it."""

    folder: Path
    model_type: str
    experts: Experts
    """The matrix `[out, in]` of an expert's gate, up or down projection."""
    block: str
    """What the names of the experts' tensors start with."""
    others: Tensors
    """All other tensors, by name."""
    asks: bool = False
    """Nothing tells which axis is contracted; it is `[E, out, in]`."""


def bf16(values: npt.NDArray[Any]) -> Array:
    """The nearest BF16 numbers."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def values(name: str, *shape: int) -> Array:
    """Numbers that no other name has, of another scale in each row."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    scales = np.linspace(0.5, 1.5, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return bf16(0.05 * drawn * scales)


def experts_of(
    count: int = E, *, hidden: int = H, width: int = M, parts: tuple[Part, ...] = PARTS
) -> Experts:
    """The canonical matrices of so many experts."""
    return {
        (index, part): values(
            f"expert {index} {part}", *((hidden, width) if part == "down" else (width, hidden))
        )
        for index in range(count)
        for part in parts
    }


def single(experts: Experts, block: str, names: Mapping[str, str]) -> Tensors:
    """A tensor for each matrix."""
    return {
        f"{block}.{index}.{names[part]}.weight": experts[index, part] for index, part in experts
    }


def stacked(experts: Experts, part: Part, *, turned: bool = False) -> Array:
    """`[E, out, in]`, or `[E, in, out]`, of one projection."""
    matrices = [matrix for (_, name), matrix in experts.items() if name == part]
    return np.stack([matrix.T if turned else matrix for matrix in matrices])


def fused(experts: Experts, *, turned: bool = False, interleaved: bool = False) -> Array:
    """Gate and up in one stack: one below the other, or row by row in turns."""
    gate, up = stacked(experts, "gate"), stacked(experts, "up")
    count, width, hidden = gate.shape
    both = np.concatenate([gate, up], 1)
    if interleaved:
        both = np.stack([gate, up], 2).reshape(count, 2 * width, hidden)
    return both.swapaxes(1, 2) if turned else both


def pair(
    experts: Experts, block: str, *, turned: bool = False, interleaved: bool = False
) -> Tensors:
    """The two stacks of a block."""
    return {
        f"{block}.gate_up_proj": fused(experts, turned=turned, interleaved=interleaved),
        f"{block}.down_proj": stacked(experts, "down", turned=turned),
    }


def attention(
    module: str, *, norms: bool = False, biases: bool = False, queries: int = 1
) -> Tensors:
    """The four matrices of attention; `queries` is 2 where they have gates of their own."""
    inner, outer = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"q": (queries * inner, H), "k": (outer, H), "v": (outer, H), "o": (H, inner)}
    names = {f"{module}.{name}_proj.weight": shape for name, shape in shapes.items()}
    found = {name: values(name, *shape) for name, shape in names.items()}
    if norms:
        for name in ("q_norm", "k_norm"):
            found |= norm(f"{module}.{name}.weight", HEAD_DIM)
    if biases:
        found |= {
            name: values(name, rows)
            for name, rows in ((f"{module}.{n}_proj.bias", shape[0]) for n, shape in shapes.items())
        }
    return found


def norm(name: str, size: int = H) -> Tensors:
    """The weights of a norm, which lie around one."""
    return {name: bf16(1 + values(name, size))}


def linear(name: str, *shape: int) -> Tensors:
    """Any other tensor."""
    return {name: values(name, *shape)}


def mlp(module: str, width: int = SHARED, *, gated: bool = True) -> Tensors:
    """A dense feed-forward layer, such as experts share."""
    found = linear(f"{module}.up_proj.weight", width, H)
    found |= linear(f"{module}.down_proj.weight", H, width)
    return found | (linear(f"{module}.gate_proj.weight", width, H) if gated else {})


def around(model: str = "model", head: str = "lm_head") -> Tensors:
    """What Llama and its relatives have beside attention and experts."""
    found = linear(f"{model}.embed_tokens.weight", VOCABULARY, H)
    for name in ("input_layernorm", "post_attention_layernorm"):
        found |= norm(f"{model}.layers.0.{name}.weight")
    return found | norm(f"{model}.norm.weight") | linear(f"{head}.weight", VOCABULARY, H)


def sizes(model_type: str, architecture: str | None = None, **more: Any) -> dict[str, Any]:
    """The keys that most configurations have."""
    said: dict[str, Any] = {} if architecture is None else {"architectures": [architecture]}
    said |= {
        "model_type": model_type,
        "hidden_size": H,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return said | more


def nested(model_type: str, architecture: str, text: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration whose sizes are those of its language model."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "text_config": text,
        "tie_word_embeddings": text["tie_word_embeddings"],
        "torch_dtype": "bfloat16",
        **more,
    }


def write(
    folder: Path,
    config: dict[str, Any],
    tensors: Tensors,
    codes: Mapping[str, npt.NDArray[np.uint8]] | None = None,
    *,
    is_second: Callable[[str], bool] | None = None,
) -> None:
    """Write `config.json`, and one file of tensors, or two and their index.

    Args:
        folder: Where to; it is made.
        config: What `config.json` says.
        tensors: Those that are BF16.
        codes: Those that are U8.
        is_second: Whether a tensor of that name belongs into the second of two shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    stored: dict[str, npt.NDArray[Any]] = {
        name: np.ascontiguousarray(value).astype(ml_dtypes.bfloat16)
        for name, value in tensors.items()
    }
    stored |= codes or {}
    if is_second is None:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = {name: f"model-0000{1 + is_second(name)}-of-00002.safetensors" for name in stored}
    for file in sorted(set(files.values())):
        shard = {name: value for name, value in stored.items() if files[name] == file}
        save_file(shard, folder / file, metadata={"format": "pt"})
    total = sum(value.nbytes for value in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def qwen3_moe(folder: Path) -> Mixture:
    """Experts one by one: gates are in the first of two shards, other projections in the second."""
    block, experts = "model.layers.0.mlp.experts", experts_of()
    names = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    others = around() | attention("model.layers.0.self_attn", norms=True)
    others |= linear("model.layers.0.mlp.gate.weight", E, H)
    config = sizes(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_experts=E,
        num_experts_per_tok=2,
        moe_intermediate_size=M,
        intermediate_size=SHARED,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        norm_topk_prob=True,
    )
    tensors = others | single(experts, block, names)
    write(folder, config, tensors, is_second=lambda name: name.endswith(SECOND))
    return Mixture(folder, "qwen3_moe", experts, block, others)


SECOND = ("up_proj.weight", "down_proj.weight", "model.norm.weight", "lm_head.weight")
"""What Qwen3's second shard holds."""


def mixtral(folder: Path) -> Mixture:
    """Experts one by one, whose projections are called by numbers."""
    block, experts = "model.layers.0.block_sparse_moe.experts", experts_of()
    others = around() | attention("model.layers.0.self_attn")
    others |= linear("model.layers.0.block_sparse_moe.gate.weight", E, H)
    config = sizes(
        "mixtral",
        "MixtralForCausalLM",
        num_local_experts=E,
        num_experts_per_tok=2,
        intermediate_size=M,
        sliding_window=None,
    )
    write(folder, config, others | single(experts, block, {"gate": "w1", "up": "w3", "down": "w2"}))
    return Mixture(folder, "mixtral", experts, block, others)


def qwen3_5_moe(folder: Path) -> Mixture:
    """Stacks `[E, out, in]`, a shared expert, and a layer of MTP whose experts are single."""
    model = "model.language_model"
    block, experts = f"{model}.layers.0.mlp.experts", experts_of()
    others = around(model)
    for layer in (f"{model}.layers.0", "mtp.layers.0"):
        others |= attention(f"{layer}.self_attn", norms=True, queries=2)
        others |= linear(f"{layer}.mlp.gate.weight", E, H)
        others |= mlp(f"{layer}.mlp.shared_expert")
        others |= linear(f"{layer}.mlp.shared_expert_gate.weight", 1, H)
    for index in range(E):
        others |= mlp(f"mtp.layers.0.mlp.experts.{index}", M)
    others |= linear("mtp.fc.weight", H, 2 * H)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        others |= norm(f"mtp.{name}.weight")
    for name in ("input_layernorm", "post_attention_layernorm"):
        others |= norm(f"mtp.layers.0.{name}.weight")
    text = sizes(
        "qwen3_5_moe_text",
        num_experts=E,
        num_experts_per_tok=2,
        moe_intermediate_size=M,
        shared_expert_intermediate_size=SHARED,
        attn_output_gate=True,
        full_attention_interval=1,
        layer_types=["full_attention"],
        linear_conv_kernel_dim=4,
        linear_key_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_value_head_dim=16,
        mtp_num_hidden_layers=1,
    )
    config = nested("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", text)
    write(folder, config, others | pair(experts, block))
    return Mixture(folder, "qwen3_5_moe", experts, block, others)


def qwen3_vl_moe_published(folder: Path) -> Mixture:
    """Stacks `[E, in, out]`."""
    return _qwen3_vl_moe(folder, turned=True)


def qwen3_vl_moe_saved_again(folder: Path) -> Mixture:
    """The same model under the same names as transformers writes it: `[E, out, in]`."""
    return _qwen3_vl_moe(folder, turned=False)


def qwen3_vl_moe_square(folder: Path) -> Mixture:
    """As published, where `gate_up_proj` is square: only `down_proj` says how it lies."""
    return _qwen3_vl_moe(folder, turned=True, width=H // 2)


def qwen3_vl_moe_square_saved_again(folder: Path) -> Mixture:
    """The same model once more, the other way around."""
    return _qwen3_vl_moe(folder, turned=False, width=H // 2)


def _qwen3_vl_moe(folder: Path, *, turned: bool, width: int = M) -> Mixture:
    model = "model.language_model"
    block, experts = f"{model}.layers.0.mlp.experts", experts_of(width=width)
    others = around(model) | attention(f"{model}.layers.0.self_attn", norms=True)
    others |= linear(f"{model}.layers.0.mlp.gate.weight", E, H)
    text = sizes(
        "qwen3_vl_moe_text",
        num_experts=E,
        num_experts_per_tok=2,
        moe_intermediate_size=width,
        intermediate_size=SHARED,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        norm_topk_prob=True,
        rope_scaling={"mrope_interleaved": True, "mrope_section": [4, 2, 2]},
        rope_theta=5000000,
    )
    config = nested("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", text)
    write(folder, config, others | pair(experts, block, turned=turned))
    return Mixture(folder, "qwen3_vl_moe", experts, block, others)


def llama4(folder: Path) -> Mixture:
    """Stacks `[E, in, out]`, gate and up beside each other, and a shared expert."""
    model = "language_model.model"
    layer = f"{model}.layers.0"
    block, experts = f"{layer}.feed_forward.experts", experts_of()
    others = around(model, "language_model.lm_head") | attention(f"{layer}.self_attn")
    others |= linear(f"{layer}.feed_forward.router.weight", E, H)
    others |= mlp(f"{layer}.feed_forward.shared_expert", M)
    text = sizes(
        "llama4_text",
        num_local_experts=E,
        num_experts_per_tok=1,
        intermediate_size=M,
        intermediate_size_mlp=SHARED,
        interleave_moe_layer_step=1,
        moe_layers=[0],
        no_rope_layers=[1],
        attention_chunk_size=64,
        use_qk_norm=True,
    )
    config = nested("llama4", "Llama4ForConditionalGeneration", text)
    write(folder, config, others | pair(experts, block, turned=True))
    return Mixture(folder, "llama4", experts, block, others)


def gpt_oss(folder: Path) -> Mixture:
    """Square stacks `[E, in, out]`, whose columns are gate and up in turns; with biases."""
    block, experts = "model.layers.0.mlp.experts", experts_of(width=H)
    others = _gpt_oss_others(block)
    tensors = others | pair(experts, block, turned=True, interleaved=True)
    write(folder, _gpt_oss_config(), tensors)
    return Mixture(folder, "gpt_oss", experts, block, others)


def gpt_oss_mxfp4(folder: Path) -> Mixture:
    """As published: codes `[E, out, in / 32, 16]`, whose rows are gate and up in turns."""
    block = "model.layers.0.mlp.experts"
    rng = np.random.default_rng(4)
    codes: dict[str, npt.NDArray[np.uint8]] = {}
    decoded: Tensors = {}
    for name, rows in (("gate_up_proj", 2 * H), ("down_proj", H)):
        nibbles = rng.integers(0, 16, (E, rows, H // 32, 32), np.uint8)
        scales = rng.integers(118, 126, (E, rows, H // 32), np.uint8)
        codes[f"{block}.{name}_blocks"] = nibbles[..., ::2] | nibbles[..., 1::2] << 4
        codes[f"{block}.{name}_scales"] = scales
        powers = np.exp2(scales.astype(np.float32) - 127)
        decoded[name] = (FP4[nibbles] * powers[..., None]).reshape(E, rows, H)
    experts: Experts = {}
    for index in range(E):
        experts[index, "gate"] = decoded["gate_up_proj"][index, ::2]
        experts[index, "up"] = decoded["gate_up_proj"][index, 1::2]
        experts[index, "down"] = decoded["down_proj"][index]
    kept = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    said = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    others = _gpt_oss_others(block)
    write(folder, _gpt_oss_config() | {"quantization_config": said}, others, codes)
    return Mixture(folder, "gpt_oss", experts, block, others)


def _gpt_oss_others(block: str) -> Tensors:
    layer = "model.layers.0"
    others = around() | attention(f"{layer}.self_attn", biases=True)
    others |= linear(f"{layer}.self_attn.sinks", HEADS)
    others |= linear(f"{layer}.mlp.router.weight", E, H) | linear(f"{layer}.mlp.router.bias", E)
    others |= linear(f"{block}.gate_up_proj_bias", E, 2 * H)
    return others | linear(f"{block}.down_proj_bias", E, H)


def _gpt_oss_config() -> dict[str, Any]:
    return sizes(
        "gpt_oss",
        "GptOssForCausalLM",
        num_local_experts=E,
        num_experts_per_tok=2,
        experts_per_token=2,
        intermediate_size=H,
        attention_bias=True,
        layer_types=["full_attention"],
        sliding_window=128,
        swiglu_limit=7.0,
    )


def granitemoe(folder: Path) -> Mixture:
    """Stacks `[E, out, in]` in modules with names of their own."""
    block, experts = "model.layers.0.block_sparse_moe", experts_of()
    others = around() | attention("model.layers.0.self_attn")
    others |= linear(f"{block}.router.layer.weight", E, H)
    stacks = {
        f"{block}.input_linear.weight": fused(experts),
        f"{block}.output_linear.weight": stacked(experts, "down"),
    }
    config = sizes(
        "granitemoe",
        "GraniteMoeForCausalLM",
        num_local_experts=E,
        num_experts_per_tok=2,
        intermediate_size=M,
        attention_multiplier=0.25,
        embedding_multiplier=12.0,
        logits_scaling=6.0,
        residual_multiplier=0.22,
    )
    write(folder, config, others | stacks)
    return Mixture(folder, "granitemoe", experts, block, others)


def gemma4(folder: Path) -> Mixture:
    """Stacks `[E, out, in]` beside a dense layer, and no head: the embeddings are one."""
    model = "model.language_model"
    layer = f"{model}.layers.0"
    block, experts = f"{layer}.experts", experts_of()
    others = linear(f"{model}.embed_tokens.weight", VOCABULARY, H) | norm(f"{model}.norm.weight")
    others |= attention(f"{layer}.self_attn", norms=True) | mlp(f"{layer}.mlp")
    for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
        others |= norm(f"{layer}.{name}_layernorm.weight")
    for name in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2"):
        others |= norm(f"{layer}.{name}.weight")
    others |= norm(f"{layer}.pre_feedforward_layernorm_2.weight")
    others |= norm(f"{layer}.layer_scalar", 1) | norm(f"{layer}.router.scale")
    others |= linear(f"{layer}.router.proj.weight", E, H)
    others |= norm(f"{layer}.router.per_expert_scale", E)
    text = sizes(
        "gemma4_text",
        num_experts=E,
        top_k_experts=2,
        moe_intermediate_size=M,
        intermediate_size=SHARED,
        enable_moe_block=True,
        attention_k_eq_v=False,
        global_head_dim=HEAD_DIM,
        hidden_activation="gelu_pytorch_tanh",
        hidden_size_per_layer_input=0,
        layer_types=["full_attention"],
        num_kv_shared_layers=0,
        tie_word_embeddings=True,
    )
    towers = {"audio_config": None, "vision_config": None}
    config = nested("gemma4", "Gemma4ForConditionalGeneration", text, **towers)
    write(folder, config, others | pair(experts, block))
    return Mixture(folder, "gemma4", experts, block, others)


def dbrx(folder: Path) -> Mixture:
    """Matrices one below the other in two dimensions, the second layer's turned around."""
    layer = "transformer.blocks.0"
    block, experts = f"{layer}.ffn.experts.mlp", experts_of()
    others = linear("transformer.wte.weight", VOCABULARY, H) | norm("transformer.norm_f.weight")
    others |= linear("lm_head.weight", VOCABULARY, H)
    names, rows = f"{layer}.norm_attn_norm", (HEADS + 2 * KV_HEADS) * HEAD_DIM
    others |= norm(f"{names}.norm_1.weight") | norm(f"{names}.norm_2.weight")
    others |= linear(f"{names}.attn.Wqkv.weight", rows, H)
    others |= linear(f"{names}.attn.out_proj.weight", H, H)
    others |= linear(f"{layer}.ffn.router.layer.weight", E, H)
    flat = {
        f"{block}.w1": stacked(experts, "gate").reshape(E * M, H),
        f"{block}.v1": stacked(experts, "up").reshape(E * M, H),
        f"{block}.w2": stacked(experts, "down", turned=True).reshape(E * M, H),
    }
    ffn = {"ffn_hidden_size": M, "moe_num_experts": E, "moe_top_k": 2}
    config = {
        "architectures": ["DbrxForCausalLM"],
        "model_type": "dbrx",
        "d_model": H,
        "n_heads": HEADS,
        "n_layers": 1,
        "max_seq_len": 128,
        "vocab_size": VOCABULARY,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": KV_HEADS, "rope_theta": 500000},
        "ffn_config": ffn | {"ffn_act_fn": {"name": "silu"}, "moe_normalize_expert_weights": 1.0},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    write(folder, config, others | flat)
    return Mixture(folder, "dbrx", experts, block, others)


def nemotron_h_square(folder: Path) -> Mixture:
    """Square stacks without gates: nothing tells how they lie.

    A block of Nemotron-H has one mixer, so that attention and experts are two blocks.
    """
    block = "backbone.layers.1.mixer.experts"
    experts = experts_of(width=H, parts=("up", "down"))
    others = _nemotron_h_others("*E", E)
    stacks: Tensors = {
        f"{block}.up_proj": stacked(experts, "up"),
        f"{block}.down_proj": stacked(experts, "down"),
    }
    write(folder, _nemotron_h_config("*E", E, H), others | stacks)
    return Mixture(folder, "nemotron_h", experts, block, others, asks=True)


def conv1d(folder: Path) -> Mixture:
    """A kernel `[64, 1, 4]` beside 64 experts one by one: three dimensions, and no stack."""
    block = "backbone.layers.2.mixer.experts"
    experts = experts_of(64, parts=("up", "down"))
    others = _nemotron_h_others("M*E", 64)
    tensors = others | single(experts, block, {"up": "up_proj", "down": "down_proj"})
    write(folder, _nemotron_h_config("M*E", 64, M), tensors)
    return Mixture(folder, "nemotron_h", experts, block, others)


MAMBA_HEADS, STATE = 2, 16
INNER = MAMBA_HEADS * 16
CONV = INNER + 2 * STATE
"""The channels of Mamba's convolution: 64."""


def _nemotron_h_others(pattern: str, count: int) -> Tensors:
    others = linear("backbone.embeddings.weight", VOCABULARY, H)
    others |= norm("backbone.norm_f.weight") | linear("lm_head.weight", VOCABULARY, H)
    for at, kind in enumerate(pattern):
        mixer = f"backbone.layers.{at}.mixer"
        others |= norm(f"backbone.layers.{at}.norm.weight")
        if kind == "*":
            others |= attention(mixer)
        elif kind == "E":
            others |= linear(f"{mixer}.gate.weight", count, H)
            others |= linear(f"{mixer}.gate.e_score_correction_bias", count)
            others |= mlp(f"{mixer}.shared_experts", gated=False)
        else:
            others |= linear(f"{mixer}.in_proj.weight", INNER + CONV + MAMBA_HEADS, H)
            others |= linear(f"{mixer}.conv1d.weight", CONV, 1, 4)
            others |= linear(f"{mixer}.conv1d.bias", CONV)
            for name in ("A_log", "D", "dt_bias"):
                others |= norm(f"{mixer}.{name}", MAMBA_HEADS)
            others |= norm(f"{mixer}.norm.weight", INNER)
            others |= linear(f"{mixer}.out_proj.weight", H, INNER)
    return others


def _nemotron_h_config(pattern: str, count: int, width: int) -> dict[str, Any]:
    return sizes(
        "nemotron_h",
        "NemotronHForCausalLM",
        num_hidden_layers=len(pattern),
        hybrid_override_pattern=pattern,
        n_routed_experts=count,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=width,
        moe_shared_expert_intermediate_size=SHARED,
        intermediate_size=SHARED,
        mlp_hidden_act="relu2",
        n_group=1,
        topk_group=1,
        mamba_num_heads=MAMBA_HEADS,
        mamba_head_dim=INNER // MAMBA_HEADS,
        n_groups=1,
        ssm_state_size=STATE,
        conv_kernel=4,
        use_conv_bias=True,
    )


def unknown(folder: Path) -> Mixture:
    """Stacks of a model that nobody knows."""
    block, experts = "model.layers.0.mlp.experts", experts_of()
    others = around() | attention("model.layers.0.self_attn")
    others |= linear("model.layers.0.mlp.gate.weight", E, H)
    config = sizes(
        "novel_moe",
        "NovelMoeForCausalLM",
        num_experts=E,
        num_experts_per_tok=2,
        moe_intermediate_size=M,
    )
    write(folder, config, others | pair(experts, block))
    return Mixture(folder, "novel_moe", experts, block, others, asks=True)


ALL: dict[str, Callable[[Path], Mixture]] = {
    "qwen3_moe": qwen3_moe,
    "mixtral": mixtral,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_vl_moe_published": qwen3_vl_moe_published,
    "qwen3_vl_moe_saved_again": qwen3_vl_moe_saved_again,
    "llama4": llama4,
    "gpt_oss": gpt_oss,
    "qwen3_vl_moe_square": qwen3_vl_moe_square,
    "qwen3_vl_moe_square_saved_again": qwen3_vl_moe_square_saved_again,
    "granitemoe": granitemoe,
    "gemma4": gemma4,
    "dbrx": dbrx,
    "nemotron_h_square": nemotron_h_square,
    "unknown": unknown,
    "conv1d": conv1d,
    "gpt_oss_mxfp4": gpt_oss_mxfp4,
}
"""The builders, by name."""
