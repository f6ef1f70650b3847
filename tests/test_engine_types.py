"""Types that engines lose come back where no value changes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import binary_weights, float_row

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)
TABLE = binary_weights([float_row("a", GOOD), float_row("b", GOOD * 2)])


class TestTypesThatEnginesLose:
    one = pa.table(aq.quantize(TABLE, scheme="int4", group_size=32))
    expected = aq.dequantize(one).weights["data"].to_pylist()

    def _with(self, name: str, array: Any) -> pa.Table:
        return self.one.set_column(self.one.schema.get_field_index(name), name, array)

    @pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(38, 4), pa.uint8()])
    def test_group_sizes(self, kind: pa.DataType) -> None:
        table = self._with("group_size", pa.array([32, 32]).cast(kind))
        assert aq.dequantize(table).weights["data"].to_pylist() == self.expected

    @pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(38, 4), pa.int16(), pa.uint64()])
    def test_shapes(self, kind: pa.DataType) -> None:
        shapes = self.one["shape"].combine_chunks().cast(pa.list_(kind))
        result = aq.dequantize(self._with("shape", shapes))
        assert result.weights["data"].to_pylist() == self.expected
        weights = TABLE.set_column(3, "shape", shapes)
        assert aq.quantize(weights).quantized["shape"].to_pylist() == [[2, 64]] * 2

    @pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int64(), pa.uint32()])
    def test_zero_points(self, kind: pa.DataType) -> None:
        points = self.one["zero_points"].combine_chunks().cast(pa.large_list(kind))
        result = aq.dequantize(self._with("zero_points", points))
        assert result.weights["data"].to_pylist() == self.expected

    def test_scales_of_float64(self) -> None:
        scales = self.one["scales"].combine_chunks().cast(pa.list_(pa.float64()))
        assert (
            aq.dequantize(self._with("scales", scales)).weights["data"].to_pylist() == self.expected
        )

    @pytest.mark.parametrize(
        ("name", "values", "cast"),
        [
            ("group_size", pa.array([32.5, 32.0]), "bigint"),
            ("group_size", pa.array([Decimal("32.5"), Decimal(32)]), "bigint"),
            ("shape", pa.array([[2.5, 64.0], [2.0, 64.0]]), "bigint"),
            ("zero_points", pa.array([[256] * 4] * 2, pa.list_(pa.int16())), "utinyint"),
            ("zero_points", pa.array([[-1] * 4] * 2, pa.list_(pa.int8())), "utinyint"),
            ("scales", pa.array([[0.1] * 4] * 2, pa.list_(pa.float64())), "float"),
        ],
    )
    def test_what_would_change_is_refused_with_the_cast(
        self, name: str, values: Any, cast: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"column '{name}' has .* Cast it to {cast}"):
            aq.dequantize(self._with(name, values))

    def test_plan_columns_of_nothing_but_nulls(self) -> None:
        table = TABLE.append_column("scheme", pa.nulls(2)).append_column("group_size", pa.nulls(2))
        assert aq.quantize(table).quantized["scheme"].to_pylist() == ["int4", "int4"]

    def test_through_pandas_and_back(self) -> None:
        weights = TABLE.append_column("scheme", pa.array(["int8", "none"]))
        frame = pd.DataFrame.from_arrow(pa.table(aq.quantize(weights)))
        assert frame["group_size"].dtype == np.float64  # a null made it so
        assert len(aq.dequantize(frame)) == 2
