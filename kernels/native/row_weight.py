"""Products and rows of a weight that is read row by row as it is packed: see `row_read`.

Its tensors are the canonical ones: a row whose codes are those of its kept weights alone, and
codes that are looked up in a table, which a group may choose, are read quickest where they lie.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bitplan.formats.masks import patterns
from bitplan.kernels.native import expand, row_product
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.row_read import FEW, INTEGER, MANY
from bitplan.kernels.native.sixteen import COLUMNS
from bitplan.kernels.native.tiles import TILE_BYTES, dtype_of_many
from bitplan.kernels.native.weight import ALL, MORE, check_device
from bitplan.schema import Sparsity

FEW_VECTORS, FEW_OF_BFLOAT16 = 16, 6
"""Vectors that each row is multiplied with as it is read; for more, torch multiplies rows, sooner
in bfloat16, where the processor has it."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A weight as its rows are read.

    Args:
        tensors: the canonical ones, by their names.
        columns: of the weight.
        bits: of a code, or TERNARY.
        group: columns that share a scale, a multiple of 16; None: all.
        table: float32 value of each code, one after another for each choice; None: evenly spaced.
        scale_table: float32 value of each byte of `scale`; None: bfloat16, or steps beside it.
        sparsity: which weights are kept; None: all.
    """

    tensors: dict[str, Tensor]
    columns: int
    bits: int
    group: int | None
    table: Tensor | None = None
    scale_table: Tensor | None = None
    sparsity: Sparsity | None = None

    @property
    def height(self) -> int:
        """How many there are."""
        return len(self.tensors["codes"])

    def job(self) -> array:
        """What every job on the weight needs."""
        job, tensors = array("q", bytes(8 * fields.FIELDS)), self.tensors
        job[fields.CODES], job[fields.SCALE] = (tensors[n].data_ptr() for n in ("codes", "scale"))
        job[fields.ROWS], job[fields.COLUMNS] = self.height, self.columns
        job[fields.GROUP], job[fields.BITS] = self.group or ALL, self.bits
        job[fields.CODE_BYTES] = tensors["codes"].shape[-1]
        for name, field in _MORE.items():
            if name in tensors:
                job[field] = tensors[name].data_ptr()
        if self.table is not None:
            job[fields.TABLE] = self.table.data_ptr()
        if self.scale_table is not None:
            job[fields.SCALE_TABLE] = self.scale_table.data_ptr()
        job[fields.KIND] = self._kind()
        if self.sparsity is not None:
            job[fields.MASK_BYTES] = tensors["mask"].shape[-1]
            if self.sparsity.block is not None:
                table = _masks(self.sparsity)
                job[fields.MASK_TABLE] = table.ctypes.data
                job[fields.MASK_BITS] = len(table).bit_length() - 1
        return job

    def _kind(self) -> int:
        if self.table is None:
            return INTEGER
        return FEW if self.bits <= 4 else MANY

    def multiply(self, inputs: Float[Tensor, "*tokens in"]) -> Float[Tensor, "*tokens out"]:
        """Product with the transposed weight, in the inputs' dtype; computed in float32."""
        check_device(inputs)
        dtype = inputs.dtype if inputs.dtype == torch.bfloat16 else torch.float32
        flat = inputs.to(dtype).contiguous()
        count = flat.numel() // self.columns if self.columns else 0
        shape = (*inputs.shape[:-1], self.height)
        is_quick = dtype_of_many(flat) == torch.bfloat16
        if count > (FEW_OF_BFLOAT16 if is_quick else FEW_VECTORS):
            output = self._multiply_many(flat.view(count, self.columns)).view(shape)
        else:
            output = torch.empty(shape, dtype=dtype)
            job = self.job()
            job[fields.INPUTS], job[fields.COUNT] = flat.data_ptr(), count
            job[fields.OUTPUT] = output.data_ptr()
            is_half = dtype == torch.bfloat16
            job[fields.INPUT_IS_BFLOAT16] = job[fields.OUTPUT_IS_BFLOAT16] = is_half
            if count:
                fields.run(
                    row_product.product(expand.instructions()),
                    job,
                    count * self.height * self.columns,
                )
        return output.to(inputs.dtype)

    def few(self, count: int, dtype: torch.dtype) -> fields.Terms | None:
        """See `weight.few`."""
        del dtype  # it is as exact for every one
        if count > FEW_VECTORS:
            return None
        job = self.job()
        job[fields.COUNT] = count
        function = row_product.product(expand.instructions())
        return [fields.Term((fields.Job(function, job, count * self.height * self.columns, self),))]

    def multiply_back(self, gradient: Float[Tensor, "*tokens out"]) -> Float[Tensor, "*tokens in"]:
        """Product with the weight itself: the gradient at the inputs of `multiply`."""
        check_device(gradient)
        dtype = dtype_of_many(gradient)
        flat = gradient.reshape(-1, self.height).to(dtype)
        output = torch.zeros(len(flat), self.columns, dtype=torch.float32)
        for some, tile in self._tiles(dtype):
            output += flat[:, some] @ tile
        return output.to(gradient.dtype).view(*gradient.shape[:-1], self.columns)

    def chosen_rows(
        self, tokens: Int[Tensor, "*tokens"], dtype: torch.dtype
    ) -> Float[Tensor, "*tokens in"]:
        """Rows of the weight. Raises IndexError where there is no such row."""
        check_device(tokens)
        numbers, job = tokens.to(torch.int64).contiguous(), self.job()
        own = dtype if dtype == torch.bfloat16 else torch.float32
        output = torch.empty((*tokens.shape, self.columns), dtype=own)
        job[fields.INPUTS] = numbers.data_ptr()
        self._decode(job, output, numbers.numel())
        if job[fields.IS_MISSING]:
            raise IndexError(
                f"row {job[fields.FIRST]} is looked up in a weight of {self.height} rows"
            )
        return output.to(dtype)

    def decoded(self, dtype: torch.dtype) -> Float[Tensor, "height columns"]:
        """All of it, in float32 or bfloat16."""
        output = torch.empty(self.height, self.columns, dtype=dtype)
        self._decode(self.job(), output, self.height)
        return output

    def _multiply_many(self, inputs: Tensor) -> Tensor:
        """Decode as many rows as stay in the cache, and let torch multiply them."""
        dtype = dtype_of_many(inputs)
        vectors = inputs.to(dtype)
        output = torch.empty(len(inputs), self.height, dtype=dtype)
        for some, tile in self._tiles(dtype):
            torch.mm(vectors, tile.t(), out=output[:, some])
        return output

    def _tiles(self, dtype: torch.dtype) -> Iterator[tuple[slice, Float[Tensor, "count columns"]]]:
        """Some rows after others, decoded; a tile lives until the next one."""
        step = max(1, TILE_BYTES // (self.columns * dtype.itemsize))
        memory, job = torch.empty(min(step, self.height), self.columns, dtype=dtype), self.job()
        for start in range(0, self.height, step):
            some = slice(start, min(start + step, self.height))
            tile = memory[: some.stop - start]
            job[fields.FIRST] = start
            self._decode(job, tile, len(tile))
            yield some, tile

    def _decode(self, job: array, output: Tensor, count: int) -> None:
        job[fields.OUTPUT], job[fields.COUNT], job[fields.COUNTER] = output.data_ptr(), count, 0
        job[fields.OUTPUT_IS_BFLOAT16] = output.dtype == torch.bfloat16
        fields.run(row_product.rows(expand.instructions()), job, output.numel())


_MORE = {**MORE, "mask": fields.MASK, "choice": fields.CHOICE}


@cache
def _masks(sparsity: Sparsity) -> np.ndarray:  # [2^bits], uint16
    """Which of sixteen columns are kept, by the numbers of their patterns side by side.

    Numbers that are no pattern's, which nothing writes, keep none.
    """
    assert sparsity.block is not None
    every = (patterns(sparsity).numpy() << np.arange(sparsity.block)).sum(1)
    bits, blocks = sparsity.code_bits, COLUMNS // sparsity.block
    one = np.zeros(1 << bits, np.int64)
    one[: len(every)] = every
    numbers = np.arange(1 << (bits * blocks))
    places = (
        one[(numbers >> (bits * at)) & ((1 << bits) - 1)] << (sparsity.block * at)
        for at in range(blocks)
    )
    return sum(places, np.zeros_like(numbers)).astype(np.uint16)
