"""Attention of one query for each head, over keys and values where the cache has them."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import fetch_add, float32_at, int64_at, uint8_at

FIELDS = 20
(
    COUNTER,
    VECTORS,
    HEADS,
    GROUP,  # heads that share keys and values
    WIDTH,  # of a head
    LENGTH,  # keys
    IS_HALF,  # of keys and values
    QUERY,  # float32 [vectors, heads, width]
    KEYS,
    KEYS_OF_VECTOR,  # numbers from one vector's to the next one's
    KEYS_OF_HEAD,
    KEYS_OF_TOKEN,
    VALUES,
    VALUES_OF_VECTOR,
    VALUES_OF_HEAD,
    VALUES_OF_TOKEN,
    MASK,  # a byte a key, not 0 where it is attended to; or 0: all are
    MASK_OF_VECTOR,
    SCALE,
    OUTPUT,  # float32, like QUERY
) = range(FIELDS)


@cache
def function() -> Any:
    """A head of a vector after another. Where no key is attended to, all are, evenly."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def attend(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        heads, width, length, half = job[HEADS], job[WIDTH], job[LENGTH], job[IS_HALF]
        scores, row = np.empty(length, np.float32), np.empty(width, np.float32)
        query = np.empty(width, np.float32)
        scale = floats.number_in(address, SCALE)
        while True:
            at = fetch_add(address, 1)
            if at >= job[VECTORS] * heads:
                break
            vector, group = at // heads, at % heads // job[GROUP]
            floats.read(job[QUERY], 0, at * width, query)
            query *= scale
            start = vector * job[KEYS_OF_VECTOR] + group * job[KEYS_OF_HEAD]
            for token in range(length):
                floats.read(job[KEYS], half, start + token * job[KEYS_OF_TOKEN], row)
                total = np.float32(0)
                for column in range(width):
                    total += query[column] * row[column]
                scores[token] = total
            if job[MASK]:
                _hide(scores, job[MASK] + vector * job[MASK_OF_VECTOR])
            share = _softmax(scores)
            output = float32_at(job[OUTPUT] + 4 * at * width, width)
            output[:] = 0
            start = vector * job[VALUES_OF_VECTOR] + group * job[VALUES_OF_HEAD]
            for token in range(length):
                floats.read(job[VALUES], half, start + token * job[VALUES_OF_TOKEN], row)
                weight = scores[token] * share
                for column in range(width):
                    output[column] += weight * row[column]

    return attend


@part
def _hide(scores, mask_at):
    """Scores that no other reaches, where the mask is nought."""
    mask = uint8_at(mask_at, len(scores))
    for token in range(len(scores)):
        if not mask[token]:
            scores[token] = np.float32(-3e38)


@part
def _softmax(scores):
    """Exponentials in place of scores, and what makes their sum one."""
    largest = np.float32(-np.inf)
    for token in range(len(scores)):
        largest = max(largest, scores[token])
    for token in range(len(scores)):
        scores[token] -= largest
    floats.exponential(scores)
    total = np.float32(0)
    for token in range(len(scores)):
        total += scores[token]
    return np.float32(1) / total
