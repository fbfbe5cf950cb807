"""launch/tpu_pod.sh: what it runs, in which order, and what it does when something goes wrong."""

import shlex
import time


def test_a_group_is_trained_in_order(pod):
    pod.group("exp", "beta", "alpha", "gamma")
    ended = pod.launch("exp")
    assert ended.code == 0, ended.err
    assert pod.marks() == ["alpha", "beta", "gamma"]
