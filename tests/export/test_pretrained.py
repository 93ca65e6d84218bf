"""`from_pretrained` of transformers on folders that `save` wrote."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bitplan.apply import held_bytes
from bitplan.errors import ModelError, PlanError, SchemeError
from bitplan.export import load, save, tell_transformers
from bitplan.export.pretrained import check_places
from bitplan.modules import PackedLinear

MODELS = ("llama", "llama-tied", "gpt2", "mixtral", "gpt-oss", "llama4", "gemma", "bert", "t5")


def from_pretrained(case, folder, **settings):
    return type(case.model).from_pretrained(folder, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_is_what_was_saved(tmp_path, packed, said, caplog, name, dtype):
    case = packed(name, dtype)
    save(case.model, tmp_path, case.plan)
    loaded, told = from_pretrained(case, tmp_path, output_loading_info=True)
    assert not any(told.values())
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(said(loaded), case.said)
    assert held_bytes(loaded) == case.plan.bytes
    ours, theirs = case.model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert theirs[key].dtype == tensor.dtype
        assert torch.equal(theirs[key], tensor)


@pytest.mark.parametrize("menu", [("int4",), ("nvfp4",), ("bf16",), ("fp32",)], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "t5"])
def test_tied_weights_are_one(tmp_path, packed, said, name, menu):
    case = packed(name, menu=menu)
    save(case.model, tmp_path, case.plan)
    loaded = from_pretrained(case, tmp_path)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert held_bytes(loaded) == case.plan.bytes
    assert torch.equal(said(loaded), case.said)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "bert"])
def test_saved_again_it_is_the_same(tmp_path, packed, said, name, dtype):
    case = packed(name, dtype, ("int4g32", "int8s"))
    save(case.model, tmp_path / "one", case.plan, max_shard_size=4000)
    from_pretrained(case, tmp_path / "one").save_pretrained(tmp_path / "two")
    for again in (from_pretrained(case, tmp_path / "two"), load(tmp_path / "two")):
        assert torch.equal(said(again), case.said)
        assert held_bytes(again) == case.plan.bytes


@pytest.mark.parametrize("how", [load, "apply"], ids=["loaded", "applied"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "t5"])
def test_what_bitplan_packed_transformers_saves(tmp_path, packed, said, name, how):
    case = packed(name, torch.bfloat16)
    save(case.model, tmp_path / "one", case.plan)
    model = load(tmp_path / "one") if how is load else tell_transformers(case.model, case.plan)
    model.save_pretrained(tmp_path / "two")
    for again in (from_pretrained(case, tmp_path / "two"), load(tmp_path / "two")):
        assert torch.equal(said(again), case.said)
        assert held_bytes(again) == case.plan.bytes


@pytest.mark.parametrize("places", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_it_goes_where_a_device_map_says(tmp_path, packed, said, places):
    case = packed("llama-tied")
    save(case.model, tmp_path, case.plan)
    assert torch.equal(said(from_pretrained(case, tmp_path, device_map=places)), case.said)


def test_a_device_map_that_keeps_weights_elsewhere_is_refused(tmp_path, packed):
    case = packed("llama")
    save(case.model, tmp_path / "model", case.plan)
    parts = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", "model.layers.0")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    with pytest.raises(ModelError, match=r"keeps parts of the model on cpu, disk, but packed"):
        from_pretrained(
            case, tmp_path / "model", device_map=places, offload_folder=tmp_path / "elsewhere"
        )


def test_a_device_map_that_auto_makes_is_refused_where_it_keeps_weights_elsewhere(tmp_path, packed):
    case = packed("llama")
    save(case.model, tmp_path / "model", case.plan)
    memory = {"cpu": case.plan.bytes // 2}
    with pytest.raises(ModelError, match=r"keeps parts of the model on .*disk, but packed"):
        from_pretrained(
            case,
            tmp_path / "model",
            device_map="auto",
            max_memory=memory,
            offload_folder=tmp_path / "elsewhere",
        )


def test_another_dtype_is_computed_in_and_what_is_packed_keeps_its_own(tmp_path, packed, said):
    case = packed("llama", torch.bfloat16, ("int4g16",))
    save(case.model, tmp_path, case.plan)
    loaded = from_pretrained(case, tmp_path, dtype=torch.float32)
    assert said(loaded).dtype == torch.float32
    error = said(loaded) - case.said.float()
    assert error.square().mean() < 0.02**2 * case.said.float().square().mean()
    for name, tensor in case.model.state_dict().items():
        if name.endswith((".codes", ".scale", ".offset")):
            assert torch.equal(loaded.state_dict()[name], tensor)


def test_it_generates_in_all_the_ways_of_transformers(tmp_path, packed, tiny_tokenizer):
    case = packed("llama-tied", menu=("int8g16",))
    save(case.model, tmp_path, case.plan, tokenizer=tiny_tokenizer)
    pipe = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    assert isinstance(pipe.model.lm_head, PackedLinear)
    for settings in (
        {"do_sample": False},
        {"do_sample": True, "top_k": 5},
        {"do_sample": False, "num_beams": 2},
        {"do_sample": False, "cache_implementation": "static"},
        {"do_sample": False, "assistant_model": pipe.model},
    ):
        [told] = pipe("w1 w2 w3", max_new_tokens=4, min_new_tokens=4, **settings)
        assert told["generated_text"].startswith("w1 w2 w3")
        assert told["generated_text"].count("w") == 7


def test_its_steps_are_compiled_when_asked_for(tmp_path, packed):
    case = packed("llama-tied", menu=("int8g16", "int3g16", "nf4g16"))
    save(case.model, tmp_path, case.plan)
    model = from_pretrained(case, tmp_path)
    settings: Any = transformers.CompileConfig(backend="aot_eager", fullgraph=True)
    settings._compile_all_devices = True  # by itself transformers compiles on GPUs alone
    asked = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
    tokens = torch.tensor([[5, 6, 7]])
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = model.generate(tokens, compile_config=settings, **asked)
    assert torch.equal(compiled, model.generate(tokens, disable_compile=True, **asked))
    # Two graphs at most: a first step, and one for all that follow.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft knows dense layers alone
@pytest.mark.filterwarnings("ignore::FutureWarning")  # and old names of transformers
def test_a_gradient_comes_through_to_adapters(tmp_path, packed):
    peft = pytest.importorskip("peft")
    case = packed("llama", menu=("int4g16",))
    save(case.model, tmp_path, case.plan)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    settings._register_custom_module({PackedLinear: peft.tuners.lora.Linear})
    model = peft.get_peft_model(from_pretrained(case, tmp_path), settings)
    tokens = torch.arange(3, 12)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    slopes = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert slopes
    assert all("lora" in name and slope is not None for name, slope in slopes.items())
    assert all(slope.any() for name, slope in slopes.items() if "lora_B" in name)


@pytest.mark.parametrize("first", ["bitplan", "transformers"])
def test_to_import_bitplan_is_enough(tmp_path, packed, first):
    case = packed("llama", menu=("int4g16",))
    save(case.model, tmp_path, case.plan)
    second = "bitplan" if first == "transformers" else "transformers"
    program = (
        f"import {first}\nfrom {first} import *\nimport sys, {second}\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        "print(type(model.model.layers[0].mlp.up_proj).__name__)"
    )
    if first == "bitplan":
        program = "import bitplan, sys\nassert 'torch' not in sys.modules\n" + program
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "PackedLinear\n", done.stderr


def test_who_only_looks_for_the_registry_does_not_keep_it_from_being_told():
    program = (
        "import bitplan, importlib.util\n"
        "assert importlib.util.find_spec('transformers.quantizers.auto') is not None\n"
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING\n"
        "print('bitplan' in AUTO_QUANTIZER_MAPPING)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


class TestBadFolders:
    @pytest.fixture
    def case(self, tmp_path, packed):
        case = packed("llama", menu=("int4g16",))
        save(case.model, tmp_path, case.plan)
        return case

    def test_a_truncated_file(self, tmp_path, case):
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ModelError, match="truncated or damaged"):
            from_pretrained(case, tmp_path)

    def test_a_missing_tensor(self, tmp_path, case):
        file = tmp_path / "model.safetensors"
        tensors = load_file(file)
        del tensors["model.layers.0.mlp.up_proj.weight.scale"]
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"up_proj has .* bytes, but its plan says"):
            from_pretrained(case, tmp_path)

    def test_a_plan_that_was_edited(self, tmp_path, case):
        path = tmp_path / "config.json"
        content = json.loads(path.read_text())
        content["quantization_config"]["plan"]["bytes"] += 1
        path.write_text(json.dumps(content))
        with pytest.raises(PlanError, match="changed after bitplan wrote it"):
            from_pretrained(case, tmp_path)


@pytest.mark.parametrize("free", [1.0, 0.4])
def test_a_gpu_with_too_little_memory_is_told_of_before_anything_is_read(
    tmp_path, packed, monkeypatch, free
):
    case = packed("llama")
    save(case.model, tmp_path, case.plan)
    files = [str(file) for file in tmp_path.glob("*.safetensors")]
    size = case.plan.bytes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * size) + 1, 10 * size))
    one, two = {"": "cuda:0"}, {"model": 0, "lm_head": 1}
    if free == 1:
        check_places(one, files)
        return
    with pytest.raises(ModelError, match=r"takes 0\.\d\d GB, and cuda:0 has 0\.\d\d GB free"):
        check_places(one, files)
    with pytest.raises(ModelError, match=r"cuda:0, cuda:1 has"):
        check_places(two, files)
    with pytest.raises(ModelError, match=r'device_map="cpu", or make a plan'):
        from_pretrained(case, tmp_path, device_map="cuda:0")


def test_a_scheme_without_a_kernel_is_told_of_once_or_refused(tmp_path, packed, said, caplog):
    case = packed("llama", torch.float32, ("ternary2g16d",))
    save(case.model, tmp_path, case.plan)
    for loading in (lambda: from_pretrained(case, tmp_path), lambda: load(tmp_path)):
        loaded = loading()
        [told] = [one for one in caplog.messages if one.startswith("No kernel on cpu")]
        assert (
            "in ternary2g16d (Compiled loops read no plane whose scale is a byte less 128)" in told
        )
        assert told.endswith("more. They are decoded for each product, which is slow.")
        assert torch.equal(said(loaded), case.said)
        caplog.clear()
    with pytest.raises(SchemeError, match=r"^No kernel on cpu .* Make a plan without these"):
        load(tmp_path, strict=True)
    other = packed("llama", torch.float32, ("int4g16",))
    save(other.model, tmp_path / "other", other.plan)
    load(tmp_path / "other", strict=True)
    assert not caplog.messages
