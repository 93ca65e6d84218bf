"""Models with weights of several parts, as folders: by `load` and by transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitplan.apply import held_bytes
from bitplan.errors import ModelError
from bitplan.export import load, save

MENU = ("int3g16+2%int8", "int4g16+r2", "nf4g16+2%bf16+r3", "int4g16+2:4+2%int8", "int2g16s")
MENU += ("int4g16+25%ch", "int3g16+2:4+25%ch+2%int8+r2")
MODELS = ("llama", "llama-tied", "gpt2", "mixtral", "gpt-oss", "llama4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_is_what_was_saved(tmp_path, packed, said, name, dtype):
    case = packed(name, dtype, MENU)
    assert any(choice.scheme.is_composed for choice in case.plan.choices)
    save(case.model, tmp_path / "one", case.plan)
    size = sum(one.nbytes for one in load_file(tmp_path / "one" / "model.safetensors").values())
    assert size == held_bytes(case.model) == case.plan.bytes
    model_class = type(case.model)
    loaded, told = model_class.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not any(told.values())
    loaded.save_pretrained(tmp_path / "two")
    for again in (loaded, load(tmp_path / "one"), load(tmp_path / "two")):
        assert torch.equal(said(again), case.said)
        assert held_bytes(again) == case.plan.bytes
        assert not any(parameter.requires_grad for parameter in again.parameters())


def test_another_dtype_is_computed_in_and_what_is_packed_keeps_its_own(tmp_path, packed, said):
    case = packed("llama", torch.bfloat16, MENU)
    save(case.model, tmp_path, case.plan)
    loaded = type(case.model).from_pretrained(tmp_path, dtype=torch.float32)
    assert said(loaded).dtype == torch.float32
    error = said(loaded) - case.said.float()
    assert error.square().mean() < 0.02**2 * case.said.float().square().mean()
    state = loaded.state_dict()
    for name, tensor in case.model.state_dict().items():
        if any(f".{part}." in name for part in ("base", "salient", "up", "down")):
            assert state[name].dtype == tensor.dtype
            assert torch.equal(state[name], tensor)


def test_a_folder_that_lacks_a_part_is_refused(tmp_path, packed):
    case = packed("llama", menu=("int4g16+2%int8",))
    save(case.model, tmp_path, case.plan)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.0.mlp.up_proj.weight.columns"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj has .* bytes, but its plan says"):
        load(tmp_path)
