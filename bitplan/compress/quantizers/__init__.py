"""A weight, schemes of one group size and H -> the weight rendered in each of them."""
