"""How the Triton kernels read weights of which any are kept, by a bit each: see `sparse_layout`.

Bit 4 i + k of a cell's word says whether column i of its k-th eight is kept; those words are
`codes`, [panel, row, cell]. The codes of a row are one of the `streams`, in the order of panels,
cells, eights and columns. `starts` has, [half of the panels, row], how many codes of the row come
before each of two panels: 16 bits of 256 weights beside what is stored.
"""

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn.functional import pad

from bitplan.formats import bits, masks
from bitplan.kernels.gpu.eights import eights_of, row_of, signed
from bitplan.kernels.gpu.kept import EIGHTS, kept_of
from bitplan.kernels.gpu.layout import CELL, parts_of_rows, sections
from bitplan.schema import Scheme


def empty(scheme: Scheme, rows: int, columns: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors that rows are written to."""
    panels = sum(panels for _, _, panels in sections(columns))
    shapes = {
        "codes": (rows * columns // CELL,),
        "streams": (rows, kept_of(scheme, columns).row_words),
        "starts": (-(-panels // 2), rows),
    }
    return {
        name: torch.empty(shape, dtype=torch.int32, device=device) for name, shape in shapes.items()
    }


def write(
    found: dict[str, Tensor],
    some: slice,
    rows: int,
    dense: UInt8[Tensor, "rows columns"],
    mask: Bool[Tensor, "rows columns"],
    scheme: Scheme,
) -> None:
    """Write some of the rows; `dense` has a code of each column, any where none is kept."""
    there, places = eights_of(mask, 1), _places(mask.device)
    for view, of in zip(parts_of_rows(found["codes"], rows, dense.shape[1], 1), there, strict=True):
        words = (of.long() << places).sum((-1, -2))
        view[:, 0, some].copy_(signed(words, 32).transpose(0, 1))
    codes = torch.cat([of.flatten(1) for of in eights_of(dense, 1)], dim=1)
    in_order = torch.cat([of.flatten(1) for of in there], dim=1)
    packed = bits.pack(masks.kept_of(codes, in_order), int(scheme.bits))
    found["streams"][some] = _cut(packed, 4 * found["streams"].shape[1]).view(torch.int32)
    counts = torch.cat([of.sum((-1, -2, -3)) for of in there], dim=1)
    starts = counts.cumsum(1) - counts
    twos = pad(starts, (0, starts.shape[1] % 2)).unflatten(1, (-1, 2))
    found["starts"][:, some] = signed(twos[..., 0] | twos[..., 1] << 16, 32).t().int()


def read(
    arranged: dict[str, Tensor], some: slice, rows: int, columns: int, scheme: Scheme
) -> tuple[UInt8[Tensor, "rows columns"], Bool[Tensor, "rows columns"]]:
    """The way back from `write`."""
    assert scheme.sparsity is not None
    there, places = [], _places(arranged["codes"].device)
    for view in parts_of_rows(arranged["codes"], rows, columns, 1):
        words = view[:, 0, some].transpose(0, 1).long()
        there.append((words[..., None, None] >> places & 1).bool())
    in_order = torch.cat([of.flatten(1) for of in there], dim=1)
    count, width = scheme.sparsity.columns(columns), int(scheme.bits)
    packed = _cut(arranged["streams"][some].view(torch.uint8), bits.row_bytes(count, width))
    codes = masks.spread(bits.unpack(packed, width, count), in_order)
    sizes = [of[0].numel() for of in there]
    dense = [part.reshape(of.shape) for part, of in zip(codes.split(sizes, 1), there, strict=True)]
    return row_of(dense, 1), row_of(there, 1)


def _places(device: torch.device) -> Int64[Tensor, "4 8"]:
    """The bit of every column of every eight."""
    eight, column = torch.arange(EIGHTS, device=device), torch.arange(8, device=device)
    return 4 * column + eight[:, None]


def _cut(packed: UInt8[Tensor, "rows bytes"], count: int) -> UInt8[Tensor, "rows count"]:
    """Rows of so many bytes: what is more is padding, and what is less is zero."""
    return pad(packed, (0, count - packed.shape[1])).contiguous()
