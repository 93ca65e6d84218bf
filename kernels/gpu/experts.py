"""A product with a stack of weights, of which each token has one: the experts of a mixture.

Tokens are sorted by expert, and the device knows where each one's end: so all are one launch that
waits for nothing. A block of tokens is of one expert; which, each program finds out for itself.
Of several stacks, one for each scheme, each is a launch that multiplies the tokens of its experts.
"""

# Triton, not Python, gives these functions their meaning: constants are typed otherwise there.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportOperatorIssue=false

import triton
import triton.language as tl

from bitplan.kernels.gpu.matmul import multiply


@triton.jit(do_not_specialize=["panels_each", "held"])
def matmul_of_experts(
    inputs,
    codes,
    grid,
    matrix_scale,
    scale_step,
    offset_step,
    choices,
    outputs,
    ends,
    members,
    held,
    rows,
    count,
    stride,
    panels_each,
    codes_each,
    grid_each,
    choices_each,
    EXPERTS: tl.constexpr,
    SPEC: tl.constexpr,
):
    """As `matmul`, but an expert's tokens begin where those before it end: `ends` [EXPERTS].

    `members` [held] says which of the experts the stack has; or both are None, and it has all.
    From one expert to the next are so many words of codes, grid and choices. There may be more
    programs than blocks of tokens; those have nothing to do.
    """
    expert, first, end = share_of(ends, members, held, tl.program_id(2), EXPERTS, SPEC.tokens)
    if expert < EXPERTS:
        far = expert.to(tl.int64)
        if matrix_scale is not None:
            matrix_scale += far
        if scale_step is not None:
            scale_step += far * rows * SPEC.steps
        if offset_step is not None:
            offset_step += far * rows * SPEC.steps
        if choices is not None:
            choices += far * choices_each
        multiply(
            inputs,
            codes + far * codes_each,
            grid + far * grid_each,
            matrix_scale,
            scale_step,
            offset_step,
            choices,
            None,
            None,
            None,
            None,
            outputs,
            rows,
            tl.program_id(0),
            tl.program_id(1),
            tl.num_programs(1),
            first,
            end,
            count,
            stride,
            panels_each,
            SPEC,
        )


@triton.jit
def share_of(ends, members, held, block, EXPERTS: tl.constexpr, TOKENS: tl.constexpr):
    """The expert whose tokens a block has, the first of them, and the end of the expert's.

    The expert is told by its place in the stack. Beyond the last block it is one that there is not.
    """
    expert = tl.arange(0, triton.next_power_of_2(EXPERTS))
    number, there_are = expert, EXPERTS
    if members is not None:
        number, there_are = tl.load(members + expert, mask=expert < held, other=0), held
    end = tl.load(ends + number, mask=expert < there_are, other=0)
    begin = tl.load(ends + number - 1, mask=(number > 0) & (expert < there_are), other=0)
    blocks = tl.cumsum((end - begin + TOKENS - 1) // TOKENS, 0)
    is_before = blocks <= block
    own = tl.sum(is_before.to(tl.int32), 0)
    before = tl.max(tl.where(is_before, blocks, 0), 0)
    is_own = expert == own
    first = tl.sum(tl.where(is_own, begin, 0), 0) + (block - before) * TOKENS
    return (
        tl.where(block < tl.max(blocks, 0), own, EXPERTS),
        first,
        tl.sum(tl.where(is_own, end, 0), 0),
    )
