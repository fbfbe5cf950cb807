"""The public sets of ARC."""

import tarfile

import pytest

# As data.train_sets calls them.
NAMES = {
    "training": "ARC-AGI-1/data/training",
    "evaluation": "ARC-AGI-1/data/evaluation",
    "concept": "ConceptARC/corpus",
    "training2": "ARC-AGI-2/data/training",
    "evaluation2": "ARC-AGI-2/data/evaluation",
}


@pytest.fixture(scope="session")
def sets(shared, tmp_path_factory):
    """The folder of the public sets, unpacked, and of links to them by the names of data.train_sets."""
    folder = tmp_path_factory.mktemp("arc")
    for file in (shared / "data" / "arc").glob("*.tar.gz"):
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
    for name, place in NAMES.items():
        (folder / name).symlink_to(folder / place)
    return folder
