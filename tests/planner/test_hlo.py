"""Parsed programs: trip counts, bytes, collectives and FLOPs of programs small enough to count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import PartitionSpec

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.models.attention_kernels import kernels
from corl_jax.planner import flops
from corl_jax.planner.decode_loop import loop_table
from corl_jax.planner.hlo import module as hlo
from corl_jax.planner.hlo import moved_bytes

N = 256


def compile_and_parse(function, *args):
    return hlo.parse(jax.jit(function).lower(*args).compile().as_text())


def array(*shape, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def test_arrays_have_a_memory_space():
    text = """HloModule m

ENTRY %main (p: bf16[4,8]) -> (bf16[4,8], s32[]) {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %copy-start.1 = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, bf16[4,8]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %copy-done.1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start.1)
  %c = s32[] constant(3)
  ROOT %t = (bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, s32[]) tuple(%copy-done.1, %c)
}
"""
    module = hlo.parse(text)
    start = module.entry.instructions["copy-start.1"]
    arrays = [(part.dtype, part.dims, part.memory_space, part.bytes) for part in start.arrays]
    assert arrays == [
        ("bf16", (4, 8), 1, 64),
        ("bf16", (4, 8), 0, 64),
        ("u32", (), 2, 4),
    ]
    assert module.entry.root.name == "t" and module.entry.parameters[0].name == "p"
    # The parameter is read once, on its way to the chip's own memory.
    assert moved_bytes.program_traffic(module) == moved_bytes.DeviceTraffic(64.0, {})


def test_a_loop_counts_as_often_as_it_runs():
    def run(x, trip_count):
        return jax.lax.fori_loop(0, trip_count, lambda i, x: jnp.sin(x) @ x, x)

    short, long = (compile_and_parse(lambda x, n=n: run(x, n), array(N, N)) for n in (5, 20))
    _, body, short_trips = next(moved_bytes.loops(short))
    _, _, long_trips = next(moved_bytes.loops(long))
    assert (short_trips, long_trips) == (5, 20)

    # An iteration moves both factors and the product at least.
    iteration_bytes = moved_bytes.computation_traffic(short, body).hbm_bytes
    assert iteration_bytes >= 3 * 4 * N * N
    short_bytes = moved_bytes.program_traffic(short).hbm_bytes
    long_bytes = moved_bytes.program_traffic(long).hbm_bytes
    assert long_bytes - short_bytes == pytest.approx(15 * iteration_bytes, rel=0.01)


def test_an_update_in_place_counts_as_the_update_and_a_slice_as_the_slice():
    def run(x):
        def shift_row(i, x):
            row = jax.lax.dynamic_slice(x, (i, 0), (1, N))
            return jax.lax.dynamic_update_slice(x, row * 2, (i + 1, 0))

        return jax.lax.fori_loop(0, 100, shift_row, x)

    module = compile_and_parse(run, array(N, N))
    _, body, trip_count = next(moved_bytes.loops(module))
    iteration_bytes = moved_bytes.computation_traffic(module, body).hbm_bytes
    assert trip_count == 100 and iteration_bytes <= 8 * 4 * N < 4 * N * N
    assert moved_bytes.count_copies(module, body, 4 * N * N) == 0


def test_a_copy_inside_a_loop_is_counted():
    def run(x):
        # Compilers fuse a copy with what reads it; here nothing does.
        return jax.lax.fori_loop(0, 7, lambda i, x: x.T, x)

    module = compile_and_parse(run, array(N, N))
    _, body, _ = next(moved_bytes.loops(module))
    assert moved_bytes.count_copies(module, body, 4 * N * N) >= 1
    assert moved_bytes.count_copies(module, body, 4 * N * N + 1) == 0


def test_collectives_count_what_a_device_sends():
    sharder = Sharder(make_mesh({"fsdp": 8}))
    by_rows, replicated = sharder.named_sharding("batch"), sharder.named_sharding()
    gather = compile_and_parse(
        lambda x: jax.lax.with_sharding_constraint(x * 2, replicated),
        array(N, N, sharding=by_rows),
    )
    assert moved_bytes.program_traffic(gather).link_bytes == {"all-gather": 7 / 8 * 4 * N * N}
    column_sum = compile_and_parse(lambda x: jnp.sum(x, 0), array(N, N, sharding=by_rows))
    assert moved_bytes.program_traffic(column_sum).link_bytes == {"all-reduce": 2 * 7 / 8 * 4 * N}


def test_a_loop_that_computes_two_windows_per_iteration_runs_half_as_often():
    text = """HloModule m

%cond (c: (u32[], f32[8])) -> pred[] {
  %c = (u32[], f32[8]{0}) parameter(0)
  %i = u32[] get-tuple-element(%c), index=0
  %limit = u32[] constant(16)
  ROOT %more = pred[] compare(%i, %limit), direction=LT
}

%body (b: (u32[], f32[8])) -> (u32[], f32[8]) {
  %b = (u32[], f32[8]{0}) parameter(0)
  %i = u32[] get-tuple-element(%b), index=0
  %x = f32[8]{0} get-tuple-element(%b), index=1
  %there = f32[8]{0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %back = f32[8]{0} collective-permute(%there), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  ROOT %t = (u32[], f32[8]{0}) tuple(%next, %back)
}

ENTRY %main (p: f32[8]) -> (u32[], f32[8]) {
  %p = f32[8]{0} parameter(0)
  %zero = u32[] constant(0)
  %start = (u32[], f32[8]{0}) tuple(%zero, %p)
  ROOT %loop = (u32[], f32[8]{0}) while(%start), condition=%cond, body=%body
}
"""
    traffic = moved_bytes.program_traffic(hlo.parse(text))
    assert traffic.link_bytes == {"collective-permute": 8 * 2 * 32}


def test_an_all_gather_beside_a_product_counts_once_and_a_sliced_all_reduce_is_a_reduce_scatter():
    groups = "replica_groups={{0,1,2,3}}"
    overlapped = 'backend_config={"async_collective_fusion_config":{}}'
    text = f"""HloModule m

%begin (p: f32[8]) -> (f32[8], f32[32]) {{
  %p = f32[8]{{0}} parameter(0)
  %g = f32[32]{{0}} all-gather(%p), channel_id=1, {groups}, {overlapped}
  ROOT %s = (f32[8]{{0}}, f32[32]{{0}}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%product (p: f32[8], q: f32[32], x: f32[8]) -> (f32[8], f32[8], f32[32]) {{
  %p = f32[8]{{0}} parameter(0)
  %q = f32[32]{{0}} parameter(1)
  %x = f32[8]{{0}} parameter(2)
  %g = f32[32]{{0}} all-gather(%p), channel_id=1, {groups}, {overlapped}
  %y = f32[8]{{0}} multiply(%x, %x)
  ROOT %t = (f32[8]{{0}}, f32[8]{{0}}, f32[32]{{0}}) tuple(%y, %p, %g)
}}

%end (p: f32[8], q: f32[32]) -> f32[32] {{
  %p = f32[8]{{0}} parameter(0)
  %q = f32[32]{{0}} parameter(1)
  %g = f32[32]{{0}} all-gather(%p), channel_id=1, {groups}, {overlapped}
  ROOT %d = f32[32]{{0}} custom-call(%p, %q), custom_call_target="AsyncCollectiveDone"
}}

%scatter (p: f32[32]) -> f32[8] {{
  %p = f32[32]{{0}} parameter(0)
  %r = f32[32]{{0}} all-reduce(%p), channel_id=2, {groups}
  %zero = u32[] constant(0)
  ROOT %slice = f32[8]{{0}} dynamic-slice(%r, %zero), dynamic_slice_sizes={{8}}
}}

ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  %a = (f32[8]{{0}}, f32[32]{{0}}) fusion(%p), kind=kCustom, calls=%begin
  %a0 = f32[8]{{0}} get-tuple-element(%a), index=0
  %a1 = f32[32]{{0}} get-tuple-element(%a), index=1
  %b = (f32[8]{{0}}, f32[8]{{0}}, f32[32]{{0}}) fusion(%a0, %a1, %p), kind=kOutput, calls=%product
  %b1 = f32[8]{{0}} get-tuple-element(%b), index=1
  %b2 = f32[32]{{0}} get-tuple-element(%b), index=2
  %c = f32[32]{{0}} fusion(%b1, %b2), kind=kCustom, calls=%end
  ROOT %d = f32[8]{{0}} fusion(%c), kind=kCustom, calls=%scatter
}}
"""
    traffic = moved_bytes.program_traffic(hlo.parse(text))
    assert traffic.link_bytes == {"all-gather": 3 * 32, "reduce-scatter": 3 / 4 * 128}
    begin_bytes, product_bytes, scatter_bytes = 32 + 32 + 128, 32 + 32 + 32, 128 + 32
    assert traffic.hbm_bytes == begin_bytes + product_bytes + scatter_bytes


@pytest.mark.parametrize(
    "attributes",
    [
        "replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}",
        "replica_groups=[2,4]<=[8], dimensions={0}",
        "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}",
        "replica_groups=mesh['axis_0'=8,'axis_1'=1], device_ids=([2,4]T(1,0)) {'axis_0':(2)4}, "
        "dimensions={0}",
    ],
)
def test_groups_of_four_in_every_notation(attributes):
    text = f"""HloModule m

ENTRY %main (p: f32[8]) -> f32[32] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %g = f32[32]{{0}} all-gather(%p), channel_id=1, {attributes}
}}
"""
    assert moved_bytes.program_traffic(hlo.parse(text)).link_bytes == {"all-gather": 3 * 32}


def test_flops_of_products_loops_branches_and_shards():
    a, product = array(N, N), 2 * N**3

    def loop(x, trip_count):
        return jax.lax.while_loop(
            lambda c: c[0] < trip_count, lambda c: (c[0] + 1, c[1] @ c[1]), (0, x)
        )

    def scan(x):
        return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=6)

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)

    assert flops.call_flops(lambda x: x @ x, a) == product
    assert flops.call_flops(scan, a) == 6 * product
    assert flops.call_flops(lambda x: loop(x, 9), a) == 9 * product
    assert flops.call_flops(branch, a) == 2 * product

    # Forward, forward again, and two gradients.
    remat = jax.grad(lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x))(x)))
    assert flops.call_flops(remat, a) in (3 * product, 4 * product)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    convolution = flops.call_flops(convolve, array(2, 16, 16, 3), array(3, 3, 3, 8))
    assert convolution == 2 * (2 * 16 * 16 * 8) * (3 * 3 * 3)

    mesh, by_rows = make_mesh({"fsdp": 8}), PartitionSpec("fsdp")
    sharded = jax.shard_map(
        lambda x: x @ np.ones((N, N), np.float32), mesh=mesh, in_specs=by_rows, out_specs=by_rows
    )
    assert flops.call_flops(sharded, a) == product


@pytest.mark.parametrize(
    "name, forward, backward",
    # Products of queries and keys, or of their like. Splash computes logits and the gradient of
    # weights twice, once for the queries and once for keys and values.
    [("einsum", 2, 4), ("cudnn", 2, 5), ("splash", 2, 7)],
)
def test_flops_of_attention_kernels(name, forward, backward, monkeypatch):
    # What JAX asks of the machine before it traces cuDNN.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    rows, heads, length, keys, size = 2, 4, 256, 512, 128
    q, kv, mask = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in [
            ((rows, length, heads, size), jnp.bfloat16),
            ((rows, heads, keys, size), jnp.bfloat16),
            ((rows, length, keys), bool),
        ]
    )
    attend, product = kernels[name].attend, 2 * rows * heads * length * keys * size

    def loss(q, k, v, mask):
        return jnp.sum(attend(q, k, v, mask).astype(jnp.float32))

    assert flops.call_flops(attend, q, kv, kv, mask) == forward * product
    # Beside the products, splash adds up gradients times outputs as one.
    total = flops.call_flops(jax.grad(loss, (0, 1, 2)), q, kv, kv, mask)
    assert (forward + backward) * product <= total < (forward + backward + 0.01) * product


COPIES_IN_LOOPS = """HloModule m

%slice_only (p0: bf16[4,64,64], i: s32[]) -> bf16[1,64,64] {
  %p0 = bf16[4,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %ds = bf16[1,64,64]{2,1,0} dynamic-slice(%p0, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
}

%slice_and_scale (p0: bf16[4,64,64], i: s32[]) -> bf16[1,64,64] {
  %p0 = bf16[4,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %ds = bf16[1,64,64]{2,1,0} dynamic-slice(%p0, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %sum = bf16[1,64,64]{2,1,0} add(%ds, %ds)
}

%below (s: (s32[], bf16[4,64,64])) -> pred[] {
  %s = (s32[], bf16[4,64,64]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %limit = s32[] constant(4)
  ROOT %lt = pred[] compare(%n, %limit), direction=LT
}

%body (s: (s32[], bf16[4,64,64])) -> (s32[], bf16[4,64,64]) {
  %s = (s32[], bf16[4,64,64]{2,1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %w = bf16[4,64,64]{2,1,0} get-tuple-element(%s), index=1
  %copied = bf16[1,64,64]{2,1,0} fusion(%w, %n), kind=kLoop, calls=%slice_only
  %scaled = bf16[1,64,64]{2,1,0} fusion(%w, %n), kind=kLoop, calls=%slice_and_scale
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  ROOT %t = (s32[], bf16[4,64,64]{2,1,0}) tuple(%next, %w)
}

ENTRY %main (w: bf16[4,64,64]) -> (s32[], bf16[4,64,64]) {
  %w = bf16[4,64,64]{2,1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], bf16[4,64,64]{2,1,0}) tuple(%zero, %w)
  ROOT %loop = (s32[], bf16[4,64,64]{2,1,0}) while(%start), condition=%below, body=%body
}
"""


def test_a_kernel_that_only_slices_is_a_copy():
    """Four turns read and write a slice and read its place; computing with one is no copy."""
    module, layer_bytes = hlo.parse(COPIES_IN_LOOPS), 2 * 64 * 64
    copied = moved_bytes.copied_bytes(module, module.entry, layer_bytes)
    assert copied == 4 * (2 * layer_bytes + 4)
    assert moved_bytes.copied_bytes(module, module.entry, layer_bytes + 1) == 0

    # Every line of the table has bytes, runs and the name of the instruction.
    header, *lines = loop_table(module).splitlines()
    assert header.startswith("loop: 4 turns")
    marked = {
        line.split(" x ")[1].split()[0]: line.endswith(" copy") for line in lines if " x " in line
    }
    assert marked["copied"] and not marked["scaled"]


VIEWS_IN_FUSIONS = """HloModule m

%relayout (whole: s8[24,64,128]) -> s8[24,64,128] {
  %whole = s8[24,64,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  ROOT %copy = s8[24,64,128]{2,1,0:T(8,128)(4,1)} copy(%whole)
}

%read_layer (stack: s8[24,64,128], layer: s32[]) -> s32[1,64,128] {
  %stack = s8[24,64,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  %layer = s32[] parameter(1)
  %view = s8[24,64,128]{2,1,0:T(8,128)(4,1)} fusion(%stack), kind=kLoop, calls=%relayout
  %zero = s32[] constant(0)
  %slice = s8[1,64,128]{2,1,0} dynamic-slice(%view, %layer, %zero, %zero), dynamic_slice_sizes={1,64,128}
  ROOT %wide = s32[1,64,128]{2,1,0} convert(%slice)
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%third_of_sum (parts: f32[4,32,96]) -> f32[32,32] {
  %parts = f32[4,32,96]{2,1,0} parameter(0)
  %init = f32[] constant(0)
  %summed = f32[32,96]{1,0} reduce(%parts, %init), dimensions={0}, to_apply=%add
  ROOT %third = f32[32,32]{1,0} slice(%summed), slice={[0:32], [0:32]}
}

ENTRY %main (stack: s8[24,64,128], layer: s32[], parts: f32[4,32,96]) -> (s32[1,64,128], f32[32,32]) {
  %stack = s8[24,64,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  %layer = s32[] parameter(1)
  %parts = f32[4,32,96]{2,1,0} parameter(2)
  %read = s32[1,64,128]{2,1,0} fusion(%stack, %layer), kind=kOutput, calls=%read_layer
  %third = f32[32,32]{1,0} fusion(%parts), kind=kLoop, calls=%third_of_sum
  ROOT %t = (s32[1,64,128], f32[32,32]) tuple(%read, %third)
}
"""


def test_what_a_fusion_does_not_use_is_not_read():
    """A stack in another layout counts as the slice of it, a sum as the terms of its slice."""
    module = hlo.parse(VIEWS_IN_FUSIONS)
    layer, third = 64 * 128, 32 * 32 * 4
    expected = {"read": layer + 4 + 4 * layer, "third": 4 * third + third}
    for name, moved in expected.items():
        instruction = module.entry.instructions[name]
        assert moved_bytes.hbm_bytes(module, module.entry, instruction) == moved


def test_attributes_of_a_kernel_may_have_lines_of_their_own():
    # As libtpu prints what Pallas says of a kernel.
    text = """HloModule m

%other (q: f32[2]) -> f32[2] {
  ROOT %q = f32[2]{0} parameter(0)
}, execution_thread="sparsecore"

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %k = f32[8]{0} custom-call(%p), custom_call_target="kernel", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block = q\\": 256}"
}}, metadata={op_name="a = b"}
  ROOT %n = f32[8]{0} negate(%k)
}
"""
    module = hlo.parse(text)
    assert set(module.computations) == {"other", "main"}
    assert list(module.entry.instructions) == ["p", "k", "n"] and module.entry.root.name == "n"
