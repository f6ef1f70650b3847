"""What users hand in, as something that the core can import.

`arrow` has the one rule for Arrow objects, `arrays` reads named arrays of any library, and
`weights` takes both, paths and models.
"""

from __future__ import annotations

from arrowquant._inputs.arrays import mapping_to_table
from arrowquant._inputs.arrow import (
    as_arrow,
    as_reader,
    as_table,
    is_batch,
    is_sized,
    lazy_reader,
    lazy_schema,
    named,
    named_runs,
)
from arrowquant._inputs.weights import Weights, as_weights, weights_table

__all__ = [
    "Weights",
    "as_arrow",
    "as_reader",
    "as_table",
    "as_weights",
    "is_batch",
    "is_sized",
    "lazy_reader",
    "lazy_schema",
    "mapping_to_table",
    "named",
    "named_runs",
    "weights_table",
]
