"""Codes of which each group chooses among several codebooks."""
