"""Schemes that leave weights out, N:M or unstructured, of any codes."""
