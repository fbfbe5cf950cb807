"""Collectives, loops and memory traffic read from the text of compiled programs."""

import pytest

from tests.aot.programs import DIFFERENTIATED, ENDLESS, LOOPS, MEMORY
from trm_jax.aot import hlo
from trm_jax.aot.hlo import collectives, memory_traffic


def times(module):
    return {run.computation.name: (run.times, run.known) for run in module.executions()}


def test_loops_run_as_often_as_their_conditions_or_annotations_say():
    module = hlo.parse(LOOPS)
    assert module.partitions == 8
    assert times(module) == {
        "main": (1, True),
        "backward": (6, True),
        "outer_body": (3, True),  # from 2, below 5
        "inner_body": (6, True),  # twice in each of them
    }


def test_a_loop_s_limit_may_lie_inside_its_fused_condition():
    text = LOOPS.replace("%p.1 = s32[]{:T(128)} parameter(1)", "%p.1 = s32[]{:T(128)} constant(5)")
    text = text.replace("%limit.1 = s32[]{:T(128)} constant(5)", "%unused = s32[] parameter(1)")
    text = text.replace("fusion(%counter.2, %limit.1)", "fusion(%counter.2)")
    assert text.count("%p.1 = s32[]{:T(128)} constant(5)") == 1 and "limit.1" not in text
    assert times(hlo.parse(text)) == times(hlo.parse(LOOPS))


def test_collectives_by_kind_with_their_loops():
    """In the loop of 6 an all-reduce, in the one of 3 around 2 a permutation; the one among groups of one device moves
    nothing."""
    gradient, table, both = 4 * 8 * 4, 16 * 8 * 2, 4 * 8 * 4 + 8 * 4
    assert collectives(hlo.parse(LOOPS)) == {
        "all-reduce": {
            "count": 6 + 1,
            "bytes": 6 * gradient + both,
            "sent_bytes": 2 * 7 / 8 * (6 * gradient + both),
            "bytes_in_loops": 6 * gradient,
        },
        "collective-permute": {
            "count": 6,
            "bytes": 6 * gradient,
            "sent_bytes": 6 * gradient,
            "bytes_in_loops": 6 * gradient,
        },
        "all-gather": {"count": 1, "bytes": table, "sent_bytes": 7 / 8 * table, "bytes_in_loops": 0},
        "reduce-scatter": {"count": 1, "bytes": gradient, "sent_bytes": 3 / 4 * gradient, "bytes_in_loops": 0},
    }


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    module = hlo.parse(ENDLESS)
    assert times(module) == {"main": (1, True), "search": (1, False)}
    assert collectives(module) == {"all-to-all": {"count": 1, "bytes": 4, "sent_bytes": 3.0, "bytes_in_loops": 0}}


def test_types_as_compilers_write_them():
    text = "((bf16[97,192]{1,0:T(8,128)(2,1)}), f8e4m3fn[3]{0:T(128)S(5)}, s4[5]{0}, pred[], u32[]{:S(2)}, token[])"
    found = hlo.arrays(text)
    assert [(one.bytes, one.space) for one in found] == [
        (97 * 192 * 2, 0),
        (3, 5),
        (3, 0),
        (1, 0),
        (4, 2),
        (0, 0),
    ]


def test_a_text_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        hlo.parse("HloModule empty\n")


ARRAY = 16 * 16 * 4


@pytest.mark.parametrize(
    "instruction, moved",
    [
        ("%f = f32[16,16]{1,0} fusion(%x, %y), kind=kLoop, calls=%product", 3 * ARRAY),
        ("%f = f32[16,16]{1,0:S(1)} fusion(%x, %y), kind=kLoop, calls=%product", 2 * ARRAY),
        ("%f = f32[16,16]{1,0} fusion(%residuals, %index), kind=kLoop, calls=%cut", 2 * ARRAY + 4),
        ("%f = f32[16,16]{1,0} fusion(%residuals, %index), kind=kLoop, calls=%tile_and_cut", 2 * ARRAY + 4),
        ("%f = f32[6,16,16]{2,1,0} fusion(%residuals, %x, %index), kind=kLoop, calls=%store", 2 * ARRAY + 4),
        ("%f = f32[16,16]{1,0} fusion(%residuals, %index, %x), kind=kOutput, calls=%cut_and_multiply", 3 * ARRAY + 4),
        ("%f = f32[6,16,16]{2,1,0} fusion(%residuals, %x, %index), kind=kLoop, calls=%store_inside", 2 * ARRAY + 4),
        ("%f = f32[16,16]{1,0} copy(%x)", 2 * ARRAY),
        ("%f = f32[16,16]{1,0} bitcast(%x)", 0),
        ("%f = (f32[16,16]{1,0:S(1)}, f32[16,16]{1,0}, u32[]{:S(2)}) copy-start(%x)", ARRAY),
        ("%f = ((f32[16,16]{1,0}), f32[4,16]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:4]}", ARRAY // 4),
        ("%f = f32[4,16]{1,0} slice(%x), slice={[0:4], [0:16]}", ARRAY // 2),
        ("%f = f32[6,16,16]{2,1,0} dynamic-update-slice(%residuals, %x, %index)", 2 * ARRAY),
        ('%f = f32[16,16]{1,0} custom-call(), custom_call_target="AllocateBuffer"', 0),
        ('%f = f32[16,16]{1,0} custom-call(%x), custom_call_target="kernel"', 2 * ARRAY),
    ],
)
def test_bytes_that_go_through_main_memory(instruction, moved):
    """`index` is a scalar of 4 bytes where a fusion reads it."""
    assert memory_traffic(hlo.parse(MEMORY.replace("INSTRUCTION", f"ROOT {instruction}"))) == moved


def test_traffic_counts_loops():
    """6 times an all-reduce of an array that comes from main memory and stays on the chip, and so on."""
    gradient, table = 4 * 8 * 4, 16 * 8 * 2
    once = [
        6 * gradient,  # the loop's all-reduce: its result lies in S(3)
        6 * 2 * gradient,  # permutation
        2 * 4,  # the copied counter
        2 * 2 * 8 * 2,  # the slice
        2 * 8 * 2 + table,  # all-gather
        gradient + 8 * 4,  # reduce-scatter
        2 * gradient,  # among single devices
        2 * (gradient + 8 * 4),
    ]
    assert memory_traffic(hlo.parse(LOOPS)) == sum(once)


@pytest.mark.parametrize("iterations", [2, 6, 18])
def test_traffic_grows_with_the_iterations_and_not_with_their_square(iterations):
    """An iteration reads or stores its own part of the stack: a scalar and two arrays there, three on the way back."""
    text = DIFFERENTIATED.replace("[L,", f"[{iterations},").replace('"L"', f'"{iterations}"')
    assert memory_traffic(hlo.parse(text)) == iterations * (2 * ARRAY + 4 + 3 * ARRAY + 4)
