"""Each process gets devices or cores of its own."""

import pytest

from trm_jax.errors import InputError
from trm_jax.sweep.slots import CORES, slots


def test_a_single_job_gets_everything():
    assert slots(1, platform="gpu", devices=8, cores=range(4), environ={}) == [{}]


@pytest.mark.parametrize(
    "jobs, shares",
    [
        (2, ["0,1", "2,3"]),
        (3, ["0", "1", "2,3"]),
        (4, ["0", "1", "2", "3"]),
        (6, ["0", "1", "2", "3", "0", "1"]),
    ],
)
def test_cores_are_shared(jobs, shares):
    assert slots(jobs, cores=range(4), environ={}) == [{CORES: share} for share in shares]


def test_unknown_cores_are_left_alone():
    assert slots(2, cores=(), environ={}) == [{}, {}]


def visible(jobs: int, devices: int, **environ) -> list[dict]:
    return slots(jobs, platform="gpu", devices=devices, cores=range(4), environ=environ)


def test_each_job_gets_as_many_gpus():
    assert visible(2, 4) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    # One GPU of eight stays idle with seven: a batch that divides by one need not divide by two.
    assert [len(found["CUDA_VISIBLE_DEVICES"].split(",")) for found in visible(3, 8)] == [2, 2, 2]


def test_gpus_that_somebody_has_chosen():
    assert visible(2, 2, CUDA_VISIBLE_DEVICES="5,GPU-ab") == [
        {"CUDA_VISIBLE_DEVICES": "5"},
        {"CUDA_VISIBLE_DEVICES": "GPU-ab"},
    ]


def test_jobs_on_one_gpu_share_its_memory():
    shared = {"CUDA_VISIBLE_DEVICES": "0", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}
    assert visible(3, 1) == [shared] * 3
    assert visible(2, 1, XLA_PYTHON_CLIENT_MEM_FRACTION="0.2") == [{"CUDA_VISIBLE_DEVICES": "0"}] * 2


def test_each_job_gets_a_box_of_tpu_chips_and_a_port_of_its_own():
    found = slots(2, platform="tpu", devices=4, environ={})
    assert [one["TPU_VISIBLE_CHIPS"] for one in found] == ["0,1", "2,3"]
    assert {one["TPU_CHIPS_PER_PROCESS_BOUNDS"] for one in found} == {"1,2,1"}
    assert len({one["TPU_MESH_CONTROLLER_PORT"] for one in found}) == 2
    three = slots(3, platform="tpu", devices=8, environ={})
    assert [one["TPU_VISIBLE_CHIPS"] for one in three] == ["0,1", "2,3", "4,5"]


def test_a_tpu_chip_serves_one_process():
    with pytest.raises(InputError, match="--jobs 5: .* there are 4; give --jobs 4"):
        slots(5, platform="tpu", devices=4, environ={})
