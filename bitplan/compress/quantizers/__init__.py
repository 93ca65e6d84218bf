"""A weight, coded schemes and H -> the weight rendered in each of them."""
