"""NormalFloat: codes that weights of a normal distribution use about equally often.

QLoRA (Dettmers et al., 2023), section 3 and appendix E: quantiles of the standard normal
distribution, evenly spaced in probability, 2^(k-1) of them from zero up and one fewer from zero
down so that zero has one code, over the largest. The outermost probability is 1 - d, with d the
mean of 1/(2 * 2^k) and 1/(2 * (2^k - 1)).
"""

from statistics import NormalDist


def values(bits: int) -> list[float]:
    """The 2^bits values, sorted, from -1 to 1.

    >>> [round(value, 4) for value in values(3)]
    [-1.0, -0.535, -0.2469, 0.0, 0.1833, 0.382, 0.623, 1.0]
    """
    codes = 2**bits
    outermost = 1 - (1 / (2 * codes) + 1 / (2 * (codes - 1))) / 2
    above = _quantiles(outermost, codes // 2)
    below = _quantiles(outermost, codes // 2 - 1)
    return [
        *(-value / below[-1] for value in reversed(below)),
        0.0,
        *(v / above[-1] for v in above),
    ]


def _quantiles(outermost: float, count: int) -> list[float]:
    """Those of `count` probabilities up to the outermost, evenly spaced above 1/2."""
    step = (outermost - 0.5) / count
    return [NormalDist().inv_cdf(0.5 + step * i) for i in range(1, count + 1)]
