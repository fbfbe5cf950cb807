"""`trm compile`: what runs take on a TPU that is not here, asked of its compiler."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from trm_jax.cli.arguments import add_command, add_set, changes, check_free, command, local_path, set_again, settings
from trm_jax.cli.plan import print_table
from trm_jax.errors import InputError
from trm_jax.storage.paths import write_whole


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "compile",
        "compile runs for a TPU that is not here: memory, collectives, time at best",
        "Compile the training and the evaluation step of experiments for a TPU slice, with no TPU here: memory of a\n"
        "chip and whether it is enough, what the chips send one another, FLOPs, and how fast it could run at best.\n"
        "Needs libtpu (pip install 'jax[tpu]', Linux on x86-64). Results are kept: a group that was interrupted goes\n"
        "on. Exit code 1: something does not fit.",
        "  trm compile baseline --topology v4-64\n"
        "  trm compile exp06 --topology v4-64 --json exp06.json\n"
        "  trm compile baseline --topology v5e-16 --set train.accumulation=4\n"
        "  trm compile baseline 'exp*' 'contrib*' --topology v4-64 --output tpu_compile.md\n",
        run,
    )
    parser.add_argument("words", nargs="+", metavar="NAME|GROUP|PATTERN", help="what to compile (trm list shows names)")
    parser.add_argument(
        "--topology", default="v4-64", help="v4-8, v4-64, v5e-16 (or v5litepod-16), v6e-4 ... (default: %(default)s)"
    )
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write all figures there")
    parser.add_argument("--output", type=local_path, metavar="FILE.md", help="write the table there")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--cache", type=local_path, metavar="DIR", help="where results are kept (default: ~/.cache/trm_jax/compiled)"
    )
    add_set(parser)


def run(args) -> int:
    # Nothing here runs on a device, and taking one would disturb what trains on it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from trm_jax.aot import report
    from trm_jax.aot.compile import compile_program, versions
    from trm_jax.aot.programs import cycles_of, programs_of
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import hardware, memory
    from trm_jax.sweep.plan import aliases, run_names

    topology = hardware.find_slice(args.topology)
    for file in filter(None, (args.json, args.output)):
        check_free(file, args.force)
    names = registry.select(args.words)
    configs = {name: resolve.override(registry.get(name), changes(args)) for name in run_names(names)}
    for name, config in configs.items():
        try:
            cfg = resolve.freeze(config)
            memory.check_batches(cfg, memory.abstract_mesh(cfg, topology.chips))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if "libtpu" not in versions():
        raise InputError(
            "the TPU's compiler, libtpu, is not installed (there is one for Linux on x86-64 only); install it with "
            f"{sys.executable} -m pip install 'jax[tpu]'"
        )
    cache = args.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trm_jax" / "compiled"
    runs = []
    for name, config in configs.items():
        cfg, compiled = resolve.freeze(config), {}
        for number, (kind, model) in enumerate(programs_of(cfg)):
            cycles = "".join(f" {letter} {count}" for letter, count in zip("LH", cycles_of(model), strict=False))
            print(f"{name}: {kind}{cycles} ...", end=" ", flush=True, file=sys.stderr)  # it takes minutes
            begin = time.monotonic()
            found = compiled[kind, model] = compile_program(config, topology, number, cache)
            print("not compiled" if found["crash"] else f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
        runs.append(report.figures(name, cfg, topology, compiled))
    print("\n".join(report.head(topology)))
    if rows := report.table(runs):
        narrow = [heading for heading in rows[0] if heading not in report.WIDE]
        print_table(narrow, [[row[heading] for heading in narrow] for row in rows])
    print("\n".join([*report.notes(runs, aliases(names)), *(f"assumed: {line}" for line in report.ASSUMPTIONS)]))
    again = set_again(settings(args))
    made = command("compile", *args.words, "--topology", args.topology, *again, "--output", args.output)
    page = report.markdown(runs, topology, aliases(names), made)
    for file, text in ((args.json, json.dumps(runs, indent=1) + "\n"), (args.output, page)):
        if file:
            write_whole(file, text.encode())
            print(f"wrote {file}")
    print(f"next: {command('plan', *args.words, '--device', topology.name, *again)}")
    return 0 if all(one["fits"] for one in runs) else 1
