"""Where the time of the runs went, over all their lives: what trained and what did not."""

from __future__ import annotations

from math import fsum
from statistics import fmean

from trm_jax.reports.analyses.parts import Column, arm_table, common_scale, headed, measured
from trm_jax.reports.content import Section
from trm_jax.reports.measures import DOWN, LIVES, SPENT, seconds_of
from trm_jax.reports.study import Arm, Study, largest_pack

_HEADERS = {
    "train": "trained",
    "compile": "compilation",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",
    "setup": "setup",
    "lost": "lost to crashes",
}


def where_time_went(study: Study) -> Section:
    """The share of each kind of time by arm, its seeds pooled. Of runs without a count nothing is said."""
    known = [arm for arm in study.ran if arm.values(SPENT)]
    columns = [measured(known, SPENT), *(_share_column(kind) for kind in _HEADERS), Column("lives", _lives)]
    columns.append(_between_lives(known))
    caption = "mean ± standard deviation (n seeds); shares of that time; a life: from one start of a run to its end"
    notes = []
    pack = largest_pack(run for run in study.runs if run.goodput)
    if pack > 1:
        notes.append(
            f"Up to {pack} runs trained in one program: the time is that of the whole program, told once in an arm and "
            "again in every other arm that had runs in it."
        )
    table = arm_table(study.arms, columns, caption)
    return Section("Where the time went", _sentence(known), (table,), notes=tuple(notes))


def _share(arms: list[Arm], kind: str) -> float:
    total = fsum(value for arm in arms for value in arm.values(SPENT))
    return fsum(value for arm in arms for value in arm.values(seconds_of(kind))) / total if total else 0.0


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _share_column(kind: str) -> Column:
    return Column(_HEADERS[kind], lambda arm: _percent(_share([arm], kind)) if arm.values(SPENT) else "not recorded")


def _lives(arm: Arm) -> str:
    found = [int(value) for value in arm.values(LIVES)]
    if not found:
        return "not recorded"
    return f"{min(found)} to {max(found)}" if min(found) < max(found) else str(found[0])


def _between_lives(arms: list[Arm]) -> Column:
    scale = common_scale(arms, DOWN)

    def cell(arm: Arm) -> str:
        return scale.number(fmean(arm.values(DOWN))) if arm.values(DOWN) else "not recorded"

    return Column(headed("between lives", scale), cell)


def _sentence(arms: list[Arm]) -> str:
    low, high = (end(arms, key=lambda arm: _share([arm], "train")) for end in (min, max))
    least, most = (_percent(_share([arm], "train")) for arm in (low, high))
    ends = most if least == most else f"Between {least} ({low.name}) and {most} ({high.name})"
    other = max((kind for kind in _HEADERS if kind != "train"), key=lambda kind: _share(arms, kind))
    share = _share(arms, other)
    over = " over all arms" * (len(arms) > 1)
    rest = f"; most of the rest was {_HEADERS[other]}, {_percent(share)}{over}" if share else ""
    return f"{ends} of the time trained{rest}."
