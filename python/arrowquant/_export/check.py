"""What an exporter would refuse of layers that are not quantized yet."""

from __future__ import annotations

import pyarrow as pa

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
