"""How many forms of its demonstrations, which it has never seen, does an ARC transformer write exactly?

python -m benchmarks.arc_variants runs/arc_transformer_small

For each training pair up to --each augmentations that are not in its list, read with the true output before each token:
where the likeliest token is the next one everywhere, writing it token by token gives that output.
"""

import argparse

import numpy as np

from trm_jax.cli.runs import add_run, open_run


def unseen(train, each: int) -> list[tuple[int, int, np.ndarray]]:
    """(pair, symmetry, colours) of augmentations from lists twice as long that are not in the lists."""
    from trm_jax.tasks.dihedral import dihedral
    from trm_jax.tasks.pairs.augment import augmentations
    from trm_jax.tasks.pairs.source import read_all

    found, cfg, at = [], train.cfg, 0
    tasks, tested = read_all(cfg)

    def image(grid, symmetry, colors) -> bytes:
        turned = dihedral(colors[grid].astype(np.uint8), int(symmetry))
        return bytes(turned.shape) + turned.tobytes()

    for number, (name, task) in enumerate(tasks.items()):
        inputs = [pair.input for pair in (task.train if name in tested else task.pairs)]
        known, more = (
            augmentations(task, inputs, cap, cfg.seed, number) for cap in (cfg.augmentations, 2 * cfg.augmentations)
        )
        seen = {
            image(grid, *one) for grid, forms in zip(inputs, known, strict=True) for one in zip(*forms, strict=True)
        }
        for grid, forms in zip(inputs, more, strict=True):
            new = [(at, *one) for one in zip(*forms, strict=True) if image(grid, *one) not in seen]
            found += new[:each]
            at += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run(parser)
    parser.add_argument("--each", type=int, default=20, metavar="N", help="forms of a pair (20)")
    args = parser.parse_args()
    import jax

    from trm_jax.data.dataset import IGNORED
    from trm_jax.tasks.pairs.source import blank, write

    opened = open_run(args)
    cfg = opened.cfg
    train, _ = cfg.task.load(cfg.data)
    forms, right = unseen(train, args.each), []
    think = jax.jit(lambda params, batch: cfg.family.think(params, cfg.model, batch)[0][0])
    size = 64
    for first in range(0, len(forms), size):
        here = forms[first : first + size]
        batch = blank(size, cfg.data.row_tokens)
        for row, (pair, symmetry, colors) in enumerate(here):
            write(train.pairs, batch, row, np.array([pair]), np.array([symmetry], np.int64), colors[None])
        answers = np.asarray(think(opened.params, batch))
        right += ((answers == batch["labels"]) | (batch["labels"] == IGNORED)).all(1)[: len(here)].tolist()
    pairs = len({pair for pair, *_ in forms})
    print(
        f"{np.mean(right):.4f} of {len(right):,} unseen forms of {pairs} pairs are written exactly, step {opened.step}"
    )


if __name__ == "__main__":
    main()
