"""Reading and writing state-dict files: safetensors by NumPy alone, torch's own format with the torch extra."""

from __future__ import annotations

import io

import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, BucketPath, local_copy, write_whole


def _torch():
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("torch files need PyTorch: pip install 'trm_jax[torch]', or use a .safetensors file") from None
    return torch


def read(path: AnyPath) -> dict:
    """Name -> array or, as training programs save it, nested dicts of arrays and of other things.

    `.safetensors` files are told by their ending, everything else is a torch file. bfloat16 stays bfloat16. Torch files
    are read with `weights_only`, so nothing in them is executed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a file of weights")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            with local_copy(path) as file:
                return load_file(file)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file ({error})") from None
    torch = _torch()
    content = io.BytesIO(path.read_bytes())
    try:
        loaded = dict(torch.load(content, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is not a torch state dict ({reason}); save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    return _to_numpy(torch, loaded)


def _to_numpy(torch, value):
    """Tensors in nested dicts as arrays; anything else as it is."""
    if isinstance(value, dict):
        return {name: _to_numpy(torch, inner) for name, inner in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own: move the bits
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def write(path: AnyPath, state_dict: dict[str, np.ndarray]) -> None:
    """Write a state dict in the format of the file's ending: .safetensors, or .pt / .pth for torch."""
    if not isinstance(path, BucketPath) and not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder")
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        content = save(state_dict)
    elif path.suffix in (".pt", ".pth"):
        torch = _torch()

        def tensor(array: np.ndarray):
            if array.dtype == jnp.bfloat16:
                return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
            return torch.tensor(array)

        buffer = io.BytesIO()  # to a file torch writes with errors of its own that name no cause
        torch.save({name: tensor(array) for name, array in state_dict.items()}, buffer)
        content = buffer.getvalue()
    else:
        raise InputError(f"{path}: the file's ending must be .safetensors, .pt or .pth")
    write_whole(path, content)
