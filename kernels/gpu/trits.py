"""How the Triton kernels read ternary codes: panels of 320 columns, five codes to a byte.

A cell has 40 codes in two words of 32 bits: bytes are 5 digits in base 3, and a half of a word has
two bytes. Otherwise all is as in `layout`: code p of half h of cell c is column 16 p + 2 c + h of a
panel. What remains of a row is a panel, too, of one word a cell where 160 columns are enough; what
it has more than columns is padding.

A byte is the fraction of 256 that its digits are after the point, rounded up: times 3, it has the
first digit above its 8 bits, and the fraction of the others in them.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from bitplan.formats import base3

CELLS = 8
PAIRS_OF_WORD = 10
COLUMNS_OF_WORD = 2 * CELLS * PAIRS_OF_WORD
"""Columns that a word of each cell has room for."""

WORDS = 2
"""Of a cell in a whole panel."""

PANEL = WORDS * COLUMNS_OF_WORD
"""Columns of a whole panel."""


def words_of(columns: int) -> int:
    """Words of a row.

    >>> words_of(320), words_of(352)
    (16, 24)
    """
    return CELLS * -(-columns // COLUMNS_OF_WORD)


def arrange(packed: UInt8[Tensor, "rows bytes"], columns: int) -> Tensor:
    """The words, int32, of codes as `base3` packs them."""
    rows, room = len(packed), words_of(columns) // CELLS * COLUMNS_OF_WORD
    codes = torch.nn.functional.pad(base3.unpack(packed, columns), (0, room - columns))
    # Of each word its bytes: the lower and the upper one of the lower half, and of the upper half.
    digits = codes.view(rows, -1, 2, base3.DIGITS, CELLS, 2).permute(0, 1, 4, 5, 2, 3)
    number = torch.zeros(digits.shape[:-1], dtype=torch.int32, device=codes.device)
    for digit in digits.unbind(-1):
        number = number * 3 + digit
    # n / 243 of 256, rounded up.
    words = ((number * 256 + 242) // 243).to(torch.uint8).flatten(3).view(torch.int32).squeeze(-1)
    parts, start = [], 0
    for panels, count in _sections(columns):
        part = words[:, start : start + panels * count]
        parts.append(part.unflatten(1, (panels, count)).permute(1, 2, 0, 3).flatten())
        start += panels * count
    return torch.cat(parts)


def restore(words: Tensor, rows: int, columns: int) -> UInt8[Tensor, "rows bytes"]:
    """The way back from `arrange`."""
    found, start = [], 0
    for panels, count in _sections(columns):
        size = panels * count * rows * CELLS
        part = words[start : start + size].view(panels, count, rows, CELLS)
        found.append(part.permute(2, 0, 1, 3).reshape(rows, -1, CELLS))
        start += size
    number = torch.cat(found, dim=1).contiguous().unsqueeze(-1).view(torch.uint8).int()
    digits = []
    for _ in range(base3.DIGITS):
        number = number * 3
        digits.append(number >> 8)
        number = number & 0xFF
    of_bytes = torch.stack(digits, dim=-1).view(rows, -1, CELLS, 2, 2, base3.DIGITS)
    codes = of_bytes.permute(0, 1, 4, 5, 2, 3).reshape(rows, -1)[:, :columns]
    return base3.pack(codes.to(torch.uint8))


def _sections(columns: int) -> list[tuple[int, int]]:
    """How many panels there are, and their words a cell: whole ones, and one of a single word."""
    whole, rest = divmod(words_of(columns) // CELLS, WORDS)
    return [(panels, words) for panels, words in ((whole, WORDS), (rest, 1)) if panels]
