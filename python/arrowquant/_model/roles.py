"""Roles by name: Hugging Face's names of modules, and GGUF's.

What runtimes keep, and under which names: `tensor_allows_quantization` in llama.cpp's
`src/llama-quant.cpp`, ModelOpt's `default_disabled_quantizers.yaml`, and the lists of ignored
layers in llm-compressor's examples.
"""

from __future__ import annotations

import re
from functools import lru_cache

Role = str

_MOST_EXPERTS = 512
_KERNEL = 3
"""Dimensions of a convolution's kernel, at least."""

_VISION = re.compile(
    r"(^|[._])(vision(_(?!expert)\w+?)?|visual|vit|image_(newline|encoder|embed|proj\w*|pool\w*)"
    r"|img_projector|multi_modal_projector|mm_projector|modality_projection|embed_vision|vpm"
    r"|resampler|sam_model|qformer|(gen_)?aligner|language_projection)(\.|$)|^mlp0\."
    r"|^v\.(blk|patch_|position_|pre_|post_|class_|std_|token_)"
    r"|^mm\.(\d|model|input|soft|patch_merger|up|down|gate|norm|post)"
)
_AUDIO = re.compile(
    r"(^|[._])(audio_(tower|model|encoder|projector)|embed_audio|audio|apm)(\.|$)"
    r"|^(a\.(blk|conv\d|pre_|post_|rvq|embd|position)|mm\.a\.)"
)
_MTP = re.compile(r"(^|\.)(mtp\w*|nextn\w*|eh_proj|enorm|hnorm|shared_head)(\.|$)")
_ADAPTER = re.compile(
    r"(^|[._])(lora|lora_(A|B|a|b|up|down|embedding_[AB]|magnitude_vector\w*)|lokr_w\w+"
    r"|hada_w\w+|oft_\w+|boft_\w+|vera_\w+|ia3_\w+)([._]|$)"
)
_POSITION = re.compile(
    r"(^|\.)(position_(ids|embeddings?|bias)|\w*pos_(embed|emb|table)\w*|position_embd"
    r"|embed_positions|wpe|token_types?|token_type_embeddings?|(cls|mask|dist|distill\w*|reg\w*"
    r"|class|pooling|query|latent|storage)_tokens?|class_(embedding|token)"
    r"|relative_attention_bias|rel_pos\w*|relative_position\w*|attn_rel_b|rotary_emb|inv_freq"
    r"|rope_(freqs|factors\w*)|freqs_cis|time_(mix_\w|maa\w*|decay\w*|faaaa|first|state)"
    r"|scale_shift_table|learnable_tokens|query_embed\w*|latents|logit_scale)(\.weight)?$"
    r"|time_mix_(first|w\d|v\d|a\d|g\d|decay\w*|lerp\w*)(\.weight)?$"
    r"|(^|\.)(pos|position|positional)_?(embedding|embed|encoding)s?(\.|$)"
    r"|relative_attention_bias\.weight$"
    r"|(^|\.)att(ention)?\.(x_\w|[wavg]\d|r_k|k_[ka]|time_mix_\w+)$"
    r"|(^|\.)(modulation|seg_embed|codevectors|transitions)$"
)
_ROUTER = re.compile(
    r"(^|\.)(router|ffn_gate_inp\w*|ffn_gate_tid2eid|shared_expert_gate|moe_gate|gate_inp"
    r"|gating_network|per_expert_scale|in_proj_[ab]|in_proj_ba|ssm_ba|ssm_beta_alpha|expert_gate)(\.|$)"
)
_GATE = re.compile(r"(^|\.)(gate|gate\.wg|router|gating)(\.weight(_1)?)?$")
"""A router where a dimension is the number of experts."""
_INDEXER = re.compile(r"(^|\.)indexer(\.|$)")
_BIAS = re.compile(r"(^|[._])(bias|biases|bias_(ih|hh)_l\d+\w*)$|_bias(_\w+)?$")
_NORM_MODULE = re.compile(
    r"(^|_)(norm(\d+|_\w+)?|\w*norm|layer_?norm\w*|ln(\d+|_\w+)?|rms\w*|bn\d*|batch_?norm\d*|group_?norm\d*"
    r"|\w+_norm(_\w+)?|norm\d*|ln_\w+|\w+_ln|\w*layernorm\w*)$",
    re.IGNORECASE,
)
_NORM_PARAMETER = re.compile(
    r"^(weight|scale|gamma|beta|g|running_(mean|var)|num_batches_tracked)$"
)
_NORM_BARE = re.compile(r"(^|[._])(gamma|beta|layer_scale\d*|layerscale|norm|ls\d|lambda_\d)$")
_CONV_ALWAYS = re.compile(r"(^|[._])(conv\dd|ssm_conv\dd|shortconv\.conv|conv_weight)([._]|$)")
_CONV = re.compile(
    r"(^|[._])(conv\w*|patch_embed\w*|patch_embedding|downsample\w*|upsample\w*|dwconv|stem)([._]|$)"
)
_EMBEDDING_MODULE = re.compile(
    r"^(embed_tokens\w*|gen_embed|input_embeds_layer|codebook_embeds|embed_in|wte|tok_embeddings?|word_embeddings?|word_embed|token_embd\w*"
    r"|per_layer_token_embd|embeddings?|\w+_embeddings?|emb|embed|embed_text|tokens_embed"
    r"|speaker_embed\w*|codebook)$"
)
_SHARED = re.compile(r"^((model|transformer|encoder|decoder)\.)*shared\.weight$")
"""T5's table, which encoder and decoder share."""
_HEAD = re.compile(
    r"(^|\.)(lm_heads?|embed_out|qa_outputs|vocab_head|classifier|unembedding|vocab_projector"
    r"|lm_loss|pred_layer\.proj|class_labels_classifier|output_mlp_projector|codebooks_head"
    r"|classification_head|cls\.predictions\.decoder|predictions\.decoder|seq_relationship"
    r"|codec_head|lm_head_\w+|text_head)(\.\d+)?(\.|$)"
    r"|^((model|transformer|language_model|llm)\.)*"
    r"(output|head|proj_out|score|output_layer|ff_out|decoder|cls(\.output)?)\.weight$"
)
_OTHER = re.compile(
    r"(^|[._])(A_log|ssm_[ad]|dt_bias|altup\w*|laurel\w*|per_layer_model_proj(ection)?|sinks|masked_bias"
    r"|codebook|embed_ind|cluster_size|scales|zeros)(\.weight)?$|(^|[._])(altup|laurel)\w*\."
    r"|mixer\.D$"
)


def role_of(name: str, shape: list[int] | None, experts: int | None) -> Role:
    """The role of a tensor by its name.

    Args:
        name: Hugging Face's or GGUF's.
        shape: Its dimensions, where they are known: of names that may mean several things, they
            say which.
        experts: How many experts the model's layers have, where that is known.
    """
    dimensions = [] if shape is None else [size for size in shape if size != 1]
    is_kernel = shape is not None and len(shape) >= _KERNEL
    if _GATE.search(name) and _is_gate(dimensions, experts):
        return "router"
    return _role(re.sub(r"\d+", "0", name), is_kernel)


def _is_gate(dimensions: list[int], experts: int | None) -> bool:
    """Whether what may be a router has a row for each expert.

    Of one shard alone nobody knows how many there are: then it has few rows, beside its columns.
    """
    if len(dimensions) < 2:  # noqa: PLR2004
        return True
    if experts is not None:
        return experts in dimensions
    return min(dimensions) <= _MOST_EXPERTS and 8 * min(dimensions) <= max(dimensions)


@lru_cache(maxsize=1 << 14)
def _role(name: str, is_kernel: bool) -> Role:
    """The same of a name whose digits are all 0: layers are alike, and names of modules, too."""
    for role, pattern in (
        ("mtp", _MTP),
        ("other", _ADAPTER),
        ("vision", _VISION),
        ("audio", _AUDIO),
        ("position", _POSITION),
        ("router", _ROUTER),
        ("bias", _BIAS),
        ("indexer", _INDEXER),
    ):
        if pattern.search(name):
            return role
    return _of_module(name, is_kernel)


def _of_module(name: str, is_kernel: bool) -> Role:
    """The role that the last module's name tells."""
    path, _, parameter = name.rpartition(".")
    module = path.rpartition(".")[2]
    is_norm = _NORM_PARAMETER.search(parameter) and _NORM_MODULE.search(module)
    if is_norm or _NORM_BARE.search(name) or (not path and _NORM_MODULE.search(parameter)):
        return "norm"
    if _OTHER.search(name):
        return "other"
    if _HEAD.search(name):
        return "head"
    if _CONV_ALWAYS.search(name) or (is_kernel and _CONV.search(name)):
        return "conv"
    of_table = module if parameter in {"weight", "embedding"} and module else parameter
    if module.isdecimal():  # One of several tables.
        of_table = path.rpartition(".")[0].rpartition(".")[2]
        of_table = of_table if of_table == "embed_tokens" else ""
    is_table = _SHARED.search(name) or _EMBEDDING_MODULE.search(of_table)
    if is_table and not is_kernel:
        return "embedding"
    return "weight"


def is_adapter(name: str) -> bool:
    """Whether a tensor is an adapter's, by its name."""
    return _ADAPTER.search(name) is not None


def without_towers(name: str, shape: list[int] | None, experts: int | None) -> Role:
    """The role in a model that is a tower itself: its layers are what there is to quantize."""
    if name.startswith(("v.", "a.", "mm.")):  # GGUF's.
        return role_of(name.partition(".")[2], shape, experts)
    bare = _VISION.sub("..", _AUDIO.sub("..", name))
    return role_of(bare.strip("."), shape, experts)
