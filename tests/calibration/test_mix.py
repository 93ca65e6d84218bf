"""Several sources in one: their shares, their documents kept apart, and what is said of them."""

import json
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bitplan.calibration import Counts, Source, TokenSets, prepare, tokens_digest
from bitplan.errors import CalibrationError

COUNTS = Counts(calibration=10, search=4, held_out=6, length=16)
CODE, TALK, TOKENS = 20, 40, 5  # words that only one source has


def documents_of(word: int, number: int = 60) -> list[str]:
    """Documents of one word, each with a beginning of its own."""
    chance = random.Random(word)
    return [
        " ".join([f"w{60 + chance.randrange(32)}" for _ in range(4)] + [f"w{word}"] * (36 + i % 9))
        for i in range(number)
    ]


def rows_of(sets: TokenSets, word: int) -> dict[str, Tensor]:
    """The sequences that have a word, by set."""
    return {
        name: tokens[(tokens == 4 + word).any(1)]
        for name in ("calibration", "search", "held_out")
        for tokens in [getattr(sets, name)]
    }


@pytest.fixture
def mixed(tiny_model, tiny_tokenizer):
    """Prepare with the tiny llama and its tokenizer."""

    def run(calibration, counts=COUNTS, seed=0):
        model = tiny_model("llama")
        return prepare(calibration, model=model, tokenizer=tiny_tokenizer, counts=counts, seed=seed)

    return run


def test_every_set_has_the_shares_of_the_weights(mixed):
    sets = mixed(
        [
            Source(documents_of(CODE), weight=0.7, name="code"),
            Source(documents_of(TALK), weight=0.3, name="talk"),
        ]
    )
    found = {word: {n: len(r) for n, r in rows_of(sets, word).items()} for word in (CODE, TALK)}
    assert found[CODE] == {"calibration": 7, "search": 3, "held_out": 4}
    assert found[TALK] == {"calibration": 3, "search": 1, "held_out": 2}
    assert sets.source == "code (70%), talk (30%), seed 0"
    code, talk = sets.domains
    assert (code.name, code.documents, code.tokens, code.share) == ("code", 60, 112, 0.7)
    assert (talk.name, talk.documents, talk.tokens, talk.share) == ("talk", 60, 48, 0.3)
    assert code.digest == tokens_digest(rows_of(sets, CODE)["calibration"])
    assert talk.digest == tokens_digest(rows_of(sets, TALK)["calibration"])


def test_a_mapping_of_paths_is_a_mix(mixed, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents_of(CODE))))
    (tmp_path / "b.txt").write_text("\n\n".join(documents_of(TALK)))
    sets = mixed({str(tmp_path / "a.jsonl"): 3, tmp_path / "b.txt": 1})
    assert sets.source == "a.jsonl (75%), b.txt (25%), seed 0"
    assert [domain.tokens for domain in sets.domains] == [8 * 16, 2 * 16]


def test_one_source_is_the_same_with_a_weight_and_without(mixed):
    documents = documents_of(CODE)
    plain, weighted = mixed(documents), mixed([Source(documents, weight=0.2)])
    assert plain.source == weighted.source == "60 documents, seed 0"
    assert plain.domains == weighted.domains
    assert torch.equal(plain.calibration, weighted.calibration)
    [domain] = plain.domains
    assert (domain.tokens, domain.share) == (160, 1.0)
    assert domain.digest == tokens_digest(plain.calibration)


def test_the_same_call_gives_the_same_tokens(mixed):
    sources = [Source(documents_of(CODE), weight=2), Source(documents_of(TALK))]
    one, two, other = mixed(sources), mixed(sources), mixed(sources, seed=1)
    assert torch.equal(one.calibration, two.calibration)
    assert torch.equal(one.held_out, two.held_out)
    assert one.domains == two.domains
    assert not torch.equal(one.calibration, other.calibration)


@pytest.mark.parametrize("seed", range(4))
def test_a_document_in_two_sources_is_never_judged_on(seed, mixed, tiny_documents):
    """Documents of the fixture begin with a number of their own, from w0 to w59."""
    counts = Counts(calibration=400, search=100, held_out=200, length=16)
    sources = [Source(tiny_documents[:40]), Source([f"{text}\n" for text in tiny_documents[20:]])]
    sets = mixed(sources, counts, seed)
    begun = [
        {int(token) for token in tokens.flatten() if 4 <= token <= 63}
        for tokens in (sets.calibration, sets.search, sets.held_out)
    ]
    assert all(begun)
    assert sum(map(len, begun)) == len(set().union(*begun))
    assert [domain.documents for domain in sets.domains] == [40, 20]


def test_tokens_and_text_are_mixed_at_the_tokens_length(mixed, tmp_path):
    tokens = torch.randint(60, 96, (40, 16), generator=torch.Generator().manual_seed(0))
    tokens[:, 3] = 4 + TOKENS
    save_file({"input_ids": tokens.int()}, tmp_path / "tokens.safetensors")
    sets = mixed([Source(tmp_path / "tokens.safetensors"), Source(documents_of(TALK))])
    assert sets.source == "tokens.safetensors (50%), documents (50%), seed 0"
    assert [domain.tokens for domain in sets.domains] == [80, 80]
    given = {tuple(row) for row in tokens.tolist()}
    for part in rows_of(sets, TOKENS).values():
        assert {tuple(row) for row in part.tolist()} <= given
    assert mixed(tmp_path / "tokens.safetensors").source == "tokens.safetensors, tokens [40, 16]"


def test_too_little_of_a_source_is_taken_as_it_is_and_said(mixed, caplog):
    sets = mixed(
        [Source(documents_of(CODE), name="code"), Source(documents_of(TALK, 4), name="talk")],
        Counts(calibration=20, search=2, held_out=2, length=16),
    )
    code, talk = sets.domains
    assert (code.tokens, talk.tokens) == (160, 80)
    assert talk.share == pytest.approx(1 / 3)
    assert "talk gives 5 calibration sequences, of 10 that its weight asks for" in caplog.text


def test_a_weight_too_small_for_a_sequence_is_said(mixed, caplog):
    sets = mixed([Source(documents_of(CODE), weight=0.99), Source(documents_of(TALK), weight=0.01)])
    assert [domain.tokens for domain in sets.domains] == [160, 0]
    assert "documents (2) gives 0 calibration sequences, of 0" in caplog.text


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (["w1 w2", "w3"], r"talk is 2 documents, but three"),
        (documents_of(CODE), r"talk has no text that is not in an earlier source"),
        (torch.zeros((40, 16), dtype=torch.int64), r"The tokens of talk have shape \[1, 16\]"),
        (torch.zeros((0, 16), dtype=torch.int64), r"shape \[0, 16\]"),
        ([], "The list has no text"),
    ],
)
def test_a_source_that_gives_nothing_is_named(second, message, mixed):
    with pytest.raises(CalibrationError, match=message):
        mixed([Source(documents_of(CODE), name="code"), Source(second, name="talk")])
