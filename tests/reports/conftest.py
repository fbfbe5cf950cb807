"""Reports on runs of the whole catalogue, made once for each way of being incomplete."""

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
    def make(scenario, group):
        how, root = dict(SCENARIOS[scenario]), tmp_path_factory.mktemp("runs")
        declared = registry.groups()[group]
        if how.pop("ends_only", False):
            how["skip"] = tuple(registry.run_name(experiment.name) for experiment in declared.experiments[1:-1])
        elif declared.companion:
            write_group(root, declared.companion, **how)
        write_group(root, group, **how)
        return build(group_study(group, root), f"trm report {group}")

    return make
