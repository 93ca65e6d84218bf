"""A product of several terms as phases of a program: inputs gathered, multiplied, and summed."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

from torch import Tensor

from bitplan.kernels.decoder import gather, total
from bitplan.kernels.native import job as fields
from bitplan.kernels.native.floats import COUNTER, fields_of
from bitplan.kernels.native.job import Job, Terms

Phase = list[tuple[Job, int]]
"""Jobs that may be done beside each other, each with the number of the field of its counter."""

Place = Callable[[str, int], int]
"""The address of so many float32 numbers, by a name that nothing else goes by."""


def rows_of(terms: Terms) -> int:
    """Numbers of a product's output, for each vector."""
    return terms[0].jobs[-1].fields[fields.ROWS]


def phases_of(terms: Terms, inputs: int, width: int, output: int, place: Place) -> list[Phase]:
    """The phases of a product.

    Args:
        terms: of the product; their jobs are told where they read and write.
        inputs: address of float32 [vectors, width].
        width: of the inputs.
        output: address of float32 [vectors, rows].
        place: memory for what is between the jobs.
    """
    taken: dict[int, tuple[int, Job]] = {}  # two planes of a base read the same columns
    chains, products = [], []
    for number, (jobs, columns) in enumerate(terms):
        reads, count = inputs, jobs[0].fields[fields.COUNT]
        if columns is not None:
            if id(columns) not in taken:
                reads = place(f"columns {number}", count * len(columns))
                taken[id(columns)] = reads, _gathering(columns, inputs, count, width, reads)
            reads, _ = taken[id(columns)]
        for step, job in enumerate(jobs, start=1):
            is_first_of_all = number == 0 and step == len(jobs)
            size = count * job.fields[fields.ROWS]
            writes = output if is_first_of_all else place(f"product {number}.{step}", size)
            job.fields[fields.INPUTS], job.fields[fields.OUTPUT] = reads, writes
            reads = writes
        chains.append([[(job, fields.COUNTER)] for job in jobs])
        products.append(reads)
    found: list[Phase] = [[(job, COUNTER) for _, job in taken.values()]] if taken else []
    found += beside(chains)
    if len(products) > 1:
        size = terms[0].jobs[0].fields[fields.COUNT] * rows_of(terms)
        found.append([(_adding(products, size), COUNTER)])
    return found


def beside(rows: Sequence[Sequence[Phase]]) -> list[Phase]:
    """Rows of phases, done beside each other: the first of all, then the second of all."""
    return [[job for phase in some for job in phase] for some in zip_longest(*rows, fillvalue=[])]


def _gathering(columns: Tensor, inputs: int, count: int, width: int, output: int) -> Job:
    values = {
        gather.VECTORS: count,
        gather.WIDTH: width,
        gather.COLUMNS: len(columns),
        gather.NUMBERS: columns.data_ptr(),
        gather.INPUTS: inputs,
        gather.OUTPUT: output,
    }
    return Job(gather.function(), fields_of(gather.FIELDS, values), 0, columns)


def _adding(products: Sequence[int], size: int) -> Job:
    """The first product plus the others."""
    values = {total.SIZE: size, total.TOTAL: products[0], total.ADDED: len(products) - 1}
    values |= {total.FIELDS + at: product for at, product in enumerate(products[1:])}
    return Job(total.function(), fields_of(total.FIELDS + len(products) - 1, values), 0, None)
