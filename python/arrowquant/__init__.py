"""Arrow-native quantization of model weights.

A stream of weights goes in, a stream of quantized weights comes out, and every row that went in
comes out exactly once: quantized, kept as it was, or with the reason why not.

    aq.scan, or any Arrow object  ->  aq.plan  ->  aq.quantize / aq.quantize_stream
        ->  aq.write_parquet, any engine  ->  aq.dequantize  ->  aq.to_numpy

    aq.quantize_checkpoint, for checkpoints of any size  ->  aq.verify  ->  aq.export
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses, but a source tree can be run
    raise ImportError(
        "arrowquant needs Python 3.11 or later, and this is "
        + ".".join(map(str, sys.version_info[:3]))
        + ". Make an environment of a newer one: python3.11 -m venv .venv"
    )

if TYPE_CHECKING:
    from arrowquant._checkpoint.dataset import Dataset
    from arrowquant._checkpoint.quantize import quantize_checkpoint
    from arrowquant._checkpoint.verify import Verification, verify
    from arrowquant._core import __version__, schemes
    from arrowquant._dequantize import dequantize, dequantize_stream
    from arrowquant._errors import (
        CheckpointStoppedError,
        QuantizationError,
        QuantizationWarning,
        SeveralCheckpointsError,
    )
    from arrowquant._export import export
    from arrowquant._importance.calibrate import importance
    from arrowquant._importance.imatrix import read_imatrix, write_imatrix
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
    "SeveralCheckpointsError",
    "Verification",
    "__version__",
    "dequantize",
    "dequantize_stream",
    "export",
    "importance",
    "plan",
    "quantize",
    "quantize_checkpoint",
    "quantize_stream",
    "read_imatrix",
    "scan",
    "schemes",
    "to_numpy",
    "verify",
    "write_imatrix",
    "write_parquet",
    "write_safetensors",
]


_MODULES = {
    "ArrowQuantV2": "_v2",
    "CheckpointStoppedError": "_errors",
    "Dataset": "_checkpoint.dataset",
    "DequantizationResult": "_result",
    "LayerDict": "_layers",
    "QuantizationError": "_errors",
    "QuantizationResult": "_result",
    "QuantizationStream": "_stream",
    "QuantizationWarning": "_errors",
    "Scan": "_scan",
    "SeveralCheckpointsError": "_errors",
    "Verification": "_checkpoint.verify",
    "__version__": "_core",
    "dequantize": "_dequantize",
    "dequantize_stream": "_dequantize",
    "export": "_export",
    "plan": "_plan",
    "quantize": "_quantize",
    "quantize_checkpoint": "_checkpoint.quantize",
    "quantize_stream": "_quantize",
    "importance": "_importance.calibrate",
    "read_imatrix": "_importance.imatrix",
    "scan": "_scan",
    "schemes": "_core",
    "to_numpy": "_numpy",
    "verify": "_checkpoint.verify",
    "write_imatrix": "_importance.imatrix",
    "write_parquet": "_parquet",
    "write_safetensors": "_safetensors",
}
_ENGINES = {"duckdb", "polars", "ray", "spark"}


def __getattr__(name: str) -> Any:
    """Import a name's module, or one for an engine, when it is asked for (PEP 562).

    The command line's help needs neither NumPy nor pyarrow, which are slow to import.
    """
    if name in _ENGINES:
        return importlib.import_module(f"arrowquant.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'arrowquant' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"arrowquant.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ENGINES])


if "IPython" in sys.modules:
    importlib.import_module("arrowquant._display").register()
