"""Attention of one query for each head, over keys and values that a cache holds as integers.

Heads that share keys and values are one worker's: some tokens of a head are decoded into the
nearest cache, all of its queries meet them there, and they are gone.
"""

from functools import cache
from typing import Any

import numpy as np

from bitplan.formats.bits import CELL
from bitplan.kernels.decoder import tokens
from bitplan.kernels.decoder.attend import (
    GROUP,
    HEADS,
    LENGTH,
    OUTPUT,
    OWN,
    QUERY,
    QUERY_STEP,
    SCALE,
    UNUSED,
    VECTORS,
    WIDTH,
    shares,
)
from bitplan.kernels.native import floats
from bitplan.kernels.native.compiled import STAMP, compiled, part
from bitplan.kernels.native.expand import CHUNK, unpack_chunk
from bitplan.kernels.native.memory import (
    address_of,
    bfloat16_at,
    copy,
    fetch_add,
    float32_at,
    int64_at,
)
from bitplan.kernels.native.sixteen import COLUMNS, integers

OF_EACH = 10
(
    CODES,  # of the first vector's first token; tokens lie one after another
    CODES_OF_VECTOR,  # bytes from one vector's to the next one's
    CODE_BYTES,  # of a token
    END,  # address behind all codes
    BITS,
    SHARED,  # columns that share a scale, a multiple of 16
    GROUPS,  # of a token
    SCALES,  # bfloat16, a number for each group of each token
    OFFSETS,  # or 0
    GRID_OF_VECTOR,  # numbers from one vector's to the next one's
) = range(OF_EACH)
"""What is told of keys, from the field KEYS on, and of values. Heads are of sixteens of columns."""

KEYS, VALUES, FIELDS = OWN, OWN + OF_EACH, OWN + 2 * OF_EACH

TOKENS = 32
"""That are decoded at a time: they stay in the processor's nearest cache."""


@cache
def function(how: str) -> Any:
    """Heads that share keys and values, of a vector, after others. `how` is `expand`'s."""

    stamp = STAMP

    @compiled(fastmath={"reassoc", "contract"})
    def attend(address):
        _ = stamp
        job = int64_at(address, FIELDS)
        width, length, group = job[WIDTH], job[LENGTH], job[GROUP]
        heads = job[HEADS] // group
        scores = np.empty((group, length), np.float32)
        queries, mixed = np.empty((group, width), np.float32), np.empty(width, np.float32)
        tile = np.empty((TOKENS, width), np.float32)
        memory = np.zeros(_room(width), np.uint8)
        memory[len(memory) - CHUNK :] = 0xFF  # every column is kept
        scores_at, queries_at = address_of(scores), address_of(queries)
        tile_at, mixed_at, memory_at = address_of(tile), address_of(mixed), address_of(memory)
        while True:
            at = fetch_add(address, 1)
            if at >= job[VECTORS] * heads:
                break
            vector, head = at // heads, at % heads
            start = vector * job[QUERY_STEP] + head * group * width
            for one in range(group):
                floats.read(job[QUERY], 0, start + one * width, queries[one])
                queries[one] *= floats.number_in(address, SCALE)
            for first in range(0, length, TOKENS):
                count = min(TOKENS, length - first)
                _decode(job, KEYS, vector, head, first, count, memory_at, how, tile_at)
                for one in range(group):
                    query, to = queries_at + 4 * one * width, scores_at + 4 * (one * length + first)
                    tokens.scores(query, tile_at, 4 * width, count, width, False, to)
            for one in range(group):
                shares(address, vector, scores[one])
            output = float32_at(job[OUTPUT] + 4 * at * group * width, group * width)
            output[:] = 0
            for first in range(0, length, TOKENS):
                count = min(TOKENS, length - first)
                _decode(job, VALUES, vector, head, first, count, memory_at, how, tile_at)
                for one in range(group):
                    of_heads = scores_at + 4 * (one * length + first)
                    tokens.mixed(of_heads, tile_at, 4 * width, count, width, False, mixed_at)
                    for column in range(width):
                        output[one * width + column] += mixed[column]
        # Named once more: an array lives until then.
        job[UNUSED] = len(scores) + len(queries) + len(tile) + len(memory) + len(mixed)

    return attend


@part
def _room(width):
    """Bytes that decoding needs: for a head's codes, a copy of them as packed, and ones."""
    return 2 * ((width + CHUNK - 1) // CHUNK * CHUNK + CELL * CHUNK)


@part
def _decode(job, of, vector, head, first, count, memory, how, output):
    """Numbers of a head, of so many tokens, to float32 [count, width] at an address."""
    # Addresses, not arrays: those are counted by all threads together whenever they are handed on.
    width, bits, shared = job[WIDTH], job[of + BITS], job[of + SHARED]
    size, column, half = width * bits // CELL, head * width, np.int32(1 << (bits - 1))
    copied = memory + (width + CHUNK - 1) // CHUNK * CHUNK
    every = memory + _room(width) - CHUNK
    packed = job[of + CODES] + vector * job[of + CODES_OF_VECTOR] + column * bits // CELL
    grid = vector * job[of + GRID_OF_VECTOR] + column // shared
    to_next = shared - column % shared  # columns of the head that share the first scale
    for token in range(first, first + count):
        codes = packed + token * job[of + CODE_BYTES]
        if job[of + END] - codes < size + CELL * CHUNK:
            # Chunks are read, and the last may reach beyond what is packed.
            copy(codes, copied, size)
            codes = copied
        for chunk in range((width + CHUNK - 1) // CHUNK):
            unpack_chunk(codes + chunk * CELL * bits, bits, memory + chunk * CHUNK, how)
        at, end, place = 0, min(to_next, width), 2 * (grid + token * job[of + GROUPS])
        while at < width:
            scale, offset = bfloat16_at(job[of + SCALES] + place), np.float32(0)
            if job[of + OFFSETS]:
                offset = bfloat16_at(job[of + OFFSETS] + place)
            for sixteen in range(at, end, COLUMNS):
                integers(memory + sixteen, every, scale, offset, half, output + 4 * sixteen)
            at, end, place = end, min(end + shared, width), place + 2
        output += 4 * width
