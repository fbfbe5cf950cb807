"""The golden numbers of ARC, and the public sets."""

import gzip
import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def golden(golden_folder):
    """golden(name): a golden JSON file of ARC, or the arrays of one."""

    def read(name: str):
        if name.endswith(".npz"):
            return np.load(golden_folder / "arc" / name)
        return json.loads(gzip.decompress((golden_folder / "arc" / f"{name}.gz").read_bytes()))

    return read
