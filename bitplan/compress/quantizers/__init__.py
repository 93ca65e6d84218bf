"""A weight, integer schemes and H -> the weight rendered in each of them."""
