"""The golden numbers of ARC, and the public sets."""

import gzip
import json
import tarfile

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


@pytest.fixture(scope="module")
def sets(shared, tmp_path_factory):
    """The folder of the public sets, unpacked."""
    folder = tmp_path_factory.mktemp("arc")
    for name in ("ARC-AGI-1_3990304", "ConceptARC", "kaggle_combined"):
        with tarfile.open(shared / "data" / "arc" / f"{name}.tar.gz") as tar:
            tar.extractall(folder, filter="data")
    return folder
