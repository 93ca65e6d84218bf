"""What a model is given: counted, cut and told apart."""

import hashlib

import pytest
import torch

from bitplan.models import Inputs, main_input, reads

TOKENS = torch.arange(12).reshape(3, 4)
IMAGES = torch.rand(3, 3, 8, 8)


def test_tokens_are_input_ids_alone():
    inputs = Inputs.of(TOKENS)
    assert Inputs.of(inputs) is inputs
    assert inputs.is_text
    assert inputs.ids is TOKENS
    assert (len(inputs), inputs.tokens, inputs.tokens_each) == (3, 12, 4)
    assert torch.equal(inputs[1:2].tensors["input_ids"], TOKENS[1:2])


def test_images_count_as_one_token_each():
    inputs = Inputs.of({"pixel_values": IMAGES})
    assert not inputs.is_text
    assert inputs.ids is None
    assert (len(inputs), inputs.tokens, inputs.tokens_each) == (3, 3, 1)
    assert len(inputs[:2]) == 2


def test_a_decoder_counts_what_it_decodes():
    inputs = Inputs.of({"input_features": IMAGES, "decoder_input_ids": TOKENS[:, :2]})
    assert (inputs.tokens, inputs.tokens_each) == (6, 2)


def test_the_digest_of_tokens_is_over_shape_and_values_alone():
    expected = hashlib.sha256(b"[3, 4]" + TOKENS.numpy().tobytes()).hexdigest()
    assert Inputs.of(TOKENS).digest == Inputs.of(TOKENS.int()).digest == expected
    assert Inputs.of({"input_ids": TOKENS}).digest == expected


def test_digests_tell_names_shapes_types_and_values_apart():
    given = [
        {"input_ids": TOKENS},
        {"input_ids": TOKENS + 1},
        {"input_ids": TOKENS.reshape(4, 3)},
        {"decoder_input_ids": TOKENS},
        {"input_ids": TOKENS, "decoder_input_ids": TOKENS},
        {"pixel_values": IMAGES},
        {"input_values": IMAGES},
        {"pixel_values": IMAGES.bfloat16()},
        {"pixel_values": IMAGES.flip(0)},
    ]
    digests = [Inputs.of(one).digest for one in given]
    assert len(set(digests)) == len(given)
    assert digests == [Inputs.of(dict(reversed(one.items()))).digest for one in given]


@pytest.mark.parametrize(("name", "decodes"), [("llama", False), ("bert", False), ("t5", True)])
def test_what_a_model_reads(name, decodes, tiny):
    assert main_input(tiny(name)) == "input_ids"
    assert reads(tiny(name), "decoder_input_ids") is decodes
