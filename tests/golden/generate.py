"""Make `trm_mlp_t_gradients.npz` and `twin_mlp_t.npz` beside this file with the PyTorch twin.

    python tests/golden/generate.py            # from the top of the checkout

The first is refused unless the twin follows the official trajectory bit for bit on this machine, because only
then are its gradients the official ones. See README.md for what the files hold.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1]))

from benchmarks.torch_twin import OFFICIAL_PREFIX, TRM, OptimConfig, Trainer, TwinConfig  # noqa: E402

STEPS = 10
OFFICIAL_OPTIM = OptimConfig(
    lr=1e-2, weight_decay=0.1, puzzle_lr=1e-2, puzzle_weight_decay=0.5, warmup_steps=5, ema_rate=0.9
)


def official(arrays) -> dict[str, np.ndarray]:
    return {OFFICIAL_PREFIX + name: tensor.detach().numpy().copy() for name, tensor in arrays}


class Recorder(Trainer):
    """A trainer that keeps the gradients that its last step used."""

    def update(self, ids, puzzle_grads):
        self.gradients = official((name, weight.grad) for name, weight in self.model.named_parameters())
        super().update(ids, puzzle_grads)


def official_gradients(golden) -> dict[str, np.ndarray]:
    """Of steps 2 to 10: gradients of loss / batch, and the puzzle table and the latents before the step."""
    model = TRM(TwinConfig.from_official(json.loads(str(golden["config"]))))
    initial = (name for name in golden.files if name.startswith("init/"))
    model.load_official({name.removeprefix("init/"): golden[name] for name in initial})
    trainer = Recorder(model, OFFICIAL_OPTIM)
    out = {}
    for t in range(1, STEPS + 1):
        if t > 1:
            out[f"step{t}/table"] = model.puzzle_emb.weights.numpy().copy()
            out[f"step{t}/z_H"], out[f"step{t}/z_L"] = trainer.carry.z_H.numpy(), trainer.carry.z_L.numpy()
        names = ("inputs", "labels", "puzzle_identifiers")
        seen = trainer.step({name: torch.from_numpy(golden[f"batch{t}/{name}"]) for name in names})
        if not np.array_equal(seen["logits"].numpy(), golden[f"step{t}/logits"]):
            raise SystemExit(f"the twin leaves the official trajectory at step {t} on this machine")
        if t > 1:
            out |= {f"grad{t}/{name}": array for name, array in trainer.gradients.items()}
    return out


def twin_trajectory(seed: int = 0) -> dict[str, np.ndarray]:
    """A trajectory that two float32 implementations can both follow.

    Post-norm layers at their usual scale amplify rounding from call to call; halved, they do not.
    """
    cfg = TwinConfig(
        vocab_size=9,
        seq_len=14,
        num_puzzle_identifiers=4,
        hidden_size=40,
        num_heads=2,
        H_cycles=3,
        L_cycles=2,
        mlp_t=True,
        pos_encodings="learned",
        puzzle_emb_ndim=50,
        puzzle_emb_len=2,
        halt_max_steps=4,
        halt_exploration_prob=0.0,
    )
    optim = OptimConfig(
        lr=1e-2, weight_decay=0.1, puzzle_lr=1e-2, puzzle_weight_decay=0.5, warmup_steps=4, ema_rate=0.8
    )
    batch_size = 6
    torch.manual_seed(seed)
    model = TRM(cfg)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("L_level"):
                weight.mul_(0.5)
        model.q_head.weight.normal_(std=cfg.hidden_size**-0.5)  # so that halting happens
        model.q_head.bias.zero_()
        model.puzzle_emb.weights.normal_(std=cfg.hidden_size**-0.5)
        for array in [*model.parameters(), model.puzzle_emb.weights]:
            array.copy_(array.bfloat16().float())  # half of the bits are zero: a smaller file
    trainer = Recorder(model, optim)
    settings = dataclasses.asdict(cfg) | {"batch_size": batch_size}
    out = {"config": json.dumps(settings), "optim": json.dumps(dataclasses.asdict(optim))}
    out |= {f"init/{name}": array for name, array in official(model.state_dict().items()).items()}
    rng = np.random.default_rng(seed)
    losses, metrics = [], []
    for t in range(1, STEPS + 1):
        labels = rng.integers(0, cfg.vocab_size, (batch_size, cfg.seq_len), dtype=np.int32)
        batch = {
            "inputs": np.where(rng.random(labels.shape) < 0.5, 0, labels).astype(np.int32),
            "labels": np.where(rng.random(labels.shape) < 0.2, -100, labels).astype(np.int32),
            "puzzle_identifiers": rng.integers(0, cfg.num_puzzle_identifiers, batch_size, dtype=np.int32),
        }
        seen = trainer.step({name: torch.from_numpy(array) for name, array in batch.items()})
        out |= {f"batch{t}/{name}": array for name, array in batch.items()}
        out |= {f"step{t}/{name}": seen[name].numpy() for name in ("logits", "q_halt")}
        out[f"step{t}/halted"] = trainer.carry.halted.numpy()
        out[f"step{t}/steps"] = trainer.carry.steps.numpy()
        losses.append(float(seen["loss"]))
        metrics.append({name: float(seen[name]) for name in ("lm_loss", "q_halt_loss")})
        if t == 1:
            out |= {f"grad1/{name}": array for name, array in trainer.gradients.items()}
    out |= {f"final/{name}": array for name, array in official(model.state_dict().items()).items()}
    out |= {f"ema/{name}": array for name, array in official(trainer.named_ema().items()).items()}
    return out | {"losses": np.array(losses), "metrics": json.dumps(metrics)}


def main() -> None:
    np.savez_compressed(FOLDER / "twin_mlp_t.npz", **twin_trajectory())
    golden = np.load(FOLDER / "trm_mlp_t.npz")
    np.savez_compressed(FOLDER / "trm_mlp_t_gradients.npz", **official_gradients(golden))


if __name__ == "__main__":
    main()
