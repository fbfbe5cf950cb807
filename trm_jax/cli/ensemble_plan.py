"""What a configuration takes: memory, hours and dollars of its members by their commands; what is there and claimed."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trm_jax.cli.arguments import command
from trm_jax.cli.ttt_plan import TASKS

if TYPE_CHECKING:
    from trm_jax.planning import Device
    from trm_jax.planning.language import Asked
    from trm_jax.solvers.configuration import Configuration, Part

ANSWER = 930  # tokens: a cell and the end of a row each, of a grid of 30 rows and columns
PROMPTS = {"marc": 23, "nvarc": 8}  # of a test input; NVARC's in each of --views
SHOWN = 8192  # tokens of a coder's request


class Need(NamedTuple):
    """What a stage of a member takes; obstacle: why it does not fit, and what does."""

    stage: str
    gigabytes: float  # of a chip
    hours: float
    obstacle: str


def show(config: Configuration) -> None:
    """Print what a configuration takes, what is there of it, and what is claimed of it."""
    from trm_jax.cli.plan import print_table
    from trm_jax.planning import find

    os.environ["JAX_PLATFORMS"] = "cpu"  # a plan needs no device
    device = find(config.device)
    rented, other = config.hours * device.dollars_per_hour, sum(config.other_dollars.values())
    print(f"configuration {config.name}: {device.title}, {config.hours:g} hours")
    print(f"{config.hours:g} x {device.dollars_per_hour:g} = {rented:.2f} dollars of rent ({device.price_source})")
    more = ", ".join(f"{name} {dollars:g}" for name, dollars in config.other_dollars.items())
    print(f"{more}: {rented + other:.2f} dollars in all; the hours are the users' page's, and were not measured\n")
    rows = []
    for name, part in config.members.items():
        lacking = missing(part)
        rows.append([name, f"{part.weight:g}", part.what, f"missing: {', '.join(lacking)}" if lacking else "there"])
    print_table(("member", "weight", "what", "here"), rows, words=(0, 2, 3))
    _show_needs(config, device)
    print(f"vote: {config.vote}, in the page's word")
    for name, part in config.members.items():
        if part.instead_of:
            print(f"{name}: instead of {part.instead_of}, which is not supported: {part.because}")
        if part.runs_code:
            print(f"{name}: runs code that a model wrote, so it is not started from here")
    if config.refinement:
        print(f"refinement, not part of the vote: {config.refinement.what}")
    print("\nclaimed by the users' page, which names no source; not results:")
    for name, claimed in [(config.name, config.claimed), *((n, part.claimed) for n, part in config.members.items())]:
        if claimed:
            print(f"  {name}: ARC-AGI-1 {_percent(claimed['arc1'])}, ARC-AGI-2 {_percent(claimed['arc2'])}")
    print("\npublished by others, with their source; not measured here:")
    beside = {"refinement": config.refinement} if config.refinement else {}
    for name, part in (config.members | beside).items():
        for one in part.sourced:
            print(f"  {name}: {one['percent']:g}%, {one['on']} ({one['from']})")
    print(f"\nnext: {command('ensemble', '--config', config.name, '--dry-run')}")


def _percent(claimed) -> str:
    return f"{'-'.join(f'{one:g}' for one in claimed)}%" if isinstance(claimed, list) else f"{claimed:g}%"


def missing(part: Part) -> list[str]:
    """What a member needs and is not there."""
    return [one for one in part.needs if not Path(one).exists()]


def _show_needs(config: Configuration, device: Device) -> None:
    from trm_jax.cli.plan import print_table

    rows, notes, total = [], [], 0.0
    for name, part in config.members.items():
        for one in needs(part, device):
            total += one.hours
            dollars = f"{one.hours * device.dollars_per_hour:,.2f}"
            fit = "no" if one.obstacle else "yes"
            rows.append([name, one.stage, f"{one.gigabytes:.1f}", fit, f"{one.hours:,.1f}", dollars])
            notes += [f"note: {name}, {one.stage}: {one.obstacle}"] if one.obstacle else []
    rows += [(), ["all", "", "", "", f"{total:,.1f}", f"{total * device.dollars_per_hour:,.2f}"]]
    said = f"by architecture and commands: {TASKS} tasks of one test input, all texts as long as they may be"
    print(f"\n{said}, at 40% of the peak:")
    print_table(("member", "stage", "GB a chip", "fits", "hours", "dollars"), rows, words=(0, 1, 3))
    print("\n".join([*notes, f"the page has {config.hours:g} hours for all of it\n"]))


def needs(part: Part, device: Device) -> Iterator[Need]:
    """What each stage of a member takes of the device; no device is touched."""
    from trm_jax.cli.main import parser

    for text in (*part.first, *part.commands):
        args = parser().parse_args(shlex.split(text.format(data="TASKS", workdir="WORKDIR"))[1:])
        made_by = args.run.__module__.rpartition(".")[2]
        if made_by == "train":
            yield _trained(args, device)
        elif made_by != "evaluate":  # training ends with an evaluation
            yield from _language(part, args, made_by, device)


def _trained(args, device: Device) -> Need:
    from trm_jax.cli.arguments import changes
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import plan

    found = plan(resolve.freeze(resolve.override(registry.get(args.name), changes(args))), device)
    return Need(
        "training and evaluations", found.memory_bytes / 1e9, found.train_hours + found.eval_hours, found.obstacle
    )


def _language(part: Part, args, made_by: str, device: Device) -> Iterator[Need]:
    """Of a language model: an adapter for all tasks, one for each, and answers."""
    import dataclasses

    from trm_jax.cli import ttt
    from trm_jax.models import decoder, quant
    from trm_jax.models.lora import Lora
    from trm_jax.planning import language as plan
    from trm_jax.solvers.nvarc import vocabulary

    how, recipe = args.quantise or "", made_by.removeprefix("ttt_")
    _, cfg, declared = plan.find(part.architecture)
    if recipe in ("nvarc", "finetune"):
        cfg = dataclasses.replace(cfg, vocab_size=vocabulary.SIZE)
        plain = decoder.specs(cfg)
        declared = lambda how: quant.specs(plain, how) if how else plain  # noqa: E731
    if recipe == "finetune":
        kind = Lora(args.lora_rank, 2.0 * args.lora_rank, quant.LINEARS) if args.lora_rank else "full"
        asked = plan.Asked(cfg, declared, how, args.limit, args.batch, kind)
        yield _need("fine-tuning", asked, device, args.steps * args.batch * args.limit)
        return
    if recipe == "refine":
        rows, prompts, shown, written = 1, args.rounds * args.experts, SHOWN, args.max_new_tokens
    else:
        module, chosen = importlib.import_module(f"trm_jax.cli.{made_by}"), ttt.options(args, recipe)
        made, texts = module.recipe(chosen), module.texts(chosen)
        rows, prompts, shown = args.prompts_at_once, PROMPTS[recipe] * chosen.get("views", 1), chosen["limit"]
        written = ANSWER
        if texts:
            asked = plan.Asked(cfg, declared, how, shown, made.batch, made.lora)
            yield _need("an adapter for each task", asked, device, TASKS * texts * shown)
    asked = plan.Asked(cfg, declared, how, shown + written, rows)
    yield _need("answers", asked, device, TASKS * prompts * shown, TASKS * prompts * written)


def _need(stage: str, asked: Asked, device: Device, read: int, written: int = 0) -> Need:
    """read: tokens that it reads or learns, at a share of the peak; written: those that wait for memory."""
    from trm_jax.cli.lm_plan import UTILISATION
    from trm_jax.planning import language as plan

    found = plan.needs(asked, device)
    seconds = read * plan.flops(asked) / (UTILISATION * device.chips * device.peak_tflops * 1e12)
    seconds += written / asked.rows * found.read / (device.bandwidth_tb_s * 1e12)
    why = "" if plan.fits(found, device) else plan.obstacle(asked, device)
    return Need(stage, found.total / 1e9, seconds / 3600, why)
