"""Costs on disk: the same losses come back, or none."""

import json
import math
import random

import numpy as np
import pytest

from bitplan.errors import ModelError
from bitplan.schema import Kind, Layer, Scheme
from bitplan.sensitivity import Shards
from bitplan.sensitivity.losses import Losses

LAYER = Layer(name="model.layers.0.mlp.up_proj", kind=Kind.LINEAR, shape=(6, 4))
SCHEME = Scheme.parse("int4g32")
LOSSES = Losses(loss=0.1 + 0.2, by_sequence=np.array([1 / 3, 0.0, 1e-300, 12345.678]))


@pytest.fixture
def shards(tmp_path) -> Shards:
    shards = Shards(folder=tmp_path)
    shards.put(LAYER, SCHEME, LOSSES)
    return shards


@pytest.mark.parametrize(
    "losses",
    [
        LOSSES,
        Losses(loss=0.2, by_sequence=np.array([[0.1, 0.3], [1 / 3, 0.2], [1e-300, -0.5]])),
        Losses(loss=0.0, by_sequence=np.empty(0)),
        Losses(loss=0.25, by_sequence=np.array([0.25]), is_guess=True),
    ],
    ids=["data", "draws", "no data", "guess"],
)
def test_what_is_put_comes_back_to_the_last_bit(losses, tmp_path):
    shards = Shards(folder=tmp_path)
    assert shards.get(LAYER, SCHEME) is None
    shards.put(LAYER, SCHEME, losses)
    found = shards.get(LAYER, SCHEME)
    assert (found.loss, found.is_guess) == (losses.loss, losses.is_guess)
    assert found.by_sequence.tolist() == losses.by_sequence.tolist()
    first = shards.path(LAYER, SCHEME).read_bytes()
    shards.put(LAYER, SCHEME, found)
    assert shards.path(LAYER, SCHEME).read_bytes() == first


def test_one_flipped_bit_anywhere_is_caught(shards):
    path = shards.path(LAYER, SCHEME)
    whole, chance = path.read_bytes(), random.Random(0)
    for at in range(len(whole.rstrip())):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert shards.get(LAYER, SCHEME) is None, bytes(damaged)
    path.write_bytes(whole)
    assert shards.get(LAYER, SCHEME) is not None


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[1]", b"null", b"7", b"\xff\xfe", b'{"digest": 1}', b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "number", "not text", "digest alone", "deep"],
)
def test_garbage_is_not_a_shard(garbage, shards):
    shards.path(LAYER, SCHEME).write_bytes(garbage)
    assert shards.get(LAYER, SCHEME) is None


@pytest.mark.parametrize(
    "lacking", ["format", "loss", "by_sequence", "is_guess", "layer", "scheme"]
)
def test_a_shard_of_another_form_is_not_read(lacking, shards):
    path = shards.path(LAYER, SCHEME)
    content = json.loads(path.read_text())
    del content[lacking]
    path.write_text(json.dumps(content))
    assert shards.get(LAYER, SCHEME) is None


def test_a_shard_at_the_place_of_another_is_not_taken_for_it(shards):
    other = Layer(name="lm_head", kind=Kind.LINEAR, shape=(6, 4))
    content = shards.path(LAYER, SCHEME).read_bytes()
    for layer, scheme in ((other, SCHEME), (LAYER, Scheme.parse("int2"))):
        path = shards.path(layer, scheme)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        assert shards.get(layer, scheme) is None


def test_each_layer_and_scheme_has_a_shard_of_its_own(shards):
    other = Losses(loss=2.0, by_sequence=np.array([2.0, 2.0]))
    shards.put(LAYER, Scheme.parse("int4"), other)
    assert shards.get(LAYER, SCHEME).loss == LOSSES.loss
    assert shards.get(LAYER, Scheme.parse("int4")).loss == 2.0


@pytest.mark.parametrize("loss", [0.0, math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_told_and_not_kept(loss, tmp_path):
    shards = Shards(folder=tmp_path)
    losses = Losses(loss=loss, by_sequence=np.array([0.5, math.nan]))
    said = "With model.layers.0.mlp.up_proj in int4g32 the loss is not a finite number.*float32"
    with pytest.raises(ModelError, match=said):
        shards.put(LAYER, SCHEME, losses)
    assert not list(tmp_path.rglob("*.*"))
