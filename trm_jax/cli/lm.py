"""`trm lm`: language models of the Llama family, and what its parts share."""

from __future__ import annotations

import importlib
from pathlib import Path

from trm_jax.cli.arguments import local_path

PARTS = ("lm_generate",)


def add_parser(subparsers) -> None:
    lm = subparsers.add_parser("lm", help="language models: answer questions by Llama, Qwen and others of the kind")
    commands = lm.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in PARTS:
        importlib.import_module(f"trm_jax.cli.{name}").add_parser(commands)


def add_loading(parser) -> None:
    """The options that say how a model is loaded."""
    group = parser.add_argument_group("the model")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of weights and products (file's)")
    group.add_argument("--quantise", choices=("int8", "int4", "int4-min"), help="the kernels of the layers")
    group.add_argument("--adapter", type=model_path, metavar="FOLDER", help="LoRA adapter as PEFT writes it")
    group.add_argument("--rope-theta", type=float, metavar="X", help="for files without one (10000: Llama 1 and 2)")
    text = "with the tokenizer.json to take instead of the model's own"
    group.add_argument("--tokenizer", type=model_path, metavar="FOLDER", help=text)


def loading(args) -> dict:
    """Arguments of `language.model.load` and `digest`, as `add_loading` reads them."""
    return {name: getattr(args, name) for name in ("dtype", "quantise", "rope_theta", "tokenizer", "adapter")}


def model_path(text: str) -> Path:
    """An argument that names a model's folder or file."""
    return local_path(text, "; a model is read from this machine")


def open_model(path: Path, how: dict):
    """The `language.model.Model` at `path`, with a bar while its weights are read."""
    from contextlib import closing

    from trm_jax.language import model
    from trm_jax.train.progress import Progress

    with closing(Progress(f"reading {path.name}", 100)) as progress:
        progress.step(0, "%")
        told = {"say": progress.say, "progress": lambda done, total: progress.step(100 * done // total)}
        return model.load(path, **how, **told)
