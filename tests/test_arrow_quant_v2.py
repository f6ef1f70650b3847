"""The dictionary API."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arrowquant as aq
import reference

GOOD = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
NAN = GOOD.copy()
NAN.reshape(-1)[[42, 44]] = np.nan

BAD: dict[str, tuple[Any, str, list[str]]] = {
    "nan": (NAN, "non_finite", ["contains NaN or Inf at index 42", "np.nan_to_num"]),
    "strided": (
        GOOD[:, ::2],
        "not_contiguous",
        ["is not contiguous", "Use np.ascontiguousarray(arr) to fix"],
    ),
    "double": (
        GOOD.astype(np.float64),
        "unsupported_dtype",
        ["has dtype 'float64', expected 'float32'", "arr.astype(np.float32)"],
    ),
    "ints": (np.arange(4), "unsupported_dtype", ["has dtype 'int64', expected 'float32'"]),
    "list": ([1.0, 2.0], "unsupported_dtype", ["Expected numpy array, got list"]),
    "big": (GOOD.astype(">f4"), "unsupported_dtype", ["is big-endian"]),
    "empty": (np.zeros((0, 4), np.float32), "empty", ["is empty"]),
    "none": (None, "unsupported_dtype", ["Expected numpy array, got NoneType"]),
}  # fmt: skip


@pytest.fixture
def quantizer() -> aq.ArrowQuantV2:
    return aq.ArrowQuantV2()


@pytest.mark.parametrize("bits", [2, 4, 8, np.int64(4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_layers_are_the_references(quantizer: aq.ArrowQuantV2, bits: int, dtype: Any) -> None:
    array = GOOD.astype(dtype)
    layers = quantizer.quantize_batch(
        {"b": array, "a": array[0], "s": array[0, :1].reshape(())}, bits
    )
    assert list(layers) == ["b", "a", "s"]
    name = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[array.dtype.name]
    theirs = reference.quantize(array.tobytes(), name, [2, 256], int(bits), 128, False)
    layer = layers["b"]
    assert theirs.zero_points is not None
    assert layer["quantized_data"] == theirs.data
    assert layer["scales"].dtype == np.float32
    assert np.array_equal(layer["scales"], theirs.scales)
    assert layer["zero_points"].dtype == np.uint8
    assert np.array_equal(layer["zero_points"], theirs.zero_points)
    assert (layer["shape"], layer["bit_width"], layer["group_size"]) == ([2, 256], int(bits), 128)
    assert list(layer) == [
        "quantized_data",
        "scales",
        "zero_points",
        "shape",
        "bit_width",
        "group_size",
    ]
    assert layers["s"]["shape"] == []
    assert layers.failed.num_rows == 0
    assert isinstance(layers, dict)


@pytest.mark.parametrize("bit_width", [3, -1, 256, 0, 4.5, True, "4", None])
@pytest.mark.parametrize("continue_on_error", [False, True])
def test_bit_width_is_checked_first(
    quantizer: aq.ArrowQuantV2, bit_width: Any, continue_on_error: bool
) -> None:
    message = rf"^Invalid bit_width: {bit_width}. Must be 2, 4, or 8$"
    for layers in ({}, {"x": None}):
        with pytest.raises(ValueError, match=message):
            quantizer.quantize_batch(layers, bit_width, continue_on_error)
        with pytest.raises(ValueError, match=message):
            quantizer.quantize_batch_with_progress(layers, bit_width, None, continue_on_error)


@pytest.mark.parametrize("name", BAD)
def test_failfast_names_the_layer_and_the_fix(quantizer: aq.ArrowQuantV2, name: str) -> None:
    array, code, texts = BAD[name]
    with pytest.raises(aq.QuantizationError) as caught:
        quantizer.quantize_batch({"good": GOOD, name: array})
    assert str(caught.value).startswith(f"Error processing layer '{name}'")
    assert all(text in str(caught.value) for text in texts)
    (row,) = caught.value.failed.to_pylist()
    assert (row["row_index"], row["layer_name"], row["error_code"]) == (1, name, code)


def test_failfast_names_every_layer_that_fails_before_values(quantizer: aq.ArrowQuantV2) -> None:
    layers = {"good": GOOD} | {name: bad[0] for name, bad in BAD.items()}
    with pytest.raises(aq.QuantizationError) as caught:
        quantizer.quantize_batch(layers)
    lines = str(caught.value).splitlines()
    wanted = [name for name in BAD if name != "nan"]
    assert [line.split("'")[1] for line in lines] == wanted
    assert caught.value.failed["layer_name"].to_pylist() == wanted
    rows = caught.value.failed["row_index"].to_pylist()
    assert rows == [list(layers).index(name) for name in wanted]


def test_partial_success_keeps_the_rest_and_warns_once(quantizer: aq.ArrowQuantV2) -> None:
    layers = {"first": GOOD, **{name: bad[0] for name, bad in BAD.items()}, "last": GOOD[1]}
    with pytest.warns(aq.QuantizationWarning) as warned:
        result = quantizer.quantize_batch(layers, continue_on_error=True)
    assert list(result) == ["first", "last"]
    assert result.failed["layer_name"].to_pylist() == list(BAD)
    assert result.failed["error_code"].to_pylist() == [bad[1] for bad in BAD.values()]
    assert len(warned) == 1
    assert warned[0].filename == __file__
    for name, (_, _, texts) in BAD.items():
        assert f"Error processing layer '{name}'" in str(warned[0].message)
        assert all(text in str(warned[0].message) for text in texts)
    alone = quantizer.quantize_batch({"first": GOOD})
    assert result["first"]["quantized_data"] == alone["first"]["quantized_data"]


def test_where_warnings_are_errors_the_result_is_in_them(quantizer: aq.ArrowQuantV2) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(aq.QuantizationWarning) as caught:
            quantizer.quantize_batch({"good": GOOD, "nan": NAN}, continue_on_error=True)
    assert list(caught.value.result) == ["good"]


def test_nothing_else_prints(quantizer: aq.ArrowQuantV2, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(aq.QuantizationWarning):
        quantizer.quantize_batch({"good": GOOD, "nan": NAN}, continue_on_error=True)
    assert capfd.readouterr() == ("", "")


def test_progress(quantizer: aq.ArrowQuantV2) -> None:
    import threading

    calls: list[tuple[str, float]] = []
    threads = set()

    def heard(name: str, fraction: float) -> None:
        calls.append((name, fraction))
        threads.add(threading.get_ident())

    rng = np.random.default_rng(0)
    layers: dict[str, Any] = {
        f"l{i}": rng.normal(size=(i + 1, 9000)).astype("f4") for i in range(30)
    }
    layers |= {name: bad[0] for name, bad in BAD.items()}
    with pytest.warns(aq.QuantizationWarning):
        quantizer.quantize_batch_with_progress(layers, 4, heard, True)
    assert sorted(name for name, _ in calls) == sorted(layers)
    fractions = [fraction for _, fraction in calls]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert threads == {threading.get_ident()}


def test_a_callback_that_raises_stops_the_work(quantizer: aq.ArrowQuantV2) -> None:
    def stop(name: str, _fraction: float) -> None:
        raise LookupError(f"enough at {name}")

    with pytest.raises(LookupError, match="enough at"):
        quantizer.quantize_batch_with_progress({"a": GOOD, "b": GOOD}, 4, stop)


@pytest.mark.parametrize("scheme", [scheme for scheme in aq.schemes() if scheme != "none"])
def test_a_scheme_takes_the_place_of_a_bit_width(quantizer: aq.ArrowQuantV2, scheme: str) -> None:
    layers = {"a": GOOD, "nan": NAN}
    with pytest.warns(aq.QuantizationWarning):
        got = quantizer.quantize_batch(layers, continue_on_error=True, scheme=scheme)
    assert got.failed["error_code"].to_pylist() == ["non_finite"]
    layer = got["a"]
    (row,) = aq.quantize({"a": GOOD}, scheme=scheme).succeeded.to_pylist()
    assert layer["quantized_data"] == row["data"]
    assert (layer["shape"], layer["scheme"]) == ([2, 256], scheme)
    for name in ("scales", "zero_points", "biases"):
        assert (name in layer) == (row[name] is not None)
        assert name not in layer or layer[name].tolist() == row[name]
    for name in ("tensor_scale", "group_size"):
        assert layer.get(name) == row[name]
    assert scheme in repr(got._repr_html_())


def test_an_unknown_scheme_names_the_choices(quantizer: aq.ArrowQuantV2) -> None:
    for layers in ({}, {"a": GOOD}):
        with pytest.raises(ValueError, match=r"scheme.*'q4_k'"):
            quantizer.quantize_batch(layers, scheme="q4_k_m")


def test_nothing_in_nothing_out(quantizer: aq.ArrowQuantV2) -> None:
    calls: list[Any] = []
    result = quantizer.quantize_batch_with_progress({}, 4, lambda *call: calls.append(call))
    assert result == {}
    assert calls == []
    assert result.failed.num_rows == 0


def test_wrong_calls(quantizer: aq.ArrowQuantV2) -> None:
    with pytest.raises(TypeError, match="layer names must be strings, got 3"):
        quantizer.quantize_batch({3: GOOD, "bad": None})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="progress_callback must be callable or None, got True"):
        quantizer.quantize_batch_with_progress({"a": GOOD}, 4, True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weights_dict must map names to arrays, got ndarray"):
        quantizer.quantize_batch(GOOD)  # type: ignore[arg-type]
