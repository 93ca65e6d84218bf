"""Codes of a codebook in groups: signs, ternary, small floating-point numbers and others."""
