"""What the model of a device counts: panels that programs take one after another.

A step is a panel that programs take beside each other, four a multiprocessor, or their start.
"""

from bitplan.kernels.gpu.layout import panel_of
from bitplan.kernels.gpu.shapes import PROGRAMS, Blocks, Device
from bitplan.schema import Scheme

LAUNCH = 1
"""What programs' start and their end cost, and a launch of sums, in panels that a program takes."""


def steps_alone(weight: tuple[Scheme, int], blocks: Blocks, columns: int, device: Device) -> int:
    """Of one weight, a scheme and rows: its planes are launches of their own, and a sum is one."""
    (scheme, rows), planes = weight, weight[0].family.planes
    of_waves = waves(blocks.splits * -(-rows // blocks.rows), device)
    of_plane = of_waves * (panels_each(scheme, columns, blocks.splits) + LAUNCH)
    return planes * of_plane + LAUNCH * (planes * blocks.splits > 1)


def waves(programs: int, device: Device) -> int:
    """How often the device is filled with so many programs."""
    return -(-programs // (PROGRAMS * device.multiprocessors))


def panels_each(scheme: Scheme, columns: int, splits: int) -> int:
    """Panels of a program."""
    return max(1, -(-(columns // panel_of(scheme)) // splits))
