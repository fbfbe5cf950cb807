import dataclasses
import json

import numpy as np
import pytest

from trm_jax.data.arrays import ArraySplit, StoredPool, read_split, write_split
from trm_jax.errors import InputError
from trm_jax.tasks.sudoku import SudokuConfig
from trm_jax.tasks.sudoku.canonical import canonical_forms
from trm_jax.tasks.sudoku.files import array_boards, board_arrays, read_splits, write_splits
from trm_jax.tasks.sudoku.source import load, load_eval
from trm_jax.tasks.sudoku.symmetry import variants


@pytest.fixture
def folder(tmp_path, boards_of):
    boards = boards_of(6)
    write_splits(tmp_path, "arrays", boards.take(np.arange(40)), boards.take(np.arange(40, 60)), augmentations=3)
    return tmp_path


CONFIG = SudokuConfig(source="arrays", size=6, train_puzzles=0, test_puzzles=0, augmentations=3)


def test_files_are_the_official_ones(folder):
    assert json.loads((folder / "identifiers.json").read_text()) == ["<blank>"]
    assert json.loads((folder / "train" / "dataset.json").read_text()) == {
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": 8, "seq_len": 36,
        "num_puzzle_identifiers": 1, "total_groups": 40, "mean_puzzle_examples": 1.0, "total_puzzles": 160,
        "sets": ["all"],
    }  # fmt: skip
    arrays = {path.stem.removeprefix("all__"): np.load(path) for path in (folder / "train").glob("*.npy")}
    assert arrays["inputs"].shape == arrays["labels"].shape == (160, 36)
    assert arrays["puzzle_identifiers"].tolist() == [0] * 160
    np.testing.assert_array_equal(arrays["puzzle_indices"], np.arange(161))
    np.testing.assert_array_equal(arrays["group_indices"], np.arange(0, 161, 4))
    assert {a.dtype for name, a in arrays.items() if name.endswith(("indices", "identifiers"))} == {np.dtype("int32")}


def test_round_trip_and_stored_variants(folder, boards_of):
    boards = boards_of(6)
    back = read_splits(folder)
    np.testing.assert_array_equal(back["train"].questions, boards.questions[:40])
    np.testing.assert_array_equal(back["test"].answers, boards.answers[40:])
    np.testing.assert_array_equal(back["test"].ratings, boards.ratings[40:])
    stored = array_boards(read_split(folder, "train"))
    expected = variants(boards.questions, boards.answers, np.repeat(np.arange(40), 4), np.tile(range(4), 40), 0)
    np.testing.assert_array_equal(stored.questions, expected[0])
    np.testing.assert_array_equal(stored.answers, expected[1])


def test_training_draws_one_stored_variant_of_each_group(folder):
    train, test = load(dataclasses.replace(CONFIG, path=str(folder)))
    assert train.info.groups == 40 and len(test) == 20
    stored = read_split(folder, "train")
    place = {row.tobytes(): i // 4 for i, row in enumerate(stored.inputs.astype(np.int32))}
    seen = set()
    for step in range(30):
        batch = train.batch(step, np.arange(40), seed=0, batch_size=40)
        groups = [place[row.tobytes()] for row in batch["inputs"]]
        assert sorted(groups) == list(range(40))
        seen |= {row.tobytes() for row in batch["inputs"]}
    assert len(seen) == 160  # 30 draws of each group's four variants miss one with probability 160 * .75**30 = 3%


def test_other_augmentations_than_the_stored_ones_are_refused(folder):
    """They would be ignored: the members of exp04b would all be one run. What is only scored needs none."""
    cfg = dataclasses.replace(CONFIG, path=str(folder), augmentations=10)
    with pytest.raises(InputError, match="holds 3 augmentations .* asks for 10: .* set data.augmentations=3, or take"):
        load(cfg)
    assert load_eval(cfg).digest == load(dataclasses.replace(cfg, augmentations=3))[1].digest


def test_ignored_labels_and_ids():
    inputs = np.arange(12, dtype=np.uint8).reshape(3, 4)
    split = ArraySplit(inputs, inputs % 3, np.array([5, 6, 7]), np.arange(4), np.array([0, 1, 3]), 12, 8)
    batch = StoredPool(split).examples(np.array([1, 0]), np.array([1, 0]))
    assert batch["puzzle_ids"].tolist() == [7, 5]
    assert batch["labels"].tolist() == [[2, -100, 1, 2], [-100, 1, 2, -100]]
    split = dataclasses.replace(split, ignore_label_id=None)
    assert StoredPool(split).examples(np.array([0]), np.array([0]))["labels"].tolist() == [[0, 1, 2, 0]]


def test_fewer_groups_than_are_stored(folder):
    split = read_split(folder, "train")
    part = StoredPool(split, np.array([3, 10]))
    assert part.variants.tolist() == [4, 4]
    rows = part.examples(np.repeat([0, 1], 4), np.tile(np.arange(4), 2))["inputs"]
    np.testing.assert_array_equal(rows, split.inputs[[12, 13, 14, 15, 40, 41, 42, 43]])
    train, _ = load(dataclasses.replace(CONFIG, path=str(folder), train_puzzles=7))
    drawn = np.concatenate([train.batch(step, np.arange(7), seed=0, batch_size=7)["inputs"] for step in range(40)])
    place = {row.tobytes(): i // 4 for i, row in enumerate(split.inputs.astype(np.int32))}
    assert train.info.groups == 7 and len({place[row.tobytes()] for row in drawn}) == 7


def test_the_quirks_of_the_official_builder_are_read(folder):
    """It writes the number of groups as total_puzzles, and int64 tokens where it augmented."""
    cfg = dataclasses.replace(CONFIG, path=str(folder))
    train, test = load(cfg)
    before = train.batch(2, np.arange(8), seed=1, batch_size=8)
    change("dataset.json", lambda d: {**d, "total_puzzles": d["total_groups"]})(folder)
    for name in ("all__inputs.npy", "all__labels.npy"):
        change(name, lambda tokens: tokens.astype(np.int64))(folder)
    train, same_test = load(cfg)
    assert same_test.digest == test.digest
    for name, values in train.batch(2, np.arange(8), seed=1, batch_size=8).items():
        assert values.dtype == np.int32
        np.testing.assert_array_equal(values, before[name])


def test_a_group_draws_from_the_examples_of_all_its_puzzles():
    """As in ARC: group 0 has one puzzle of three examples, group 1 two puzzles of one and two."""
    inputs = np.arange(6, dtype=np.int64)[:, None]
    split = ArraySplit(inputs, inputs + 1, np.array([5, 6, 7]), np.array([0, 3, 4, 6]), np.array([0, 1, 3]), 9, 8)
    pool = StoredPool(split)
    assert pool.variants.tolist() == [3, 3] and split.info.mean_examples_per_puzzle == 2
    batch = pool.examples(np.array([0, 0, 1, 1, 1]), np.array([0, 2, 0, 1, 2]))
    assert batch["inputs"][:, 0].tolist() == [0, 2, 3, 4, 5] and batch["puzzle_ids"].tolist() == [5, 5, 6, 7, 7]
    assert StoredPool(split, np.array([1])).examples(np.array([0]), np.array([2]))["puzzle_ids"] == [7]


@pytest.mark.parametrize("name, groups, variants", [("maze_10", 10, 1), ("maze_10_aug", 10, 8), ("sudoku_20x3", 20, 4)])
def test_sets_of_the_official_builders(shared, name, groups, variants):
    folder = shared / "data" / "official_arrays" / name
    train, test = (read_split(folder, split) for split in ("train", "test"))
    assert train.info.groups == groups and StoredPool(train).variants.tolist() == [variants] * groups
    batch = test.rows(np.arange(len(test)))
    np.testing.assert_array_equal(batch["labels"], test.labels)  # no label is ignored
    assert {values.dtype for values in batch.values()} == {np.dtype("int32")} and len(test.digest) == 64
    if name == "sudoku_20x3":
        cfg = dataclasses.replace(CONFIG, path=str(folder), size=9, test_puzzles=0)
        assert load(cfg)[0].info.groups == 20 and load(cfg)[1].info.groups == 10
    else:
        with pytest.raises(InputError, match="no Sudoku"):
            array_boards(train)


def test_an_older_file_of_another_task_is_read(shared):
    split = read_split(shared / "data" / "maze_hard_1k", "test")
    assert split.info.groups == 500 and split.info.seq_len == 900 and split.vocab_size == 6


def remove(name):
    return lambda folder: (folder / "train" / name).unlink()


def change(name, edit):
    def apply(folder):
        path = folder / "train" / name
        if name.endswith("json"):
            path.write_text(json.dumps(edit(json.loads(path.read_text()))))
        else:
            np.save(path, edit(np.load(path)))

    return apply


def truncate(folder):
    path = folder / "train" / "all__inputs.npy"
    path.write_bytes(path.read_bytes()[:-40])


def put(row, column, value):
    def edit(values):
        values[row, column] = value
        return values

    return edit


@pytest.mark.parametrize(
    "spoil, message",
    [
        (remove("dataset.json"), "dataset.json does not exist; name a folder in the official"),
        (remove("all__labels.npy"), "all__labels.npy does not exist"),
        (truncate, "all__inputs.npy: not a whole .npy file"),
        (change("dataset.json", lambda d: {**d, "sets": ["a"]}), "sets is"),
        (change("dataset.json", lambda d: {k: v for k, v in d.items() if k != "vocab_size"}), "vocab_size is None"),
        (change("dataset.json", lambda d: {**d, "seq_len": 35}), "seq_len is not the arrays' width"),
        (change("dataset.json", lambda d: {**d, "total_groups": 3}), "total_groups"),
        (change("dataset.json", lambda d: {**d, "vocab_size": 4}), "token lies outside 0..3"),
        (change("all__group_indices.npy", lambda a: a[:-1]), "group_indices does not run"),
        (change("all__puzzle_indices.npy", lambda a: a + 1), "puzzle_indices does not run"),
        (change("all__puzzle_identifiers.npy", lambda a: a + 1), "puzzle id lies outside 0..0"),
        (change("all__inputs.npy", lambda a: a.astype(np.float32)), "holds float32"),
        (change("all__inputs.npy", lambda a: a[:, :-1]), "inputs and labels differ in shape"),
        (change("all__inputs.npy", put(2, 0, 0)), "all__inputs.npy row 2: a token that no Sudoku has"),
        (change("all__labels.npy", put(9, 0, 1)), "all__labels.npy row 9: a token that no Sudoku has"),
    ],
)
def test_damaged_sets_are_named(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as caught:
        load(dataclasses.replace(CONFIG, path=str(folder)))
    assert "\n" not in str(caught.value)


def test_a_wrong_stored_variant_is_named(folder):
    change("all__labels.npy", lambda a: np.concatenate([a[:6], a[7:8], a[7:]]))(folder)
    with pytest.raises(InputError, match="train row 6: the answer disagrees with the clues"):
        load(dataclasses.replace(CONFIG, path=str(folder)))


def test_a_test_puzzle_hidden_among_the_variants_is_found(tmp_path, boards_of):
    boards = boards_of(6)
    test = board_arrays(boards.take(np.arange(40, 60)), 0, 0)
    split = board_arrays(boards.take(np.arange(40)), 3, 0)
    leaked = board_arrays(boards.take(np.arange(45, 46)), 1, 9)
    split.inputs[11], split.labels[11] = leaked.inputs[1], leaked.labels[1]
    write_split(tmp_path, "train", split)
    write_split(tmp_path, "test", test)
    forms = canonical_forms(*(x[None] - 1 for x in (split.inputs[11], split.labels[11])), 6)
    np.testing.assert_array_equal(forms, canonical_forms(boards.questions[45:46], boards.answers[45:46], 6))
    with pytest.raises(InputError, match="train row 11 and .*test row 5 are the same puzzle"):
        load(dataclasses.replace(CONFIG, path=str(tmp_path)))
