"""`trm lm`: language models of the Llama family, and what its parts share."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import sys
from pathlib import Path

from trm_jax.cli.arguments import local_path, positive
from trm_jax.errors import InputError

PARTS = ("lm_run", "lm_generate", "lm_judge", "lm_plan")


def add_parser(subparsers) -> None:
    lm = subparsers.add_parser("lm", help="language models: answer questions by Llama, Qwen and others of the kind")
    commands = lm.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in PARTS:
        importlib.import_module(f"trm_jax.cli.{name}").add_parser(commands)


def add_loading(parser, whose: str = "the model", prefix: str = "", batch: bool = True) -> None:
    """The options that say how a model is loaded and used; prefix: of their names, for a second model; batch: whether
    it is asked prompts by the batch."""
    group = parser.add_argument_group(f"how {whose} is loaded")

    def add(name: str, text: str, **how) -> None:
        group.add_argument(f"--{prefix}{name}", help=text, **how)

    add("dtype", "of weights and products (the file's)", choices=("float32", "bfloat16", "float16"))
    add("quantise", "the kernels of the layers", choices=("int8", "int4", "int4-min"))
    add("adapter", "LoRA adapter as PEFT writes it", type=model_path, metavar="FOLDER")
    add("rope-theta", "for files without one (10000: Llama 1 and 2)", type=float, metavar="X")
    add("tokenizer", "with a tokenizer.json to take instead of the model's own", type=model_path, metavar="FOLDER")
    if batch:
        add("batch", "prompts at a time (8)", type=positive, default=8, metavar="N")


def loading(args, prefix: str = "") -> dict:
    """Arguments of `language.model.load` and `digest`, as `add_loading` reads them."""
    names = ("dtype", "quantise", "rope_theta", "tokenizer", "adapter")
    return {name: getattr(args, prefix.replace("-", "_") + name) for name in names}


def add_mesh(parser, *axes: str) -> None:
    """The option that says which devices share a model, instead of having it whole each."""

    def ways(text: str) -> tuple[str, int]:
        found = re.fullmatch(rf"({'|'.join(axes)})=([1-9]\d{{0,3}})", text)
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is no cut; write {axes[0]}=4")
        return found[1], int(found[2])

    text = f"{' or '.join(name for name in axes if name != 'data')}: N devices share the weights, else each has all"
    text += "; data: so many sets of them, else all" if "data" in axes else ""
    parser.add_argument("--mesh", type=ways, action="append", default=[], metavar="AXIS=N", help=text)


def mesh(args, rows: int = 0):
    """The devices of this process, all or as --mesh says; rows: that are to be divided by those that share them."""
    import jax

    from trm_jax import sharding

    sizes, devices = {"data": 0, **dict(args.mesh)}, jax.local_devices()
    cut = math.prod(ways for axis, ways in sizes.items() if axis != "data")
    data = sizes["data"] or (len(devices) // cut if len(devices) % cut == 0 else 0)
    if not 0 < data * cut <= len(devices):
        asked = " ".join(f"--mesh {axis}={ways}" for axis, ways in args.mesh)
        raise InputError(f"{asked}: {len(devices)} devices cannot be shared so; give a divisor of their number")
    if rows and not sizes["data"]:
        data = math.gcd(data, max(1, rows // sizes.get("fsdp", 1)))  # `fsdp` shares rows too
    return sharding.make_mesh(**{**sizes, "data": data}, devices=devices[: data * cut])


def model_path(text: str) -> Path:
    """An argument that names a model's folder or file."""
    return local_path(text, "; a model is read from this machine")


def open_model(path: Path, how: dict, on=None):
    """The `language.model.Model` at `path`, with a bar while it is read; on: a mesh, else the first device."""
    from contextlib import closing
    from functools import partial

    from trm_jax import sharding
    from trm_jax.language import model
    from trm_jax.solvers.seen import require_base
    from trm_jax.train.progress import Progress

    if how["adapter"] and (note := require_base(how["adapter"], path)):
        print(f"note: {note}", file=sys.stderr)
    with closing(Progress(f"reading {path.name}", 100)) as progress:
        progress.step(0, "%")
        place = None if on is None else partial(sharding.shardings, on, sharding.Rules())
        told = {"say": progress.say, "progress": lambda done, total: progress.step(100 * done // total)}
        return model.load(path, **how, place=place, **told)
