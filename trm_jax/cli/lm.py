"""`trm lm`: language models of the Llama family, and what its parts share."""

from __future__ import annotations

import argparse
import importlib
import re
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
    """The option that says how devices share a model, instead of having it whole each."""

    def ways(text: str) -> tuple[str, int]:
        found = re.fullmatch(rf"({'|'.join(axes)})=([1-9]\d{{0,3}})", text)
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is no cut; write {axes[0]}=4")
        return found[1], int(found[2])

    many = "N devices share the weights; without, each has all of them"
    shown = "|".join(axes)
    parser.add_argument("--mesh", type=ways, action="append", default=[], metavar="AXIS=N", help=f"{shown}: {many}")


def mesh(args):
    """The devices of this process, as --mesh cuts them."""
    import jax

    from trm_jax import sharding

    sizes, devices = dict(args.mesh), jax.local_devices()
    try:
        return sharding.make_mesh(**{"data": -1, **sizes}, devices=devices)
    except InputError:
        asked = " ".join(f"{axis}={ways}" for axis, ways in sizes.items())
        raise InputError(f"--mesh {asked}: {len(devices)} devices cannot be shared so; give a divisor") from None


def model_path(text: str) -> Path:
    """An argument that names a model's folder or file."""
    return local_path(text, "; a model is read from this machine")


def open_model(path: Path, how: dict, on=None):
    """The `language.model.Model` at `path`, with a bar while it is read; on: a mesh, else the first device."""
    from contextlib import closing
    from functools import partial

    from trm_jax import sharding
    from trm_jax.language import model
    from trm_jax.train.progress import Progress

    with closing(Progress(f"reading {path.name}", 100)) as progress:
        progress.step(0, "%")
        place = None if on is None else partial(sharding.shardings, on, sharding.Rules())
        told = {"say": progress.say, "progress": lambda done, total: progress.step(100 * done // total)}
        return model.load(path, **how, place=place, **told)
