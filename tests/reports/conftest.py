"""Runs of the whole catalogue, made once for each way of being incomplete."""

from functools import cache

import pytest

from tests.reports.synthetic import write_group
from trm_jax.configs import registry
from trm_jax.reports.build import build
from trm_jax.reports.gather import group_study

SCENARIOS = {
    "one seed": {"seeds": 1},
    "three seeds": {"seeds": 3},
    "ends only": {"seeds": 2, "ends_only": True},
    "old records": {"seeds": 1, "old": True},
}


@pytest.fixture(scope="session")
def report_of(tmp_path_factory):
    """The report on a group in a scenario."""

    @cache
    def roots(scenario, group):
        how = dict(SCENARIOS[scenario])
        root = tmp_path_factory.mktemp("runs")
        companions = {"exp02a": "exp02b", "exp02b": "exp02a", "exp04a": "exp04b", "exp04b": "exp04a"}
        names = [registry.run_name(experiment.name) for experiment in registry.groups()[group].experiments]
        if how.pop("ends_only", False):
            how["skip"] = tuple(names[1:-1])
        elif group in companions:
            write_group(root, companions[group], **how)
        write_group(root, group, **how)
        return root

    @cache
    def make(scenario, group):
        return build(group_study(group, roots(scenario, group)), f"trm report {group}")

    return make
