"""ONNX models: what their tensors mean, and what ONNX Runtime makes of them quantized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import package_file, run

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Array = np.ndarray[Any, Any]


def floats(rng: np.random.Generator, *shape: int, dtype: Any = np.float32) -> Array:
    return (rng.standard_normal(shape) * 0.1).astype(dtype)


def model(
    nodes: list[Any],
    tensors: dict[str, Array],
    outputs: list[str],
    *,
    columns: int = 64,
    opset: int = 21,
    path: Path,
    external: bool = False,
) -> Path:
    kind = TensorProto.FLOAT16 if tensors["w"].dtype == np.float16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["rows", columns])],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(
        made,
        path,
        save_as_external_data=external,
        location=f"{path.name}.data",
        size_threshold=0,
    )
    return path


def layers(rng: np.random.Generator, path: Path, dtype: Any = np.float32, **how: Any) -> Path:
    """A multiplication, two of Gemm, and one weight that two nodes use."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="/model/layers.0/up_proj/MatMul"),
        node("Gemm", ["a", "g", "c"], ["b"], transB=1),
        node("Gemm", ["b", "h"], ["d"]),
        node("MatMul", ["d", "w"], ["e"]),
        node("Add", ["e", "c96"], ["y"]),
    ]
    tensors = {
        "w": floats(rng, 64, 96, dtype=dtype),
        "g": floats(rng, 80, 96, dtype=dtype),
        "c": floats(rng, 80, dtype=dtype),
        "h": floats(rng, 80, 64, dtype=dtype),
        "c96": floats(rng, 96, dtype=dtype),
    }
    return model(nodes, tensors, ["y"], path=path, **how)


def outputs(path: Path, feed: dict[str, Array], *, plain: bool = False) -> list[Array]:
    options = runtime.SessionOptions()
    if plain:  # Else codes that DequantizeLinear takes are multiplied by rounded inputs.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[Array] = runtime.InferenceSession(path, options).run(None, feed)
    return found


def twin(source: Path, dataset: Path, path: Path) -> Path:
    """The source with the values that the quantized layers decode to."""
    weights = aq.dequantize(aq.scan(dataset)).weights.to_pylist()
    decoded = {row["layer_name"]: row for row in weights}
    made = onnx.load(source)
    constants = [x for x in made.graph.node if x.op_type == "Constant"]
    named = {x.name: x for x in made.graph.initializer}
    named |= {x.output[0]: x.attribute[0].t for x in constants}
    for name, row in decoded.items():
        own = numpy_helper.to_array(named[name])
        values = np.frombuffer(row["data"], own.dtype).reshape(row["shape"])
        if row["stack_axis"] == -2:
            values = values.T
        called = named[name].name
        named[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), called))
    onnx.save(made, path)
    return path


SCHEMES: list[tuple[str, dict[str, Any], str]] = [
    ("int8", {"group_size": 32, "symmetric": True}, "onnx"),
    ("int4", {"group_size": 32, "symmetric": True}, "onnx"),
    ("int8", {"group_size": 32, "signed_scales": True}, "onnx"),
    ("int4", {"group_size": 32, "symmetric": True, "signed_scales": True}, "onnx"),
    ("int2", {"group_size": 16, "symmetric": True, "signed_scales": True}, "onnx"),
    ("int4", {"group_size": 128, "symmetric": False}, "onnx"),
    ("int4", {"group_size": 16, "symmetric": False}, "onnx"),
    ("int2", {"group_size": 16, "symmetric": False}, "onnx"),
    ("nf4", {}, "onnx"),
    ("bnb_fp4", {}, "onnx"),
    ("fp8_e4m3", {}, "onnx"),
    ("fp8_e4m3", {"group_size": -1, "group_rows": -1}, "onnx"),
    ("fp8_e4m3", {"group_size": 16, "group_rows": 16}, "onnx"),
    ("int4", {"group_size": 16, "symmetric": True}, "onnx-qdq"),
    ("int4", {"group_size": 8, "symmetric": False}, "onnx-qdq"),
    ("int4", {"group_size": -1, "symmetric": True}, "onnx-qdq"),
    ("int8", {"group_size": 16, "symmetric": True}, "onnx-qdq"),
    ("int8", {"group_size": 16, "signed_scales": True}, "onnx-qdq"),
    ("int4", {"group_size": 16, "symmetric": True, "signed_scales": True}, "onnx-qdq"),
    ("int8", {"group_size": -1, "symmetric": False}, "onnx-qdq"),
]


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize(("scheme", "settings", "to"), SCHEMES)
def test_onnx_runtime_has_our_values(
    scheme: str,
    settings: dict[str, Any],
    to: Any,
    external: bool,
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    source = layers(rng, tmp_path / "m.onnx", external=external)
    aq.quantize_checkpoint(source, tmp_path / "d", scheme=scheme, include=["role:head"], **settings)
    aq.export(tmp_path / "d", tmp_path / "out.onnx", to=to)
    data = tmp_path / "out.onnx.data"
    assert data.exists() == external
    assert not (tmp_path / ".out.onnx.data").exists()
    onnx.checker.check_model(tmp_path / "out.onnx")
    feed = {"x": floats(rng, 5, 64)}
    (expected,) = outputs(twin(source, tmp_path / "d", tmp_path / "twin.onnx"), feed, plain=True)
    (found,) = outputs(tmp_path / "out.onnx", feed, plain=True)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    (quick,) = outputs(tmp_path / "out.onnx", feed)
    assert np.abs(quick - expected).max() <= 0.05 * np.abs(expected).max()
    operators = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    if to == "onnx" and scheme != "fp8_e4m3":
        kind = "MatMulBnb4" if scheme in {"nf4", "bnb_fp4"} else "MatMulNBits"
        assert operators == [kind, kind, "Add", kind, kind, "Add"]
    else:
        assert operators.count("DequantizeLinear") == 3


def test_half_models_have_half_scales(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx", np.float16)
    out = aq.quantize_checkpoint(source, tmp_path / "out.onnx", target="onnxruntime")
    made = onnx.load(out)
    kinds = {x.name: x.data_type for x in made.graph.initializer}
    assert kinds["w_scales"] == kinds["g_scales"] == TensorProto.FLOAT16
    feed = {"x": floats(rng, 5, 64, dtype=np.float16)}
    (expected,), (found,) = outputs(source, feed), outputs(out, feed)
    assert found.dtype == np.float16
    assert np.abs(found - expected).max() <= 0.5 * np.abs(expected).max()


def test_scales_of_another_type_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx", np.float16)
    aq.quantize_checkpoint(source, tmp_path / "d", group_size=32, scale_dtype="F32")
    with pytest.raises(ValueError, match=r"is no F16 number.*scale_dtype F16"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")


def test_four_bits_have_negative_scales_and_those_with_zero_points_have_none(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    for name, options in (
        ("signed", ()),
        ("asymmetric", ("--asymmetric",)),
        ("eight", ("--bits", 8)),
    ):
        out = tmp_path / f"{name}.onnx"
        run("quantize", source, "-o", out, "--for", "onnxruntime", *options)
        scales = [
            numpy_helper.to_array(x)
            for x in onnx.load(out).graph.initializer
            if x.name.endswith("_scales")
        ]
        assert len(scales) == 3
        assert (min(scale.min() for scale in scales) < 0) == (name == "signed")
    (tmp_path / "plan.csv").write_text("layer_name,is_symmetric\nw,false\n")
    out = tmp_path / "planned.onnx"
    run("quantize", source, "-o", out, "--for", "onnxruntime", "--plan", tmp_path / "plan.csv")
    tensors = {x.name: numpy_helper.to_array(x) for x in onnx.load(out).graph.initializer}
    assert "w_zero_points" in tensors
    assert "g_zero_points" not in tensors
    assert tensors["w_scales"].min() > 0 > tensors["g_scales"].min()


def outline(path: Path) -> dict[str, dict[str, Any]]:
    return {row["layer_name"]: row for row in aq.scan(path).outline().to_pylist()}


def test_the_graph_says_what_tensors_mean(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    names = ["scores", "best", "chosen"]
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "onnx::MatMul_7"], ["r"]),
        node("Softmax", ["r"], ["s"]),
        node("TopK", ["s", "k"], ["best", "chosen"]),
        node("MatMul", ["a", "wide"], ["i"]),
        node("MatMul", ["a", "last"], ["logits"]),
        node("Add", ["logits", "bias"], ["scores"]),
        node("Gemm", ["a", "scaled"], ["z"], alpha=2.0),
        node("Gather", ["table", "ids"], ["t"]),
        node("MatMul", ["a", "shared"], ["q"]),
        node("Gather", ["shared", "ids"], ["u"]),
        node("MatMul", ["a", "named"], ["v"], name="/model/vision_tower/proj/MatMul"),
        node("MatMul", ["a", "onnx::MatMul_9"], ["v9"], name="/model/layers.0/mlp/gate/MatMul"),
    ]
    tensors = {
        "w": floats(rng, 64, 96),
        "onnx::MatMul_7": floats(rng, 96, 8),
        "k": np.array([2]),
        "wide": floats(rng, 96, 64),
        "last": floats(rng, 96, 50),
        "bias": floats(rng, 50),
        "scaled": floats(rng, 96, 64),
        "table": floats(rng, 50, 64),
        "ids": np.array([1, 2]),
        "shared": floats(rng, 96, 64),
        "named": floats(rng, 96, 64),
        "onnx::MatMul_9": floats(rng, 96, 8),
    }
    found = outline(model(nodes, tensors, names, path=tmp_path / "m.onnx"))
    assert {name: row["role"] for name, row in found.items()} == {
        "w": "weight",
        "onnx::MatMul_7": "router",
        "k": "other",
        "wide": "weight",
        "last": "head",
        "bias": "bias",
        "scaled": "other",
        "table": "embedding",
        "ids": "other",
        "shared": "embedding",
        "named": "vision",
        "onnx::MatMul_9": "router",
    }
    assert (found["w"]["shape"], found["w"]["stack_axis"]) == ([96, 64], -2)
    assert (found["table"]["shape"], found["table"]["stack_axis"]) == ([50, 64], None)
    assert np.array_equal(aq.scan(tmp_path / "m.onnx")["w"], tensors["w"].T)


def test_heads_get_8_bits_and_routers_are_kept(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "r"], ["s"]),
        node("TopK", ["s", "k"], ["best", "chosen"]),
        node("MatMul", ["a", "h"], ["y"]),
    ]
    tensors = {
        "w": floats(rng, 64, 96),
        "r": floats(rng, 96, 8),
        "k": np.array([2]),
        "h": floats(rng, 96, 50),
    }
    source = model(nodes, tensors, ["y", "best"], path=tmp_path / "m.onnx")
    out = aq.quantize_checkpoint(source, tmp_path / "out.onnx", target="onnxruntime", bits=4)
    made = onnx.load(out)
    bits = {
        x.input[1]: next(y.i for y in x.attribute if y.name == "bits")
        for x in made.graph.node
        if x.op_type == "MatMulNBits"
    }
    assert bits == {"w_Q4": 4, "h_Q8": 8}
    assert [x.input[1] for x in made.graph.node if x.op_type == "MatMul"] == ["r"]
    kept = {x.name: numpy_helper.to_array(x) for x in made.graph.initializer}
    assert np.array_equal(kept["r"], tensors["r"])
    for refused in (3, 2):
        with pytest.raises(ValueError, match=f"no way for {refused} bits"):
            aq.quantize_checkpoint(source, tmp_path / "o.onnx", target="onnxruntime", bits=refused)


def test_what_is_quantized_already_is_kept(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    once = aq.quantize_checkpoint(source, tmp_path / "once.onnx", target="onnxruntime")
    found = outline(once)
    assert found["g_Q4"]["keep_reason"] == "already_quantized (MatMulNBits)"
    assert found["g_scales"]["role"] == "companion"
    with pytest.raises(ValueError, match="no layer would be quantized"):
        aq.quantize_checkpoint(once, tmp_path / "twice.onnx", target="onnxruntime")
    aq.quantize_checkpoint(once, tmp_path / "d")
    aq.export(tmp_path / "d", tmp_path / "same.onnx", to="onnx")
    feed = {"x": floats(rng, 5, 64)}
    assert np.array_equal(outputs(once, feed), outputs(tmp_path / "same.onnx", feed))


def test_a_directory_with_its_configuration(rng: np.random.Generator, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    layers(rng, folder / "model.onnx", external=True)
    (folder / "genai_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    out = aq.quantize_checkpoint(folder, tmp_path / "out", target="onnxruntime", bits=8)
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"}
    feed = {"x": floats(rng, 5, 64)}
    (expected,), (found,) = outputs(folder / "model.onnx", feed), outputs(out / "model.onnx", feed)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_several_models_of_a_directory_are_named(rng: np.random.Generator, tmp_path: Path) -> None:
    layers(rng, tmp_path / "encoder.onnx")
    layers(rng, tmp_path / "decoder.onnx")
    with pytest.raises(ValueError, match=r"2 checkpoints: 'decoder'.*'encoder'"):
        aq.scan(tmp_path)
    assert aq.scan(tmp_path, variant="encoder").path == tmp_path / "encoder.onnx"


def test_a_missing_file_of_numbers_costs_its_own_layers(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    source = layers(rng, tmp_path / "m.onnx", external=True)
    made = onnx.load(source, load_external_data=False)
    (inline,) = (x for x in made.graph.initializer if x.name == "c96")
    inline.CopyFrom(numpy_helper.from_array(floats(rng, 96), "c96"))
    (source).write_bytes(made.SerializeToString())
    whole = (tmp_path / "m.onnx.data").read_bytes()
    (tmp_path / "m.onnx.data").write_bytes(whole[:100])
    result = aq.quantize(aq.scan(source), continue_on_error=True)
    errors = {row["layer_name"]: row["error_code"] for row in result.errors.to_pylist()}
    assert errors == dict.fromkeys(("w", "g", "h", "c"), "source_unreadable") | {"c96": None}
    (tmp_path / "m.onnx.data").unlink()
    message = result.errors.filter(pa.compute.is_valid(result.errors["error_code"]))
    assert "but the file has" in message["error_message"][0].as_py()
    result = aq.quantize(aq.scan(source), continue_on_error=True)
    assert "is not there" in str(result.errors["error_message"].to_pylist())


@pytest.mark.parametrize("location", ["../outside.data", "/etc/passwd", "a/../../b"])
def test_files_elsewhere_are_not_read(
    location: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    source = layers(rng, tmp_path / "m.onnx", external=True)
    made = onnx.load(source, load_external_data=False)
    for tensor in made.graph.initializer:
        for pair in tensor.external_data:
            if pair.key == "location":
                pair.value = location
    source.write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match="not in the model's directory"):
        aq.scan(source)


def test_matrices_in_branches_stay_and_are_named(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)

    def branch(name: str) -> Any:
        inner = numpy_helper.from_array(floats(rng, 96, 64), name)
        nodes = [node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["m", name], ["o"])]
        return helper.make_graph(nodes, name, [], [value], [inner])

    nodes = [node("If", ["yes"], ["y"], then_branch=branch("t"), else_branch=branch("f"))]
    tensors = {"w": floats(rng, 64, 96), "yes": np.array(True)}
    source = model(nodes, tensors, ["y"], path=tmp_path / "m.onnx")
    with pytest.warns(aq.QuantizationWarning, match=r"'f', 't' are of graphs in the graph"):
        out = aq.quantize_checkpoint(source, tmp_path / "out.onnx", target="onnxruntime", bits=8)
    feed = {"x": floats(rng, 5, 64)}
    (expected,), (found,) = outputs(source, feed), outputs(out, feed)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
    then = next(x.g for x in onnx.load(out).graph.node[0].attribute if x.name == "then_branch")
    assert [x.op_type for x in then.node] == ["MatMulNBits", "MatMul"]


def test_graphs_that_are_too_old_for_the_operator(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx", opset=17)
    aq.quantize_checkpoint(source, tmp_path / "d", scheme="fp8_e4m3")
    with pytest.raises(ValueError, match="from opset 19 on, and the model has 17") as caught:
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")
    command = str(caught.value).split('python -c "')[1].split('"')[0]
    done = run_python(command, tmp_path)
    assert done.returncode == 0, done.stderr
    converted = tmp_path / "m-19.onnx"
    aq.quantize_checkpoint(converted, tmp_path / "d19", scheme="fp8_e4m3")
    out = aq.export(tmp_path / "d19", tmp_path / "out.onnx", to="onnx")
    feed = {"x": floats(rng, 5, 64)}
    (expected,), (found,) = outputs(source, feed), outputs(out, feed)
    assert np.abs(found - expected).max() <= 0.1 * np.abs(expected).max()


def run_python(command: str, folder: Path) -> Any:
    import subprocess
    import sys

    return subprocess.run(
        [sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


def test_what_onnx_can_not_be_written_from(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import save_file

    save_file({"a.weight": floats(rng, 64, 64)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"from ONNX sources only.*optimum-cli export onnx"):
        aq.quantize_checkpoint(
            tmp_path / "model.safetensors", tmp_path / "o.onnx", target="onnxruntime"
        )
    source = layers(rng, tmp_path / "m.onnx")
    for target in ("mlx", "vllm", "transformers", "bitsandbytes", "llama.cpp"):
        suffix = ".gguf" if target == "llama.cpp" else ""
        with pytest.raises(ValueError, match=r"is ONNX, which .* is not written from"):
            aq.quantize_checkpoint(source, tmp_path / f"o{suffix}", target=target)  # type: ignore[call-overload]
    import arrowquant._export.formats.onnx as form

    monkeypatch.setattr(form, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'arrowquantize\[onnx\]'"):
        aq.quantize_checkpoint(source, tmp_path / "o.onnx", target="onnxruntime")


def tables(rng: np.random.Generator, path: Path, *, turned: bool) -> Path:
    """A head that is the table of embeddings, too, either way around; and a table alone."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("Gather", ["t" if turned else "w", "ids"], ["a"]),
        node("MatMul", ["x", "w" if turned else "t"], ["y"]),
        node("Gather", ["e", "ids"], ["z"]),
    ]
    shape = (64, 96) if turned else (96, 64)
    tensors = {
        "w": floats(rng, *shape),
        "e": floats(rng, 50, 64),
        "ids": np.array([[1, 2, 5], [49, 0, 1]]),
    }
    return model(nodes, tensors, ["y", "a", "z"], path=path)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("settings", SCHEMES[:4])
def test_rows_are_looked_up_in_codes(
    settings: tuple[str, dict[str, Any], str],
    turned: bool,
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    source = tables(rng, tmp_path / "m.onnx", turned=turned)
    assert {name: row["role"] for name, row in outline(source).items()} == {
        "w": "head",
        "e": "embedding",
        "ids": "other",
    }
    scheme, options, _ = settings
    options = options | {"group_size": min(options["group_size"], 64)}
    include = ["role:head", "role:embedding"]
    aq.quantize_checkpoint(source, tmp_path / "d", scheme=scheme, include=include, **options)
    aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")
    feed = {"x": floats(rng, 5, 64)}
    expected = outputs(twin(source, tmp_path / "d", tmp_path / "twin.onnx"), feed)
    found = outputs(tmp_path / "out.onnx", feed)
    assert np.abs(found[0] - expected[0]).max() <= 1e-5 * np.abs(expected[0]).max()
    assert np.array_equal(found[1], expected[1])
    assert np.array_equal(found[2], expected[2])


def test_tables_that_no_operator_looks_up_in(rng: np.random.Generator, tmp_path: Path) -> None:
    source = tables(rng, tmp_path / "m.onnx", turned=True)
    include = ["role:head", "role:embedding"]
    for scheme, to in (("nf4", "onnx"), ("int8", "onnx-qdq"), ("fp8_e4m3", "onnx")):
        folder = tmp_path / f"{scheme}{to}"
        aq.quantize_checkpoint(source, folder, scheme=scheme, include=include)
        with pytest.raises(ValueError, match="takes as int8 or int4 in the format onnx only"):
            aq.export(folder, tmp_path / "out.onnx", to=to)  # type: ignore[arg-type]
    out = aq.export(folder, tmp_path / "out.onnx", to="onnx", decode=["w", "e"])
    feed = {"x": floats(rng, 5, 64)}
    assert len(outputs(out, feed)) == 3


def test_layers_that_others_use_are_refused_with_the_operator(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    node = helper.make_node
    nodes = [node("Relu", ["e"], ["t"]), node("MatMul", ["x", "e"], ["y"])]
    source = model(
        nodes, {"w": floats(rng, 4), "e": floats(rng, 64, 96)}, ["y"], path=tmp_path / "m.onnx"
    )
    assert outline(source)["e"]["role"] == "other"
    aq.quantize_checkpoint(source, tmp_path / "d", include=["e"], group_size=32)
    with pytest.raises(
        ValueError, match=r"layer 'e'.*is used by MatMul, Relu, and only what MatMul"
    ):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")


@pytest.mark.parametrize("bits", [8, 4])
def test_a_real_model_reads_the_same_text(bits: int, tmp_path: Path) -> None:
    """PP-OCR's recognizer: constants of a graph that Paddle's exporter made."""
    source = package_file("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx")
    out = tmp_path / "rec.onnx"
    done = run("quantize", source, "-o", out, "--for", "onnxruntime", "--bits", str(bits))
    assert "9 layers to quantize" in done.stderr
    assert "9 layers quantized, 411 kept, 0 failed" in done.stdout
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert operators.count("MatMulNBits") == 9
    assert out.stat().st_size < 0.75 * source.stat().st_size
    image = np.random.default_rng(3).uniform(-1, 1, (1, 3, 48, 160)).astype(np.float32)
    (name,) = (x.name for x in runtime.InferenceSession(source).get_inputs())
    (expected,), (found,) = outputs(source, {name: image}), outputs(out, {name: image})
    assert np.array_equal(expected.argmax(-1), found.argmax(-1))
    assert np.abs(found - expected).max() <= (0.05 if bits == 8 else 0.3)
    again = tmp_path / "again.onnx"
    aq.quantize_checkpoint(source, again, target="onnxruntime", bits=bits, threads=1)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(("scheme", "settings", "to"), [SCHEMES[3], SCHEMES[9], SCHEMES[11]])
def test_layers_in_parts_become_the_same_file(
    scheme: str, settings: dict[str, Any], to: Any, rng: np.random.Generator, tmp_path: Path
) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    found = []
    for part_bytes in (1 << 20, 16 * 96 * 4):
        folder = tmp_path / str(part_bytes)
        aq.quantize_checkpoint(
            source, folder, scheme=scheme, include=["role:head"], part_bytes=part_bytes, **settings
        )
        out = aq.export(folder, folder.with_suffix(".onnx"), to=to)
        found.append(out.read_bytes())
    parts = aq.scan(folder).outline()["part_count"].to_pylist()
    assert max(parts) > 1
    assert found[0] == found[1]


def test_an_overwritten_model_has_its_own_numbers(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx", external=True)
    out = tmp_path / "out.onnx"
    aq.quantize_checkpoint(source, out, target="onnxruntime", bits=8)
    with pytest.raises(FileExistsError, match=r"out\.onnx"):
        aq.quantize_checkpoint(source, out, target="onnxruntime", bits=4)
    aq.quantize_checkpoint(source, out, target="onnxruntime", bits=4, overwrite=True)
    aq.quantize_checkpoint(source, tmp_path / "new.onnx", target="onnxruntime", bits=4)
    assert (tmp_path / "out.onnx.data").read_bytes() == (tmp_path / "new.onnx.data").read_bytes()
    aq.quantize_checkpoint(source, tmp_path / "d", group_size=32)
    run("export", tmp_path / "d", "-o", tmp_path / "cli.onnx", "--to", "onnx")
    # One file in place of two leaves no numbers behind.
    inline = layers(rng, tmp_path / "inline.onnx")
    aq.quantize_checkpoint(
        inline, tmp_path / "new.onnx", target="onnxruntime", bits=4, overwrite=True
    )
    assert not (tmp_path / "new.onnx.data").exists()
    out.unlink()
    with pytest.raises(FileExistsError, match=r"out\.onnx\.data"):
        aq.quantize_checkpoint(source, out, target="onnxruntime", bits=4)


@pytest.mark.parametrize("columns", [61, 66, 100])
@pytest.mark.parametrize("to", ["onnx", "onnx-qdq"])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_rows_that_are_no_whole_words(
    scheme: str, to: Any, columns: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    tensors = {"w": floats(rng, columns, 32)}
    source = model(nodes, tensors, ["y"], columns=columns, path=tmp_path / "m.onnx")
    size = 16 if to == "onnx" else -1
    feed = {"x": floats(rng, 5, columns)}
    found = []
    for part_bytes in (1 << 20, columns * 4 * 8):
        folder = tmp_path / str(part_bytes)
        aq.quantize_checkpoint(
            source, folder, scheme=scheme, include=["*"], group_size=size, part_bytes=part_bytes
        )
        out = aq.export(folder, folder.with_suffix(".onnx"), to=to)
        found += outputs(out, feed, plain=True)
    decoded = twin(source, tmp_path / str(1 << 20), tmp_path / "twin.onnx")
    (expected,) = outputs(decoded, feed, plain=True)
    assert np.abs(found[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.array_equal(found[0], found[1])


def test_numbers_of_graphs_in_the_graph_are_taken_along(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    node = helper.make_node
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)

    def branch(name: str) -> Any:
        inner = numpy_helper.from_array(floats(rng, 96, 64), name)
        nodes = [node("MatMul", ["x", "w"], ["m"]), node("MatMul", ["m", name], ["o"])]
        return helper.make_graph(nodes, name, [], [value], [inner])

    nodes = [node("If", ["yes"], ["y"], then_branch=branch("t"), else_branch=branch("f"))]
    tensors = {"w": floats(rng, 64, 96), "yes": np.array(True)}
    folder = tmp_path / "in"
    folder.mkdir()
    inline = model(nodes, tensors, ["y"], path=tmp_path / "inline.onnx")
    source = folder / "m.onnx"
    onnx.save(onnx.load(inline), source, save_as_external_data=True, location="n", size_threshold=0)
    with pytest.warns(aq.QuantizationWarning, match="graphs in the graph"):
        out = aq.quantize_checkpoint(source, tmp_path / "out", target="onnxruntime", bits=8)
    feed = {"x": floats(rng, 5, 64)}
    (expected,), (found,) = outputs(inline, feed), outputs(out / "m.onnx", feed)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_names_that_graphs_in_the_graph_give_anew_are_kept(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    node = helper.make_node
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    then = [node("Transpose", ["w"], ["k"], perm=[1, 0]), node("MatMul", ["x", "k"], ["o"])]
    other = [node("Relu", ["q"], ["k"]), node("MatMul", ["x", "k"], ["o"])]
    branches = [helper.make_graph(x, n, [], [value]) for x, n in ((then, "t"), (other, "e"))]
    nodes = [
        node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        node("MatMul", ["x", "v"], ["z"]),
    ]
    tensors = {
        "w": floats(rng, 64, 64),
        "q": floats(rng, 64, 64),
        "v": floats(rng, 64, 64),
        "yes": np.array(False),
    }
    source = model(nodes, tensors, ["y", "z"], path=tmp_path / "m.onnx")
    assert outline(source)["w"]["role"] == "other"
    out = aq.quantize_checkpoint(source, tmp_path / "out.onnx", target="onnxruntime", bits=8)
    feed = {"x": floats(rng, 5, 64)}
    for expected, found in zip(outputs(source, feed), outputs(out, feed), strict=True):
        assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_a_matrix_that_is_used_both_ways_is_kept(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["a", "t"], ["y"]),
    ]
    source = model(nodes, {"w": floats(rng, 64, 64)}, ["y"], path=tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d", include=["w"], group_size=32)
    with pytest.raises(ValueError, match="operators use it in two ways"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")


def test_layers_under_other_names(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Identity", ["w"], ["same"]),
        node("Transpose", ["same"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["y"]),
        node("Relu", ["y"], ["z"]),
    ]
    source = model(nodes, {"w": floats(rng, 96, 64)}, ["z"], path=tmp_path / "m.onnx")
    out = aq.quantize_checkpoint(source, tmp_path / "out.onnx", target="onnxruntime", bits=8)
    operators = [x.op_type for x in onnx.load(out).graph.node]
    assert operators == ["MatMulNBits", "Relu"]
    feed = {"x": floats(rng, 5, 64)}
    (expected,), (found,) = outputs(source, feed), outputs(out, feed)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()


def test_groups_in_which_rows_are_not_looked_up(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["w", "ids"], ["y"])]
    tensors = {"w": floats(rng, 50, 48), "ids": np.array([1, 2])}
    source = model(nodes, tensors, ["y"], path=tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d", include=["*"], scheme="int8", group_size=-1)
    with pytest.raises(ValueError, match="whose groups must be one of 16, 32"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")


def test_a_model_that_changed_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d", group_size=32)
    layers(rng, source, opset=20)
    with pytest.raises(ValueError, match="changed since the model was quantized"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")
    other = layers(rng, tmp_path / "other.onnx", np.float16)
    with pytest.raises(ValueError, match=r"has no tensor '.*' as it was quantized"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx", source=other)


def test_names_that_are_taken(rng: np.random.Generator, tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["w_scales"]), node("Relu", ["w_scales"], ["y"])]
    source = model(nodes, {"w": floats(rng, 64, 96)}, ["y"], path=tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d", group_size=32)
    with pytest.raises(ValueError, match="another value is called 'w_scales'"):
        aq.export(tmp_path / "d", tmp_path / "out.onnx", to="onnx")


def test_where_numbers_lie_beside_the_model(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx", external=True)
    made = onnx.load(source, load_external_data=False)
    for tensor, location in zip(
        made.graph.initializer, ("./m.onnx.data", "a/m.onnx.data"), strict=False
    ):
        next(pair for pair in tensor.external_data if pair.key == "location").value = location
    (tmp_path / "twice.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ValueError, match=r"several files called 'm\.onnx\.data'"):
        aq.scan(tmp_path / "twice.onnx")
    # The source's own numbers are never replaced.
    (tmp_path / "m.onnx").rename(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="holds numbers of"):
        aq.quantize_checkpoint(
            tmp_path / "other.onnx", tmp_path / "m.onnx", target="onnxruntime", overwrite=True
        )
    # A name that is taken is found before anything is quantized.
    with pytest.raises(ValueError, match="holds numbers of"):
        aq.quantize_checkpoint(tmp_path / "other.onnx", tmp_path / "m.onnx", target="onnxruntime")
    assert not (tmp_path / ".m.onnx.dataset").exists()


def test_an_export_that_stops_leaves_nothing(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import arrowquant._export.formats.onnx as form

    source = layers(rng, tmp_path / "m.onnx", external=True)
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"

    def stop(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(form, "rewrite", stop)
        with pytest.raises(KeyboardInterrupt):
            aq.quantize_checkpoint(source, out, target="onnxruntime")
    assert [path.name for path in folder.iterdir()] == [".out.onnx.dataset"]
    aq.quantize_checkpoint(source, out, target="onnxruntime")
    assert {path.name for path in folder.iterdir()} == {"out.onnx", "out.onnx.data"}


def test_lists_directories_and_names(rng: np.random.Generator, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    first, second = layers(rng, tmp_path / "a-1-of-2.onnx"), layers(rng, tmp_path / "a-2-of-2.onnx")
    with pytest.raises(ValueError, match="2 checkpoints"):
        aq.scan(tmp_path)
    with pytest.raises(ValueError, match=r"is an ONNX model\. Scan it on its own"):
        aq.scan([first, second])
    assert aq.scan([first]).outline()["stack_axis"].to_pylist() == outline_axes(first)
    upper = first.rename(tmp_path / "M.ONNX")
    assert set(outline(upper)) == {"w", "g", "h", "c", "c96"}
    save_file({"a.weight": floats(rng, 64, 64)}, tmp_path / "model.safetensors")
    assert aq.scan(tmp_path).layer_names == ["a.weight"]
    (tmp_path / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(OSError, match="git lfs pull"):
        aq.scan(tmp_path / "lfs.onnx")


def outline_axes(path: Path) -> list[int | None]:
    axes: list[int | None] = aq.scan(path).outline()["stack_axis"].to_pylist()
    return axes


def test_codes_of_four_bits_are_kept(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d", include=["*"], group_size=16, symmetric=True)
    once = aq.export(tmp_path / "d", tmp_path / "once.onnx", to="onnx-qdq")
    row = outline(once)["w_quantized"]
    assert (row["dtype"], row["keep_reason"]) == ("INT4", "already_quantized (DequantizeLinear)")
    aq.quantize_checkpoint(once, tmp_path / "d2")
    again = aq.export(tmp_path / "d2", tmp_path / "again.onnx", to="onnx")
    feed = {"x": floats(rng, 5, 64)}
    assert np.array_equal(outputs(once, feed), outputs(again, feed))


def test_an_export_never_replaces_its_source(rng: np.random.Generator, tmp_path: Path) -> None:
    source = layers(rng, tmp_path / "m.onnx")
    aq.quantize_checkpoint(source, tmp_path / "d0", scheme="none")
    first = aq.export(tmp_path / "d0", tmp_path / "first", to="onnx")
    aq.quantize_checkpoint(first / "m.onnx", tmp_path / "d1", scheme="int8", group_size=32)
    with pytest.raises(ValueError, match="is read"):
        aq.export(tmp_path / "d1", first, to="onnx", overwrite=True)
    for to in ("mlx", "compressed-tensors", "bitsandbytes"):
        with pytest.raises(ValueError, match="is ONNX, whose names no loader"):
            aq.export(tmp_path / "d1", tmp_path / "x", to=to)  # type: ignore[arg-type]


def test_into_a_table_and_verified(rng: np.random.Generator, tmp_path: Path) -> None:
    """Every tensor is a row, also where there is no export."""
    source = layers(rng, tmp_path / "m.onnx", external=True)
    run("quantize", source, "-o", tmp_path / "d", "--group-size", "32")
    assert run("verify", tmp_path / "d", "--against", source).returncode == 0
    inline = layers(rng, tmp_path / "n.onnx")
    run("quantize", inline, "-o", tmp_path / "n.parquet", "--group-size", "32")
    rows = aq.scan(tmp_path / "n.parquet").outline().to_pylist()
    found = {row["layer_name"]: (row["scheme"], row["stack_axis"]) for row in rows}
    assert found == {
        "w": ("none", -2),
        "g": ("int4", None),
        "h": ("int4", -2),
        "c": ("none", None),
        "c96": ("none", None),
    }
