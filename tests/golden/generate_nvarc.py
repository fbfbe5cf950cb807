"""Make `ttt/nvarc_updates.npz` beside this file: eight updates of NVARC's recipe by PyTorch, transformers and PEFT.

PYTHONPATH=. python tests/golden/generate_nvarc.py            # from the top of the checkout
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

from trm_jax.models import decoder
from trm_jax.models.params import is_spec, path_name
from trm_jax.solvers import generator
from trm_jax.solvers.nvarc import text, vocabulary
from trm_jax.tasks.arc.grids import Pair

CFG = decoder.Config(16, 16, 1, 2, 1, 8, 32, rope_theta=1e4, context=512, qk_norm=True, tied=True)
RANK, ALPHA, LR, WARMUP = 16, 32, 2e-4, 2
MODULES = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {
    name: f"mlp.{name}_proj" for name in ("gate", "up", "down")
}


def main() -> None:
    import jax

    rng, saved = np.random.default_rng(0), {}

    def draw(path, spec):
        x = rng.normal(0, 0.1, spec.shape) + (spec.kind == "vector")
        saved[f"base/{path_name(path)}"] = x.astype(np.float32)
        return saved[f"base/{path_name(path)}"]

    params = jax.tree_util.tree_map_with_path(draw, decoder.specs(CFG), is_leaf=is_spec)
    pairs = [Pair(*(rng.integers(0, 10, shape).astype(np.uint8) for shape in ((3, 2), (2, 2)))) for _ in range(3)]
    lessons = text.samples(pairs, generator(0, "golden", "train"), 1)
    size = max(len(ids) for ids, _ in lessons)
    saved["ids"] = np.array([np.pad(ids, (0, size - len(ids)), constant_values=-1) for ids, _ in lessons])
    saved["learned"] = np.array([np.pad(learned, (0, size - len(learned))) for _, learned in lessons])

    with tempfile.TemporaryDirectory() as folder:
        vocabulary.write(Path(folder), CFG, params)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
    names = [module.rpartition(".")[2] for module in MODULES.values()]
    how = {"r": RANK, "lora_alpha": ALPHA, "use_rslora": True, "target_modules": names}
    model = peft.get_peft_model(model, peft.LoraConfig(**how, modules_to_save=["embed_tokens", "lm_head"]))
    modules = dict(model.named_modules())
    for name, module in MODULES.items():
        half = modules[f"base_model.model.model.layers.0.{module}"].lora_A["default"].weight
        saved[f"a/{name}"] = half.detach().numpy().T[None].copy()
    trained = [x for x in model.parameters() if x.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, WARMUP, len(lessons))
    losses = []
    for ids, learned in lessons:
        tokens = torch.tensor(ids[None].astype(np.int64))
        loss = model(input_ids=tokens, labels=torch.where(torch.tensor(learned[None]), tokens, -100)).loss
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    with torch.no_grad():
        saved["logits"] = model(input_ids=torch.tensor(lessons[0][0][None].astype(np.int64))).logits.numpy()
    saved["losses"] = np.array(losses)
    np.savez_compressed(Path(__file__).parent / "ttt" / "nvarc_updates.npz", **saved)


if __name__ == "__main__":
    main()
