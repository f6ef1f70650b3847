"""A checkpoint from file to file: time beside a plain write of the same bytes, and peak memory."""

from __future__ import annotations

import os
from pathlib import Path

from measure import Figure, make_model, side_by_side, watched

import arrowquant as aq

_PEAK = """
import arrowquant as aq
source, output = sys.argv[1:]
scan = aq.scan(source)
plan = aq.plan(scan, search="none")
stream = aq.quantize_stream(scan, plan=plan, threads=2)
peak = peak_of(lambda: aq.write_parquet(stream, output, overwrite=True))
import pyarrow.parquet as pq
groups = pq.ParquetFile(output).metadata
batch = max(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups))
print(json.dumps({"peak_mb": peak, "largest_batch_mb": batch / 1e6}))
"""


def run(folder: Path, *, quick: bool) -> list[Figure]:
    """Return the time for 0.273 GB of BF16, and peak memory beyond the mapping for each size."""
    output, plain = folder / "out.parquet", folder / "plain.bin"
    source = make_model(folder, 0.273)
    plan = aq.plan(aq.scan(source), search="none")

    def ours() -> None:
        stream = aq.quantize_stream(aq.scan(source), plan=plan, threads=2)
        aq.write_parquet(stream, output, overwrite=True)

    ours()
    data = output.read_bytes()

    def write() -> None:
        with plain.open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())

    def read() -> None:
        for _ in aq.quantize_stream(aq.scan(source), plan=plan, threads=2):
            pass

    job, written, stream = side_by_side([ours, write, read], 3 if quick else 9)
    figures: list[Figure] = [
        {
            "what": "time",
            "source_mb": source.stat().st_size / 1e6,
            "seconds": job,
            "plain_write_seconds": written,
            "beyond_write_seconds": job - written,
            "stream_without_writing_seconds": stream,
        }
    ]
    for gigabytes in [0.25] if quick else [0.25, 1.0, 4.0]:
        source = make_model(folder, gigabytes)
        peak = watched(_PEAK, str(source), str(output))
        figures.append({"what": "peak memory", "source_mb": source.stat().st_size / 1e6, **peak})
    for path in (output, output.with_name("out.failed.parquet"), plain):
        path.unlink(missing_ok=True)
    return figures
