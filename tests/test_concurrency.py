"""Ctrl-C, threads, forks: work never holds its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import binary_weights

_INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np, pyarrow as pa, arrowquant as aq

kind = sys.argv[1]
array = np.zeros((40_000, 10_000), np.float32)  # 1.6 GB that take no memory until written
def endless():
    table = pa.table({"layer_name": ["a"], "data": pa.array([b"1234"]), "dtype": ["F32"]})
    yield table.to_batches()[0]
    for _ in range(6000):
        time.sleep(60 if kind == "blocked source" else 0.01)
def work():
    if kind == "stream":
        while True:
            list(aq.quantize_stream({"big": array}, scheme="int8", threads=1))
    elif kind == "layer":
        while True:
            aq.quantize({"big": array}, scheme="int8", threads=1)
    else:
        table = pa.table({"layer_name": ["a"], "data": pa.array([b"1234"]), "dtype": ["F32"]})
        aq.quantize(pa.RecordBatchReader.from_batches(table.schema, endless()))
sent = []
def interrupt():
    time.sleep(1.0)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    work()
except KeyboardInterrupt:
    print(time.monotonic() - sent[0], flush=True)
    sys.exit(0)
sys.exit(1)
"""


@pytest.mark.parametrize("kind", ["layer", "stream", "source", "blocked source"])
def test_an_interrupt_returns_within_half_a_second(kind: str) -> None:
    """During the big layer, and while the source keeps us waiting; and the process ends well."""
    run = [sys.executable, "-c", _INTERRUPTED, kind]
    out = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert float(out.stdout) < 0.5
    assert out.stderr == ""


def test_two_threads_quantize_at_once() -> None:
    rng = np.random.default_rng(3)
    inputs = [{f"l{i}": rng.normal(size=(64, 3000)).astype("f4")} for i in range(8)]
    expected = [aq.quantize(weights).quantized for weights in inputs]
    got: dict[int, Any] = {}

    def work(index: int) -> None:
        for _ in range(5):
            got[index] = aq.quantize(inputs[index], threads=1 + index % 3).quantized

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert [got[index] for index in range(8)] == expected


def test_the_gil_is_released() -> None:
    """Another Python thread goes on while one quantizes."""
    array = np.ones((40_000, 4096), np.float32)
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks[0]
    aq.quantize({"w": array}, threads=1)
    during = ticks[0] - before
    done.set()
    thread.join()
    assert during > 3


_FORKED = """
import os, numpy as np, arrowquant as aq
weights = {"w": np.linspace(-1, 1, 100_000, dtype=np.float32)}
expected = aq.quantize(weights).quantized
for kind in ("eager", "stream", "iterated"):
    stream = aq.quantize_stream(weights)  # made before the fork, read after it
    child = os.fork()
    if child == 0:
        if kind == "eager":
            same = aq.quantize(weights).quantized == expected
        else:
            batch = next(iter(stream)) if kind == "iterated" else stream.reader().read_next_batch()
            same = batch["data"] == expected["data"].chunk(0)
        os._exit(0 if same else 3)
    assert os.waitpid(child, 0)[1] == 0
assert aq.quantize(weights).quantized == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_after_use_works() -> None:
    run = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKED]
    out = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert (out.returncode, out.stderr) == (0, "")


def _for_ever(array: Any) -> None:
    while True:
        aq.quantize({"w": array}, threads=1)


def test_a_handlers_exception_reaches_the_caller() -> None:
    def alarm(_signal: int, _frame: Any) -> None:
        raise TimeoutError("time is up")

    array = np.zeros((40_000, 10_000), np.float32)
    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeoutError, match="time is up"):
            _for_ever(array)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_thread_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from arrowquant._core import thread_count

    for name in ("ARROWQUANT_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores
    assert 1 <= thread_count() <= cores  # fewer where a container has a quota
    cores = thread_count()
    for value, count in (("3", 3), ("5,2", 5), ("many", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert thread_count() == count
    monkeypatch.setenv("ARROWQUANT_NUM_THREADS", "2")
    assert (thread_count(), thread_count(6)) == (2, 6)
    monkeypatch.setenv("ARROWQUANT_NUM_THREADS", "none")
    with pytest.raises(
        ValueError, match="ARROWQUANT_NUM_THREADS must be a positive number, got 'none'"
    ):
        aq.quantize(binary_weights([]))


def test_a_stream_read_by_another_thread(checkpoint: Any) -> None:
    stream = aq.quantize_stream(aq.scan(checkpoint), scheme="none")
    tables: list[pa.Table] = []
    thread = threading.Thread(target=lambda: tables.append(pa.table(stream)))
    thread.start()
    thread.join(timeout=60)
    assert tables[0].num_rows == 104
