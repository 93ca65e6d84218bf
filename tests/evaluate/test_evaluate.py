"""The report on a model and its reference, and text that is not enough for one."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bitplan.apply import held_bytes, pack_layers
from bitplan.compress import render
from bitplan.errors import CalibrationError, ModelError
from bitplan.evaluate import evaluate
from bitplan.evaluate.throughput import peak_memory, tokens_per_second
from bitplan.export import save
from bitplan.models import weight_of
from plans import plan_for


def tokens_for(sequences: int = 5, length: int = 24) -> torch.Tensor:
    return torch.randint(3, 96, (sequences, length), generator=torch.Generator().manual_seed(1))


def test_a_report_has_both_sides(tiny_model):
    reference, model = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    report = evaluate(model, reference=reference, text=tokens_for())
    assert report.tokens == 5 * 24
    assert report.model.name == report.reference.name == "LlamaForCausalLM"
    assert report.model.kl > 3 * report.model.kl_standard_error > 0
    assert report.model.perplexity != report.reference.perplexity
    assert report.reference.kl is None
    for side in (report.model, report.reference):
        assert side.bytes == held_bytes(model)
        assert side.tokens_per_second > 0
        assert side.peak_bytes > 1e7


def test_a_model_alone_has_no_kl(tiny_model):
    report = evaluate(tiny_model("gpt2"), text=tokens_for())
    assert report.reference is None
    assert report.model.kl is None
    assert report.model.perplexity > 50  # of 96 words, drawn by no rule


def test_a_model_beside_itself_is_at_no_distance(tiny_folder):
    folder = tiny_folder("mixtral")
    report = evaluate(folder, reference=folder, text=tokens_for(), dtype="float32")
    assert report.model.kl == report.model.kl_standard_error == 0
    assert report.model.perplexity == report.reference.perplexity
    assert report.model.name == "tiny-mixtral"


def packed_folder(model: nn.Module, folder: Path) -> Path:
    plan = plan_for(model, ("int8g16",))
    pack_layers(
        model,
        {choice.layer: choice.scheme for choice in plan.choices},
        lambda layer, s: render(weight_of(model, layer), [s], quantizer="rtn")[s],
    )
    return save(model, folder, plan)


def test_a_reference_that_a_folder_was_not_made_from_is_warned_of(tiny_model, tmp_path, caplog):
    folder = packed_folder(tiny_model("llama"), tmp_path / "small")
    evaluate(folder, reference=tiny_model("llama"), text=tokens_for())
    evaluate(folder, reference=folder, text=tokens_for())
    assert not caplog.records
    other = tiny_model("llama")
    with torch.no_grad():
        other.lm_head.weight.mul_(1.5)
    evaluate(folder, reference=other, text=tokens_for())
    [said] = caplog.records
    assert "small was made from other weights than those of LlamaForCausalLM" in said.getMessage()


def test_text_is_read_from_its_beginning(tiny_model, tiny_tokenizer, tiny_documents, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(tiny_documents))
    settings = {"tokenizer": tiny_tokenizer, "sequences": 4, "length": 32}
    report = evaluate(tiny_model("llama"), text=path, **settings)
    again = evaluate(tiny_model("llama"), text=tiny_documents, **settings)
    assert report.tokens == again.tokens == 128
    assert report.model.perplexity == again.model.perplexity
    few = evaluate(tiny_model("llama"), text=tiny_documents[:1], **settings | {"length": 14})
    assert few.tokens == 28


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": ["w1 w2"], "length": 32}, "fewer than 32 tokens"),
        ({"text": []}, "no text"),
        ({"text": "missing.txt"}, "Cannot read"),
        ({"text": tokens_for(2, 65)}, "65 tokens long, but the model reads at most 64"),
        ({"text": ["w1 " * 500], "length": 100}, "100 tokens long"),
        ({"text": tokens_for() + 90}, "vocabulary has 96"),
        ({"text": tokens_for()[0]}, "integers of shape"),
        ({"text": tokens_for().float()}, "integers of shape"),
        ({"text": tokens_for()[:, :1]}, "at least 2 tokens"),
    ],
)
def test_text_that_cannot_be_read_is_refused(settings, message, tiny_model, tiny_tokenizer):
    with pytest.raises(CalibrationError, match=message):
        evaluate(tiny_model("gpt2"), tokenizer=tiny_tokenizer, **settings)


def test_chats_are_read_as_the_model_was_trained_to(tiny_model, tiny_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = "{% for m in messages %}w9 {{ m.content }} {% endfor %}"
    texts = [f"w{index} w{index + 1} w{index + 2}" for index in range(60)]
    chats = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)))
    sizes = {"tokenizer": tokenizer, "sequences": 4, "length": 16}
    chatted = evaluate(tiny_model("gpt2"), text=path, **sizes)
    plain = evaluate(tiny_model("gpt2"), text=[f"w9 {text}" for text in texts], **sizes)
    assert chatted.model.perplexity == plain.model.perplexity


def test_text_for_a_model_without_a_tokenizer_is_refused(tiny_model, tiny_folder):
    for model in (tiny_model("llama"), tiny_folder("llama")):
        with pytest.raises(ModelError, match="tokenizer"):
            evaluate(model, text=["w1 " * 500], length=32)


def test_an_encoder_has_a_distance_to_its_reference_and_no_perplexity(tiny_model):
    model = tiny_model("bert")
    report = evaluate(model, reference=tiny_model("bert"), text=tokens_for())
    assert report.model.kl == 0
    assert report.model.perplexity is None
    assert report.model.tokens_per_second is None


def test_a_model_that_is_not_finite_is_refused(tiny_model):
    broken = tiny_model("llama")
    broken.lm_head.weight.data[5] = torch.inf
    for settings in ({}, {"reference": tiny_model("llama")}):
        with pytest.raises(ModelError, match="LlamaForCausalLM gives outputs that are not finite"):
            evaluate(broken, text=tokens_for(), **settings)


def test_speed_is_of_models_that_generate(tiny_model):
    assert tokens_per_second(tiny_model("gpt2"), new_tokens=3, prompt=4) > 0
    assert tokens_per_second(tiny_model("bert")) is None


def test_peak_memory_is_of_this_process():
    before = peak_memory()
    block = torch.ones(64, 1024, 1024, dtype=torch.uint8)
    assert peak_memory() >= max(before, block.nbytes)
