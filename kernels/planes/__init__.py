"""Sums of two planes in groups, each with a scale of its own."""
