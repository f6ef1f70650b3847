"""What an exporter would refuse, before there is anything to export."""

from __future__ import annotations

import pyarrow as pa

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export import planning
from arrowquant._export.formats.base import Format, Model
from arrowquant._export.layers import Layers
from arrowquant._model import Config, read_config
from arrowquant._scan import Scan


def refusals(form: Format, source: Scan, outline: pa.Table, plan: pa.Table) -> dict[str, str]:
    """The layers that the format can't hold as they are planned, and why.

    What depends on the numbers themselves shows only later.

    Raises:
        ValueError: No loader takes the checkpoint so.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    config = read_config(folder) if source.given is None else Config()
    model = Model(source, Layers.planned(outline, plan), config, source.path)
    return planning.refusals(form, model)


def undecodable(form: Format, dataset: Dataset) -> dict[str, str]:
    """The layers that are kept as another tool has quantized them, and that the format can't hold.

    Raises:
        ValueError: Layers failed, or no loader takes the checkpoint.
    """
    layers = Layers.of(dataset, dataset.path, ())
    kept = {layer.name for layer in layers.layers if layer.is_copied}
    if not kept:
        return {}
    source = dataset.source
    folder = None if source is None or source.is_dir() else source.parent
    config = Config() if source is None else read_config(folder or source)
    found = planning.refusals(form, Model(dataset, layers, config, source))
    return {name: why for name, why in found.items() if name in kept}
