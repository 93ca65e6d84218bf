"""Three sets from every kind of source, apart by document; and sources that cannot be used."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitplan.calibration import SAMPLED, Counts, TokenSets, prepare, tokens_digest
from bitplan.errors import CalibrationError, ModelError

COUNTS = Counts(calibration=10, search=4, held_out=6, length=16)
FIRST, LAST = 4, 63  # the tokens of w0 and w59, with which documents begin


def numbers_in(tokens: Tensor) -> set[int]:
    """The documents that begin in a set."""
    return {int(token) for token in tokens.flatten() if FIRST <= token <= LAST}


def words_of(document: str) -> list[int]:
    return [FIRST + int(word[1:]) for word in document.split()]


def sets_of(sets: TokenSets) -> list[Tensor]:
    return [sets.calibration, sets.search, sets.held_out]


@pytest.fixture
def sources(tiny_documents, tmp_path) -> dict[str, object]:
    """The same documents as a list, as text and as two kinds of JSONL."""
    paths = {name: tmp_path / name for name in ("a.txt", "a.jsonl", "b.jsonl")}
    paths["a.txt"].write_text("\n\n\n".join(tiny_documents))
    paths["a.jsonl"].write_text("\n".join(map(json.dumps, tiny_documents)))
    objects = ({"id": index, "text": text} for index, text in enumerate(tiny_documents))
    paths["b.jsonl"].write_text("\n".join(map(json.dumps, objects)))
    return {"list": tiny_documents, **paths}


@pytest.mark.parametrize("kind", ["list", "a.txt", "a.jsonl", "b.jsonl"])
def test_text_becomes_the_same_sets_whatever_it_is_in(
    kind, sources, tiny_documents, tiny_model, tiny_tokenizer
):
    model = tiny_model("llama")
    sets = prepare(sources[kind], model=model, tokenizer=tiny_tokenizer, counts=COUNTS, seed=3)
    assert [list(tokens.shape) for tokens in sets_of(sets)] == [[10, 16], [4, 16], [6, 16]]
    assert all(tokens.dtype == torch.int64 for tokens in sets_of(sets))
    name = "" if kind == "list" else f"{kind}, "
    assert sets.source == f"{name}60 documents, seed 3"
    expected = prepare(tiny_documents, model=model, tokenizer=tiny_tokenizer, counts=COUNTS, seed=3)
    for found, wanted in zip(sets_of(sets), sets_of(expected), strict=True):
        assert torch.equal(found, wanted)


def test_the_seed_decides(tiny_documents, tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    by_seed = [
        prepare(tiny_documents, model=model, tokenizer=tiny_tokenizer, counts=COUNTS, seed=seed)
        for seed in (0, 0, 1)
    ]
    digests = [tokens_digest(sets.calibration) for sets in by_seed]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("length", [16, 48])
@pytest.mark.parametrize("wanted", [2, 500])
def test_no_document_is_in_two_sets(
    seed, length, wanted, tiny_documents, tiny_model, tiny_tokenizer
):
    counts = Counts(calibration=wanted, search=wanted, held_out=wanted, length=length)
    twice = [*tiny_documents, *tiny_documents[20:40], *(f"{text}\n" for text in tiny_documents)]
    sets = prepare(
        twice, model=tiny_model("llama"), tokenizer=tiny_tokenizer, counts=counts, seed=seed
    )
    begun = [numbers_in(tokens) for tokens in sets_of(sets)]
    assert all(begun)
    assert sum(map(len, begun)) == len(set().union(*begun))
    texts = {words_of(document)[0]: words_of(document) for document in tiny_documents}
    for tokens in sets_of(sets):
        # The set is the text of its own documents and nothing else.
        read = tokens.flatten().tolist()
        assert read[0] in texts
        while read:
            text = texts[read[0]]
            assert read[: len(text)] == text[: len(read)]
            read = read[len(text) :]


def test_too_little_text_shrinks_all_sets_in_proportion(tiny_documents, tiny_model, tiny_tokenizer):
    counts = Counts(calibration=400, search=100, held_out=200, length=16)
    model = tiny_model("llama")
    sets = prepare(tiny_documents, model=model, tokenizer=tiny_tokenizer, counts=counts)
    calibration, search, held_out = map(len, sets_of(sets))
    total = sum(len(document.split()) for document in tiny_documents) // 16
    assert 0.9 * total < calibration + search + held_out <= total
    assert held_out == pytest.approx(2 * search, rel=0.2)
    assert calibration == pytest.approx(search + held_out, rel=0.2)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["w1 w2 w3"], "is 1 document, but three are needed"),
        (["w1 " * 500], "is 1 document, but three are needed .* blank lines"),
        (["w1 " * 500, "w2 " * 500], "is 2 documents, but three are needed"),
        (["w1 " * 500, "w2 " * 500, "w3 w4"], "is too short: of .* smaller length"),
        ([f"w{index} w1" for index in range(12)], "is too short: of .* smaller length"),
    ],
    ids=["one short", "one long", "two", "one of three is short", "all short"],
)
def test_too_little_text_is_refused(documents, message, tiny_model, tiny_tokenizer):
    with pytest.raises(CalibrationError, match=f"The text {message}"):
        prepare(documents, model=tiny_model("llama"), tokenizer=tiny_tokenizer, counts=COUNTS)


def test_three_documents_are_enough(tiny_model, tiny_tokenizer):
    documents = [f"w{index} " + "w70 " * 40 for index in range(3)]
    sets = prepare(documents, model=tiny_model("llama"), tokenizer=tiny_tokenizer, counts=COUNTS)
    assert [len(numbers_in(tokens)) for tokens in sets_of(sets)] == [1, 1, 1]


def test_text_without_a_tokenizer_is_refused(tiny_documents, tiny_model):
    with pytest.raises(CalibrationError, match="Text needs a tokenizer"):
        prepare(tiny_documents, model=tiny_model("llama"), counts=COUNTS)


@pytest.mark.parametrize("vocabulary", [70, 95, 193, 128_000])
def test_a_tokenizer_of_another_model_is_refused(
    vocabulary, tiny_documents, tiny_model, tiny_tokenizer
):
    model = tiny_model("llama")
    model.config.vocab_size = vocabulary
    message = rf"tokenizer has 96 tokens, but the model's vocabulary has {vocabulary:,}\."
    with pytest.raises(CalibrationError, match=message):
        prepare(tiny_documents, model=model, tokenizer=tiny_tokenizer, counts=COUNTS)


def test_a_vocabulary_that_was_rounded_up_is_the_tokenizers(
    tiny_documents, tiny_model, tiny_tokenizer
):
    model = tiny_model("llama")
    model.config.vocab_size = 128
    prepare(tiny_documents, model=model, tokenizer=tiny_tokenizer, counts=COUNTS)


def test_an_added_token_is_refused_only_where_the_text_has_it(
    tiny_documents, tiny_model, tiny_tokenizer
):
    model, tokenizer = tiny_model("llama"), copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<pad>"])
    prepare(tiny_documents, model=model, tokenizer=tokenizer, counts=COUNTS)
    padded = [f"{text} <pad>" for text in tiny_documents]
    with pytest.raises(CalibrationError, match=r"Tokens run from \d+ to 96, .* has 96\."):
        prepare(padded, model=model, tokenizer=tokenizer, counts=COUNTS)


def tokens_of(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Tokens from 0 to 95; the rows of a matrix differ."""
    tokens = torch.arange(torch.Size(shape).numel()).reshape(shape).remainder(96)
    if tokens.dim() == 2 and tokens.shape[1] > 1 and len(tokens):
        tokens[:, 1] = torch.arange(len(tokens)).remainder(95)
    return tokens.to(dtype)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_tokens_are_cut_into_sets(dtype, tiny_model):
    tokens = torch.randint(96, (40, 24), generator=torch.Generator().manual_seed(0)).to(dtype)
    sets = prepare(tokens, model=tiny_model("llama"), counts=COUNTS)
    assert [list(part.shape) for part in sets_of(sets)] == [[10, 24], [4, 24], [6, 24]]
    rows = {tuple(row) for part in sets_of(sets) for row in part.tolist()}
    assert len(rows) == 20
    assert rows <= {tuple(row) for row in tokens.tolist()}
    assert sets.source == "tokens [40, 24]"


def test_a_sequence_that_comes_again_is_left_out(tiny_model):
    tokens = tokens_of(20, 8)
    twice = torch.cat([tokens, tokens.flip(0)])
    sets = prepare(twice, model=tiny_model("llama"), counts=COUNTS)
    rows = [tuple(row) for part in sets_of(sets) for row in part.tolist()]
    assert len(rows) == len(set(rows)) == 20
    assert sets.source == "tokens [20, 8]"


@pytest.mark.parametrize("sequences", [3, 4, 7, 19])
def test_few_tokens_leave_no_set_empty(sequences, tiny_model):
    sets = prepare(tokens_of(sequences, 8), model=tiny_model("llama"), counts=COUNTS)
    assert all(len(part) for part in sets_of(sets))
    assert sequences - 2 < sum(map(len, sets_of(sets))) <= sequences


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (tokens_of(40), r"integers of shape \[sequences, length\]; these are torch.int64 \[40\]"),
        (tokens_of(2, 20, 4), r"these are torch.int64 \[2, 20, 4\]"),
        (tokens_of(40, 8).float(), r"these are torch.float32 \[40, 8\]"),
        (tokens_of(40, 8).bool(), r"these are torch.bool \[40, 8\]"),
        (tokens_of(0, 8), r"shape \[0, 8\]"),
        (tokens_of(40, 1), r"shape \[40, 1\]"),
        (tokens_of(2, 8), r"at least 3 different sequences"),
        (tokens_of(40, 8) + 1, r"Tokens run from 1 to 96, .* has 96\."),
        (tokens_of(40, 8) - 1, r"Tokens run from -1 to 94"),
        (tokens_of(40, 65), r"65 tokens long, but the model reads at most 64"),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_tokens_that_cannot_be_read_are_refused(name, tokens, message, tiny_model):
    model = tiny_model(name)
    with pytest.raises(CalibrationError, match=message):
        prepare(tokens, model=model, counts=COUNTS)
    good = tokens_of(4, 8)
    if "at least 3" not in message:
        for sets in ({"calibration": tokens}, {"search": tokens}, {"held_out": tokens}):
            given = {"calibration": good, "search": good, "held_out": good, **sets}
            with pytest.raises(CalibrationError, match=message):
                prepare(TokenSets(**given, source="given"), model=model, counts=COUNTS)


def test_ready_sets_are_taken_as_they_are(tiny_model):
    given = TokenSets(
        calibration=tokens_of(4, 8), search=tokens_of(3, 16), held_out=tokens_of(2, 9), source="x"
    )
    sets = prepare(given, model=tiny_model("llama"), counts=COUNTS)
    assert sets.source == "x"
    for found, wanted in zip(sets_of(sets), sets_of(given), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral", "mamba"])
def test_text_is_sampled_by_its_seed(name, tiny_model):
    model = tiny_model(name)
    counts = Counts(calibration=12, search=3, held_out=4, length=10)
    first, again, other = (
        prepare(None, model=model, counts=counts, seed=seed) for seed in (0, 0, 5)
    )
    assert first.source == f"{SAMPLED}, seed 0"
    assert [list(part.shape) for part in sets_of(first)] == [[12, 10], [3, 10], [4, 10]]
    for one, two, three in zip(sets_of(first), sets_of(again), sets_of(other), strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)
    if name != "mamba":
        assert (first.calibration[:, 0] == 1).all()  # the start of text


def test_what_is_sampled_is_likely_to_the_model(tiny_model):
    for name in ("llama", "mamba"):  # with a cache of keys and values, and with another
        model = tiny_model(name)
        counts = Counts(calibration=32, search=8, held_out=16, length=20)
        for parameter in model.get_output_embeddings().parameters():
            parameter.mul_(4)
        tokens = prepare(None, model=model, counts=counts).calibration
        other = torch.randint(96, tokens.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            told = model(input_ids=tokens).logits.log_softmax(-1)
            other_told = model(input_ids=other).logits.log_softmax(-1)
        entropy = -(told.exp() * told).sum(-1)[:, :-1].mean()
        nll = -told[:, :-1].gather(-1, tokens[:, 1:, None]).mean()
        chance = -other_told[:, :-1].gather(-1, other[:, 1:, None]).mean()
        assert nll == pytest.approx(entropy.item(), rel=0.1)
        assert nll < 0.9 * chance


def test_sampling_goes_on_where_it_was_interrupted(tiny_model, tmp_path):
    model = tiny_model("llama")
    counts = Counts(calibration=30, search=5, held_out=5, length=6)
    whole = prepare(None, model=model, counts=counts)
    steps: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 8:  # in the second batch of three
            raise KeyboardInterrupt

    partial = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        prepare(None, model=model, counts=counts, kept=partial, progress=stop)
    rest: list[int] = []
    again = prepare(
        None,
        model=model,
        counts=counts,
        kept=partial,
        progress=lambda stage, done, total: rest.append(done),
    )
    assert min(rest) == 7  # the first batch was not drawn again
    assert all(
        torch.equal(one, two) for one, two in zip(sets_of(whole), sets_of(again), strict=True)
    )


@pytest.mark.parametrize("damage", ["cut", "other length"])
def test_a_damaged_beginning_is_drawn_again(damage, tiny_model, tmp_path):
    model, partial = tiny_model("llama"), tmp_path / "partial"
    counts = Counts(calibration=30, search=5, held_out=5, length=6)
    whole = prepare(None, model=model, counts=counts, kept=partial)
    if damage == "cut":
        partial.write_bytes(partial.read_bytes()[:-9])
    else:
        other = Counts(calibration=30, search=5, held_out=5, length=7)
        prepare(None, model=model, counts=other, kept=partial)
    again = prepare(None, model=model, counts=counts, kept=partial)
    assert torch.equal(again.calibration, whole.calibration)


LONG = Counts(calibration=4, search=1, held_out=1, length=256)


def test_sampling_longer_than_the_model_reads_is_refused(tiny_model):
    for name in ("llama", "gpt2"):
        with pytest.raises(CalibrationError, match=r"256 tokens long, .* at most 64"):
            prepare(None, model=tiny_model(name), counts=LONG)


def test_text_longer_than_the_model_reads_is_refused(tiny_model, tiny_tokenizer, tiny_documents):
    with pytest.raises(CalibrationError, match=r"256 tokens long, .* at most 64"):
        prepare(tiny_documents, model=tiny_model("gpt2"), tokenizer=tiny_tokenizer, counts=LONG)


def test_a_model_to_sample_nothing_from_is_refused(tiny_model):
    with pytest.raises(CalibrationError, match="no vocabulary size"):
        prepare(None, model=nn.Embedding(4, 4), counts=COUNTS)
    with pytest.raises(CalibrationError, match="predicts no next token"):
        prepare(None, model=tiny_model("bert"), counts=COUNTS)
    model = tiny_model("llama")
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ModelError, match="logits are not finite"):
        prepare(None, model=model, counts=COUNTS)


def test_a_digest_tells_tokens_apart():
    tokens = tokens_of(4, 6)
    assert tokens_digest(tokens) == tokens_digest(tokens.int()) == tokens_digest(tokens.t().t())
    others = [tokens.reshape(6, 4), tokens + 1, tokens[:3]]
    assert len({tokens_digest(part) for part in [tokens, *others]}) == 4


def test_a_path_is_a_file_and_never_text(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(CalibrationError, match="Cannot read some text itself"):
        prepare(
            "some text itself", model=tiny_model("llama"), tokenizer=tiny_tokenizer, counts=COUNTS
        )
    with pytest.raises(CalibrationError, match="holds no data set"):
        prepare(Path(tmp_path), model=tiny_model("llama"), tokenizer=tiny_tokenizer, counts=COUNTS)


def entropy_of(tokens: Tensor) -> float:
    """Of the tokens' frequencies, in nats."""
    shares = torch.bincount(tokens.flatten()).double() / tokens.numel()
    return -(shares[shares > 0] * shares[shares > 0].log()).sum().item()


def test_a_lower_temperature_draws_likely_tokens_more_often(tiny_model):
    model, counts = tiny_model("llama"), Counts(calibration=30, search=1, held_out=1, length=12)
    by_temperature = {
        temperature: prepare(None, model=model, counts=counts, temperature=temperature)
        for temperature in (1e-30, 0.3, 1.0)
    }
    entropies = [entropy_of(sets.calibration) for sets in by_temperature.values()]
    assert entropies == sorted(entropies)
    assert entropies[0] + 1 < entropies[1] < entropies[2] - 0.2
    prepare(None, model=model, counts=counts, temperature=1e30)
    assert by_temperature[1.0].source == f"{SAMPLED}, seed 0"
    assert by_temperature[0.3].source == f"{SAMPLED}, temperature 0.3, seed 0"
    [domain] = by_temperature[0.3].domains
    assert (domain.name, domain.documents, domain.share) == (SAMPLED, 32, 1.0)
    # Near zero, the most likely token follows, whatever the seed.
    tokens = by_temperature[1e-30].calibration
    with torch.no_grad():
        likely = model(input_ids=tokens).logits.argmax(-1)
    assert torch.equal(tokens[:, 1:], likely[:, :-1])


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "1"])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature, tiny_model):
    with pytest.raises(CalibrationError, match=r"The temperature is .*; it must be a number above"):
        prepare(None, model=tiny_model("llama"), counts=COUNTS, temperature=temperature)
