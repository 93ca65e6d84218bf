import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, GenerationConfig

import bitplan
from bitplan.apply import held_bytes
from bitplan.errors import BitplanError, ModelError, OutputError, PlanError
from bitplan.export import is_packed, load, load_plan, save
from bitplan.schema import FAMILIES

MODELS = ("llama", "llama-tied", "gpt2", "mixtral", "gpt-oss", "llama4", "gemma", "bert", "t5")


def names_in(folder: Path) -> list[str]:
    names = []
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            names += list(content.keys())
    return sorted(names)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            content.pop(key)
        else:
            content[key] = value
    path.write_text(json.dumps(content, indent=2) + "\n")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_is_what_was_saved(tmp_path, packed, said, name, dtype):
    case = packed(name, dtype)
    assert save(case.model, tmp_path / "model", case.plan) == tmp_path / "model"
    loaded = load(str(tmp_path / "model"))
    assert type(loaded) is type(case.model)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(said(loaded), case.said)
    assert held_bytes(loaded) == held_bytes(case.model) == case.plan.bytes
    ours, theirs = case.model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert theirs[key].dtype == tensor.dtype
        assert torch.equal(theirs[key], tensor)


def test_the_folder(tmp_path, packed):
    case = packed("llama")
    save(case.model, tmp_path, case.plan)
    assert is_packed(tmp_path)
    assert load_plan(tmp_path) == case.plan
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["architectures"] == ["LlamaForCausalLM"]
    assert content["quantization_config"]["quant_method"] == "bitplan"
    # No more in the file than the plan's bytes and the file's own header.
    header = (tmp_path / "model.safetensors").stat().st_size - case.plan.bytes
    assert 0 < header < 10_000


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path, packed):
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        case = packed("gpt2")
        save(case.model, folder, case.plan)
        files.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert files[0] == files[1]


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_all_families_are_saved_side_by_side(tmp_path, packed, said, name, turn):
    stems = [
        *FAMILIES,
        "ternaryg16",
        "ternary2g16d",
        "fp8g16",
        "nf4g16",
        "bfp4g16",
        "fp6g32",
        "int4g16d",
        "nf4g16d",
        "int4g16+2:4",
        "nf3g16+50%",
    ]
    case = packed(name, torch.bfloat16, tuple(stems[turn::4]))
    save(case.model, tmp_path, case.plan)
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    loaded = load(tmp_path)
    assert size == held_bytes(loaded) == held_bytes(case.model) == case.plan.bytes
    assert torch.equal(said(loaded), case.said)


@pytest.mark.parametrize("menu", [("int4",), ("nvfp4",), ("bf16",), ("fp32",)], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "t5"])
def test_tied_weights_are_stored_once(tmp_path, packed, said, name, menu):
    case = packed(name, menu=menu)
    save(case.model, tmp_path, case.plan)
    assert not [name for name in names_in(tmp_path) if name.startswith("lm_head.")]
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    assert size == case.plan.bytes
    loaded = load(tmp_path)
    table, head = loaded.get_input_embeddings(), loaded.get_output_embeddings()
    assert all(
        one.data_ptr() == other.data_ptr()
        for one, other in zip(table.parameters(), head.parameters(), strict=True)
    )
    assert torch.equal(said(loaded), case.said)


@pytest.mark.parametrize("name", ["llama-tied", "mixtral"])
def test_a_model_in_many_files(tmp_path, packed, said, name):
    case = packed(name, torch.bfloat16)
    save(case.model, tmp_path, case.plan, max_shard_size=4000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = load(tmp_path)
    assert held_bytes(loaded) == case.plan.bytes
    assert torch.equal(said(loaded), case.said)


def test_a_folder_can_be_written_again(tmp_path, packed, said):
    first, second = packed("llama", menu=("int3",)), packed("gpt2", menu=("int4",))
    save(first.model, tmp_path, first.plan, max_shard_size=4000)
    save(second.model, tmp_path, second.plan)
    assert names_in(tmp_path)
    assert torch.equal(said(load(tmp_path)), second.said)
    # A loaded model can go back where its memory is mapped from.
    loaded = load(tmp_path)
    save(loaded, tmp_path, second.plan)
    assert torch.equal(said(loaded), second.said)
    assert torch.equal(said(load(tmp_path)), second.said)


def test_a_failed_second_save_leaves_no_half_model(tmp_path, packed):
    case = packed("llama")
    save(case.model, tmp_path, case.plan)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()  # nothing can be written there
    with pytest.raises(OutputError, match="Cannot write to"):
        save(case.model, tmp_path, case.plan)
    assert not is_packed(tmp_path)


def test_generation_after_loading(tmp_path, packed):
    case = packed("llama")
    case.model.generation_config = GenerationConfig(
        max_new_tokens=7, eos_token_id=2, pad_token_id=0, bos_token_id=1
    )
    save(case.model, tmp_path, case.plan)
    loaded = load(tmp_path)
    assert loaded.generation_config.max_new_tokens == 7
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded.generate(tokens), case.model.generate(tokens))


def test_generation_settings_that_contradict_each_other_are_kept(tmp_path, packed):
    case = packed("llama")
    case.model.generation_config.temperature = 0.3  # without do_sample: transformers refuses it
    save(case.model, tmp_path, case.plan)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["temperature"] == 0.3


class Filled(TorchDispatchMode):
    """Notes how many numbers the largest floating-point tensor has that anything was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if (
            isinstance(output, Tensor)
            and output.is_floating_point()
            and not output.is_meta
            and func is not torch.ops.aten.empty.memory_format
        ):
            self.largest = max(self.largest, output.numel())
        return output


def test_loading_and_running_makes_no_dense_weight(tmp_path, packed, monkeypatch):
    case = packed("llama", menu=("int4", "int3"))
    save(case.model, tmp_path, case.plan)
    smallest = min(choice.layer.parameters for choice in case.plan.choices)
    with Filled() as filled:
        loaded = load(tmp_path)
    assert 0 < filled.largest < smallest
    with Filled() as filled:
        loaded(torch.tensor([[5, 6]]))
    assert 0 < filled.largest < smallest
    monkeypatch.setenv("BITPLAN_KERNEL", "reference")
    loaded = load(tmp_path)
    with Filled() as filled:
        loaded(torch.tensor([[5, 6]]))  # which does decode
    assert filled.largest >= smallest


class TestRefusals:
    @pytest.fixture
    def folder(self, tmp_path: Path, packed) -> Path:
        case = packed("llama", menu=("int4", "int3", "fp32"))
        return save(case.model, tmp_path / "model", case.plan)

    def refused(self, folder: Path, message: str, kind: type[BitplanError] = ModelError) -> None:
        with pytest.raises(kind, match=message):
            load(folder)

    def test_no_folder(self, tmp_path):
        self.refused(tmp_path / "none", "is not a model that bitplan saved: it has no config")

    def test_an_empty_folder(self, tmp_path):
        self.refused(tmp_path, "Make one with bitplan apply")

    def test_a_model_that_is_not_packed(self, tiny_folder):
        assert not is_packed(tiny_folder("llama"))
        self.refused(tiny_folder("llama"), "is not a model that bitplan saved")
        with pytest.raises(ModelError, match="is not a model that bitplan saved"):
            load_plan(tiny_folder("llama"))

    def test_a_model_of_another_tool(self, folder):
        edit_config(folder, quantization_config={"quant_method": "gptq"})
        self.refused(folder, "is not a model that bitplan saved")

    def test_a_truncated_config(self, folder):
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text[:-200])
        self.refused(folder, r"config\.json is damaged")

    @pytest.mark.parametrize("key", ["plan", "aliases"])
    def test_a_config_without(self, folder, key):
        content = json.loads((folder / "config.json").read_text())["quantization_config"]
        del content[key]
        edit_config(folder, quantization_config=content)
        self.refused(folder, rf"config\.json is damaged \('{key}'\)")

    def test_a_plan_that_was_edited(self, folder):
        content = json.loads((folder / "config.json").read_text())["quantization_config"]
        content["plan"]["choices"][0]["scheme"] = "int2"
        edit_config(folder, quantization_config=content)
        self.refused(folder, "was changed after bitplan wrote it", PlanError)

    @pytest.mark.parametrize("kept", [0, 5, 100, -1000, -1])
    def test_a_truncated_file(self, folder, kept):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        self.refused(folder, r"model\.safetensors is truncated or damaged.*Copy it again")

    def test_no_file(self, folder):
        (folder / "model.safetensors").unlink()
        self.refused(folder, "Copy the folder again")

    def test_a_missing_shard(self, tmp_path, packed):
        case = packed("llama", menu=("int4",))
        save(case.model, tmp_path, case.plan, max_shard_size=4000)
        for shard in sorted(tmp_path.glob("*.safetensors")):
            moved = shard.rename(tmp_path / "elsewhere")
            self.refused(tmp_path, r"has no tensor|its plan says")
            moved.rename(shard)
        assert load(tmp_path)

    def test_missing_tensors(self, folder):
        file = folder / "model.safetensors"
        whole = load_file(file)
        for name in whole:
            if name.endswith("inv_freq"):
                continue  # computed where it is missing
            save_file({k: t for k, t in whole.items() if k != name}, file)
            holder = name.rpartition(".weight.")[0] or name
            self.refused(folder, f"{holder} has|has no tensor {name}")

    def test_a_plan_that_the_tensors_do_not_fit(self, folder, packed):
        other = packed("llama", menu=("int8", "int3", "fp32"))
        content = json.loads((folder / "config.json").read_text())["quantization_config"]
        content["plan"] = json.loads(other.plan.to_json())
        edit_config(folder, quantization_config=content)
        self.refused(folder, r"embed_tokens has [\d,]+ bytes, but its plan says [\d,]+")

    def test_a_plan_of_another_model(self, folder, packed):
        other = packed("gpt2")
        content = json.loads((folder / "config.json").read_text())["quantization_config"]
        content["plan"] = json.loads(other.plan.to_json())
        edit_config(folder, quantization_config=content)
        self.refused(folder, r"wte has 0 bytes, but its plan says [\d,]+\. Copy the folder")

    @pytest.mark.parametrize(
        "changes",
        [
            {"hidden_size": 40},
            {"model_type": "no-such-model"},
            {"model_type": None},
            {"num_attention_heads": "four"},
            {"vocab_size": -5},
        ],
        ids=str,
    )
    def test_a_config_that_was_edited(self, folder, changes):
        edit_config(folder, **changes)
        self.refused(folder, r"transformers can make|another model|other tensors than")

    def test_tensors_of_another_shape(self, folder):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"] = torch.ones(31)
        save_file(tensors, file)
        self.refused(folder, r"holds other tensors than its config\.json says")

    def test_a_file_that_is_not_the_models_is_not_read(self, folder, said):
        before = said(load(folder))
        noise = {name: torch.zeros(3) for name in names_in(folder)}
        save_file(noise, folder / "zz-adapter.safetensors")
        assert torch.equal(said(load(folder)), before)

    def test_a_place_that_cannot_be_written(self, tmp_path, packed):
        case = packed("llama", menu=("int3",))
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "model"):
            with pytest.raises(
                OutputError, match=r"Cannot make the folder .*is a file. Name another"
            ):
                save(case.model, folder, case.plan)

    def test_a_folder_of_another_model_is_not_overwritten(self, tmp_path, packed, tiny_folder):
        case = packed("llama", menu=("int3",))
        original = tmp_path / "original"
        shutil.copytree(tiny_folder("llama"), original)
        before = {file.name: file.read_bytes() for file in original.iterdir()}
        with pytest.raises(OutputError, match=r"holds another model.*Choose an empty folder"):
            save(case.model, original, case.plan)
        assert {file.name: file.read_bytes() for file in original.iterdir()} == before

    def test_a_module_without_a_config(self, tmp_path, packed):
        with pytest.raises(ModelError, match=r"Linear has no transformers config.*state_dict"):
            save(nn.Linear(2, 2), tmp_path, packed("llama").plan)


def test_others_can_read_the_config(tmp_path, packed):
    case = packed("llama")
    bitplan.save(case.model, tmp_path, case.plan)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.hidden_size == case.model.config.hidden_size
    assert bitplan.load(tmp_path).config.hidden_size == config.hidden_size
