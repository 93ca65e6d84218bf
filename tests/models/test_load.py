import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from bitplan.errors import ModelError
from bitplan.models import (
    demo_documents,
    fetch,
    find_layers,
    load_model,
    load_tokenizer,
    model_digest,
    source_name,
)
from nobody import as_nobody, open_folder


@pytest.fixture
def saved(tiny, tmp_path) -> Callable[[str], Path]:
    def save(name: str) -> Path:
        folder = tmp_path / name
        tiny(name).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def write_gguf(path: Path, architecture: str = "llama") -> dict[str, np.ndarray]:
    """A one-block llama in float32 with its head tied; returns the tensors by their GGUF names."""
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (64, 32),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (32, 32),
        "blk.0.attn_v.weight": (32, 32),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_gate.weight": (48, 32),
        "blk.0.ffn_up.weight": (48, 32),
        "blk.0.ffn_down.weight": (32, 48),
    }
    tensors = {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def assert_ready(model: nn.Module) -> None:
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", "LlamaForCausalLM"),
        ("llama-tied", "LlamaForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("mixtral", "MixtralForCausalLM"),
        ("bert", "BertModel"),
        ("bert-masked", "BertForMaskedLM"),
        ("t5", "T5ForConditionalGeneration"),
    ],
)
def test_a_folder(tiny, saved, name, expected):
    model = load_model(saved(name))
    assert type(model).__name__ == expected
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_ready(model)
    original = tiny(name)
    layers = find_layers(original)
    assert find_layers(model) == layers
    assert model_digest(model, layers) == model_digest(original, layers)
    assert source_name(model) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", "LlamaForCausalLM"),
        ("bert", "BertModel"),
        ("t5", "T5ForConditionalGeneration"),
    ],
)
def test_a_folder_that_does_not_say_its_class(saved, name, expected):
    folder = saved(name)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_model(folder)).__name__ == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", torch.float32])
def test_a_dtype(saved, dtype):
    model = load_model(saved("llama"), dtype=dtype)
    assert {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()} == {
        str(dtype).removeprefix("torch.")
    }


def test_an_unknown_dtype_is_refused(saved):
    with pytest.raises(ModelError, match=r"'int4' is not a dtype.*bfloat16"):
        load_model(saved("llama"), dtype="int4")


def test_a_module_comes_back_itself():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    assert load_model(model) is model
    assert not model.training
    assert model[0].weight.requires_grad
    assert source_name(model) == "Sequential"


def test_loading_writes_nothing(saved, capsys, caplog):
    folder = saved("llama")
    capsys.readouterr()
    load_model(folder)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_transformers_settings_are_as_before(saved):
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    load_model(saved("llama"))
    with pytest.raises(ModelError):
        load_model("/no/such/folder")
    after = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    assert before == after


def test_a_gguf_file(tmp_path, capsys, caplog):
    path = tmp_path / "tiny.gguf"
    tensors = write_gguf(path)
    with caplog.at_level("INFO", "bitplan"):
        model = load_model(path, dtype="float32")
    assert "dequantized to torch.float32" in caplog.text
    assert capsys.readouterr().err == ""
    assert_ready(model)
    assert source_name(path) == source_name(model) == "tiny"
    down = model.model.layers[0].mlp.down_proj.weight
    np.testing.assert_array_equal(down, tensors["blk.0.ffn_down.weight"])
    assert find_layers(model)[0].tied == ("lm_head",)


def test_a_model_from_a_gguf_file_can_be_saved_and_loaded(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    model = load_model(tmp_path / "tiny.gguf")
    assert not getattr(model, "is_quantized", False)
    model.save_pretrained(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(tmp_path) not in json.dumps(config)
    layers = find_layers(model)
    assert model_digest(load_model(tmp_path / "out"), layers) == model_digest(model, layers)


def test_a_gguf_file_by_another_name(tmp_path):
    write_gguf(tmp_path / "blob")
    assert find_layers(load_model(tmp_path / "blob"))


def test_a_gguf_of_an_unknown_architecture(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", architecture="nonesuch")
    with pytest.raises(ModelError, match="architecture nonesuch is not supported"):
        load_model(tmp_path / "tiny.gguf")


@pytest.mark.parametrize("kept", [0, 10, 300, -100])
def test_a_truncated_gguf(tmp_path, kept):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        load_model(path)


def test_a_gguf_that_is_none(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"hello" * 100)
    with pytest.raises(ModelError, match="not a GGUF file"):
        load_model(path)


@pytest.mark.parametrize(
    "source",
    ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c", "model.gguf", "", Path("a/b")],
    ids=str,
)
def test_no_such_path(source):
    with pytest.raises(ModelError, match="no folder or file"):
        load_model(source)


def test_a_slip_in_a_path_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "models" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no folder or file 'models/lama'\. Check the path"):
        load_model("models/lama")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_id_offline(offline, load):
    with pytest.raises(ModelError, match=r"not in the hub's cache, and the hub cannot be reached"):
        load("no-one/no-model")
    assert source_name("no-one/no-model") == "no-one/no-model"


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is a file, but no GGUF file"):
        load_model(tmp_path / "notes.txt")


def test_a_folder_with_pickles_only(saved):
    folder = saved("llama")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"pickled weights only \(pytorch_model\.bin\).*convert"):
        load_model(folder)


def test_a_folder_without_weights(saved):
    folder = saved("llama")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors file"):
        load_model(folder)


def test_a_folder_without_a_config(saved):
    folder = saved("llama")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json.*save_pretrained"):
        load_model(folder)


def test_a_folder_with_a_gguf_only(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match=r"Name the GGUF file itself: .*tiny\.gguf"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_safetensors(saved, kept):
    file = saved("llama") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model\.safetensors is truncated or damaged"):
        load_model(file.parent)


@pytest.mark.parametrize("shut", ["model.safetensors", "config.json", "."])
def test_files_that_may_not_be_read(tiny, shut):
    with open_folder() as folder:
        tiny("llama").save_pretrained(folder)
        (folder / shut).chmod(0)
        with as_nobody(), pytest.raises(ModelError, match="may not be read by the user"):
            load_model(folder)


def test_safetensors_with_a_damaged_header(saved):
    file = saved("llama") / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[:8] = struct.pack("<Q", 1 << 60)
    file.write_bytes(raw)
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_model(file.parent)


def test_a_missing_shard(tiny, tmp_path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    assert find_layers(load_model(tmp_path))
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"lacks 1 of the {len(shards)} files.*{shards[1].name}"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        load_model(tmp_path)


def test_a_checkpoint_that_lacks_tensors(saved):
    folder = saved("bert")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks \d+ of its model's tensors, the first cls"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 24}, "cannot be loaded"),
        ({"quantization_config": {"quant_method": "awq"}}, r"already quantized \(awq\)"),
    ],
    ids=["type", "wrong type", "other size", "quantized"],
)
def test_a_config_that_does_not_fit(saved, change, match):
    folder = saved("llama")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=match):
        load_model(folder)


def test_a_config_that_is_no_json(saved):
    folder = saved("llama")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json.* is not a valid JSON"):
        load_model(folder)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_folder_without_a_tokenizer(name, saved):
    with pytest.raises(ModelError, match="has no tokenizer files"):
        load_tokenizer(saved(name))


def test_a_folder_with_a_damaged_tokenizer(saved):
    folder = saved("llama")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load_tokenizer(folder)


def test_a_module_has_no_tokenizer():
    with pytest.raises(ModelError, match="a tokenizer, or tokens"):
        load_tokenizer(nn.Sequential())


@pytest.mark.demo
def test_the_demo_model_and_text():
    files = fetch()
    documents = demo_documents(files)
    assert len(documents) == 10_033
    model, tokenizer = load_model(files.gguf), load_tokenizer(files.gguf)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    layers = find_layers(model)
    assert len(layers) == 211
    assert model_digest(model, layers).startswith("89e407f9b9b82cc32c7e1c33bad6c248")
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**tokens, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
