"""`trm export` and `trm import`: official PyTorch checkpoints and safetensors, there and back."""

from __future__ import annotations

from trm_jax.cli.arguments import add_command, add_set, any_path, changes, check_free, command, set_again
from trm_jax.cli.runs import add_run, open_run
from trm_jax.errors import InputError

_OF_THE_DATA = {
    "vocab_size": "choose the config of its data set",
    "seq_len": "choose the config of its data set, or its model.puzzle_emb_len with --set",
    "num_puzzle_ids": "its puzzle table belongs to another data set: choose the config of that one",
}


def add_parser(subparsers) -> None:
    export = add_command(
        subparsers,
        "export",
        "write a run's weights in the official format",
        "Write the weights of a run under the official names: a safetensors file, or a torch state dict (.pt, .pth;\n"
        "needs the torch extra).",
        "  trm export runs/demo demo.safetensors\n  trm export runs/demo demo.pt --live\n",
        run_export,
    )
    add_run(export)
    export.add_argument("file", type=any_path, help="file to write")
    export.add_argument("--force", action="store_true", help="replace the file if it exists")
    export.add_argument("--prefix", default="model.inner.", help="prefix of the names (default: %(default)s)")
    imp = add_command(
        subparsers,
        "import",
        "make a run from official weights",
        "Make a run from an official state dict (.pt, .pth or without ending; .safetensors), also one inside a\n"
        "checkpoint of a training program. Sizes are read from the file; cycles, heads, positions and data come from\n"
        "experiment --config and --set.\n"
        "The run can be evaluated, used to solve, and trained further.",
        "  trm import official.pt --config baseline_768 --workdir runs/official\n"
        "  trm import official.safetensors --config demo --workdir runs/x --set model.L_cycles=4\n",
        run_import,
    )
    imp.add_argument("file", type=any_path, help="file that holds the weights")
    imp.add_argument("--config", required=True, help="experiment that the weights belong to")
    imp.add_argument("--workdir", type=any_path, required=True, help="folder of the new run")
    imp.add_argument("--key", default="", help="which weights, if the file holds several, for example ema")
    add_set(imp)


def run_export(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.models.convert import torch_format

    check_free(args.file, args.force)
    opened = open_run(args)
    ids, family = opened.cfg.model.num_puzzle_ids, opened.cfg.family
    state_dict = torch_format.export_state_dict(opened.params, args.prefix, ids=ids, family=family)
    torch_format.write(args.file, state_dict)
    print(f"wrote {len(state_dict)} arrays of step {opened.step} to {args.file}")
    name = opened.config.name
    changed = resolve.diff(opened.config, registry.get(name))
    again = set_again([f"{key}={new}" for key, (_, new) in changed.items() if key.startswith(("model.", "data."))])
    print(f"next: {command('import', args.file, '--config', name, '--workdir', 'DIR', *again)}")
    return 0


def run_import(args) -> int:
    import dataclasses

    from trm_jax.configs import registry, resolve
    from trm_jax.configs.workdir import CONFIG_FILE, claim
    from trm_jax.models.convert import torch_format
    from trm_jax.train.restore import save_imported

    config = resolve.override(registry.get(args.config), changes(args))
    run = resolve.freeze(config)
    asked, family = run.model, run.family
    try:
        state_dict, place = torch_format.unwrap(torch_format.read(args.file), args.key, family)
        model = torch_format.infer_config(state_dict, asked, family)
        for name, what in _OF_THE_DATA.items():
            theirs, ours = getattr(model, name), getattr(asked, name)
            if theirs != ours:
                raise InputError(f"{name} is {theirs} in the weights and {ours} in the data of {args.config}; {what}")
        params = torch_format.import_state_dict(state_dict, model, family)
    except InputError as error:
        raise error if str(args.file) in str(error) else InputError(f"{args.file}: {error}") from None
    found = dataclasses.asdict(model)
    config = resolve.override(config, {f"model.{k}": v for k, v in found.items() if k in config.model})
    if (args.workdir / CONFIG_FILE).exists():
        raise InputError(f"{args.workdir} holds a run already; choose another --workdir")
    with claim(args.workdir, config, write_last=True):
        save_imported(resolve.freeze(config), args.workdir.resolve(), params)
    under = f" under {place.removesuffix('.')}" if place else ""
    print(f"imported {len(state_dict)} arrays{under} into {args.workdir}")
    print(f"next: {command('eval', args.workdir)}   or: {command('solve', args.workdir, 'PUZZLE')}")
    return 0
