"""`trm compile`: compile runs for a TPU you do not have at hand: memory, collectives, time at best.

Compiles the training and the evaluation step for a TPU slice: memory of a chip and whether it is enough, what the chips
send one another, FLOPs, and how fast it could run at best. Needs libtpu (pip install 'jax[tpu]', Linux on x86-64).
Results are kept: the same command resumes an interrupted group. Exit code 1: something does not fit.

examples:
  trm compile baseline --topology v4-64
  trm compile exp06 --topology v4-64 --json exp06.json
  trm compile baseline --topology v5e-16 --set train.accumulation=4
  trm compile baseline 'exp*' 'contrib*' --topology v4-64 --output tpu_compile.md
"""

from __future__ import annotations

import json
import os
import sys
import time

from trm_jax.cli import arguments as cli
from trm_jax.cli.health import pip_install
from trm_jax.cli.plan import print_table
from trm_jax.errors import InputError
from trm_jax.storage.paths import cache_folder, write_whole


def add_parser(subparsers) -> None:
    parser = cli.add_documented(subparsers, "compile", run, __doc__)
    cli.add_names(parser, "what to compile")
    parser.add_argument("--topology", default="v4-64", help="v4-8, v5e-16 (or v5litepod-16) ... (default: v4-64)")
    parser.add_argument("--json", type=cli.local_path, metavar="FILE", help="write all figures there")
    parser.add_argument("--output", type=cli.local_path, metavar="FILE.md", help="write the table there")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    cli.add_set(parser)


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
        cli.check_free(file, args.force)
    names = registry.select(args.words)
    configs = {}
    for name in run_names(names):
        config = resolve.override(registry.get(name), cli.changes(args))
        try:
            cfg = resolve.freeze(config)
            memory.check_batches(cfg, memory.abstract_mesh(cfg, topology.chips))
            configs[name] = config, cfg
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    if "libtpu" not in versions():
        install = pip_install("'jax[tpu]'")
        raise InputError(f"the TPU's compiler, libtpu (Linux on x86-64 only), is not installed; install it: {install}")
    runs = []
    for name, (config, cfg) in configs.items():
        compiled = {}
        for number, (kind, model) in enumerate(programs_of(cfg)):
            cycles = "".join(f" {letter} {count}" for letter, count in zip("LH", cycles_of(model), strict=False))
            print(f"{name}: {kind}{cycles} ...", end=" ", flush=True, file=sys.stderr)  # it takes minutes
            begin = time.monotonic()
            found = compiled[kind, model] = compile_program(config, topology, number, cache_folder() / "compiled")
            print("not compiled" if found["crash"] else f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
        runs.append(report.figures(name, cfg, topology, compiled))
    print("\n".join(report.head(topology)))
    if rows := report.table(runs):
        narrow = [heading for heading in rows[0] if heading not in report.WIDE]
        print_table(narrow, [[row[heading] for heading in narrow] for row in rows])
    print("\n".join([*report.notes(runs, aliases(names)), *(f"assumed: {line}" for line in report.ASSUMPTIONS)]))
    again = cli.set_again(cli.settings(args))
    made = cli.command("compile", *args.words, "--topology", args.topology, *again, "--output", args.output)
    page = report.markdown(runs, topology, aliases(names), made)
    for file, text in ((args.json, json.dumps(runs, indent=1) + "\n"), (args.output, page)):
        if file:
            write_whole(file, text.encode())
            print(f"wrote {file}")
    print(f"next: {cli.command('plan', *args.words, '--device', topology.name, *again)}")
    return 0 if all(one["fits"] for one in runs) else 1
