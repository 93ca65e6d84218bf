"""Numbers as people read them. 1 MB is 10^6 bytes and 1 GB is 10^9."""

NOTHING = "–"


def size(number: int | None) -> str:
    """Bytes in the largest unit that leaves at least one digit before the point.

    >>> size(71_303_168)
    '71.30 MB'
    """
    if number is None:
        return NOTHING
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number} bytes"


def nats(value: float | None, standard_error: float | None = None) -> str:
    """A KL in nats per token, with its standard error if one is known.

    >>> nats(0.08314, 0.00217)
    '0.0831 ± 0.0022'
    """
    if value is None:
        return NOTHING
    if standard_error is None:
        return _short(value)
    return f"{_short(value)} ± {_short(standard_error)}"


def change(value: float) -> str:
    """A difference of KLs in nats per token, with its sign.

    >>> change(-0.08314), change(0.0)
    ('-0.0831', '0')
    """
    return f"+{_short(value)}" if value > 0 else _short(value)


def perplexity(value: float | None) -> str:
    """A perplexity, if there is one.

    >>> perplexity(12.9731)
    '12.97'
    """
    return NOTHING if value is None else f"{value:.2f}"


def _short(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.4f}" if abs(value) >= 0.0005 else f"{value:.1e}"
