"""Products of packed weights by Triton, of every family: layout, kernels, launch, static costs."""
