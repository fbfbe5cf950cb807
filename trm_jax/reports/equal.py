"""Arms of different families or sizes at equal training compute, at equal time, and at equal size.

An arm that is cheap for an update makes more of them, so a score at the end compares budgets as well as models.
"""

from dataclasses import replace

from trm_jax.reports.content import Section, Table, unanswered
from trm_jax.reports.measures import COSTS, OVER, PARAMETERS, Measure, score_within, spent
from trm_jax.reports.parts import SPEED_NOTE, Column, arm_table, measured, score_while_training, tested
from trm_jax.reports.study import Study
from trm_jax.reports.units import listed, scale_for
from trm_jax.reports.words import pair_tests, shown_words

ALIKE = 0.1  # the largest difference in parameters, as a share of the reference's, that counts as equal size
BUDGET_NOTE = (
    "The budget is the total of the arm that takes least, an arm's total that of its slowest run. A run's score is "
    f"that of its last evaluation within the budget, or at most {OVER:.0%} over it, so figures are as coarse as the "
    "evaluations. One before a run's end lies in the middle of its schedule, where the learning rate is still high: "
    "this favours the arms that end with the budget."
)
EVALUATED_NOTE = "Time is that of training and of the evaluations on the way."


def at_equal_cost(study: Study) -> list[Section]:
    """The three comparisons with the reference, where the arms differ in family or size; otherwise none."""
    if len({(arm.settings["model.family"], *arm.values(PARAMETERS)[:1]) for arm in study.ran}) == 1:
        return []
    return [
        _within_budget(study, "training compute", "compute", (BUDGET_NOTE,)),
        _within_budget(study, "time", "time", (BUDGET_NOTE, EVALUATED_NOTE, SPEED_NOTE)),
        _at_equal_size(study),
    ]


def _within_budget(study: Study, what: str, name: str, notes: tuple[str, ...]) -> Section:
    title = f"At equal {what}"
    totals = {arm.name: max(arm.values(spent(what)), default=None) for arm in study.ran}
    known = [arm for arm in study.ran if totals[arm.name] is not None]
    if len(known) < 2:
        return unanswered(title, f"fewer than two arms recorded their {what}")
    least = min(known, key=lambda arm: totals[arm.name])
    budget = totals[least.name]
    score, cost = score_within(study.score, what, budget), spent(what, budget)
    late = {arm.name: "no evaluation so early" for arm in known if not arm.values(score)}
    columns = [*measured(study, score), tested(study, score), *measured(study, cost)]
    columns = [(head, {**cells, **late}) for head, cells in columns]
    scale = scale_for(COSTS[what][0], [budget])
    sentence = f"With {scale.number(budget)} {scale.label} each, as much as {least.name} takes: {_shown(study, score)}."
    if late:
        sentence += f" The first evaluation of {listed(late)} comes after that."
    panel = score_while_training(study, f"{study.score.name.capitalize()} over {what}", what)
    return Section(title, sentence, _table(study, columns), f"at_equal_{name}", (panel,), notes)


def _at_equal_size(study: Study) -> Section:
    title, base, score = "At equal size", study.reference, study.score
    sizes = {arm.name: arm.mean(PARAMETERS) for arm in study.ran if arm.values(PARAMETERS)}
    if base.name not in sizes:
        return unanswered(title, f"{base.name} recorded no parameters")
    ratios = {name: size / sizes[base.name] for name, size in sizes.items()}
    alike = replace(study, arms=tuple(arm for arm in study.arms if abs(ratios.get(arm.name, 0) - 1) <= ALIKE))
    others = {name: f"not comparable: {ratio:.2f} times" for name, ratio in ratios.items() if abs(ratio - 1) > ALIKE}
    head, cells = tested(alike, score)
    columns = [*measured(study, PARAMETERS, score), (head, {**others, **cells})]
    sentence = f"Of the arms with {base.name}'s parameters, within {ALIKE:.0%}: {_shown(alike, score)}."
    if others:
        sizes_of = [f"{name} ({ratios[name]:.2f} times)" for name in others]
        sentence += f" Not comparable in size: {listed(sizes_of)}."
    return Section(title, sentence, _table(study, columns), "at_equal_size")


def _shown(study: Study, score: Measure) -> str:
    """Which arms the test tells from the reference, as a clause."""
    base = study.reference
    pairs = [(arm, base) for arm in study.ran if arm is not base and arm.values(score) and base.values(score)]
    return shown_words(pairs, pair_tests(pairs, score), score)


def _table(study: Study, columns: list[Column]) -> Table:
    """With the family alone of what the arms vary."""
    return arm_table(replace(study, varied=("model.family",)), columns)
