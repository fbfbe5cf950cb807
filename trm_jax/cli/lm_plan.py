"""`trm lm plan`: what a language model takes of a device: memory, speed at best, dollars.

From its architecture alone: nothing is fetched, no weights are read. MODEL is a folder with a config.json, a .gguf file
or a known name such as llama-3.1-8b. Weights and cache are counted to the byte, what training keeps is counted by
tracing it; a tenth is added for what compilers take. Speeds are what data sheets allow. Exit code 1: it does not fit.

examples:
  trm lm plan llama-3.1-8b --device 4090 --quantise int8
  trm lm plan llama-3-70b --memory 24 --quantise int4
  trm lm plan qwen3-4b --device h100 --context 4096 --batch 8 --train lora
  trm lm plan llama-3-8b --device v4-8 --train full --context 1024
  trm lm plan llama-3-8b --device v4-8 --batch 8 --compile          compiled for the slice (needs libtpu)
  trm lm plan llama-3-8b --device 4090 --quantise int8 --train lora --context 8192 --batch 2 --compile
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING

from trm_jax.cli import arguments as cli
from trm_jax.cli.lm import add_mesh
from trm_jax.cli.plan import amount, print_table
from trm_jax.errors import InputError
from trm_jax.storage.paths import cache_folder

if TYPE_CHECKING:
    from trm_jax.planning import Device
    from trm_jax.planning.language import Asked, Needs

TARGETS = "q,v,gate,up,down"
QUANTISATIONS = ("int8", "int4", "int4-min")
UTILISATION = 0.4  # of the peak, in training


def add_parser(subparsers) -> None:
    parser = cli.add_documented(subparsers, "plan", run, __doc__)
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or known name")
    parser.add_argument("--device", help="h100, a100, 4090, v4-8 ... (default: h100, or one of --memory GB)")
    parser.add_argument("--memory", type=amount, metavar="GB", help="of a chip, not the table's")
    parser.add_argument("--price", type=amount, metavar="DOLLARS_PER_HOUR", help="of the device, not the table's")
    parser.add_argument("--quantise", choices=QUANTISATIONS, default="", help="how the weights are held")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of weights and products")
    parser.add_argument("--rope-theta", type=amount, help="for a file that does not tell it; 10000 for Llama 1 and 2")
    parser.add_argument(
        "--context", type=cli.positive, metavar="TOKENS", help="of a row (default: 2048 or the model's)"
    )
    parser.add_argument(
        "--batch", type=cli.positive, default=1, metavar="ROWS", help="at a time, of each adapter (default: 1)"
    )
    parser.add_argument("--train", choices=["lora", "full"], help="an adapter, or all weights, with Adam")
    parser.add_argument("--rank", type=cli.positive, help="of the adapter (default: 128)")
    parser.add_argument("--targets", help=f"of the adapter (default: {TARGETS}; also k, o, embed, head)")
    text = "of the adapter, its gradient and its moments (the model's)"
    parser.add_argument("--adapter-dtype", choices=["float32", "bfloat16"], help=text)
    add_mesh(parser, "tensor")
    text = "compile reading and writing, or an update of an adapter, for a TPU slice or a GPU"
    parser.add_argument("--compile", action="store_true", help=text)


def run(args) -> int:
    # A plan needs no device, and taking one would disturb what runs on it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from trm_jax.models.lora import Lora
    from trm_jax.planning import hardware
    from trm_jax.planning import language as plan

    shared = dict(args.mesh).get("tensor", 0)
    if args.train == "full" and (shared or args.compile):
        raise InputError("--train full cuts the weights for all chips and is not compiled; leave out --mesh, --compile")
    topology = _made_for(args) if args.compile else None
    given = {"memory_gb": args.memory, "dollars_per_hour": args.price}
    given = {name: value for name, value in given.items() if value is not None}
    if args.device is None and args.memory:
        device = hardware.Device(
            f"{args.memory:g} GB", f"a device of {args.memory:g} GB", args.memory, 0, 0, args.price
        )
    else:
        device = dataclasses.replace(hardware.find(args.device or "h100"), **given)
    source, cfg, declared = plan.find(args.model, dtype=args.dtype, rope_theta=args.rope_theta)
    context = args.context or min(2048, cfg.context or 2048)
    if context >= 2**31:
        raise InputError(f"--context {context}: positions are counted in 32 bits; give less")
    train, rank = args.train, args.rank or 128
    if train == "lora":
        train = Lora(rank, 2.0 * rank, tuple((args.targets or TARGETS).split(",")))
    elif idle := next((name for name in ("rank", "targets", "adapter_dtype") if getattr(args, name)), ""):
        raise InputError(f"--{idle.replace('_', '-')} is of an adapter; add --train lora, or leave it out")
    asked = plan.Asked(cfg, declared, args.quantise, context, args.batch, train, shared, args.adapter_dtype)
    found = plan.needs(asked, device)
    _show(args.model, source, asked, device, found)
    if cfg.context and context > cfg.context:
        print(f"note: the model was made for {cfg.context:,} tokens")
    if note := plan.guide_says(args.model.lower(), asked, device):
        print(f"note: {note}")
    why = plan.obstacle(asked, device)
    print(why or f"fits: {found.total / 1e9:.1f} GB of {device.memory_gb:g}{' a chip' * (device.chips > 1)}")
    _speed(asked, device, found)
    if args.compile:
        why = _compiled(args, asked, topology)  # the compiler knows better
    if os.path.exists(args.model) and not (why or args.train):
        given = (
            ("--dtype", args.dtype, None),
            ("--quantise", args.quantise, ""),
            ("--rope-theta", args.rope_theta, None),
        )
        print(f"next: {cli.command('lm', 'generate', args.model, *cli.options_again(*given))}")
    return 1 if why else 0


def _show(name: str, source: str, asked: Asked, device: Device, found: Needs) -> None:
    from trm_jax.models import decoder, params

    cfg, price = asked.cfg, device.dollars_per_hour
    count = f"{params.count(decoder.specs(cfg)) / 1e9:.4g} billion parameters"
    print(f"{name} ({source}): {count}, {asked.how or cfg.dtype}, {asked.rows:,} x {asked.context:,} tokens")
    shared = ", ".join(f"{axis} {ways}" for axis, ways in found.mesh.items() if ways > 1)
    several = f", {device.chips} chips ({shared})" if device.chips > 1 else ""
    dollars = (
        f"{price:g} dollars an hour: {device.price_source}" if price else "no price in the table; --price gives one"
    )
    print(f"{device.title}{several}; {dollars}")
    rows = [[part, f"{size / 1e9:.3f}"] for part, size in found.parts.items()]
    rows += [["a tenth", f"{(found.total - sum(found.parts.values())) / 1e9:.3f}"], ["all", f"{found.total / 1e9:.3f}"]]
    print_table(("", "GB a chip" if device.chips > 1 else "GB"), rows)


def _made_for(args) -> Device:
    """What is compiled for. Raises InputError where nothing can be."""
    from trm_jax.aot import gpu
    from trm_jax.aot.compile import versions
    from trm_jax.cli.health import pip_install
    from trm_jax.planning import hardware

    device = hardware.GPUS.get(args.device or "h100") or hardware.find_slice(args.device)
    if device.name in hardware.GPUS and not gpu.there():
        install = pip_install("'jax[cuda12]'")
        raise InputError(f"JAX's plugin for CUDA (Linux only) is not installed; install it: {install}")
    if device.name not in hardware.GPUS and "libtpu" not in versions():
        install = pip_install("'jax[tpu]'")
        raise InputError(f"the TPU's compiler, libtpu (Linux on x86-64 only), is not installed; install it: {install}")
    return device


def _compiled(args, asked: Asked, topology: Device) -> str:
    """Compile for the device and show what the programs take; why they cannot be there, or nothing."""
    from trm_jax.aot import decoder
    from trm_jax.aot.compile import versions
    from trm_jax.planning import hardware
    from trm_jax.planning import language as plan

    words = {"model": args.model, "dtype": args.dtype, "rope_theta": args.rope_theta}
    words |= {"how": asked.how, "context": asked.context, "rows": asked.rows, "tensor": asked.tensor}
    words |= {"train": asked.train and dataclasses.asdict(asked.train), "adapter_dtype": asked.adapter_dtype}
    of_gpu = topology.name in hardware.GPUS
    there_is = (args.memory or topology.memory_gb) * 1e9 if of_gpu else topology.usable_bytes
    links = topology.links * topology.link_gb_s
    rows, why, most = [], "", 0
    for kind in (decoder.UPDATE,) if asked.train else decoder.KINDS:
        print(f"compiling: {kind} ...", file=sys.stderr)  # it takes half a minute
        found = decoder.compile_kind(words, kind, topology, cache_folder() / "compiled")
        too_much = (found["overflow_bytes"] or [0])[0]
        if not (found["crash"] or too_much) and found["memory_bytes"]["total"] > there_is:  # of a GPU nobody told it
            too_much = found["memory_bytes"]["total"]
        if found["crash"] or too_much:
            change = plan.less(asked, topology)
            why = f"{kind}: {found['crash'] or f'it does not fit: {too_much / 1e9:.1f} GB of a chip; {change}'}"
            print(f"note: {why}")
            continue
        sent = sum(one["sent_bytes"] for one in found["collectives_by_kind"].values())
        tokens = asked.rows * (1 if kind == decoder.KINDS[1] else asked.context)
        tokens *= plan.needs(asked, topology).mesh["data"] if asked.train else 1
        seconds = max(
            found["traffic_bytes"] / (topology.bandwidth_tb_s * 1e12),
            sent / (links * 1e9) if links else 0,
            tokens * plan.flops(asked) / (topology.chips * topology.peak_tflops * 1e12),
        )
        most = max(most, found["memory_bytes"]["total"])
        sizes = (found["memory_bytes"]["total"], found["traffic_bytes"], sent)
        rows.append(
            [kind, *(f"{size / 1e9:.3f}" for size in sizes), f"{1e3 * seconds:.2f}", f"{tokens / seconds:,.0f}"]
        )
    print_table(("", "GB of\na chip", "GB\nmoved", "GB\nsent", "ms,\nat best", "tokens\na second"), rows)
    by = f"XLA of jaxlib {versions()['jaxlib']}" if of_gpu else f"libtpu {versions()['libtpu']}"
    print(f"compiled for {topology.name} by {by}; at best: data sheets' rates, no latency")
    if not why:
        print(f"fits, as compiled: {most / 1e9:.1f} GB of the {there_is / 1e9:.1f} that a program has of a chip")
    if of_gpu and not why and most > 0.75 * there_is:
        print("note: JAX takes three quarters of a GPU; XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 gives it more")
    return why


def _speed(asked: Asked, device: Device, found: Needs) -> None:
    """What the data sheet allows, and what it costs."""
    from trm_jax.planning.hardware import SOURCE
    from trm_jax.planning.language import flops

    if not device.peak_tflops:
        return
    if asked.train:
        rate = UTILISATION * device.chips * device.peak_tflops * 1e12 / flops(asked)
        how = f"trains {rate:,.0f} tokens a second at {UTILISATION:.0%} of the peak"
    else:
        rate = asked.rows * device.bandwidth_tb_s * 1e12 / found.read
        what = "a token" if asked.rows == 1 else "a token of each row"
        how = f"writes at most {rate:,.0f} tokens a second: for {what} a chip reads {found.read / 1e9:.2f} GB"
    price = device.dollars_per_hour
    dollars = f", {price / 3600 / rate * 1e6:,.3g} dollars a million" if price else ""
    print(f"{how} ({SOURCE}){dollars}")
