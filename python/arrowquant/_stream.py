"""Lazy streams of the one relation."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from arrowquant import _core
from arrowquant._display import html_table, some

_READ_ONCE = (
    "The stream can be read once, and was. Make a new one, or use aq.quantize, whose result can be "
    "read as often as wanted."
)


class QuantizationStream:
    """The one relation as a stream that is computed as it is read, once.

    It speaks the Arrow PyCapsule interface. An engine that reads it gets a failure as an exception
    of its own, whose message, as far as it is ours, begins with code and layer; `error` holds ours.
    """

    def __init__(self, stream: _core.Stream) -> None:
        self._stream = stream

    @property
    def schema(self) -> pa.Schema:
        """The schema of the one relation."""
        return pa.schema(self._stream.schema)

    def __repr__(self) -> str:
        state = "read to its end" if self._stream.drained else "computed as it is read, once"
        names = self.schema.names
        return f"QuantizationStream of {len(names)} columns ({some(names, len(names))}), {state}"

    def _repr_html_(self) -> str:
        rows = ([field.name, str(field.type)] for field in self.schema)
        return html_table(repr(self), ["column", "type"], rows, len(self.schema))

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_") or "__" in name]

    @property
    def failed(self) -> pa.Table:
        """The failed rows, once the stream is read to its end.

        Raises:
            ValueError: It is not read to its end yet.
        """
        if not self._stream.drained:
            raise ValueError("The stream is not read to its end yet: read it, then ask for failed.")
        batches = [pa.record_batch(batch) for batch in self._stream.failed]
        return pa.Table.from_batches(batches, pa.schema(self._stream.failed_schema))

    @property
    def error(self) -> Exception | None:
        """The exception that ended the stream; None where none did."""
        return self._stream.error

    def reader(self) -> pa.RecordBatchReader:
        """Return the stream's batches as a pyarrow reader; the only one there is.

        Raises:
            ValueError: The stream was handed out before.
        """
        return pa.RecordBatchReader.from_stream(self)

    def _take(self) -> pa.RecordBatchReader:
        reader = self._stream.take()
        if reader is None:
            raise ValueError(_READ_ONCE)
        return reader

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; a failure raises the error itself, not Arrow's wrapping of it."""
        batches = self._stream.iterate()
        if batches is None:
            raise ValueError(_READ_ONCE)
        while True:
            try:
                batch = batches.next()
            except KeyboardInterrupt:
                raise
            except Exception as wrapped:
                raise (self.error or wrapped) from None
            if batch is None:
                return
            yield pa.record_batch(batch)

    def __arrow_c_schema__(self) -> object:
        """Return a PyCapsule of the one relation's Arrow C schema."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of the Arrow C stream; a second call raises ValueError."""
        return _core.plain_errors(self._take().__arrow_c_stream__(requested_schema))
