"""`trm ttt plan`: the presets of `trm ttt marc` and `trm ttt nvarc`, and what one takes: memory, hours and dollars.

From the architecture alone, as `trm lm plan` counts it, at 40% of the data sheet's peak. Hours and dollars are those of
training 400 tasks, one at a time, as if every text were as long as the preset allows; the answers come on top.

examples:
  trm ttt plan
  trm ttt plan marc_8b
  trm ttt plan nvarc_4b --device h200 3090
"""

from __future__ import annotations

import os

from trm_jax.cli.arguments import add_documented, command
from trm_jax.errors import InputError

DEVICES = ("h100", "a100", "l40s", "4090")
TASKS = 400  # of ARC-AGI-1's evaluation set


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "plan", run, __doc__)
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="of which tables are shown")
    parser.add_argument("--device", nargs="+", default=DEVICES, metavar="NAME", help=f"({' '.join(DEVICES)})")


def run(args) -> int:
    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan needs no device
    from trm_jax.cli import ttt_marc, ttt_nvarc
    from trm_jax.cli.plan import print_table
    from trm_jax.planning import hardware
    from trm_jax.solvers import configuration

    known, recipes = configuration.presets(), {"marc": ttt_marc, "nvarc": ttt_nvarc}
    if args.preset and args.preset not in known:
        raise InputError(f"no preset {args.preset!r}; there are {', '.join(known)}")
    devices = [hardware.find(name) for name in args.device]
    for name in [args.preset] if args.preset else known:
        preset = known[name]
        print(f"{name}: for {preset.model}; {preset.here}")
        for kind, chosen in preset.recipes.items():
            told = ", ".join(f"{key} {_said(value)}" for key, value in chosen.items())
            print(f"{kind}: {told}")
            if args.preset:
                recipe, tokens = recipes[kind].recipe(chosen), recipes[kind].texts(chosen) * chosen["limit"]
                rows = [_row(preset.model, recipe, chosen["limit"], tokens, device) for device in devices]
                headings = ("", "base", "GB of\nan update", "of", "tokens\na second", "hours", "dollars", "")
                print_table(headings, rows, words=(0, 1, 7))
                print(f"next: {command('ttt', kind, 'MODEL', '--preset', name, '--data', 'TASKS')}")
    if not args.preset:
        print(f"next: {command('ttt', 'plan', ttt_marc.PRESET)}")
    return 0


def _said(value) -> str:
    return "/".join(value) if isinstance(value, list) else f"{value:g}"


def _row(model: str, recipe, limit: int, tokens: int, device) -> list[str]:
    """A line of the table: with the base as it is, or in the most bits that fit."""
    from trm_jax.cli.lm_plan import UTILISATION
    from trm_jax.planning import language as plan

    _, cfg, declared = plan.find(model)
    for how in ("", "int8", "int4"):
        asked = plan.Asked(cfg, declared, how, limit, recipe.batch, recipe.lora)
        found = plan.needs(asked, device)
        if plan.fits(found, device):
            break
    rate = UTILISATION * device.chips * device.peak_tflops * 1e12 / plan.flops(asked)
    hours, price = TASKS * tokens / rate / 3600, device.dollars_per_hour
    sizes = (f"{found.total / 1e9:.1f}", f"{device.memory_gb:g}", f"{rate:,.0f}")
    cost = (f"{hours:.2f}", f"{hours * price:.2f}" if price else "-")
    return [device.name, how or cfg.dtype, *sizes, *cost, "" if plan.fits(found, device) else "too much: lower --limit"]
