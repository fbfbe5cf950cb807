"""What a group's plans say together, and what the users' guide says of them."""

from __future__ import annotations

from collections.abc import Sequence

from trm_jax.planning.estimate import Plan

_COSTLY = 0.5  # of the training's FLOPs


def unequal_compute(group: str, plans: Sequence[Plan]) -> str:
    """A line where a group trades layers for cycles as if that kept the compute; empty where it does not trade."""
    models = [plan.cfg.model for plan in plans]
    products = {model.L_layers * model.L_cycles for model in models}
    if len(products) > 1 or len({model.L_layers for model in models}) < 2:
        return ""
    applications = "/".join(f"{plan.work.layer_applications}" for plan in plans)
    sizes = "/".join(f"{plan.work.parameters / 1e6:.1f}" for plan in plans)
    return (
        f"{group} keeps layers x L cycles at {products.pop()} but not the compute: {applications} layer applications a "
        f"supervision step, and {sizes} million parameters; compare by FLOPs and parameters, not by depth alone"
    )


def costly_evaluations(plans: Sequence[Plan]) -> str:
    """A line where evaluations cost about as much as training; empty where they do not."""
    share = sum(plan.work.eval_flops for plan in plans) / sum(plan.work.train_flops for plan in plans)
    if share < _COSTLY:
        return ""
    return (
        f"evaluations cost {share:.0%} of the training's FLOPs; a larger eval.every_epochs makes them cheaper, and so "
        "does eval.max_examples, with results that are less exact"
    )


def guide_hours(plans: Sequence[Plan]) -> str:
    """A line on the users' guide's hours for catalogue runs on a v4-64, which these plans are for."""
    longest = max(plan.hours for plan in plans)
    return (
        f"the users' guide expects about 40 hours for each run on a v4-64; the longest here takes {longest:.1f}: the "
        "guide multiplied the augmentations into the steps, but an epoch draws one variant of every puzzle"
    )
