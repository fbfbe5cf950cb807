"""Which seeds there are."""

from trm_jax.errors import InputError

SEEDS = range(2**32)  # jax.random.key takes 32 bits: greater ones would repeat those, in silence


def check_seed(name: str, seed: int) -> None:
    """Raise InputError for a seed that is none; `name`: of the setting, for the message."""
    if seed not in SEEDS:
        raise InputError(f"{name} is {seed}; a seed is a whole number from 0 to {SEEDS[-1]}")
