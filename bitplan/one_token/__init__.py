"""Blocks of a decoder that take one token of each sequence at a time, in two calls.

While a model generates, what transformers does in Python around the products takes longer than the
products themselves where the model is small, and so do the starts of threads. Here all that a block
does before its keys and values go to the cache is one program of compiled loops, and all that it
does after that another (`bitplan.kernels.decoder`).

A block does so where all of its linears are packed and have compiled loops, on the CPU, with
nothing in the way: no gradients, no hooks, nobody else in its modules' place. Otherwise, and for
more tokens, it is transformers' own. So it is, too, where the two do not agree when they are first
tried beside each other: another version of transformers may compute something else.
"""

from bitplan.one_token.steps import step_by_step as step_by_step
