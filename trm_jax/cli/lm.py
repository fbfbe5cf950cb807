"""`trm lm`: language models of the Llama family, and what its parts share."""

from __future__ import annotations

import importlib
from pathlib import Path

from trm_jax.cli.arguments import local_path, positive

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


def model_path(text: str) -> Path:
    """An argument that names a model's folder or file."""
    return local_path(text, "; a model is read from this machine")


def open_model(path: Path, how: dict):
    """The `language.model.Model` at `path`, with a bar while its weights are read."""
    from contextlib import closing

    from trm_jax.language import model
    from trm_jax.solvers.seen import require_base
    from trm_jax.train.progress import Progress

    if how["adapter"]:
        require_base(how["adapter"], path)
    with closing(Progress(f"reading {path.name}", 100)) as progress:
        progress.step(0, "%")
        told = {"say": progress.say, "progress": lambda done, total: progress.step(100 * done // total)}
        return model.load(path, **how, **told)
