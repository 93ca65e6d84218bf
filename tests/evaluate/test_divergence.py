"""KL and perplexity against a direct computation in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitplan.errors import ModelError, OutputError
from bitplan.evaluate import Divergence, compare, make_reference
from bitplan.evaluate.divergence import gaussian_kl
from bitplan.models.outputs import CHUNK


def tokens_for(sequences: int = 5, length: int = 24) -> Tensor:
    return torch.randint(3, 96, (sequences, length), generator=torch.Generator().manual_seed(1))


def disturbed(model: nn.Module, size: float) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(size * noise.to(parameter.dtype))
    return model


@torch.no_grad()
def directly(model: nn.Module, other: nn.Module, tokens: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """KL(model || other) and the other's negative log-likelihood, by sequence."""
    kl, nll = [], []
    for row in tokens:
        p, q = (
            one(input_ids=row[None], use_cache=False).logits[0].double() for one in (model, other)
        )
        log_p, log_q = p - p.logsumexp(-1, True), q - q.logsumexp(-1, True)
        kl.append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
        nll.append(-np.mean([log_q[i, t].item() for i, t in enumerate(row[1:])]))
    return np.array(kl), np.array(nll)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [0.001, 0.1])
def test_kl_and_perplexity_are_those_computed_directly(name, dtype, size, tiny_model):
    model, other = tiny_model(name, dtype), disturbed(tiny_model(name, dtype), size)
    tokens = tokens_for()
    reference = make_reference(model, tokens)
    found = compare(other, reference)
    kl, nll = directly(model, other, tokens)
    # bfloat16's own matmuls round in another way at another batch size.
    loose = {"rel": 1e-4, "abs": 1e-6} if dtype is torch.float32 else {"rel": 0.1, "abs": 3e-4}
    assert found.kl == pytest.approx(kl, **loose)
    assert found.nll == pytest.approx(nll, **loose)
    assert found.mean == pytest.approx(found.kl.mean())
    assert found.perplexity == pytest.approx(np.exp(found.nll.mean()))
    assert found.standard_error == pytest.approx(found.kl.std(ddof=1) / 5**0.5)
    _, own = directly(model, model, tokens)
    assert reference.nll == pytest.approx(own, **loose)
    assert reference.perplexity == pytest.approx(np.exp(reference.nll.mean()))


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral", "mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_is_at_no_distance_from_itself(name, dtype, tiny_model):
    tokens = tokens_for(sequences=50, length=60)  # several batches
    reference = make_reference(tiny_model(name, dtype), tokens)
    found = compare(tiny_model(name, dtype), reference)
    assert found.mean == found.standard_error == 0
    assert found.perplexity == reference.perplexity


def test_the_logits_are_kept_as_they_came_out(tiny_model, tmp_path):
    model, tokens = tiny_model("llama", torch.bfloat16), tokens_for()
    reference = make_reference(model, tokens, tmp_path)
    with torch.no_grad():
        assert torch.equal(reference.values(), model(input_ids=tokens).logits)
    assert reference.values().dtype is torch.bfloat16
    assert not any(tmp_path.iterdir())  # the file has no name: nothing is ever left behind


class Unigram(nn.Module):
    """Says the same of every token: with so many positions and words that they come in chunks."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", logits)

    def forward(self, input_ids: Tensor) -> object:
        logits = self.table.expand(*input_ids.shape, -1)
        return type("Output", (), {"logits": logits})


def test_long_sequences_are_compared_in_chunks_with_the_same_result():
    generator = torch.Generator().manual_seed(3)
    p, q = torch.randn(50, generator=generator), torch.randn(50, generator=generator)
    tokens = torch.zeros(2, 2 * CHUNK + 7, dtype=torch.int64)
    reference = make_reference(Unigram(p), tokens)
    found = compare(Unigram(q), reference)
    kl = (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum().item()
    assert found.kl == pytest.approx([kl, kl], rel=1e-5)
    assert found.nll == pytest.approx([-q.log_softmax(0)[0].item()] * 2, rel=1e-5)


def test_one_sequence_has_no_standard_error_and_a_hopeless_model_a_finite_perplexity():
    found = Divergence(kl=np.array([0.5]), nll=np.array([1e5]))
    assert found.standard_error == 0
    assert np.isfinite(found.perplexity)
    assert found.is_finite
    assert not Divergence(kl=np.array([0.5, np.nan]), nll=np.array([1.0, 1.0])).is_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_hidden_states_it_is_half_of_the_relative_squared_error(dtype, tiny_model):
    model, other = tiny_model("bert", dtype), disturbed(tiny_model("bert", dtype), 0.05)
    tokens = tokens_for()
    reference = make_reference(model, tokens)
    found = compare(other, reference)
    states = [one(input_ids=tokens).last_hidden_state.double() for one in (model, other)]
    error = (states[1] - states[0]).square().mean((1, 2)) / states[0].square().mean((1, 2))
    assert found.kl == pytest.approx(
        (error / 2).numpy(), rel=1e-4 if dtype is torch.float32 else 0.1
    )
    assert found.nll is reference.nll is found.perplexity is reference.perplexity is None
    assert found.is_finite
    assert compare(model, reference).mean == 0


def test_states_of_nothing_but_zeros_are_far_from_all_others():
    states = torch.zeros(4, 8)
    assert gaussian_kl(states, states) == 0
    assert gaussian_kl(states, states + 0.1) > 1e20


def test_of_an_encoder_decoder_it_is_over_the_tokens_that_it_decodes(tiny_model):
    model, other = tiny_model("t5"), disturbed(tiny_model("t5"), 0.05)
    tokens = tokens_for()
    found = compare(other, make_reference(model, tokens))
    shifted = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
    p, q = (
        one(input_ids=tokens, decoder_input_ids=shifted).logits.double().log_softmax(-1)
        for one in (model, other)
    )
    assert found.kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean(1).numpy(), rel=1e-4)
    assert found.perplexity is None


def test_a_model_that_says_something_else_than_its_reference_is_refused(tiny_model):
    reference = make_reference(tiny_model("llama"), tokens_for())
    with pytest.raises(ModelError, match=r"gives hidden states, but its reference logits of the"):
        compare(tiny_model("bert"), reference)


def test_another_vocabulary_is_refused(tiny_model):
    reference = make_reference(Unigram(torch.zeros(97)), tokens_for())
    with pytest.raises(ModelError, match="vocabulary of 96, but its reference one of 97"):
        compare(tiny_model("llama"), reference)


def test_a_reference_that_is_not_finite_is_refused(tiny_model):
    model = tiny_model("llama")
    model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(ModelError, match="outputs that are not finite"):
        make_reference(model, tokens_for())


def test_a_place_that_cannot_be_written_is_refused(tiny_model, tmp_path):
    with pytest.raises(OutputError, match="Cannot keep the reference's outputs"):
        make_reference(tiny_model("llama"), tokens_for(), tmp_path / "missing")


def test_progress_is_told_from_nothing_to_all(tiny_model):
    seen: list[tuple] = []
    model, tokens = tiny_model("llama"), tokens_for(sequences=50, length=60)
    reference = make_reference(model, tokens, progress=lambda *now: seen.append(now))
    compare(model, reference, progress=lambda *now: seen.append(now))
    batches = -(-50 // (1024 // 60))
    counts = range(batches + 1)
    assert seen == [
        *(("reference", done, batches) for done in counts),
        *(("evaluate", done, batches) for done in counts),
    ]
