"""Texts as compilers write them, each small enough to count by hand."""

# Data parallel training on 8 devices: a loop of 6 with an all-reduce, one of 3 around one of 2, a pair that overlaps.
LOOPS = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%six (state.1: (s32[], f32[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(6)
  %state.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%backward (state.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state.2 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %gradient = f32[4,8]{1,0:T(8,128)} get-tuple-element(%state.2), index=1
  %all-reduce.1 = f32[4,8]{1,0:T(8,128)S(3)} all-reduce(%gradient), channel_id=1, replica_groups=mesh['data'=8,'tensor'=1] {'data'}, use_global_device_ids=true, to_apply=%add, metadata={op_name="jit(step)/while/body/dot_general"}
  ROOT %next = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%counter.1, %all-reduce.1)
}

%compare_inside (p.0: s32[], p.1: s32[]) -> pred[] {
  %p.0 = s32[]{:T(128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %less.1 = pred[]{:T(512)} compare(%p.0, %p.1), direction=LT
}

%fused_condition (state.3: (s32[], f32[4,8])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(5)
  %state.3 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %counter.2 = s32[]{:T(128)} get-tuple-element(%state.3), index=0
  ROOT %less.2 = pred[]{:T(512)} fusion(%counter.2, %limit.1), kind=kLoop, calls=%compare_inside
}

%annotated_condition (state.4: (s32[], f32[4,8])) -> pred[] {
  %state.4 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %counter.3 = pred[] custom-call(%state.4), custom_call_target="whatever"
}

%inner_body (state.5: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state.5 = (s32[], f32[4,8]{1,0}) parameter(0)
  %counter.4 = s32[] get-tuple-element(%state.5), index=0
  %latent = f32[4,8]{1,0} get-tuple-element(%state.5), index=1
  %permuted = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[], u32[]) collective-permute-start(%latent), channel_id=2, source_target_pairs={{0,1},{1,0}}
  %arrived = f32[4,8]{1,0} collective-permute-done(%permuted)
  ROOT %next.1 = (s32[], f32[4,8]{1,0}) tuple(%counter.4, %arrived)
}

%outer_body (state.6: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state.6 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %inner = (s32[], f32[4,8]{1,0}) while(%state.6), condition=%annotated_condition, body=%inner_body, backend_config={"known_trip_count":{"n":"2"}}
}

ENTRY %main (table: bf16[16,8], gradient.1: f32[4,8], ids: s32[8]) -> (f32[4,8], bf16[16,8]) {
  %table = bf16[16,8]{1,0} parameter(0)
  %gradient.1 = f32[4,8]{1,0} parameter(1)
  %ids = s32[8]{0} parameter(2)
  %zero = s32[] constant(0)
  %two = s32[] constant(2)
  %two.copy = s32[] copy(%two)
  %first = (s32[], f32[4,8]{1,0}) tuple(%zero, %gradient.1)
  %loop = (s32[], f32[4,8]{1,0}) while(%first), condition=%six, body=%backward
  %second = (s32[], f32[4,8]{1,0}) tuple(%two.copy, %gradient.1)
  %outer = (s32[], f32[4,8]{1,0}) while(%second), condition=%fused_condition, body=%outer_body
  %part = bf16[2,8]{1,0} slice(%table), slice={[0:2], [0:8]}
  %gather-start = (bf16[2,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%part), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}
  %gathered = bf16[16,8]{1,0} all-gather-done(%gather-start)
  %scattered = f32[1,8]{1,0} reduce-scatter(%gradient.1), channel_id=4, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  %alone = f32[4,8]{1,0} all-reduce(%gradient.1), channel_id=5, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %all = (f32[4,8]{1,0}, s32[8]{0}) all-reduce(%gradient.1, /*index=1*/%ids), channel_id=6, replica_groups={}, to_apply=%add
  %result = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %done = (f32[4,8]{1,0}, bf16[16,8]{1,0}) tuple(%result, %gathered)
}
"""  # noqa: E501

# One loop whose length the text does not say.
ENDLESS = """HloModule jit_search, num_partitions=4

%found (state: (s32[], pred[])) -> pred[] {
  %state = (s32[], pred[]) parameter(0)
  ROOT %more = pred[] get-tuple-element(%state), index=1
}

%search (state.1: (s32[], pred[])) -> (s32[], pred[]) {
  %state.1 = (s32[], pred[]) parameter(0)
  %counter = s32[] get-tuple-element(%state.1), index=0
  %flag = pred[] get-tuple-element(%state.1), index=1
  %exchanged = s32[] all-to-all(%counter), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %next = (s32[], pred[]) tuple(%exchanged, %flag)
}

ENTRY %main (start: (s32[], pred[])) -> (s32[], pred[]) {
  %start = (s32[], pred[]) parameter(0)
  ROOT %loop = (s32[], pred[]) while(%start), condition=%found, body=%search
}
"""

# 1,024-byte arrays f32[16,16]; S(1) is on the chip.
MEMORY = """HloModule jit_memory, is_scheduled=true

%product (a: f32[16,16], b: f32[16,16]) -> f32[16,16] {
  %a = f32[16,16]{1,0} parameter(0)
  %b = f32[16,16]{1,0} parameter(1)
  %intermediate = f32[16,16]{1,0} add(%a, %b)
  ROOT %c = f32[16,16]{1,0} multiply(%intermediate, %b)
}

%cut (stack: f32[6,16,16], at: s32[]) -> f32[16,16] {
  %stack = f32[6,16,16]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %flat = f32[6,256]{1,0} bitcast(%stack)
  %zero = s32[] constant(0)
  %one = f32[1,256]{1,0} dynamic-slice(%flat, %at, %zero), dynamic_slice_sizes={1,256}
  ROOT %square = f32[16,16]{1,0} bitcast(%one)
}

%store (stack.1: f32[6,16,16], new: f32[16,16], at.1: s32[]) -> f32[6,16,16] {
  %stack.1 = f32[6,16,16]{2,1,0} parameter(0)
  %new = f32[16,16]{1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %as_slice = f32[1,16,16]{2,1,0} bitcast(%new)
  ROOT %updated = f32[6,16,16]{2,1,0} dynamic-update-slice(%stack.1, %as_slice, %at.1, %zero.1, %zero.1)
}

%cut_and_multiply (stack.2: f32[6,16,16], at.2: s32[], by: f32[16,16]) -> f32[16,16] {
  %stack.2 = f32[6,16,16]{2,1,0} parameter(0)
  %at.2 = s32[] parameter(1)
  %by = f32[16,16]{1,0} parameter(2)
  %square.1 = f32[16,16]{1,0} fusion(%stack.2, %at.2), kind=kLoop, calls=%cut
  ROOT %d = f32[16,16]{1,0} multiply(%square.1, %by)
}

%tile (stack.4: f32[6,16,16]) -> f32[6,16,16] {
  %stack.4 = f32[6,16,16]{2,1,0} parameter(0)
  ROOT %tiled = f32[6,16,16]{2,1,0:T(8,128)} copy(%stack.4)
}

%tile_and_cut (stack.5: f32[6,16,16], at.5: s32[]) -> f32[16,16] {
  %stack.5 = f32[6,16,16]{2,1,0} parameter(0)
  %at.5 = s32[] parameter(1)
  %other = f32[6,16,16]{2,1,0} fusion(%stack.5), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%tile
  %zero.5 = s32[] constant(0)
  %one.5 = f32[1,16,16]{2,1,0} dynamic-slice(%other, %at.5, %zero.5, %zero.5), dynamic_slice_sizes={1,16,16}
  ROOT %square.5 = f32[16,16]{1,0} bitcast(%one.5)
}

%store_inside (stack.3: f32[6,16,16], new.1: f32[16,16], at.3: s32[]) -> f32[6,16,16] {
  %stack.3 = f32[6,16,16]{2,1,0} parameter(0)
  %new.1 = f32[16,16]{1,0} parameter(1)
  %at.3 = s32[] parameter(2)
  ROOT %stored = f32[6,16,16]{2,1,0} fusion(%stack.3, %new.1, %at.3), kind=kLoop, calls=%store
}

ENTRY %main (x: f32[16,16], y: f32[16,16], residuals: f32[6,16,16], index: s32[]) -> f32[16,16] {
  %x = f32[16,16]{1,0} parameter(0)
  %y = f32[16,16]{1,0} parameter(1)
  %residuals = f32[6,16,16]{2,1,0} parameter(2)
  %index = s32[] parameter(3)
  INSTRUCTION
}
"""

# A differentiated loop of L iterations on the stack f32[L,16,16] of what it keeps: one stores, the other reads, the
# latter as the operand of a product that is cut inside a fusion of the product's own.
DIFFERENTIATED = """HloModule jit_gradient, is_scheduled=true

%cut (stack: f32[L,16,16], at: s32[]) -> f32[16,16] {
  %stack = f32[L,16,16]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,16,16]{2,1,0} dynamic-slice(%stack, %at, %zero, %zero), dynamic_slice_sizes={1,16,16}
  ROOT %square = f32[16,16]{1,0} bitcast(%one)
}

%product (stack.1: f32[L,16,16], at.1: s32[], g: f32[16,16]) -> f32[16,16] {
  %stack.1 = f32[L,16,16]{2,1,0} parameter(0)
  %at.1 = s32[] parameter(1)
  %g = f32[16,16]{1,0} parameter(2)
  %kept = f32[16,16]{1,0} fusion(%stack.1, %at.1), kind=kLoop, calls=%cut
  ROOT %d = f32[16,16]{1,0} convolution(%kept, %g), dim_labels=bf_io->bf
}

%store (stack.2: f32[L,16,16], new: f32[16,16], at.2: s32[]) -> f32[L,16,16] {
  %stack.2 = f32[L,16,16]{2,1,0} parameter(0)
  %new = f32[16,16]{1,0} parameter(1)
  %at.2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %as_slice = f32[1,16,16]{2,1,0} bitcast(%new)
  ROOT %updated = f32[L,16,16]{2,1,0} dynamic-update-slice(%stack.2, %as_slice, %at.2, %zero.1, %zero.1)
}

%condition (state: (s32[], f32[16,16], f32[L,16,16])) -> pred[] {
  %state = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) parameter(0)
  ROOT %more = pred[] custom-call(%state), custom_call_target="whatever"
}

%forward (state.1: (s32[], f32[16,16], f32[L,16,16])) -> (s32[], f32[16,16], f32[L,16,16]) {
  %state.1 = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %z = f32[16,16]{1,0} get-tuple-element(%state.1), index=1
  %all = f32[L,16,16]{2,1,0} get-tuple-element(%state.1), index=2
  %stored = f32[L,16,16]{2,1,0} fusion(%all, %z, %i), kind=kLoop, calls=%store
  ROOT %next = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) tuple(%i, %z, %stored)
}

%backward (state.2: (s32[], f32[16,16], f32[L,16,16])) -> (s32[], f32[16,16], f32[L,16,16]) {
  %state.2 = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.2), index=0
  %g.1 = f32[16,16]{1,0} get-tuple-element(%state.2), index=1
  %all.1 = f32[L,16,16]{2,1,0} get-tuple-element(%state.2), index=2
  %d.1 = f32[16,16]{1,0} fusion(%all.1, %i.1, %g.1), kind=kOutput, calls=%product
  ROOT %next.1 = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) tuple(%i.1, %d.1, %all.1)
}

ENTRY %main (first: (s32[], f32[16,16], f32[L,16,16])) -> (s32[], f32[16,16], f32[L,16,16]) {
  %first = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) parameter(0)
  %there = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) while(%first), condition=%condition, body=%forward, backend_config={"known_trip_count":{"n":"L"}}
  ROOT %back = (s32[], f32[16,16]{1,0}, f32[L,16,16]{2,1,0}) while(%there), condition=%condition, body=%backward, backend_config={"known_trip_count":{"n":"L"}}
}
"""  # noqa: E501
