"""A language model's reading and writing beside transformers: one GGUF file, float32, the two in turns.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.decoder_speed SmolLM2-135M-Instruct.Q4_1.gguf
    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.decoder_speed MODEL.gguf --ours float32 file int8 --rounds 9

Reading is one forward pass over 128 tokens with the logits of all; writing is greedy, TOKENS behind a prompt of 16 that
is read before the clock starts. Every side is a process of its own, so its peak of memory is its own too; they take
turns, the order changing every round. Both must agree on the logits and on every token of float32. CPU seconds stand
beside the wall's, since they say the work on a machine that does other things as well. Needs torch, transformers, gguf.

Ours: float32 (the file's blocks made plain, which is what transformers does), file (blocks as they are), or a
quantisation of `trm_jax.models.quant`; each with -apart behind it for `decoder.apart`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

READ, PROMPT, TOKENS = 128, 16, 32
TOLERANCE = 2e-3  # of logits of size 20, in float32
Side = tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]  # reads [128, V], writes [TOKENS]


def tokens(vocabulary: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, vocabulary, (1, READ)).astype(np.int32)


def ours(path: Path, how: str) -> Side:
    import jax
    import jax.numpy as jnp

    from trm_jax import compiler
    from trm_jax.language import gguf, weights
    from trm_jax.models import decoder, quant

    how, lies_apart, _ = how.partition("-apart")
    cfg, params, _ = gguf.load(path, keep_blocks=how == "file")
    if how in quant.KINDS:
        kernels = {name: weights.quantised(params["layers"][name], how) for name in quant.LINEARS}
        params = {**params, "layers": params["layers"] | kernels}
    params = decoder.apart(params) if lies_apart else params
    ids = tokens(cfg.vocab_size)

    def write(params, state):
        def one(state, _):
            token = jnp.argmax(state["logits"], -1).astype(jnp.int32)
            return decoder.advance(params, cfg, state, token), token[0]

        return jax.lax.scan(one, state, None, length=TOKENS)[1]

    options = {"compiler_options": compiler.options()}
    forward = jax.jit(lambda params, ids: decoder.forward(params, cfg, ids)[0], **options)
    begin = jax.jit(lambda params, batch: decoder.begin(params, cfg, batch, PROMPT + TOKENS), **options)
    writes = jax.jit(write, **options)
    state = begin(params, {"inputs": ids[:, :PROMPT], "segments": np.zeros((1, PROMPT), np.int32)})
    return lambda: np.asarray(forward(params, ids)), lambda: np.asarray(writes(params, state))


def transformers(path: Path) -> Side:
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ids = torch.from_numpy(tokens(model.config.vocab_size).astype(np.int64))

    @torch.inference_mode()
    def read():
        return model(ids, use_cache=False).logits[0].numpy()

    with torch.inference_mode():
        first = model(ids[:, :PROMPT], use_cache=True)

    @torch.inference_mode()
    def write():
        logits, cache, said = first.logits[:, -1], copy.deepcopy(first.past_key_values), []
        for _ in range(TOKENS):
            said.append(logits.argmax(-1))
            out = model(said[-1][:, None], past_key_values=cache, use_cache=True)
            logits, cache = out.logits[:, -1], out.past_key_values
        return torch.cat(said).numpy()

    return read, write


def work(path: Path, name: str) -> None:
    """One side: does what a line on standard input asks for and says how long it took."""
    read, write = transformers(path) if name == "transformers" else ours(path, name)
    logits, said = read(), write()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"logits": logits[-1, :50].tolist(), "tokens": said.tolist(), "peak": peak}), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        (read if line.strip() == "read" else write)()
        print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}), flush=True)


def measure(path: Path, names: list[str], rounds: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.decoder_speed", str(path), "--side"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
    sides = {name: subprocess.Popen([*command, name], env=environment, **pipes) for name in names}
    first = {name: json.loads(side.stdout.readline()) for name, side in sides.items()}
    for name in (name for name in names if name.startswith(("float32", "file"))):  # both are the numbers of the file
        apart = np.abs(np.subtract(first[name]["logits"], first["transformers"]["logits"])).max()
        if apart > TOLERANCE or first[name]["tokens"] != first["transformers"]["tokens"]:
            raise SystemExit(f"{name} and transformers disagree: logits by {apart:.2g}, or tokens")
    taken = {name: {"read": [], "write": []} for name in names}
    load = [os.getloadavg()[0]]
    for number in range(rounds):
        for what in ("read", "write"):
            for name in names[:: 1 if number % 2 else -1]:
                print(what, file=sides[name].stdin, flush=True)
                taken[name][what].append(json.loads(sides[name].stdout.readline()))
        load.append(os.getloadavg()[0])
    for side in sides.values():
        side.stdin.close()
        side.wait()
    return {"taken": taken, "peak": {name: first[name]["peak"] for name in names}, "load": [min(load), max(load)]}


def show(figures: dict) -> None:
    from trm_jax.bench.measure import spread
    from trm_jax.cli.plan import print_table

    rows = []
    for what, size in (("read", READ), ("write", TOKENS)):
        for name, taken in figures["taken"].items():
            rate, cpu = (spread(size / one[kind] for one in taken[what]) for kind in ("wall", "cpu"))
            pairs = zip(figures["taken"]["transformers"][what], taken[what], strict=True)
            ratio = spread(theirs["wall"] / mine["wall"] for theirs, mine in pairs)
            rows.append([
                what, name, f"{rate['median']:.1f}", f"{rate['q1']:.1f} - {rate['q3']:.1f}", str(rate["n"]),
                f"{cpu['median']:.1f}", f"{ratio['median']:.2f}", f"{ratio['q1']:.2f} - {ratio['q3']:.2f}",
                f"{figures['peak'][name] / 1e6:,.0f}",
            ])  # fmt: skip
    headings = ("", "", "tokens\na second", "quartiles", "n", "a CPU\nsecond", "times as fast\nas transformers",
                "quartiles", "peak\nMB")  # fmt: skip
    print_table(headings, rows, words=(0, 1))
    print(f"{len(os.sched_getaffinity(0))} cores, load {figures['load'][0]:.1f} to {figures['load'][1]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a GGUF file")
    parser.add_argument("--ours", nargs="+", default=["float32"], help="float32, file-apart, int8 ...")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    if args.side:
        return work(args.path, args.side)
    figures = measure(args.path, [*args.ours, "transformers"], args.rounds)
    show(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
