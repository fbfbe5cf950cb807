import dataclasses

import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku import SudokuConfig
from trm_jax.tasks.sudoku.boards import Boards, complete
from trm_jax.tasks.sudoku.csv_files import read_csv, write_csv
from trm_jax.tasks.sudoku.files import board_arrays, write_splits
from trm_jax.tasks.sudoku.source import load, load_boards, load_eval, training
from trm_jax.tasks.sudoku.verify import require_disjoint

GENERATED = SudokuConfig(source="generated", size=6, train_puzzles=30, test_puzzles=20, augmentations=5)


@pytest.fixture
def folder(tmp_path, boards_of):
    boards = boards_of(9)
    write_splits(tmp_path, "csv", boards.take(np.arange(40)), boards.take(np.arange(40, 60)))
    return tmp_path


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_tokens(size):
    extra = 3 if size == 4 else 0
    train, test = load(dataclasses.replace(GENERATED, size=size, extra_clues=extra))
    assert train.info == dataclasses.replace(test.info, groups=30)
    assert (train.info.vocab_size, train.info.seq_len, train.info.num_puzzle_ids) == (size + 2, size * size, 1)
    assert train.info.mean_examples_per_puzzle == 1.0
    for batch in (train.batch(3, np.arange(50), seed=0, batch_size=50), test.rows(np.arange(20))):
        inputs, labels = batch["inputs"], batch["labels"]
        assert inputs.dtype == labels.dtype == batch["puzzle_ids"].dtype == np.int32
        assert (batch["puzzle_ids"] == 0).all()
        assert complete((labels - 1).astype(np.uint8), size).all()
        assert ((inputs == 1) | (inputs == labels)).all() and (inputs == 1).any() and inputs.min() == 1


def test_the_digest_of_version_0_1_0():
    questions = np.array([[1, 0, 0, 4, 0, 4, 1, 0, 2, 0, 4, 0, 0, 3, 0, 1], [0] * 16], np.uint8)
    answers = np.array([[1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]] * 2, np.uint8)
    test = board_arrays(Boards(4, questions, answers, np.zeros(2), np.array(["", ""]), "here", np.arange(2)))
    assert test.digest == "cb4e6c263e3969aa1eb02396d4ed8fb1e5778330f8ee2dc6d269dd022548a917"


def test_exactly_the_asked_variants_of_a_puzzle_exist(boards_of):
    train = training(boards_of(9).take(np.arange(4)), augmentations=6, seed=2)
    seen = {}
    for step in range(100):
        batch = train.batch(step, np.arange(8), seed=9, batch_size=8)
        for question, answer in zip(batch["inputs"], batch["labels"], strict=True):
            seen.setdefault(question.tobytes(), set()).add(answer.tobytes())
    assert len(seen) == 4 * 7  # 200 draws of each puzzle's 7 variants miss one with probability 28 * (6/7)**200 = 1e-12
    assert {len(answers) for answers in seen.values()} == {1}


def test_the_variants_belong_to_the_data_and_the_order_to_the_run(boards_of):
    def seen(data_seed, run_seed):
        train = training(boards_of(6), augmentations=1, seed=data_seed)
        batches = [train.batch(step, np.arange(60), seed=run_seed, batch_size=60)["inputs"] for step in range(40)]
        return batches[0].tobytes(), {row.tobytes() for row in np.concatenate(batches)}

    first, same_data, same_run = seen(0, 0), seen(0, 1), seen(1, 0)
    assert first[1] == same_data[1] and first[0] != same_data[0]
    assert first[1] != same_run[1]


def test_generated_splits_are_disjoint_repeatable_and_keep_their_test_set():
    train, test = load_boards(GENERATED)
    assert len(train) == 30 and len(test) == 20
    require_disjoint(train, test)
    more_train, same_test = load_boards(dataclasses.replace(GENERATED, train_puzzles=60))
    np.testing.assert_array_equal(test.questions, same_test.questions)
    np.testing.assert_array_equal(train.questions, more_train.questions[:30])
    one, two = (load(dataclasses.replace(GENERATED, seed=seed))[1].digest for seed in (0, 1))
    assert one != two and one == load(GENERATED)[1].digest


def test_csv_draws(folder):
    cfg = SudokuConfig(source="csv", path=str(folder), train_puzzles=15, test_puzzles=10)
    train, test = load_boards(cfg)
    again, same_test = load_boards(dataclasses.replace(cfg, seed=1))
    assert len(set(train.rows.tolist())) == 15 and train.rows.tolist() != again.rows.tolist()
    assert (np.diff(train.rows) > 0).all()
    np.testing.assert_array_equal(test.rows, same_test.rows)  # one test set for all seeds
    everything, every_test = load_boards(dataclasses.replace(cfg, train_puzzles=0, test_puzzles=0))
    assert everything.rows.tolist() == list(range(2, 42)) and len(every_test) == 20


def test_overlapping_files_are_refused_with_both_lines(folder, boards_of):
    boards = boards_of(9)
    write_csv(folder / "test.csv", boards.take(np.arange(38, 60)))
    cfg = SudokuConfig(source="csv", path=str(folder), train_puzzles=0, test_puzzles=0)
    with pytest.raises(InputError, match="train.csv line 40 and .*test.csv line 2 are the same puzzle"):
        load(cfg)


def test_an_evaluation_file_alone(folder):
    cfg = SudokuConfig(source="csv", path=str(folder / "test.csv"), test_puzzles=0)
    alone = load_eval(cfg)
    whole = load(dataclasses.replace(cfg, path=str(folder), train_puzzles=0))[1]
    assert alone.digest == whole.digest == load_eval(dataclasses.replace(cfg, path=str(folder))).digest
    assert load_eval(GENERATED).digest == load(GENERATED)[1].digest
    with pytest.raises(InputError, match="one file: name the folder"):
        load(cfg)
    absent = folder / "absent.csv"
    said = f"^{absent} does not exist: `trm data sudoku build --output-dir {folder}` makes"
    with pytest.raises(InputError, match=said):
        load_eval(dataclasses.replace(cfg, path=str(absent)))
    with pytest.raises(InputError, match="one file: name the folder"):
        load(dataclasses.replace(cfg, path=str(absent)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"source": "web"}, "data.source is 'web'; choose one of generated, csv, hub, arrays"),
        ({"size": 8}, "data.size is 8; choose one of 4, 6, 9"),
        ({"source": "csv"}, "needs data.path"),
        ({"source": "arrays"}, "needs data.path"),
        ({"source": "csv", "path": "FOLDER", "size": 6}, "holds boards of 9x9, .*data.size=9"),
        ({"source": "csv", "path": "FOLDER", "train_puzzles": 41}, "holds 40 puzzles, train_puzzles asks for 41.*hub"),
        ({"source": "csv", "path": "FOLDER", "test_puzzles": -1}, "data.test_puzzles is -1"),
        ({"source": "csv", "path": "FOLDER/none"}, "does not exist: .*trm data sudoku build"),
        ({"train_puzzles": 0}, "at least 1"),
        ({"size": 4, "train_puzzles": 1000}, "found only 36"),
        ({"augmentations": -2}, "augmentations is -2"),
    ],
)
def test_bad_settings(folder, change, message):
    change = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in change.items()}
    base = SudokuConfig(source="generated", train_puzzles=20, test_puzzles=10)
    with pytest.raises(InputError, match=message) as caught:
        load(dataclasses.replace(base, **change))
    assert "\n" not in str(caught.value)


def test_the_real_sets_load_and_are_disjoint(shared):
    folder = shared / "data" / "sudoku_extreme_1k"
    cfg = SudokuConfig(source="csv", path=str(folder), test_file="test_10k.csv", test_puzzles=0)
    train, test = load(cfg)
    assert train.info.groups == 1000 and len(test) == 10_000
    boards = read_csv(folder / "train.csv")
    batch = train.batch(0, np.arange(100), seed=0, batch_size=100)
    clues = sorted((boards.questions > 0).sum(axis=1).tolist())
    assert set((batch["inputs"] > 1).sum(axis=1).tolist()) <= set(clues)
