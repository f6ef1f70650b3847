"""How much columns matter, found by a forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arrowquant as aq
from conftest import run
from test_importance import payload

torch = pytest.importorskip("torch", reason="of the extra 'calibrate'")
transformers = pytest.importorskip("transformers", reason="of the extra 'calibrate'")
pytest.importorskip("accelerate", reason="of the extra 'calibrate'")
safetensors = pytest.importorskip("safetensors.torch")

Array = np.ndarray[Any, Any]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def made(kind: str) -> Any:
    """A small model of an architecture, with random weights."""
    torch.manual_seed(0)
    more = {} if kind == "BertModel" else {"num_key_value_heads": 2}
    model = getattr(transformers, kind)
    config = model.config_class(**SIZES, **more)
    return model(config).eval()


def save(model: Any, folder: Path, dtype: Any = None) -> Path:
    model.to(dtype or torch.float32).save_pretrained(folder)
    return folder


def rows(table: pa.Table) -> dict[str, Array]:
    lists = table["importance"].to_pylist()
    return dict(zip(table["layer_name"].to_pylist(), map(np.array, lists), strict=True))


def by_hooks(model: Any, ids: Any) -> dict[str, Array]:
    """The same of a whole model in memory."""
    found: dict[str, Array] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ("layers." in name or "layer." in name):
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: found.update(
                    {f"{name}.weight": inputs[0].double().square().mean((0, 1)).numpy()}
                )
            )
    with torch.no_grad():
        model(input_ids=ids)
    return found


@pytest.mark.parametrize(
    "kind",
    [
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "BertModel",
    ],
)
def test_it_is_what_hooks_in_the_whole_model_find(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    found = aq.importance(save(model, tmp_path), tokens=512)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(SIZES["vocab_size"], (512,), generator=generator).reshape(2, 256)
    wanted = by_hooks(model, ids)
    assert found["source"].unique().to_pylist() == ["random tokens"]
    assert found["tokens"].unique().to_pylist() == [512]
    assert rows(found).keys() == wanted.keys()
    assert rows(found).keys() <= set(aq.scan(tmp_path).layer_names)
    for name, values in rows(found).items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-4)


def test_layers_that_share_an_input_share_its_numbers(tmp_path: Path) -> None:
    found = rows(aq.importance(save(made("LlamaForCausalLM"), tmp_path), tokens=64))
    block = "model.layers.1."
    np.testing.assert_array_equal(
        found[f"{block}self_attn.q_proj.weight"], found[f"{block}self_attn.v_proj.weight"]
    )
    np.testing.assert_array_equal(
        found[f"{block}mlp.gate_proj.weight"], found[f"{block}mlp.up_proj.weight"]
    )
    assert found[f"{block}mlp.down_proj.weight"].shape == (96,)


def test_it_goes_on_at_a_block(tmp_path: Path) -> None:
    folder, state = save(made("LlamaForCausalLM"), tmp_path / "m"), tmp_path / "state"
    whole = aq.importance(folder, tokens=128)

    def stop(_: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aq.importance(folder, tokens=128, state=state, progress=stop)
    seen: list[tuple[str, float]] = []
    resumed = aq.importance(
        folder, tokens=128, state=state, progress=lambda *heard: seen.append(heard)
    )
    assert seen == [("layers.2", 1.0)]
    assert resumed.equals(whole)
    assert not state.exists()
    # Of another text it begins anew.
    with pytest.raises(KeyboardInterrupt):
        aq.importance(folder, tokens=128, state=state, progress=stop)
    assert aq.importance(folder, tokens=64, state=state).equals(aq.importance(folder, tokens=64))
    state.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no state of this job"):
        aq.importance(folder, tokens=64, state=state)


def test_what_it_is_not_known_for(tmp_path: Path) -> None:
    folder = save(made("LlamaForCausalLM"), tmp_path / "m")
    with pytest.raises(NotADirectoryError, match="takes a Hugging Face directory"):
        aq.importance(folder / "model.safetensors")
    with pytest.raises(ValueError, match="tokens must be at least 0"):
        aq.importance(folder, tokens=-1)
    with pytest.raises(ValueError, match="has no tokenizer for the text"):
        aq.importance(folder, "Hello")
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ValueError, match=r"can.t make the model: .*\. Quantize the model without"):
        aq.importance(folder)
    folder = save(made("LlamaForCausalLM"), tmp_path / "x")
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.other.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="the architecture stores it otherwise"):
        aq.importance(folder)
    transposed = transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300)
    folder = save(transformers.GPT2LMHeadModel(transposed), tmp_path / "t")
    with pytest.raises(ValueError, match="have no linear layers"):
        aq.importance(folder, tokens=32)


EXPERTS: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "Qwen3MoeForCausalLM": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
        "decoder_sparse_step": 1,
    },
}


@pytest.mark.parametrize("kind", EXPERTS)
def test_experts_have_what_their_tokens_bring(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, kind).config_class(
        **SIZES, num_key_value_heads=2, **EXPERTS[kind]
    )
    model = getattr(transformers, kind)(config).eval()
    folder = save(model, tmp_path)
    found = aq.importance(folder, tokens=256)
    scanned = set(aq.scan(folder).layer_names)
    assert set(rows(found)) <= scanned
    matrices = {name for name in scanned if ".experts." in name}
    assert matrices <= set(rows(found))

    # The same from what goes into the first block's experts.
    heard: list[Any] = []
    block = model.model.layers[0].mlp
    block.experts.register_forward_pre_hook(lambda _, inputs: heard.extend(inputs))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model(input_ids=torch.randint(300, (256,), generator=generator)[None])
    hidden, chosen, _ = heard
    up, down = ("w1", "w2") if kind == "MixtralForCausalLM" else ("gate_proj", "down_proj")
    by_name = {row["layer_name"]: row for row in found.to_pylist()}
    seen = [int((chosen == expert).any(-1).sum()) for expert in range(8)]
    for expert in range(8):
        own = hidden[(chosen == expert).any(-1)]
        gate, lift = (own @ block.experts.gate_up_proj[expert].T).chunk(2, -1)
        inner = torch.nn.functional.silu(gate) * lift
        for name, values in ((up, own), (down, inner)):
            row = next(
                row
                for name_, row in by_name.items()
                if "layers.0." in name_ and f"experts.{expert}.{name}." in name_
            )
            assert row["tokens"] == seen[expert]
            if seen[expert] >= 32:
                assert row["source"] == "random tokens"
                wanted = values.double().square().mean(0).detach().numpy()
                np.testing.assert_allclose(row["importance"], wanted, rtol=1e-4)
            else:
                assert row["source"] == "random tokens, the mean of its stack"
    assert any(number >= 32 for number in seen)


def test_an_expert_that_saw_little_has_its_stack_s_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    more = EXPERTS["MixtralForCausalLM"]
    config = transformers.MixtralConfig(**SIZES, num_key_value_heads=2, **more)
    folder = save(transformers.MixtralForCausalLM(config), tmp_path)
    experts = [
        row
        for row in aq.importance(folder, tokens=24).to_pylist()
        if ".experts." in row["layer_name"]
    ]
    assert len(experts) == 3 * 8 * 3
    assert {row["source"] for row in experts} == {"random tokens, the mean of its stack"}
    assert {row["tokens"] for row in experts} > {0}
    first = [
        row["importance"]
        for row in experts
        if "layers.0." in row["layer_name"] and "w1" in row["layer_name"]
    ]
    assert all(values == first[0] for values in first)
    assert (
        sum(
            row["tokens"]
            for row in experts
            if "layers.0." in row["layer_name"] and "w1" in row["layer_name"]
        )
        == 48
    )


def test_auto_makes_the_table_first(tmp_path: Path) -> None:
    folder = save(made("LlamaForCausalLM"), tmp_path / "m", torch.bfloat16)
    out = tmp_path / "d"
    said = ("quantize", folder, "-o", out, "--scheme", "nf4", "--importance", "auto")
    done = run(*said)
    assert "importance: found for 21 layers, of 1024 tokens of random tokens." in done.stderr
    wanted = aq.quantize_checkpoint(
        folder, tmp_path / "w", scheme="nf4", importance=aq.importance(folder)
    )
    searches = {row["search"] for row in wanted.outline().to_pylist() if row["scheme"] == "nf4"}
    assert searches == {"weighted"}
    assert payload(aq.scan(out)) == payload(wanted)
    assert payload(
        aq.quantize_checkpoint(folder, tmp_path / "p", scheme="nf4", importance="auto")
    ) == payload(wanted)
    # What is there already is not found again.
    assert "importance" not in run(*said).stderr
    run("quantize", folder, "-o", tmp_path / "f.parquet", *said[4:])
    assert payload(pq.read_table(tmp_path / "f.parquet")) == payload(wanted)
    run("quantize", folder, "-o", tmp_path / "x", "--for", "mlx", "--importance", "auto")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    done = run("quantize", folder, "-o", tmp_path / "n", "--scheme", "nf4", "--importance", "none")
    assert "importance" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "m",
        "d",
        "w",
        "p",
        "f.parquet",
        "f.failed.parquet",
        "x",
        "n",
    }


def test_auto_goes_on_where_no_table_can_be_made(tmp_path: Path) -> None:
    folder = save(made("LlamaForCausalLM"), tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    said = ("quantize", folder, "-o", tmp_path / "d", "--scheme", "nf4", "--importance", "auto")
    done = run(*said)
    assert "warning: no importance was found, so layers are weighed by what their" in done.stderr
    wanted = aq.quantize_checkpoint(folder, tmp_path / "w", scheme="nf4", search="weighted")
    assert payload(aq.scan(tmp_path / "d")) == payload(wanted)
    # So do models that have no layers to find it for, or do not run on text.
    others = {
        "g": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=300)
        ),
        "v": transformers.ViTModel(
            transformers.ViTConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
            )
        ),
    }
    for name, other in others.items():
        folder = save(other, tmp_path / name)
        with pytest.warns(aq.QuantizationWarning, match="no importance was found"):
            aq.quantize_checkpoint(folder, tmp_path / f"{name}.d", importance="auto")
        assert not list(tmp_path.glob(".*"))


def test_a_job_that_fails_early_does_not_find_importance_first(tmp_path: Path) -> None:
    folder = save(made("LlamaForCausalLM"), tmp_path / "m")
    (tmp_path / "f.parquet").write_bytes(b"there")
    for said in (
        ("-o", tmp_path / "f.parquet"),
        ("-o", tmp_path / "none", "--retry-failed"),
        ("-o", tmp_path / "x", "--for", "vllm", "--bits", "8"),
    ):
        done = run("quantize", folder, *said, "--importance", "auto", status=2)
        assert "found for" not in done.stderr


def test_on_the_command_line(tmp_path: Path) -> None:
    folder = save(made("LlamaForCausalLM"), tmp_path / "m", torch.bfloat16)
    out = tmp_path / "i.parquet"
    done = run("importance", folder, "-o", out, "--tokens", 256)
    assert f"{out}: 21 layers, of 256 tokens of random tokens" in done.stdout
    assert f"Next: arrowquant quantize {folder} -o OUT --importance {out}" in done.stdout
    assert rows(pq.read_table(out)).keys() == rows(aq.importance(folder, tokens=256)).keys()
    run("importance", folder, "-o", out, status=2)
    said = ("--scheme", "mlx4", "--search", "weighted", "--importance", out)
    run("quantize", folder, "-o", tmp_path / "d", *said)
    found = aq.scan(tmp_path / "d").outline().to_pylist()
    assert {row["search"] for row in found if row["scheme"] == "mlx4"} == {"weighted"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "i.parquet", "m"]
