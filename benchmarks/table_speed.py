"""What a training step costs with a puzzle table of ARC-1's size, beside one with a table of 1,024 rows.

python -m benchmarks.table_speed            # on the CPU; a step that touched every row would take seconds

The model is as small as the table's width of 512 allows, so that the table is what there is to see.
"""

import argparse
import dataclasses
import platform
import statistics
import time

import jax

from trm_jax.configs import registry, resolve
from trm_jax.data.dataset import DatasetInfo
from trm_jax.train.compiled import Compiled

SMALL = {"model.hidden_size": 32, "model.num_heads": 1, "model.L_layers": 1, "model.H_cycles": 1, "model.L_cycles": 1}
SMALL |= {"model.mlp_t": True, "model.pos_encodings": "none", "model.dtype": "float32", "data.side": 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    cfg = resolve.freeze(resolve.override(registry.get("arc1"), {**SMALL, "train.batch_size": args.batch_size}))
    runs = {}
    for ids in (1_024, 876_406):
        model = dataclasses.replace(cfg.model, num_puzzle_ids=ids)
        info = DatasetInfo(12, 100, ids, 960, 4.0)
        compiled = Compiled(dataclasses.replace(cfg, model=model), info)
        key = jax.random.key(0)
        rows = {
            name: jax.device_get(jax.random.randint(key, (args.batch_size, *shape), 0, 12)).astype(dtype)
            for name, (shape, dtype) in cfg.task.batch_spec(cfg.data).items()
        }
        rows["puzzle_ids"] = jax.device_get(jax.random.randint(key, (args.batch_size,), 1, ids))
        runs[ids] = [compiled, compiled.first_state(), rows, []]
    for step in range(args.rounds + 1):
        for run in runs.values():
            compiled, state, rows, times = run
            began = time.perf_counter()
            run[1], _ = compiled.train_step(state, step, rows)
            jax.block_until_ready(run[1].params["puzzle_emb"])
            times.append(time.perf_counter() - began)
    print(f"{platform.machine()}, {jax.default_backend()}, jax {jax.__version__}, batch {args.batch_size}, in turns")
    for ids, (_, state, _, times) in runs.items():
        low, median, high = statistics.quantiles(times[1:], n=4)
        size = state.params["puzzle_emb"].nbytes / 1e6
        print(
            f"{ids:>9,} ids: table {size:8,.1f} MB, a step {1e3 * median:.2f} ms (quartiles {1e3 * low:.2f} and "
            f"{1e3 * high:.2f}, n = {args.rounds})"
        )


if __name__ == "__main__":
    main()
