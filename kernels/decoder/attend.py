"""Attention of one query for each head, over keys and values where the cache has them."""

from functools import cache
from typing import Any

import numpy as np

from bitplan.kernels.decoder import tokens
from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.memory import address_of, fetch_add, float32_at, int64_at, uint8_at
from bitplan.kernels.native.vectors import ROWS

(
    COUNTER,
    VECTORS,
    HEADS,
    GROUP,  # heads that share keys and values
    WIDTH,  # of a head
    LENGTH,  # keys
    IS_HALF,  # of keys and values, and of a mask that is added
    QUERY,  # float32
    QUERY_STEP,  # numbers from one vector's queries to the next one's
    MASK,  # a byte a key, not 0 where it is attended to; or 0: all are
    MASK_OF_VECTOR,
    MASK_IS_ADDED,  # it has a number a key that is added to the score
    SCALE,
    CAP,  # that scores do not exceed, or 0
    OUTPUT,  # float32 [vectors, heads, width]
    UNUSED,
    OWN,
) = range(17)
"""What is told of all attention; from OWN on, where keys and values are."""

FIELDS = OWN + 8
(
    KEYS,
    KEYS_OF_VECTOR,  # numbers from one vector's to the next one's
    KEYS_OF_HEAD,
    KEYS_OF_TOKEN,
    VALUES,
    VALUES_OF_VECTOR,
    VALUES_OF_HEAD,
    VALUES_OF_TOKEN,
) = range(OWN, FIELDS)


@cache
def function() -> Any:
    """A head of a vector after another. Where no key is attended to, all are, evenly."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def attend(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        heads, width, length, half = job[HEADS], job[WIDTH], job[LENGTH], job[IS_HALF]
        whole = width // ROWS * ROWS  # the width, if vectors fill it
        scores, query = np.empty(length, np.float32), np.empty(width, np.float32)
        scores_at, query_at = address_of(scores), address_of(query)
        scale = floats.number_in(address, SCALE)
        while True:
            at = fetch_add(address, 1)
            if at >= job[VECTORS] * heads:
                break
            vector, head = at // heads, at % heads
            group = head // job[GROUP]
            floats.read(job[QUERY], 0, vector * job[QUERY_STEP] + head * width, query)
            query *= scale
            size = 2 if half else 4
            start = vector * job[KEYS_OF_VECTOR] + group * job[KEYS_OF_HEAD]
            keys, step = job[KEYS] + size * start, job[KEYS_OF_TOKEN]
            if width != whole:
                _scores(query, keys, step, half, scores)
            elif half:
                tokens.scores(query_at, keys, 2 * step, length, whole, True, scores_at)
            else:
                tokens.scores(query_at, keys, 4 * step, length, whole, False, scores_at)
            shares(address, vector, scores)
            start = vector * job[VALUES_OF_VECTOR] + group * job[VALUES_OF_HEAD]
            values, step = job[VALUES] + size * start, job[VALUES_OF_TOKEN]
            output = job[OUTPUT] + 4 * at * width
            if width != whole:
                _mix(scores, values, step, half, float32_at(output, width))
            elif half:
                tokens.mixed(scores_at, values, 2 * step, length, whole, True, output)
            else:
                tokens.mixed(scores_at, values, 4 * step, length, whole, False, output)
        # Named once more: an array lives until then.
        job[UNUSED] = len(scores) + len(query)

    return attend


@part
def shares(address, vector, scores):
    """What a head of a vector attends to, in place of its scores."""
    job, cap = int64_at(address, OWN), floats.number_in(address, CAP)
    if cap:
        _cap(scores, cap)
    if job[MASK_IS_ADDED]:
        floats.add(job[MASK], job[IS_HALF], vector * job[MASK_OF_VECTOR], scores)
    elif job[MASK]:
        _hide(scores, job[MASK] + vector * job[MASK_OF_VECTOR])
    _softmax(scores)


@part
def _cap(scores, cap):
    """The cap times tanh(score / cap) in each score's place, as Gemma 2 has it (2024).

    tanh(y) is 1 - 2 / (e^2y + 1).
    """
    for token in range(len(scores)):
        scores[token] *= np.float32(2) / cap
    floats.exponential(scores)
    for token in range(len(scores)):
        scores[token] = cap - np.float32(2) * cap / (scores[token] + np.float32(1))


@part
def _hide(scores, mask_at):
    """Scores that no other reaches, where the mask is nought."""
    mask = uint8_at(mask_at, len(scores))
    for token in range(len(scores)):
        if not mask[token]:
            scores[token] = np.float32(-3e38)


@part
def _softmax(scores):
    """Shares in place of scores."""
    largest = np.float32(-np.inf)
    for token in range(len(scores)):
        largest = max(largest, scores[token])
    for token in range(len(scores)):
        scores[token] -= largest
    floats.exponential(scores)
    total = np.float32(0)
    for token in range(len(scores)):
        total += scores[token]
    for token in range(len(scores)):
        scores[token] /= total


@part
def _scores(query, keys, step, half, scores):
    """As `tokens.scores`, for any width."""
    row = np.empty_like(query)
    for token in range(len(scores)):
        floats.read(keys, half, token * step, row)
        total = np.float32(0)
        for column in range(len(query)):
            total += query[column] * row[column]
        scores[token] = total


@part
def _mix(shares, values, step, half, output):
    """As `tokens.mixed`, for any width."""
    row = np.empty_like(output)
    output[:] = 0
    for token in range(len(shares)):
        floats.read(values, half, token * step, row)
        for column in range(len(output)):
            output[column] += shares[token] * row[column]
