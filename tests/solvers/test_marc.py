"""MARC's puzzles, texts, prompts and vote, against numbers of the public code."""

import dataclasses
import hashlib
import itertools
import os
import random
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from trm_jax.errors import InputError
from trm_jax.language import tokenizer
from trm_jax.solvers import Question, grid_text, question
from trm_jax.solvers.marc import prompts, puzzles
from trm_jax.solvers.marc.augmenters import FIXED, changes, recolouring, translation
from trm_jax.solvers.marc.puzzles import VIEWS, Puzzle
from trm_jax.solvers.marc.vote import vote
from trm_jax.tasks.arc.grids import ArcTask, Pair

grids = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 9))
some_pairs = st.lists(
    st.builds(Pair, *[arrays(np.uint8, (2, 3), elements=st.integers(0, 9))] * 2), min_size=1, max_size=4
)


def rows(grid: np.ndarray) -> str:
    return "/".join("".join(map(str, row)) for row in grid.tolist())


def written(puzzle: Puzzle) -> str:
    """As the golden files have it."""
    shown = "|".join(f"{rows(pair.input)}>{rows(pair.output)}" for pair in puzzle.demonstrations)
    return f"{shown}||{rows(puzzle.asked.input)}>{rows(puzzle.asked.output)}"


def drawn_task(count: int, seed: int = 0, side: int = 3) -> Question:
    rng = np.random.default_rng(seed)
    made = [rng.integers(0, 10, (2, side, side), np.uint8) for _ in range(count + 1)]
    return Question("drawn", tuple(Pair(*pair) for pair in made[:-1]), (made[-1][0],))


def nothing_is_long(puzzle) -> int:
    return 0


# Augmenters


def test_augmenters_change_grids_as_the_public_code_does(golden, grid):
    for task in golden("marc_augmenters")["tasks"].values():
        assert task["augmented"].keys() == FIXED.keys()
        for name, wanted in task["augmented"].items():
            change = FIXED[name]
            sources = [*itertools.chain(*task["pairs"]), task["test_input"]]
            targets = [*itertools.chain(*wanted["pairs"]), wanted["test_input"]]
            made = [change(grid(one)) for one in sources]
            for one, target in zip(made, targets, strict=True):
                np.testing.assert_array_equal(one, grid(target), name)
            assert max(max(one.shape) for one in made) == wanted["max_side"]


def test_a_translation_is_one_shift_for_every_grid_and_never_none():
    small, large = np.arange(9, dtype=np.uint8).reshape(3, 3), np.arange(20, dtype=np.uint8).reshape(4, 5)
    seen = set()
    for seed in range(200):
        *_, change = changes(np.random.default_rng(seed))
        moved = change(large)
        down, right = (int(place[0]) for place in np.nonzero(moved == 0))
        np.testing.assert_array_equal(change(small), translation(down, right)(small))
        seen.add((down, right))
    assert seen == set(itertools.product(range(4), range(4))) - {(0, 0)}


@given(st.sets(st.integers(0, 9)), st.integers(0, 2**32 - 1))
def test_used_colours_go_to_unused_ones_while_there_are_any(used, seed):
    new = recolouring(used, np.random.default_rng(seed))
    used, unused = used - {0}, set(range(1, 10)) - used
    assert sorted(new.tolist()) == list(range(10)) and new[0] == 0
    into_unused = sum(int(new[colour]) in unused for colour in used)
    assert into_unused == min(len(used), len(unused))


# Puzzles


@pytest.mark.parametrize("task", ["ea786f4a", "e9afcf9a", "4be741c5"])
@pytest.mark.parametrize("count", [1, 2])
def test_leave_one_out_puzzles_are_those_of_the_public_code(golden, pairs, task, count):
    task = golden("marc_leave_out")["tasks"][task]
    wanted, shown = task[f"leave_{count}"], pairs(task["pairs"])
    kept = [one for one in wanted["splits"] if one["demonstrations"]]  # ours have at least one
    splits = puzzles.left_out(shown, count)
    assert len(splits) == len(kept)
    found = {written(one) for one in splits}
    assert found == {
        written(Puzzle(tuple(shown[place] for place in one["demonstrations"]), shown[one["held_out"]])) for one in kept
    }
    if len(kept) == len(wanted["splits"]):
        lines = sorted(written(one) for one in puzzles.augmented(splits, FIXED.values))
        assert lines == sorted(wanted["tasks"])
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == wanted["sha256"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_training_takes_two_out_only_where_one_is_not_enough(count):
    task = drawn_task(count, side=5)
    found = puzzles.training(task, 0, nothing_is_long)
    shown = [len(one.demonstrations) for one in found]
    assert len({one.key for one in found}) == len(found)
    if count == 7:
        assert shown == [6] * 250
    else:
        # Each puzzle, its 23 changes, and a recoloured copy of each.
        ones, twos = (48 * ways for ways in {1: (0, 0), 2: (2, 0), 3: (3, 6)}[count])
        assert shown.count(count - 1) == ones and shown.count(count - 2) == min(twos, 250 - ones)


def test_a_recoloured_copy_has_one_map_for_all_its_grids(grid):
    task = drawn_task(3, seed=3)
    base = puzzles.left_out(task.demonstrations, 1)[0]
    copy = puzzles.recoloured(base, np.random.default_rng(1))
    maps = {}
    sources = {one.input.tobytes(): one for one in base.demonstrations}
    assert len(copy.demonstrations) == len(sources)

    def agree(old, new):
        return all(maps.setdefault(a, b) == b for a, b in zip(old.ravel().tolist(), new.ravel().tolist(), strict=True))

    assert agree(base.asked.input, copy.asked.input) and agree(base.asked.output, copy.asked.output)
    orders = itertools.permutations(base.demonstrations)
    known = dict(maps)

    def fits(order):
        maps.clear(), maps.update(known)
        shown = zip(order, copy.demonstrations, strict=True)
        return all(agree(old.input, new.input) and agree(old.output, new.output) for old, new in shown)

    assert any(map(fits, orders))


def test_long_puzzles_are_left_out_and_others_take_their_place():
    task = drawn_task(7)

    def tokens(puzzle):
        return sum(grid.size for grid in puzzle.grids)

    found = puzzles.training(task, 0, tokens, longest=14 * 9 + 1)
    assert 0 < len(found) and max(map(tokens, found)) == 14 * 9
    assert {len(one.demonstrations) for one in found} == {6, 5}
    assert puzzles.training(task, 0, tokens, longest=10) == []


def test_training_puzzles_do_not_depend_on_hashes():
    program = """
from trm_jax.solvers import Question
from trm_jax.solvers.marc import puzzles
from trm_jax.tasks.arc.grids import Pair
import numpy as np, hashlib
made = np.random.default_rng(0).integers(0, 10, (4, 2, 3, 3), np.uint8)
task = Question("drawn", tuple(Pair(*pair) for pair in made[:-1]), (made[-1][0],))
found = puzzles.training(task, 5, lambda one: 0) + [one for _, one in puzzles.asked(task, 0, 5, lambda one: 0)]
print(hashlib.sha256(repr([one.key for one in found]).encode()).hexdigest())
"""

    def lines(seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout

    assert lines("1") == lines("2")


# Prompts


@pytest.mark.parametrize("count, prompts_wanted", [(1, 6), (2, 7), (3, 10), (4, 16), (5, 20), (6, 23)])
def test_as_many_prompts_as_the_public_code_asks(count, prompts_wanted):
    task = drawn_task(count)
    found = puzzles.asked(task, 0, 0, nothing_is_long)
    assert len(found) == prompts_wanted
    assert sorted(view for view, _ in found if view != "identity") == sorted(set(VIEWS) - {"identity"})
    shown = {pair.input.tobytes() for pair in task.demonstrations}
    for view, one in found:
        assert one.asked.output is None
        np.testing.assert_array_equal(puzzles.undone(one.asked.input, view), task.inputs[0])
        seen = {puzzles.undone(pair.input, view).tobytes() for pair in one.demonstrations}
        assert seen < shown if count > 1 else seen == shown


def test_a_view_that_looks_the_same_is_asked_all_the_same():
    """Its answer has a place of its own in the vote."""
    cells = [np.full((2, 2), color, np.uint8) for color in range(7)]
    found = puzzles.asked(Question("same", tuple(map(Pair, cells[:3], cells[3:6])), (cells[6],)), 0, 0, nothing_is_long)
    assert [view for view, _ in found if view != "identity"] == list(VIEWS)[1:]


def test_two_demonstrations_are_left_out_where_all_prompts_are_too_long():
    def shown(puzzle):
        return len(puzzle.demonstrations)

    found = puzzles.asked(drawn_task(4), 0, 0, shown, longest=3)
    assert found and {shown(one) for _, one in found} == {2}
    assert puzzles.asked(drawn_task(2), 0, 0, shown, longest=1) == []


@given(grids, st.sampled_from(sorted(VIEWS)))
def test_a_view_undone_is_the_grid(grid, view):
    np.testing.assert_array_equal(puzzles.undone(puzzles.viewed(grid, view), view), grid)


@given(some_pairs, st.lists(arrays(np.uint8, (2, 2), elements=st.integers(0, 9)), min_size=1, max_size=2))
def test_answers_of_a_test_change_nothing(shown, inputs):
    def all_of(task):
        task = question(task)
        made = puzzles.training(task, 1, nothing_is_long, most=20)
        for test in range(len(task.inputs)):
            made += [one for _, one in puzzles.asked(task, test, 1, nothing_is_long)]
        return [one.key for one in made]

    answered = ArcTask("one", tuple(shown), tuple(Pair(one, one.T) for one in inputs))
    unanswered = dataclasses.replace(answered, test=tuple(Pair(one, None) for one in inputs))
    assert all_of(answered) == all_of(unanswered)


# Texts


def test_grids_are_written_and_read_as_numpy_prints_them(golden, grid):
    for one in golden("marc_grid_text")["grids"]:
        assert grid_text.write(grid(one["grid"])) == one["text"]
        np.testing.assert_array_equal(grid_text.read(one["text"]), grid(one["grid"]))


def test_what_is_no_grid_is_refused(golden):
    for one in golden("marc_grid_text")["parse"]:
        found = grid_text.read(one["text"])
        assert (None if found is None else found.tolist()) == one["expected"], one["name"]


@given(grids)
def test_a_grid_written_is_read_back(grid):
    np.testing.assert_array_equal(grid_text.read(grid_text.write(grid)), grid)
    with np.printoptions(threshold=10**6, linewidth=10**6):
        assert grid_text.write(grid) == str(grid)


@given(st.text(alphabet="[]0 1\n23", max_size=30))
def test_only_what_is_written_so_is_read(text):
    found = grid_text.read(text)
    assert found is None or grid_text.write(found) == text.strip()


def split(example, pairs) -> tuple[str, Puzzle]:
    """(instruction, puzzle) of a golden conversation."""
    instruction, *lines = example["system"].split("\n[[")
    texts = "\n".join("[[" + line for line in lines).split("#")
    shown = [tuple(map(grid_text.read, text.split(" -> "))) for text in texts if text.strip()]
    asked = grid_text.read(example["user"].removesuffix(" ->")), grid_text.read(example["assistant"].removesuffix("#"))
    return instruction, Puzzle(pairs(shown), *pairs([asked]))


def test_spans_that_are_learned_are_those_of_the_public_code(golden, pairs):
    for example in golden("marc_loss_spans")["examples"]:
        instruction, puzzle = split(example, pairs)
        said = prompts.conversation(puzzle, instruction)
        assert (said.system, said.user, said.answer) == (example["system"], example["user"], example["assistant"])
        for loss, wanted in example["loss_spans"].items():
            assert [list(span) for span in said.learned(loss)] == wanted["system"]
            assert [[0, len(said.answer)]] == wanted["assistant"]


@pytest.fixture(scope="module", params=["tokenizer_bos", "tokenizer_chatml", "plain"])
def words(request, golden_folder):
    name = "tokenizer_bos" if request.param == "plain" else request.param
    found = tokenizer.load(golden_folder / "llm" / name)
    return dataclasses.replace(found, templates={}) if request.param == "plain" else found


@pytest.mark.parametrize("loss", prompts.LOSSES)
def test_tokens_that_are_learned_spell_the_spans(words, loss):
    puzzle = puzzles.left_out(drawn_task(4).demonstrations, 1)[0]
    form = prompts.Format(words, "Find the rule -> [[1]]# of these.")
    ids, learned = form.lesson(puzzle, loss)
    text = words.decode(ids.tolist(), special=True)
    spans = []
    for pair in puzzle.pairs:
        arrow = text.index("->", text.index(grid_text.write(pair.input)))
        output = grid_text.write(pair.output)
        last = pair is puzzle.demonstrations[-1]  # whose new line is not of the message
        spans.append((arrow + 2, text.index(output, arrow) + len(output + "#\n") - last))
    first = {"after_first": 1, "last": 3, "all": 0}[loss]
    answer = text.index(grid_text.write(puzzle.asked.output), spans[-1][0])
    for place, token in enumerate(ids):
        begin = len(words.decode(ids[:place].tolist(), special=True))
        wanted = any(low <= begin < high for low, high in spans[first:3]) or begin >= answer - (text[answer - 1] == " ")
        assert learned[place] == wanted, (token, begin)
    assert ids[-1] == form.end

    asked = Puzzle(puzzle.demonstrations, Pair(puzzle.asked.input, None))
    prompt = form.question(asked)
    np.testing.assert_array_equal(ids[: len(prompt)], prompt)
    assert learned[len(prompt) :].all()


def test_an_answer_ends_with_its_first_mark():
    np.testing.assert_array_equal(prompts.parse_answer("[[1 2]]#\n[[3]]#"), [[1, 2]])
    np.testing.assert_array_equal(prompts.parse_answer("[[1 2]]"), [[1, 2]])
    assert prompts.parse_answer("[[1 2]\n [3") is None
    assert prompts.parse_answer("[[1 2]\n [3]]#") is None


@given(grids)
def test_an_answer_is_settled_when_it_is_whole_and_not_before(grid):
    answer = grid_text.write(grid)
    assert not any(prompts.settled(answer[:end]) for end in (0, 1, len(answer) // 2, len(answer)))
    assert prompts.settled(f"{answer}#")


def test_what_is_no_answer_is_settled_early():
    assert prompts.settled("The rule") and prompts.settled("[[1 2]\n [3 4]]" * 200)
    assert not prompts.settled(f" {grid_text.write(np.full((30, 30), 9))}\n")


def test_a_template_without_a_system_message_is_refused(golden_folder):
    found = tokenizer.load(golden_folder / "llm" / "tokenizer_bos")
    deaf = "{% for m in messages if m.role != 'system' %}{{ m.content + eos_token }}{% endfor %}"
    with pytest.raises(InputError, match="does not write messages of system"):
        prompts.Format(dataclasses.replace(found, templates={"default": deaf}))
    endless = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(InputError, match="no special token ends an answer"):
        prompts.Format(dataclasses.replace(found, templates={"default": endless}))


# Vote


def outputs_of(case, grid):
    return [(one["view"], grid(one["grid"])) for one in case["candidates"]]


def test_votes_have_the_order_that_is_defined(golden, grid):
    for case in golden("marc_vote")["cases"]:
        found = vote(outputs_of(case, grid))
        for one, wanted in zip(found[:2], case["expected"], strict=True):
            np.testing.assert_array_equal(one, grid(wanted), case["name"])


small = arrays(np.uint8, st.tuples(st.integers(1, 2), st.integers(1, 2)), elements=st.integers(0, 1))


@given(st.lists(st.tuples(st.sampled_from(sorted(VIEWS)), small), max_size=12), st.randoms())
def test_the_order_of_outputs_changes_no_vote(outputs, rng: random.Random):
    found = [one.tolist() for one in vote(outputs)]
    rng.shuffle(outputs)
    assert found == [one.tolist() for one in vote(outputs)]
    named = {str(one.tolist()) for _, one in outputs}
    assert named <= {str(one) for one in found} or not outputs
    assert len(found) >= 2 or not outputs
