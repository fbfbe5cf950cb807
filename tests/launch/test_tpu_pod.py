"""launch/tpu_pod.sh: what it runs and in which order, what it does when runs end, how it is stopped and resumed."""

import itertools
import os
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.launch.conftest import commit

ODD = ["a=b c", 'a=it\'s "so"', "a=$HOME `id` $(id)", "a=1;exit 3 & # |", "a=two\nlines\n", "a=back\\slash\t*?", "a="]


def test_a_group_is_trained_in_its_order_on_every_worker(pod):
    pod.group("exp", "beta", "alpha")
    pod.cloud(workers=3)
    ended = pod.launch("exp")
    assert ended.code == 0, ended.err
    assert pod.marks() == ["alpha", "beta"]
    said = ended.err
    assert said.index("beta is done") < said.index("starting alpha on the 3 workers") < said.index("2 of 2 done")
    assert said.splitlines()[-1] == "next: launch/tpu_pod.sh --delete   (trm costs until then)"
    assert next((pod.folder / "worker0/trm").glob("venv-*/of")).read_text() == "python3.11\n"
    assert not list((pod.folder / "operator").glob("trm-*"))
    for name, worker in itertools.product(("alpha", "beta"), range(3)):
        assert pod.starts(name, worker) == 1
        expected = f"-m trm_jax train {name} --workdir gs://mine/runs/{name} --multihost".split()
        assert pod.argv(name, worker) == expected


def test_what_is_done_is_not_done_again(pod):
    pod.group("exp", "alpha", "beta")
    assert pod.launch("one").code == 0
    ended = pod.launch("exp")
    assert ended.code == 0 and "alpha is done: gs://mine/runs/alpha/done-" in ended.err
    assert (pod.starts("alpha"), pod.starts("beta")) == (1, 1)
    assert pod.count("create") == 1
    asked = pod.count("describe")
    assert pod.launch("exp").code == 0
    assert pod.count("describe") == asked  # nothing to do, and no TPU for it


def test_other_settings_are_another_run(pod):
    assert pod.launch("one").code == 0
    assert pod.launch("one", "--", "seed=1").code == 0
    assert pod.starts("alpha") == 2


def test_odd_arguments_arrive_as_they_are(pod):
    ended = pod.launch("one", "--", *ODD)
    assert ended.code == 0, ended.err
    for worker in (0, 1):
        argv = pod.argv("alpha", worker)
        assert argv[argv.index("--set") + 1 :] == ODD


def test_a_dry_run_prints_what_a_run_does(pod):
    pod.group("exp", "alpha", "beta")
    asked = ("exp", "--spot", "--delete-after", "--project=p", "--", "seed=1", "a=it's $HOME")
    dry = pod.launch("--dry-run", *asked)
    assert dry.code == 0 and not pod.calls() and not dry.err
    printed = [shlex.split(line) for line in dry.out.splitlines()]
    assert [words[0] for words in printed].count("git") == 1
    assert pod.launch(*asked).code == 0
    # A poll that finds a run still running is repeated.
    done = [call for call, _ in itertools.groupby(["gcloud", *call] for call in pod.calls())]
    assert [words for words in printed if words[0] == "gcloud"] == done


def test_the_code_is_that_of_one_commit(pod, tmp_path):
    pod.repository = shutil.copytree(pod.repository, tmp_path / "checkout")
    assert pod.launch("one").code == 0
    (pod.repository / "trm_jax/new.py").write_text("")
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 2 and "?? trm_jax/new.py is not committed" in ended.err and "--dirty" in ended.err
    ended = pod.launch("one", "--dirty", "--", "seed=1")
    assert ended.code == 0, ended.err
    commit(pod.repository)
    assert pod.launch("one", "--", "seed=2").code == 0
    first, dirty, second = (pod.folder / "starts/alpha.1").read_text().split()
    assert dirty.startswith(f"{first}-dirty-") and second != first
    for name, there in ((first, False), (dirty, True), (second, True)):
        assert (pod.folder / f"worker1/trm/src/{name}/trm_jax/new.py").exists() == there
    assert len((pod.folder / "worker1/installed").read_text().splitlines()) == 1


def test_an_archive_that_git_cannot_make(pod):
    (pod.folder / f"operator/trm-{os.getuid()}-science-us-central2-b-trm.tar.gz").mkdir()
    ended = pod.launch("one")
    assert ended.code == 1 and "git makes no archive of the code, and trm is READY and costs: fatal: " in ended.err


def test_without_a_python_that_is_new_enough_one_is_brought(pod):
    (pod.folder / "old_python").write_text("1")
    ended = pod.launch("one")
    assert ended.code == 0, ended.err
    steps = (pod.folder / "worker0/installed").read_text().splitlines()
    assert [step.split()[1] for step in steps] == ["pip", "uv", "pip"] and "--python 3.11" in steps[1]


def test_a_refused_run_is_not_tried_again(pod):
    pod.group("exp", "alpha", "beta")
    pod.plan("alpha", "wait 2")  # the others wait for the one that has left
    ended = pod.launch("exp")
    assert ended.code == 2
    assert [pod.starts("alpha", worker) for worker in (0, 1)] == [1, 1]
    assert "error: code 2" in ended.err and "more: launch/tpu_pod.sh --logs 1" in ended.err
    assert "1 of 2 done; refused: alpha" in ended.err and pod.marks() == ["beta"]


def test_a_run_that_diverges_does_so_again_and_is_not_tried(pod):
    pod.group("exp", "alpha", "beta")
    pod.plan("alpha", "1 1")
    ended = pod.launch("exp")
    assert ended.code == 1 and pod.starts("alpha") == 1
    assert "alpha diverged; the end of the log" in ended.err and "1 of 2 done; failed: alpha" in ended.err


def test_a_run_that_the_settings_make_impossible_is_none(pod):
    (pod.folder / "notes").write_text("note: beta is left out: 5 does not divide 6\n")
    ended = pod.launch("one", "--", "seed=1")
    assert ended.code == 2 and "beta is left out: 5 does not" in ended.err
    assert "1 of 2 done; refused: beta" in ended.err and pod.marks() == ["alpha"]


def test_a_run_that_has_saved_goes_on_and_that_counts_for_nothing(pod):
    pod.plan("alpha", "75 75", "75 75", "0 75")
    ended = pod.launch("one", "--retries", "0")
    assert ended.code == 0 and pod.starts("alpha", 0) == pod.starts("alpha", 1) == 4
    workdirs = {call[-1].split("--workdir ")[1].split()[0] for call in pod.calls() if " start " in call[-1]}
    assert workdirs == {"gs://mine/runs/alpha"}


def test_a_run_that_fails_is_tried_so_often_and_no_more(pod):
    pod.group("exp", "alpha", "beta")
    pod.plan("alpha", *["69 139"] * 5)
    pod.plan("beta", "70 69")
    ended = pod.launch("exp", "--retries", "1")
    assert ended.code == 1 and pod.starts("alpha") == pod.starts("beta") == 2
    assert "1 of 2 done; failed: alpha" in ended.err and pod.marks() == ["beta"]


def test_a_run_that_gets_further_may_fail_more_often(pod):
    """Counted are failures without a new checkpoint: here the second at step 100."""
    pod.plan("alpha", "137 69", "137@20 69", "137@100 69", "137 69", "137@100 69", "0 0")
    ended = pod.launch("one", "--retries", "1")
    assert ended.code == 1 and pod.starts("alpha") == 4
    ended = pod.launch("one", "--retries", "02")
    assert ended.code == 0 and pod.starts("alpha") == 6


def test_a_number_is_decimal(pod):
    pod.plan("alpha", "69 69")
    ended = pod.launch("one", "--retries", "08")
    assert ended.code == 0 and "base" not in ended.err


@pytest.mark.parametrize(("fate", "culprit"), [("die", 1), ("137", 1), ("0", 0)])
def test_a_worker_that_leaves_the_others_behind(pod, fate, culprit):
    """It died, was killed, or believes that it is done: the others are stopped and all start again."""
    pod.plan("alpha", f"wait {fate}")
    ended = pod.launch("one", TRM_GRACE_S="1")
    assert ended.code == 0, ended.err
    assert pod.starts("alpha", 0) == pod.starts("alpha", 1) == 2
    assert f"alpha failed; the end of the log of worker {culprit}:" in ended.err


def test_a_killed_launcher_finds_its_run_again(pod):
    pod.group("exp", "alpha", "beta")
    pod.plan("beta", "wait wait")
    first = pod.start("exp")
    pod.until(lambda: pod.starts("beta", 1))
    first.send_signal(signal.SIGKILL)
    pod.end(first)
    second = pod.start("exp")
    asked = pod.count("state")
    pod.until(lambda: pod.count("state") > asked + 1)
    (pod.folder / "end").touch()
    ended = pod.end(second)
    assert ended.code == 0 and "starting" not in ended.err
    assert pod.starts("alpha") == pod.starts("beta") == 1 and pod.marks() == ["alpha", "beta"]


def test_a_run_that_ended_unwatched_is_marked(pod):
    pod.plan("alpha", "wait wait")
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    first.send_signal(signal.SIGTERM)
    ended = pod.end(first)
    assert ended.code == 75
    assert "next: launch/tpu_pod.sh one   (watches again), or launch/tpu_pod.sh --stop" in ended.err
    (pod.folder / "end").touch()
    pod.until(lambda: all(list((pod.folder / f"worker{worker}/trm/runs").glob("*/exit")) for worker in (0, 1)))
    assert pod.launch("one").code == 0
    assert pod.starts("alpha") == 1 and pod.marks() == ["alpha"]


def test_another_run_on_the_workers_saves_first(pod):
    pod.plan("alpha", "wait wait")
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    first.send_signal(signal.SIGTERM)
    pod.end(first)
    pod.group("other", "beta")
    ended = pod.launch("other")
    assert ended.code == 0 and "it saves and stops first" in ended.err
    log = next((pod.folder / "worker1/trm/runs").glob("alpha*/log")).read_text()
    assert log.splitlines()[-1].endswith("exit code 75")


def test_two_do_not_watch_one_tpu(pod):
    pod.plan("alpha", "wait wait")
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    for project in ((), ("--project", "science")):  # gcloud's own
        ended = pod.launch("one", *project)
        assert ended.code == 2 and f"process {first.pid} watches trm already" in ended.err
    assert [path.name for path in (pod.folder / "operator").glob("*.pid")] == [
        f"trm-{os.getuid()}-science-us-central2-b-trm.pid"
    ]
    (pod.folder / "end").touch()
    assert pod.end(first).code == 0


def test_of_two_on_two_machines_the_later_one_stays(pod):
    pod.group("two", "beta")
    pod.plan("alpha", *["wait wait"] * 9)
    pod.plan("beta", *["wait wait"] * 9)
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    second = pod.start("two", **pod.elsewhere())
    ended = pod.end(first)
    assert ended.code == 1 and ended.err.splitlines()[-1].startswith("error: somebody else has started beta-")
    pod.until(lambda: pod.starts("beta", 1))
    (pod.folder / "end").touch()
    assert pod.end(second).code == 0
    assert pod.starts("alpha") == pod.starts("beta") == 1


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("plan", ["wait wait", "69 69"])
def test_stop_ends_the_run_and_its_watcher(pod, plan, far):
    """On this machine or another; while it runs, or when an attempt has failed and the next would be started."""
    pod.plan("alpha", plan)
    first = pod.held(("one",), "worker.sh state" if plan == "wait wait" else "/checkpoints/")
    if plan == "wait wait":
        pod.release()
        pod.until(lambda: pod.starts("alpha", 1))
    stop = pod.start("--stop", **(pod.elsewhere() if far else {}))
    if plan != "wait wait":
        pod.until(lambda: pod.count("halt") if far else stop.stderr.readline())
        pod.release()
    assert pod.end(stop).code == 0
    ended = pod.end(first)
    assert ended.code == 75 and ended.err.splitlines()[-1] == (
        f"{'stopped by --stop' if far else 'ended by --stop or --delete'}. "
        "next: launch/tpu_pod.sh one   (goes on from there)"
    )
    assert pod.starts("alpha") == 1 and not pod.marks()
    assert pod.launch("one").code == 0
    assert pod.starts("alpha") == 2 and pod.marks() == ["alpha"]


def test_a_tpu_that_is_awaited_and_no_longer_wanted(pod):
    pod.cloud(created=[[["WAITING_FOR_RESOURCES"], [None]]])
    first = pod.start("one")
    pod.until(lambda: pod.count("describe") > 4)
    first.send_signal(signal.SIGINT)
    ended = pod.end(first)
    assert ended.code == 75 and ended.err.splitlines()[-1] == (
        "no longer waiting; the request for trm stays, and costs once it is granted. "
        "next: launch/tpu_pod.sh one   (waits again), or launch/tpu_pod.sh --delete"
    )
    second = pod.start("one")
    asked = pod.count("describe")
    pod.until(lambda: pod.count("describe") > asked + 2)
    ended = pod.launch("--stop")
    assert pod.end(second).code == 75
    assert ended.code == 0 and ended.err.splitlines()[-1] == (
        "nothing runs: trm is WAITING_FOR_RESOURCES, its TPU NONE; it costs once it is granted, "
        "until: launch/tpu_pod.sh --delete"
    )
    assert pod.launch("--delete").code == 0
    assert "there is no TPU trm in us-central2-b" in pod.launch("--stop").err


def test_status_and_log(pod):
    printed = pod.launch("--status", "--dry-run").out.splitlines()
    assert len(printed) == 3 and all(line.startswith("gcloud compute tpus ") for line in printed) and not pod.calls()
    ended = pod.launch("--status")
    assert ended.code == 0 and ended.out == "queued resource trm: NONE; TPU: NONE\n"
    pod.plan("alpha", "0 1", "0 3")
    assert pod.launch("one", "--retries", "0").code == 1
    pod.cloud(faults={f"state {pod.count('state') + 1}": "drop 0"})
    ended = pod.launch("--status")
    lines = ended.out.splitlines()
    assert lines[0] == "queued resource trm: ACTIVE; TPU: READY, v4-64, 2 workers"
    assert lines[1] == "worker 0: does not answer" and lines[2].startswith("worker 1: exit 1 alpha-")
    following = pod.start("--logs", "1")
    assert "python -m trm_jax 'train' 'alpha'" in following.stdout.readline()
    assert following.stdout.readline() == "error: code 1\n"
    assert pod.launch("one", "--retries", "0").code == 1  # the next attempt
    while following.stdout.readline() != "error: code 3\n":
        assert following.poll() is None
    following.kill()
    pod.end(following)


@pytest.mark.parametrize("done", [("send-keys", "-t", "trm", "C-c"), ("kill-session", "-t", "trm")])
def test_who_ends_a_run_in_its_session_has_it_saved(pod, done):
    pod.plan("alpha", "save save")
    process = pod.start("one")
    pod.until(lambda: all((pod.folder / f"ready.{worker}").exists() for worker in (0, 1)))
    for worker in (0, 1):
        pod.tmux(worker, *done)
    ended = pod.end(process)
    assert ended.code == 0 and "alpha was stopped and has saved; it goes on" in ended.err
    assert pod.exits() == [["75", "0"], ["75", "0"]]


def test_attach_opens_the_session(pod):
    words = shlex.split(pod.launch("--attach", "1", "--name", "t", "--dry-run").out)
    assert words[:6] == "gcloud compute tpus tpu-vm ssh t".split() and "--worker=1" in words
    assert words[-3:] == ["--", "-t", "tmux -L trm attach -t trm"]


def test_a_command_on_the_hosts_in_the_environment_of_the_runs(pod):
    assert pod.launch("one").code == 0
    command = "gcloud compute tpus tpu-vm ssh trm --zone=us-central2-b --worker=all".split()
    subprocess.run([*command, "--command=bash trm/now/launch/worker.sh trm doctor"], env=pod.environ, check=True)
    for worker in (0, 1):
        assert pod.argv("", worker) == ["-m", "trm_jax", "doctor"]


def test_delete_ends_the_watcher_too(pod):
    pod.plan("alpha", "wait wait")
    first = pod.start("one")
    pod.until(lambda: pod.starts("alpha", 1))
    assert pod.launch("--delete").code == 0
    assert pod.end(first).code == 75
    assert pod.count("create") == 1
    assert pod.launch("--status").out.startswith("queued resource trm: NONE; TPU: NONE")
    assert pod.launch("--delete").code == 0  # there is nothing to delete


def test_delete_waits_for_a_request_that_is_being_made(pod):
    first = pod.held(("one",), "queued-resources create")
    delete = pod.start("--delete")
    line = f"process {first.pid}, which watches trm, is asked to end; waiting for it\n"
    assert delete.stderr.readline() == line
    pod.release()
    ended = pod.end(delete)
    assert ended.code == 0 and "trm is deleted" in ended.err
    assert pod.end(first).code == 75
    assert (pod.count("create"), pod.count("delete")) == (1, 1)


def test_flags_for_gcloud(pod):
    environ = {"TRM_CREATE_FLAGS": "--network=n --reserved", "TRM_SSH_FLAGS": "--internal-ip"}
    ended = pod.launch("one", "--type=v6e-32", "--zone=z", **environ)
    assert ended.code == 0 and "next: launch/tpu_pod.sh --zone z --delete" in ended.err
    (create,) = (call for call in pod.calls() if call[3:4] == ["create"])
    assert {"--network=n", "--reserved", "--zone=z", "--accelerator-type=v6e-32"} < set(create)
    assert "--runtime-version=v2-alpha-tpuv6e" in create and "--spot" not in create
    assert all("--internal-ip" in call for call in pod.calls() if call[3:4] in (["ssh"], ["scp"]))


@pytest.mark.parametrize(
    ("argv", "environ", "said"),
    [
        (["one"], {"TRM_BUCKET": ""}, "name a bucket for the workdirs: --bucket gs://"),
        (["one", "--bucket", "s3://x"], {}, "--bucket s3://x: give gs://BUCKET or gs://BUCKET/FOLDER"),
        (["one", "--bucket", "gs://"], {}, "--bucket gs://: give gs://BUCKET"),
        (["one", "--bucket", "gs:///x"], {}, "--bucket gs:///x: give gs://BUCKET"),
        (["one", "--bucket="], {}, "--bucket wants a value"),
        (["one"], {"TRM_SPOT": "true"}, "TRM_SPOT=true: give 1 or 0"),
        (["one", "--spot=1"], {}, "--spot takes no value"),
        (["one", "--bucket", "gs://nobodys"], {}, "gs://nobodys cannot be read: ERROR: (gcloud.storage.ls)"),
        (["nothing"], {}, "error: no experiment nothing"),
        ([], {}, "name an experiment or a group"),
        (["one", "two"], {}, "one and two: give one name"),
        (["one", "--wrong"], {}, "unknown option --wrong"),
        (["one", "--zone"], {}, "--zone wants a value"),
        (["one", "--", "seed"], {}, "seed after -- is not SECTION.NAME=VALUE"),
        (["one", "--", "--local"], {}, "--local after -- is not"),
        (["one", "--type", "v6e-32"], {}, "--type v6e-32 wants --zone"),
        (["one", "--type", "v9-8"], {"TRM_ZONE": "z"}, "--type v9-8 wants --zone and --version"),
        (["one", "--retries", "many"], {}, "--retries many is not a whole number"),
        (["one", "--name", "A b"], {}, "--name A b: use small letters"),
        (["--logs", "x"], {}, "--logs x: give the number of a worker"),
        (["one", "--stop"], {}, "--stop is about the TPU trm and takes no one"),
        (["one"], {"TRM_PYTHON": "/nowhere/python"}, "make install, or name a Python that has trm_jax"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(pod, argv, environ, said):
    ended = pod.launch(*argv, **environ)
    assert ended.code == 2 and said in ended.err
    assert len(ended.err.splitlines()) == 1 and not ended.out
    assert pod.count("create") == pod.count("describe") == 0


def test_without_gcloud(pod):
    tools = pod.folder / "few"
    tools.mkdir()
    for tool in ("bash", "dirname", "mktemp", "rm"):
        (tools / tool).symlink_to(shutil.which(tool))
    ended = pod.launch("one", PATH=str(tools))
    assert ended.code == 2 and ended.err.startswith("error: gcloud is not installed; see https://")
