"""What a checkpoint's tensors mean: roles, what is quantized already, and stacks of experts.

`config` reads what stands beside the weights, `roles` knows names, `quantized` and `experts` know
how others store what they make; `resolve` puts it all together for the tensors of one checkpoint.
Meaning comes from names, siblings and configuration, never from a shape alone.
"""

from __future__ import annotations

from arrowquant._model.axes import AxisRules, StackAxes, axis_rules, rules_of
from arrowquant._model.config import Config, read_config
from arrowquant._model.fused import TOGETHER, fused_key
from arrowquant._model.meaning import Meaning, resolve
from arrowquant._model.packed import Codes
from arrowquant._model.roles import is_adapter
from arrowquant._model.tensor import Tensor, is_float

__all__ = [
    "TOGETHER",
    "AxisRules",
    "Codes",
    "Config",
    "Meaning",
    "StackAxes",
    "Tensor",
    "axis_rules",
    "fused_key",
    "is_adapter",
    "is_float",
    "read_config",
    "resolve",
    "rules_of",
]
