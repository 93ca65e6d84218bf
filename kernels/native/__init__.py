"""Compiled loops over packed codes on the CPU: what the families' `cpu.py` are made of."""
