"""Polars frames quantize themselves: importing this module registers the namespace `quant`.

import arrowquant.polars

lf.quant.quantize(scheme="int4").sink_parquet("quantized.parquet")
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

import arrowquant as aq
from arrowquant._inputs import lazy_reader, lazy_schema
from arrowquant._options import Scheme

__all__ = ["QuantFrame", "QuantLazyFrame"]


@pl.api.register_dataframe_namespace("quant")
class QuantFrame:
    """`df.quant`: a frame of weights, or with columns of vectors."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def quantize(self, **options: Any) -> pl.DataFrame:
        """Return the one relation of a frame of weights; options are those of `aq.quantize`.

        Raises:
            QuantizationError: A row failed and `continue_on_error` is off.
            TypeError, ValueError: The call is wrong.
        """
        return pl.DataFrame(aq.quantize(self._frame, **options))

    def dequantize(self, **options: Any) -> pl.DataFrame:
        """Return the weights of a quantized frame, with error columns; see `aq.dequantize`.

        Raises:
            QuantizationError: A row can't be decoded and `continue_on_error` is off.
            TypeError, ValueError: The call is wrong.
        """
        return pl.DataFrame(aq.dequantize(self._frame, **options))

    def quantize_column(
        self,
        column: str,
        *,
        scheme: Scheme = "int8",
        into: str | None = None,
        **options: Any,
    ) -> pl.DataFrame:
        """Return the frame with the quantized vectors of a column, a row a vector.

        Args:
            column: A column of lists or arrays of Float32 or Float64. A vector's name in messages
                is `column[row]`.
            scheme: As for `aq.quantize`, like the other options.
            into: What the new column is called; None: `<column>_quantized`. It is a struct of the
                one relation's columns, with the error columns.
            options: Of `aq.quantize`.

        Raises:
            QuantizationError: A vector failed and `continue_on_error` is off.
            TypeError, ValueError: The call is wrong: there is no such column, or it holds no
                vectors of floats.
        """
        if column not in self._frame.columns:
            known = ", ".join(repr(name) for name in self._frame.columns)
            raise ValueError(f"there is no column {column!r}. Choose one of {known}.")
        if isinstance(self._frame.schema[column], pl.Array):
            # As lists: arrays of null vectors have values, which Arrow's consumers may look at.
            vectors = self._frame[column].arr.to_list()
        else:
            vectors = self._frame[column]
        names = pl.select(pl.format(f"{_escaped(column)}[{{}}]", pl.int_range(len(vectors))))
        weights = pl.DataFrame({"layer_name": names.to_series(), "data": vectors})
        quantized = pl.DataFrame(aq.quantize(weights, scheme=scheme, **options))
        name = into or f"{column}_quantized"
        return self._frame.with_columns(quantized.to_struct(name))


def _escaped(text: str) -> str:
    """A name as `pl.format` takes it literally."""
    return text.replace("{", "{{").replace("}", "}}")


@pl.api.register_lazyframe_namespace("quant")
class QuantLazyFrame:
    """`lf.quant`: a lazy frame of weights."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def quantize(self, **options: Any) -> pl.LazyFrame:
        """Return the one relation, lazily: it is computed batch by batch when it is collected.

        Its schema is known ahead. Each collection reads the frame anew, so it can be collected as
        often as wanted. A failed row, where `continue_on_error` is off, is Polars' ComputeError,
        whose message begins with code and layer.

        Args:
            options: Of `aq.quantize_stream`.

        Raises:
            TypeError, ValueError: The call is wrong; raised at once.
        """
        return _lazy(self._frame, aq.quantize_stream, options)

    def dequantize(self, **options: Any) -> pl.LazyFrame:
        """Return the weights of a quantized frame, lazily; options of `aq.dequantize_stream`.

        Raises:
            TypeError, ValueError: The call is wrong; raised at once.
        """
        return _lazy(self._frame, aq.dequantize_stream, options)


def _lazy(frame: pl.LazyFrame, verb: Any, options: dict[str, Any]) -> pl.LazyFrame:
    empty = verb(lazy_schema(frame).empty_table(), **options).schema.empty_table()

    def source(
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows: int | None,
        _batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        for batch in verb(lazy_reader(frame), **options):
            out = pl.DataFrame(batch)
            if predicate is not None:
                out = out.filter(predicate)
            if columns is not None:
                out = out.select(columns)
            if rows is not None:
                out = out.head(rows)
                rows -= len(out)
            yield out
            if rows == 0:
                return

    return register_io_source(source, schema=pl.DataFrame(empty).schema)
