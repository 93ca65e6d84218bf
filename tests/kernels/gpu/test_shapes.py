from hypothesis import given
from hypothesis import strategies as st

from bitplan.kernels.gpu.layout import panel_of, sections
from bitplan.kernels.gpu.shapes import Device, decode_blocks, prefill_blocks
from bitplan.schema import Scheme

DEVICES = [Device(multiprocessors=132), Device(multiprocessors=304, warp=64, cuda=False)]


@given(
    rows=st.integers(1, 40000),
    columns=st.integers(1, 1000).map(lambda cells: 32 * cells),
    tokens=st.integers(1, 4096),
    device=st.sampled_from(DEVICES),
    scheme=st.sampled_from(
        ["int4g64", "int8g16", "nf4g64", "mxfp4", "ternaryg16", "int4g64+2:4", "int4g64+50%"]
    ).map(Scheme.parse),
)
def test_splits_have_every_panel_once(rows, columns, tokens, device, scheme):
    panel = panel_of(scheme)
    panels = columns // panel
    for blocks in (
        decode_blocks(scheme, rows, columns, tokens, device),
        prefill_blocks(rows, columns, tokens, device, panel=panel),
    ):
        shares = [
            min(panels, (split + 1) * blocks.panels) - min(panels, split * blocks.panels)
            for split in range(blocks.splits)
        ]
        assert sum(shares) == panels
        assert all(shares) or panels == 0
    assert prefill_blocks(rows, columns, tokens, device, panel=panel).splits == 1


@given(cells=st.integers(1, 1000))
def test_sections_have_every_column_once(cells):
    end = 0
    for start, cells_of, panels in sections(32 * cells):
        assert start == end
        assert panels == 1 or cells_of == 8
        end += panels * cells_of * 32
    assert end == 32 * cells
