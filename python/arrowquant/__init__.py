"""Arrow-native quantization of model weights.

A stream of weights goes in, a stream of quantized weights comes out, and every row that went in
comes out exactly once: quantized, kept as it was, or with the reason why not.

    aq.scan, or any Arrow object  ->  aq.plan  ->  aq.quantize / aq.quantize_stream
        ->  aq.write_parquet, any engine  ->  aq.dequantize  ->  aq.to_numpy

    aq.quantize_checkpoint, for checkpoints of any size  ->  aq.verify  ->  aq.export
"""

import importlib
from typing import TYPE_CHECKING, Any

from arrowquant._core import __version__
from arrowquant._dequantize import dequantize, dequantize_stream
from arrowquant._errors import CheckpointStoppedError, QuantizationError, QuantizationWarning
from arrowquant._layers import LayerDict
from arrowquant._numpy import to_numpy
from arrowquant._parquet import write_parquet
from arrowquant._plan import plan
from arrowquant._quantize import quantize, quantize_stream
from arrowquant._result import DequantizationResult, QuantizationResult
from arrowquant._safetensors import write_safetensors
from arrowquant._scan import Scan, scan
from arrowquant._stream import QuantizationStream
from arrowquant._v2 import ArrowQuantV2

if TYPE_CHECKING:
    from arrowquant._checkpoint.dataset import Dataset
    from arrowquant._checkpoint.quantize import quantize_checkpoint
    from arrowquant._checkpoint.verify import Verification, verify
    from arrowquant._export import export

__all__ = [
    "ArrowQuantV2",
    "CheckpointStoppedError",
    "Dataset",
    "DequantizationResult",
    "LayerDict",
    "QuantizationError",
    "QuantizationResult",
    "QuantizationStream",
    "QuantizationWarning",
    "Scan",
    "Verification",
    "__version__",
    "dequantize",
    "dequantize_stream",
    "export",
    "plan",
    "quantize",
    "quantize_checkpoint",
    "quantize_stream",
    "scan",
    "to_numpy",
    "verify",
    "write_parquet",
    "write_safetensors",
]


_LATER = {
    "Dataset": "arrowquant._checkpoint.dataset",
    "Verification": "arrowquant._checkpoint.verify",
    "export": "arrowquant._export",
    "quantize_checkpoint": "arrowquant._checkpoint.quantize",
    "verify": "arrowquant._checkpoint.verify",
}
_ENGINES = {"duckdb", "polars", "ray", "spark"}


def __getattr__(name: str) -> Any:
    """Import what is slow to import, and modules for engines, when they are asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in _ENGINES:
        return importlib.import_module(f"arrowquant.{name}")
    raise AttributeError(f"module 'arrowquant' has no attribute {name!r}")
