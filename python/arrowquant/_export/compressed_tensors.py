"""compressed-tensors' `pack-quantized`, which vLLM and transformers load.

The tensors are the core's business; here is what `config.json` says of them. Source of the format
of `quantization_config`: `quantization/quant_config.py` in
https://github.com/vllm-project/compressed-tensors.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._export import shards
from arrowquant._export.layers import Layer, Layers
from arrowquant._export.plain import decode
from arrowquant._files import replacing
from arrowquant._inputs import named_runs
from arrowquant._model import TOGETHER, read_config
from arrowquant._progress import ProgressCallback, counted
from arrowquant._safetensors import source_metadata
from arrowquant._scan import Scan

_METHOD = "compressed-tensors"
_FORMAT = "pack-quantized"
_EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|embed_in|wte|wpe|tok_embeddings|shared|\w*embeddings?)\.weight$"
)
"""What models call tables of embeddings; loaders take quantized linear layers only."""
_SHOWN = 8


def write(
    relation: Scan,
    layers: Layers,
    folder: Path,
    shard_bytes: int,
    *,
    threads: int | None,
    progress: bool | ProgressCallback = False,
) -> None:
    """Write codes, scales and zero points, the kept layers, and the configuration.

    Raises:
        ValueError: The format can't hold a layer.
    """
    _check_source(folder, layers)
    groups, refused = [[tensor] for tensor in layers.decoded_tensors()], []
    for layer in layers.layers:
        if layer.decoded:
            continue
        tensors, why = _specs(layer)
        groups.append(tensors)
        if why is not None:
            refused.append(f"layer '{layer.name}' ({layer.scheme}, {layer.shape}): {why}.")
    if refused:
        more = f"\n... and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise ValueError(
            "compressed-tensors can't hold some layers. Quantize them otherwise or keep them "
            "(--retry-failed is for failed ones; a plan and --overwrite for these), or write them "
            "decoded with decode=[...] (--decode GLOB).\n" + "\n".join(refused[:_SHOWN]) + more
        )
    _warn_of_differences(layers)
    _write_config(folder, layers)
    names = {
        decoded: {x.name for x in layers.layers if x.decoded == decoded}
        for decoded in (True, False)
    }
    with counted(progress, len(layers.layers)) as count:
        batches = _tensors(count(shards.ahead(relation)), names[True], names[False], threads)
        metadata = source_metadata(relation)
        shards.write(folder, groups, batches, shard_bytes, metadata=metadata)


def _check_source(folder: Path, layers: Layers) -> None:
    """Refuse what no loader takes, with the way that works.

    Raises:
        ValueError: It is an adapter; or layers are kept that another tool has quantized, which one
            configuration can't state beside ours.
    """
    if layers.is_adapter(read_config(folder)):
        raise ValueError(
            "it is an adapter, which no loader takes quantized. Write it decoded, as "
            "adapter_model.safetensors: to='safetensors' (--to safetensors)."
        )
    packed = [layer for layer in layers.layers if layer.is_of_another_tool]
    if _cache_scheme(folder) is not None:  # The new configuration has a place for it.
        packed = [layer for layer in packed if not layer.is_of_cache]
    if packed and any(not layer.decoded for layer in layers.layers):
        names = ", ".join(repr(layer.name) for layer in packed[:_SHOWN])
        more = f" and {len(packed) - _SHOWN} more" if len(packed) > _SHOWN else ""
        raise ValueError(
            f"the source is quantized already, {packed[0].keep_reason}: {names}{more} are kept, "
            "and config.json can't state how they and the newly quantized layers are stored. Write "
            "the new ones decoded: to='safetensors' (--to safetensors), or decode=['*'] "
            "(--decode '*')."
        )


def _cache_scheme(folder: Path) -> Any:
    """How the source's configuration says that keys and values are cached; None if it doesn't."""
    config = read_config(folder)
    said = config.quantization if config.quant_method == _METHOD else None
    return None if said is None else said.get("kv_cache_scheme")


def can_hold(layers: Layers) -> bool:
    """Whether the format can hold every layer."""
    return all(layer.decoded or _specs(layer)[1] is None for layer in layers.layers)


def _specs(layer: Layer) -> tuple[list[shards.Tensor], str | None]:
    if _EMBEDDING.search(layer.name):
        return [], "by its name it is an embedding, which loaders don't take quantized"
    if layer.stack is not None:
        return [], f"loaders take experts one by one, and it is a matrix of '{layer.stack.name}'"
    tensors, why = _core.compressed_tensors_specs(
        layer.name,
        layer.shape,
        layer.scheme,
        layer.group_size or 0,
        bool(layer.is_symmetric),
        layer.scale_dtype or "F32",
    )
    return tensors, why


def _tensors(
    relation: Iterable[pa.RecordBatch],
    as_floats: set[str],
    quantized: set[str],
    threads: int | None,
) -> Iterator[pa.RecordBatch]:
    for batch in relation:
        for plain in named_runs(batch, as_floats):
            yield decode(plain, threads)
        for packed in named_runs(batch, quantized):
            yield pa.record_batch(_core.compressed_tensors(packed))


def quantization_config(layers: Layers) -> dict[str, Any]:
    """What `config.json` says: a group of layers for each way in which they are quantized.

    Layers are named one by one: a class of layers would also take in what was kept.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for layer in layers.layers:
        if not layer.decoded:
            size = None if layer.group_size == layer.shape[-1] else layer.group_size
            key = (_bits(layer), bool(layer.is_symmetric), size)
            groups.setdefault(key, []).append(_module(layer.name))
    config_groups = {
        f"group_{index}": {
            "targets": sorted(modules),
            "format": _FORMAT,
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": symmetric,
                "strategy": "channel" if size is None else "group",
                "group_size": size,
                "dynamic": False,
            },
        }
        for index, ((bits, symmetric, size), modules) in enumerate(groups.items())
    }
    kept = [_module(layer.name) for layer in layers.layers if _is_kept_matrix(layer)]
    return {
        "quant_method": _METHOD,
        "format": _FORMAT,
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": sorted(kept),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _bits(layer: Layer) -> int:
    return int(layer.scheme.removeprefix("int"))


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is_kept_matrix(layer: Layer) -> bool:
    matrix = 2
    return layer.decoded and len(layer.shape) == matrix and layer.name.endswith(".weight")


def _write_config(folder: Path, layers: Layers) -> None:
    path = folder / "config.json"
    config: dict[str, Any] = {}
    if path.exists():
        try:
            config = json.loads(path.read_text("utf-8"))
            config |= {}
        except (ValueError, TypeError) as error:
            raise ValueError(f"the source's config.json is no JSON object: {error}") from error
    else:
        message = (
            "there is no config.json beside the source: one with quantization_config alone is "
            "written. Name the directory that has it with source=... (--source)."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=4)
    # Where nothing was quantized here, what the source says of itself still holds.
    if any(not layer.decoded for layer in layers.layers):
        scheme = _cache_scheme(folder)
        config["quantization_config"] = quantization_config(layers) | {"kv_cache_scheme": scheme}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _warn_of_differences(layers: Layers) -> None:
    ways = {
        _module(layer.name): (layer.scheme, layer.is_symmetric, layer.group_size, layer.decoded)
        for layer in layers.layers
    }
    different = []
    for module, way in ways.items():
        parent, _, own = module.rpartition(".")
        for together in TOGETHER:
            others = [f"{parent}.{name}" for name in together if own == together[0]]
            if any(ways.get(other, way) != way for other in others):
                different.append(f"{parent}.{'/'.join(together)}")
    if different:
        message = (
            f"vLLM puts {different[0]} together and takes one scheme for them, but they have "
            f"several ({len(different)} such). transformers loads them as they are."
        )
        warnings.warn(QuantizationWarning(message), stacklevel=4)
