"""launch/tpu_pod.sh and the cloud: every state of a queued resource and of a TPU, and connections that break."""

import pytest

READY = [["ACTIVE"], ["READY"]]


def test_a_request_is_waited_for(pod):
    request = ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "PROVISIONING", "ACTIVE"]
    pod.cloud(created=[[request, [None, None, None, "CREATING", "STARTING", "REPAIRING", "READY"]]])
    ended = pod.launch("one")
    assert ended.code == 0, ended.err
    assert pod.count("create") == 1 and pod.count("delete") == 0
    said = [line for line in ended.err.splitlines() if line.startswith("queued resource")]
    assert said == [
        f"queued resource trm: {request}; TPU: {node}"
        for request, node in [
            ("NONE", "NONE"),
            ("CREATING", "NONE"),
            ("ACCEPTED", "NONE"),
            ("WAITING_FOR_RESOURCES", "NONE"),
            ("PROVISIONING", "CREATING"),
            ("PROVISIONING", "STARTING"),
            ("ACTIVE", "REPAIRING"),
            ("ACTIVE", "READY"),
        ]
    ]


@pytest.mark.parametrize("request_state", ["ACTIVE", None])
def test_a_tpu_that_is_there_is_used(pod, request_state):
    pod.cloud(request=[request_state], node=["RESTARTING", "REIMAGING", "READY"])
    ended = pod.launch("one")
    assert ended.code == 0, ended.err
    assert pod.count("create") == pod.count("delete") == 0


@pytest.mark.parametrize(
    ("request_states", "node", "deleted"),
    [
        (["SUSPENDED"], [None], "queued-resources"),
        (["SUSPENDING", "SUSPENDED"], ["DELETING", None], "queued-resources"),
        (["ACTIVE"], ["PREEMPTED"], "queued-resources"),
        (["ACTIVE"], ["TERMINATED"], "queued-resources"),
        (["ACTIVE"], ["UNKNOWN"], "queued-resources"),
        (["ACTIVE"], [None], "queued-resources"),
        (["DELETING", None], ["DELETING", None], None),
        ([None], ["PREEMPTED"], "tpu-vm"),
        ([None], ["DELETING", None], None),
    ],
)
def test_one_that_was_taken_away_is_replaced(pod, request_states, node, deleted):
    pod.cloud(request=request_states, node=node)
    ended = pod.launch("one", "--retries", "0")
    assert ended.code == 0, ended.err
    deletions = [call for call in pod.calls() if call[3:4] == ["delete"]]
    assert [call[2] for call in deletions] == [deleted] * bool(deleted) and pod.count("create") == 1


def test_a_request_that_fails_is_made_so_often(pod):
    failed = [["PROVISIONING", "FAILED"], [None]]
    pod.cloud(created=[failed, failed, READY], reason="no more quota\nin this zone")
    ended = pod.launch("one")
    assert ended.code == 0 and ended.err.count("trm: the request failed: no more quota; once more") == 2
    pod.cloud(created=[failed], request=[None], node=[None])
    ended = pod.launch("one", "--retries", "1", "--", "seed=1")
    assert ended.code == 1 and pod.count("create") == 3 + 2
    assert "error: no TPU trm after 2 troubles, the last: the request failed: no more quota" in ended.err


def test_a_request_that_gcloud_refuses(pod):
    pod.cloud(faults={"create 1": "ERROR: RESOURCE_EXHAUSTED: quota", "create 3": "ERROR: PERMISSION_DENIED: who?"})
    assert pod.launch("one").code == 0
    pod.cloud(request=[None], node=[None])
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 2 and "error: gcloud makes no trm: ERROR: PERMISSION_DENIED: who?" in ended.err
    assert pod.count("create") == 3


@pytest.mark.parametrize(
    ("node", "kind", "code", "said"),
    [
        ("STOPPED", "v4-64", 1, "gcloud compute tpus tpu-vm start trm --zone=us-central2-b"),
        ("READY", "v4-8", 2, "trm is a v4-8, not a v4-64; give --type v4-8"),
    ],
)
def test_one_that_somebody_else_decides_about(pod, node, kind, code, said):
    pod.cloud(request=["ACTIVE"], node=[node], type=kind)
    ended = pod.launch("one")
    assert ended.code == code and said in ended.err
    assert pod.count("create") == pod.count("delete") == 0


def test_a_network_that_is_away_is_no_reason_for_another_tpu(pod):
    pod.cloud(
        request=["ACTIVE"], node=["READY"], faults={"describe 1": "ERROR: no route", "describe 3": "ERROR: no route"}
    )
    ended = pod.launch("one")
    assert ended.code == 0 and "gcloud: ERROR: no route; asking again" in ended.err
    pod.cloud(faults={f"describe {number}": "ERROR: no route" for number in range(pod.count("describe"), 50)})
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 1 and "error: gcloud says nothing of trm: ERROR: no route" in ended.err
    assert pod.count("create") == pod.count("delete") == 0


@pytest.mark.parametrize("when", ["state 2", "start 1", "install 1", "scp 1"])
def test_a_preemption(pod, when):
    """While it is watched, started, prepared: another TPU goes on in the same workdir, and it counts for nothing."""
    pod.plan("alpha", *["wait wait"] * (when == "state 2"))
    pod.cloud(faults={when: "preempt"})
    ended = pod.launch("one", "--retries", "0" if when.startswith("sta") else "1")
    assert ended.code == 0, ended.err
    assert pod.count("create") == 2 and pod.count("delete") == 1 and pod.count("install") >= 1
    starts = [call[-1] for call in pod.calls() if " start " in call[-1]]
    assert all("--workdir gs://mine/runs/alpha" in start for start in starts) and pod.marks() == ["alpha"]


@pytest.mark.parametrize(
    ("fault", "what"),
    [("install 1", "lose 0"), ("scp 1", "ERROR: timed out"), ("start 1", "drop 1"), ("start 1", "lose 0")]
    + [("state 1", "drop 1"), ("state 2", "drop all"), ("state 2", "lose 0")],
)
def test_a_connection_that_breaks_once(pod, fault, what):
    """The command did not arrive at one worker or any, or its answer was lost: nothing is started twice."""
    pod.cloud(faults={fault: what})
    ended = pod.launch("one")
    assert ended.code == 0, ended.err
    assert pod.starts("alpha", 0) == pod.starts("alpha", 1) == 1
    assert pod.count("create") == 1


def test_connections_that_break_again_and_again_leave_a_run_alone(pod):
    pod.plan("alpha", "wait wait")
    pod.cloud(faults={f"state {number}": ("drop 1", "drop all")[number % 2] for number in range(2, 8)})
    process = pod.start("one", "--retries", "0")
    pod.until(lambda: pod.count("state") > 8)
    (pod.folder / "end").touch()
    ended = pod.end(process)
    assert ended.code == 0, ended.err
    assert pod.starts("alpha", 0) == pod.starts("alpha", 1) == pod.count("create") == 1


@pytest.mark.parametrize("verb", ["scp", "start"])
def test_workers_that_cannot_be_reached(pod, verb):
    pod.cloud(faults={f"{verb} {number}": "ERROR: timed out" for number in range(1, 20)})
    ended = pod.launch("one", "--retries", "2")
    assert ended.code == 1 and pod.count(verb) == 3
    assert "though it is READY" in ended.err and "ERROR: timed out" in ended.err
    assert pod.count("delete") == 0


def test_the_number_of_workers_is_the_tpu_s(pod):
    pod.cloud(workers=5)
    assert pod.launch("one").code == 0
    assert [pod.starts("alpha", worker) for worker in range(6)] == [1] * 5 + [0]


def test_a_run_that_has_ended_on_one_worker_is_watched_to_its_end(pod):
    pod.plan("alpha", "0 wait")
    first = pod.start("one")
    pod.until(lambda: (pod.folder / "worker0/trm/runs").exists() and pod.starts("alpha", 1))
    first.terminate()
    pod.end(first)
    pod.until(lambda: list((pod.folder / "worker0/trm/runs").glob("alpha*/exit")))
    asked = pod.count("state")
    second = pod.start("one", "--retries", "0")
    pod.until(lambda: pod.count("state") > asked + 1 or second.poll() is not None)
    (pod.folder / "end").touch()
    ended = pod.end(second)
    assert ended.code == 0 and pod.starts("alpha", 0) == pod.starts("alpha", 1) == 1, ended.err


@pytest.mark.parametrize(("lost", "code"), [(2, 0), (3, 1)])
def test_a_run_that_cannot_be_seen_is_not_started_again(pod, lost, code):
    pod.plan("alpha", "wait wait")
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    first.terminate()
    pod.end(first)
    asked = pod.count("state")
    pod.cloud(faults={f"state {asked + number}": "drop 1" for number in range(1, lost + 1)})
    second = pod.start("one", "--retries", "0")
    pod.until(lambda: pod.count("state") > asked + lost + 1 or second.poll() is not None)
    (pod.folder / "end").touch()
    ended = pod.end(second)
    assert ended.code == code and pod.starts("alpha", 0) == pod.starts("alpha", 1) == 1
    assert ("workers 1 of trm, which is READY and costs, do not answer: ERROR: " in ended.err) == bool(code)


@pytest.mark.parametrize("tolerance", ["3", "30"])
def test_workers_that_fall_silent(pod, tolerance):
    pod.plan("alpha", "wait wait")
    silent = [number for number in range(2, 12)]
    pod.cloud(faults={f"state {number}": "drop all" for number in silent})
    process = pod.start("one", TRM_TOLERANCE=tolerance)
    pod.until(lambda: pod.count("state") > silent[-1] or process.poll() is not None)
    (pod.folder / "end").touch()
    ended = pod.end(process)
    if tolerance == "3":
        assert ended.code == 1 and ended.err.splitlines()[-1].startswith(
            "error: no worker of trm answered at 3 looks in a row; it is READY and costs: ERROR: "
        )
    else:
        assert ended.code == 0 and pod.starts("alpha") == 1
        assert ended.err.count("workers 0 1 of trm, which is READY, do not answer; look at ssh") == 1
        assert ended.err.count("all workers of trm answer again") == 1


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("storage", "ERROR: (gcloud.storage.ls) HTTPError 403: me does not have storage.objects.list access"),
        ("describe", "ERROR: PERMISSION_DENIED: Permission denied on 'locations/us-centrl2-b' (or it may not exist)."),
    ],
)
def test_a_first_question_is_asked_again_unless_the_answer_lasts(pod, verb, said):
    pod.cloud(faults={f"{verb} 1": "ERROR: There was a problem refreshing your current auth tokens"})
    assert pod.launch("one").code == 0
    asked = pod.count(verb)
    pod.cloud(faults={f"{verb} {asked + number}": "ERROR: a problem" for number in (1, 2, 3)})
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 1 and "ERROR: a problem" in ended.err and pod.count(verb) == asked + 3
    pod.cloud(faults={f"{verb} {asked + 4}": said})
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 2 and said in ended.err and pod.count(verb) == asked + 4


def test_a_mark_that_cannot_be_made_is_said(pod):
    pod.cloud(faults={"storage 2": "ERROR: 403"})
    ended = pod.launch("one")
    assert ended.code == 0 and "warning: alpha is done, and could not be marked so in gs://mine/runs/" in ended.err
