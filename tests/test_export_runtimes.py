"""Exported directories, judged by others' code: compressed-tensors decodes them, transformers loads
them. Needs `pip install '.[runtimes]'`; skipped where that is not installed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq

torch = pytest.importorskip("torch", reason="of the extra 'runtimes'")
transformers = pytest.importorskip("transformers", reason="of the extra 'runtimes'")
pytest.importorskip("compressed_tensors", reason="of the extra 'runtimes'")

from compressed_tensors.compressors import BaseCompressor  # noqa: E402
from compressed_tensors.quantization import QuantizationConfig  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

PLANS: dict[str, list[dict[str, Any]]] = {
    "int4 asymmetric, groups": [{"layer_name": "*proj*", "scheme": "int4", "group_size": 32}],
    "int4 symmetric, channels": [
        {"layer_name": "*proj*", "scheme": "int4", "group_size": -1, "is_symmetric": True}
    ],
    "int8 asymmetric, groups": [
        {"layer_name": "*proj*", "scheme": "int8", "group_size": 32, "is_symmetric": False}
    ],
    "int8 symmetric, channels": [{"layer_name": "*proj*", "scheme": "int8", "group_size": -1}],
    "mixed": [
        {"layer_name": "*down_proj*", "scheme": "int8", "group_size": -1, "is_symmetric": True},
        {"layer_name": "*o_proj*", "scheme": "none"},
        {"layer_name": "*proj*", "scheme": "int4", "group_size": 32, "is_symmetric": True},
    ],
}


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama with random weights, in shards, as transformers saves it; two dtypes."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    folders = {}
    for dtype in ("float32", "bfloat16"):
        model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
        folders[dtype] = tmp_path_factory.mktemp("llama") / dtype
        model.save_pretrained(folders[dtype], max_shard_size="100KB")
        assert (folders[dtype] / "model.safetensors.index.json").exists()
    return folders


PARAMETER = re.compile("_(packed|scale|shape|zero_point)$")
LLAMA_KEEPS = ("*embed*", "lm_head*")


def _exported(
    source: Path,
    plan: Any,
    folder: Path,
    keep: tuple[str, ...] = LLAMA_KEEPS,
    *,
    symmetric: bool | None = None,
) -> tuple[aq.Dataset, Path]:
    dataset = aq.quantize_checkpoint(
        source, folder / "dataset", plan=plan, keep=keep, symmetric=symmetric
    )
    return dataset, aq.export(folder / "dataset", folder / "exported", shard_bytes=100_000)


def _tensors(folder: Path) -> dict[str, Any]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def _decoded(folder: Path) -> dict[str, Any]:
    """Every quantized layer as the compressed-tensors package decodes it."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    groups = QuantizationConfig.model_validate(config).config_groups
    scheme_of = {target: scheme for scheme in groups.values() for target in scheme.targets}
    tensors, decoded = _tensors(folder), {}
    for module, scheme in scheme_of.items():
        own = {
            name.removeprefix(module + "."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{module}.weight")
        }
        compressor = BaseCompressor.get_value_from_registry(scheme.format)
        decoded[f"{module}.weight"] = compressor.decompress(own, scheme)["weight"]
    return decoded


def _bits(tensor: Any) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_layer_decodes_to_the_bits_of_dequantize(
    llamas: dict[str, Path], dtype: str, plan: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = pa.Table.from_pylist(plan)
    dataset, folder = _exported(llamas[dtype], table, tmp_path)
    # BF16 arithmetic rounds a product once, as dequantize does.
    ours = pa.table(aq.dequantize(dataset)).to_pylist()
    rows = pa.table(dataset).select(["layer_name", "scheme"]).to_pylist()
    schemes = {row["layer_name"]: row["scheme"] for row in rows}
    theirs, tensors = _decoded(folder), _tensors(folder)
    assert len(theirs) == sum(scheme != "none" for scheme in schemes.values()) > 0
    for row in ours:
        name = row["layer_name"]
        found = theirs[name] if schemes[name] != "none" else tensors[name]
        assert list(found.shape) == row["shape"]
        assert _bits(found) == row["data"], name
    written = {PARAMETER.sub("", name) for name in tensors}
    assert written == {row["layer_name"] for row in ours}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_transformers_loads_it(
    llamas: dict[str, Path], dtype: str, plan: list[dict[str, Any]], tmp_path: Path
) -> None:
    _, folder = _exported(llamas[dtype], pa.Table.from_pylist(plan), tmp_path)
    plain = aq.export(tmp_path / "dataset", tmp_path / "plain", to="safetensors")
    tokens = torch.arange(12)[None]
    load = transformers.AutoModelForCausalLM.from_pretrained
    # From 5.23 on packed layers with zero points are loaded so alone; several schemes are not.
    config = transformers.AutoConfig.from_pretrained(folder)
    if not all(row.get("is_symmetric", row["scheme"] != "int4") for row in plan):
        config.quantization_config["dequantize"] = True
    with torch.no_grad():
        want = load(plain).eval()(tokens).logits
        before = load(llamas[dtype]).eval()(tokens).logits
        got = load(folder, config=config).eval()(tokens).logits
    assert torch.equal(got, want)
    assert not torch.equal(before, want), "quantizing must show"


def test_a_real_encoder(checkpoint: Path, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["encoder.*.dense.weight"], "scheme": ["int8"]})
    keep = ("embeddings.*", "pooler*")
    _, folder = _exported(checkpoint.parent, plan, tmp_path, keep, symmetric=True)
    plain = aq.export(tmp_path / "dataset", tmp_path / "plain", to="safetensors")
    load = transformers.AutoModel.from_pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("Weights travel as Arrow record batches.", return_tensors="pt")
    with torch.no_grad():
        want = load(plain).eval()(**tokens).last_hidden_state
        before = load(checkpoint.parent).eval()(**tokens).last_hidden_state
        got = load(folder).eval()(**tokens).last_hidden_state
    assert torch.equal(got, want)
    similar = torch.nn.functional.cosine_similarity(got, before, dim=-1)
    assert float(similar.min()) > 0.9
    assert np.isfinite(got.numpy()).all()
