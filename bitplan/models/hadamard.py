"""Rotations that spread what is large in one channel over all: Hadamard matrices, signs at random.

A Hadamard matrix has entries of 1 and -1 and orthogonal rows. Kronecker products of those of small
order make one of large order, and are multiplied factor by factor: n channels take n times the sum
of the orders, not n^2. Orders are powers of two (Sylvester, 1867) and, with q a prime, q + 1 for
q = 3 mod 4 and 2 (q + 1) for q = 1 mod 4 (Paley, 1933): 12, 20, 28, 36, 44, 60, ...
"""

import math
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from bitplan.errors import ModelError

LARGEST = 64
"""Of a factor that is a power of two."""


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """R = diag(signs) (H_1 x H_2 x ...) / sqrt(n), for each n channels alike.

    `signs` [n] are random: without them what all channels have in common would gather in one.
    """

    signs: Float[Tensor, "n"]
    factors: tuple[Float[Tensor, "order order"], ...]

    def turn(self, rows: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows channels"]:
        """`rows` R."""
        size = len(self.signs)
        turned = rows.reshape(-1, size) * (self.signs.to(rows) / math.sqrt(size))
        turned = turned.reshape(-1, *map(len, self.factors))
        for factor in self.factors:
            # The first channel dimension goes to the end: after all of them they are in order.
            turned = turned.movedim(1, -1) @ factor.to(rows)
        return turned.reshape(rows.shape)


def random_rotation(size: int, *, seed: int) -> Rotation:
    """The rotation of a seed. Raises `ModelError` for a size that none is known for here.

    >>> rotation = random_rotation(12, seed=0)
    >>> matrix = rotation.turn(torch.eye(12))
    >>> torch.allclose(matrix @ matrix.T, torch.eye(12), atol=1e-6)
    True
    """
    orders = orders_of(size)
    if orders is None:
        raise ModelError(
            f"No Hadamard matrix of {size} channels is known here: they are made for products of "
            "powers of two with q + 1 or 2 (q + 1) of a prime q, as 12, 20 and 28. Choose the "
            'transform "awq" or "none".'
        )
    bits = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed))
    return Rotation(signs=2.0 * bits - 1, factors=tuple(map(_matrix, orders)))


def orders_of(size: int) -> tuple[int, ...] | None:
    """The orders whose product is `size`; None where there are none.

    >>> orders_of(576), orders_of(4096), orders_of(896), orders_of(6)
    ((12, 12, 4), (64, 64), (28, 32), None)
    """
    if size & (size - 1) == 0:
        factors = []
        while size > 1:
            factors.append(min(size, LARGEST))
            size //= factors[-1]
        return tuple(factors)
    for order in range(12, size + 1, 4):
        if size % order == 0 and _is_paley(order):
            rest = orders_of(size // order)
            if rest is not None:
                return (order, *rest)
    return None


def _matrix(order: int) -> Float[Tensor, "order order"]:
    if order & (order - 1) == 0:
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        return reduce(torch.kron, [pair] * (order.bit_length() - 1), torch.ones(1, 1))
    if _is_first(order):
        return torch.eye(order) + _bordered(order - 1, below=-1.0)
    half = order // 2
    conference = _bordered(half - 1, below=1.0)
    return torch.kron(conference, torch.tensor([[1.0, 1.0], [1.0, -1.0]])) + torch.kron(
        torch.eye(half), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    )


def _bordered(prime: int, *, below: float) -> Float[Tensor, "order order"]:
    """Whether i - j is a square modulo a prime: 1, -1, or 0 for none; with a border of ones."""
    squares = {(i * i) % prime for i in range(1, prime)}
    of = torch.tensor([0.0, *(1.0 if i in squares else -1.0 for i in range(1, prime))])
    index = torch.arange(prime)
    found = torch.zeros(prime + 1, prime + 1)
    found[0, 1:], found[1:, 0] = 1.0, below
    found[1:, 1:] = of[(index[:, None] - index) % prime]
    return found


def _is_paley(order: int) -> bool:
    return _is_first(order) or (
        order % 4 == 0 and (order // 2 - 1) % 4 == 1 and _is_prime(order // 2 - 1)
    )


def _is_first(order: int) -> bool:
    return order % 4 == 0 and _is_prime(order - 1)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, math.isqrt(number) + 1))
