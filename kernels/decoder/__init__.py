"""Compiled loops for what stands between the products of a decoder's block.

For one token of each sequence, on the CPU: what a model computes in Python between its products
takes longer than they do, where the model is small. `block` puts them together; a file with a
`function` is one kind of job (see `native.job`) of fields of its own, whose first is its counter.
Sums are float32; what comes from the model and goes back to it is in its dtype.
"""
