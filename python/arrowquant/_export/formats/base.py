"""What an exporter says of its format."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._dequantize import dequantize_stream
from arrowquant._export import shards
from arrowquant._export.config import read_json, write_json
from arrowquant._export.experts import Experts
from arrowquant._export.layers import Layer, Layers
from arrowquant._export.places import Target
from arrowquant._export.planning import Plan, batches
from arrowquant._export.ties import tied_head
from arrowquant._model import Config
from arrowquant._progress import ProgressCallback, counted
from arrowquant._safetensors import source_metadata
from arrowquant._scan import Scan

_SCRIPT = (
    "import sys, transformers as t; "
    "print(t.pipeline('text-generation', model=sys.argv[1])('Hello'))"
)
PIPELINE = f'python -c "{_SCRIPT}" {{path}}'
"""What has transformers load a model and go on with a word."""


@dataclass(frozen=True)
class How:
    """The options of writing."""

    shard_bytes: int
    overwrite: bool
    threads: int | None
    progress: bool | ProgressCallback


class Format(ABC):
    """How a runtime wants a checkpoint; the bytes of its tensors are the core's business."""

    name: ClassVar[str]
    """What `to=` calls it."""
    layout: ClassVar[str | None]
    """The core's name of its tensors' layout; None: every layer is written decoded."""
    load: ClassVar[str | None] = None
    """The command that loads what was written; `{path}` is where it is, as the shell takes it."""
    suffix: ClassVar[str | None] = None
    """What the file's name ends with, of a format of one file."""
    may_be_directory: ClassVar[bool] = False
    """Whether such a file may also be written into a directory, beside what it comes with."""
    is_indexed: ClassVar[bool] = False
    """Whether one file has an index, too."""
    tensor_absmax: ClassVar[float | None] = None
    """The largest magnitude for which tensor scales are to be chosen, of formats without any."""
    takes_embeddings: ClassVar[bool] = False
    """Whether loaders take tables of embeddings quantized."""

    def load_command(self, written: Path) -> str | None:
        """What the shell takes to load what was written."""
        return None if self.load is None else self.load.format(path=shlex.quote(str(written)))

    def is_file(self, destination: Path) -> bool:
        """Whether what is written there is a file, not a directory."""
        if self.suffix is None:
            return False
        return not self.may_be_directory or destination.suffix.lower() == self.suffix

    def check_beside(self, destination: Path, origin: Path | None, *, overwrite: bool) -> None:
        """Refuse a file beside which others are written that must not be replaced.

        Raises:
            OSError, ValueError: One exists, or is read.
        """
        del destination, origin, overwrite

    def check_kind(self, origin: Path | None) -> None:
        """Refuse a source of a kind whose names no loader of the format knows.

        Raises:
            ValueError: It is one.
        """
        if origin is not None and origin.suffix.lower() == ".onnx":
            raise ValueError(
                f"{origin}: is ONNX, whose names no loader of {self.name} knows. Write to='onnx' "
                "(--to onnx), or decoded: to='safetensors' (--to safetensors)."
            )

    def prepare(self, model: Model) -> None:
        """Refuse a checkpoint that no loader takes so, before anything is planned.

        Raises:
            ValueError: It is an adapter, or holds another tool's codes beside ours.
        """
        refuse_adapter(model)
        refuse_other_codes(model)

    def refuse(self, model: Model, layer: Layer) -> str | None:
        """Why loaders don't take this layer quantized, and what to do; None where they do."""
        del model
        if layer.role == "embedding" and not self.takes_embeddings:
            return "it is a table of embeddings, which loaders don't take quantized"
        return None

    def needs_parameters(self, model: Model) -> bool:
        """Whether it depends on scales and zero points if a layer can be said."""
        del model
        return False

    def together(self, model: Model) -> Iterable[tuple[str, str]]:
        """Layers that can't be loaded beside others, and why not."""
        del model
        return ()

    def targets(self, model: Model, layer: Layer) -> Sequence[Target] | str | None:
        """Where a layer's rows go; None: as it lies, under its own name; a text: why nowhere."""
        return model.experts.single(layer)

    def metadata(self, model: Model) -> dict[str, str]:
        """What a safetensors file says beside its tensors."""
        return source_metadata(model.relation)

    @abstractmethod
    def configure(self, model: Model, folder: Path) -> None:
        """Write what the runtime reads beside the tensors."""

    def write(self, model: Model, found: Plan, destination: Path, how: How) -> None:
        """Write all of it into a directory, or as a file."""
        self.configure(model, destination)
        stem = "adapter_model" if model.layers.is_adapter(model.config) else "model"
        with counted(how.progress, len(model.layers.layers)) as count:
            if self.layout is None:
                stream = count(dequantize_stream(model.relation, threads=how.threads))
            else:
                relation = count(shards.ahead(model.batches()))
                stream = shards.ahead(batches(found, model, relation, how.threads))
            shards.write(
                destination,
                found.groups,
                stream,
                how.shard_bytes,
                metadata=self.metadata(model),
                stem=stem,
                is_indexed=self.is_indexed,
            )


class Model:
    """A quantized checkpoint that is exported."""

    def __init__(self, relation: Scan, layers: Layers, config: Config, origin: Path | None) -> None:
        self.relation = relation
        self.layers = layers
        self.config = config
        self.origin = origin
        self.experts = Experts(layers, config)
        self.targets: dict[str, Sequence[Target] | None] = {}
        """Where each layer's rows go, once that is planned; None: as it lies."""

    def batches(self) -> Any:
        """All rows; the codes of a dataset lie where they lie in its files."""
        if isinstance(self.relation, Dataset):
            return self.relation.mapped()
        return self.relation.reader()

    @cached_property
    def tied_head(self) -> Layer | None:
        """The head that is the table of embeddings once more."""
        return tied_head(self.relation, self.layers, self.config)

    @property
    def quantized(self) -> list[Layer]:
        """The layers that are written as codes."""
        return [layer for layer in self.layers.layers if not layer.decoded]

    def modules(self, layer: Layer) -> list[str]:
        """The modules that a layer becomes."""
        targets = self.targets.get(layer.name)
        if targets is not None:
            return [target.name.removesuffix(_WEIGHT) for target in targets]
        if layer.stack is not None:
            place = self.experts.place(layer)
            return [] if place is None else [place[0]]
        return [layer.module] if layer.name.endswith(_WEIGHT) else []

    @property
    def kept_modules(self) -> list[str]:
        """The modules of the matrices that are not, by name, each once."""
        matrix = 2
        kept = [x for x in self.layers.layers if x.decoded and len(x.shape) == matrix]
        return sorted({module for layer in kept for module in self.modules(layer)})

    @property
    def kept_or_head(self) -> list[str]:
        """The same and the head, unless that is quantized: a list replaces transformers' own."""
        has_head = any(layer.role == "head" for layer in self.quantized)
        return sorted({*self.kept_modules, *([] if has_head else ["lm_head"])})


_WEIGHT = ".weight"
_SHOWN = 8


def refuse_adapter(model: Model) -> None:
    """Refuse an adapter, which no loader takes quantized.

    Raises:
        ValueError: It is one.
    """
    if model.layers.is_adapter(model.config):
        raise ValueError(
            "it is an adapter, which no loader takes quantized. Write it decoded, as "
            "adapter_model.safetensors: to='safetensors' (--to safetensors)."
        )


def refuse_other_codes(model: Model, packed: list[Layer] | None = None) -> None:
    """Refuse layers that are kept as another tool has quantized them, beside ours.

    Raises:
        ValueError: There are some.
    """
    if packed is None:
        packed = [layer for layer in model.layers.layers if layer.is_of_another_tool]
    if packed and model.quantized:
        names = ", ".join(repr(layer.name) for layer in packed[:_SHOWN])
        more = f" and {len(packed) - _SHOWN} more" if len(packed) > _SHOWN else ""
        raise ValueError(
            f"the source is quantized already, {packed[0].keep_reason}: {names}{more} are kept, "
            "and config.json can't state how they and the newly quantized layers are stored. Write "
            "the new ones decoded: to='safetensors' (--to safetensors), or decode=['*'] "
            "(--decode '*')."
        )


def set_quantization(folder: Path, said: dict[str, Any], *keys: str) -> None:
    """Write under these keys of `config.json` how a model is quantized.

    Raises:
        ValueError: There is one that is no JSON object.
    """
    config = read_json(folder / "config.json")
    write_json(
        folder / "config.json", config | dict.fromkeys(keys or ("quantization_config",), said)
    )
