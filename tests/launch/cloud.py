"""`gcloud` as far as the launcher goes: a queued resource, a TPU whose workers are folders, and a bucket.

Run as a program with CLOUD naming a folder. The file `cloud` there says how things stand and what will go wrong; all
command lines are in `calls`. A worker's commands are run by bash in its folder, with the programs in CLOUD/tools.
It is started thousands of times: hence marshal, and what costs time to import is imported where it is needed.
"""

import fcntl
import marshal
import os
import sys

CLOUD = os.environ["CLOUD"]
STATE = f"{CLOUD}/cloud"


class Refused(Exception):
    """What gcloud says and exits with 1 for."""


def option(argv: list[str], name: str) -> str:
    return next((arg.split("=", 1)[1] for arg in argv if arg.startswith(f"--{name}=")), "")


def step(states: list) -> str | None:
    """The state now; the next question finds the next one, until the last, which stays."""
    return states.pop(0) if len(states) > 1 else states[0]


def folder(worker: int) -> str:
    return f"{CLOUD}/worker{worker}"


def wipe(cloud: dict) -> None:
    """The machines are gone, with all that ran on them."""
    import shutil
    import subprocess

    for worker in range(cloud["workers"]):
        subprocess.run(["power_off"], env=environ(worker), check=False)
        shutil.rmtree(folder(worker), ignore_errors=True)


def environ(worker: int) -> dict[str, str]:
    sockets, home = f"{CLOUD}/t{worker}", folder(worker)
    for made in (sockets, home):
        os.makedirs(made, exist_ok=True)
    path = f"{CLOUD}/tools:/usr/bin:/bin"
    names = {"HOME": home, "PATH": path, "TMUX_TMPDIR": sockets, "CLOUD": CLOUD, "WORKER": worker, "TRM_STOP_S": 5}
    return {name: str(value) for name, value in names.items()}


def describe(cloud: dict, argv: list[str]) -> str:
    if argv[2] in ("accelerator-types", "versions"):
        if argv[4] not in cloud["offers"].get(option(argv, "zone"), []):
            raise Refused(f"ERROR: (gcloud.{'.'.join(argv[:4])}) NOT_FOUND: Resource '{argv[4]}' was not found.")
        return f"name: {argv[4]}"
    if argv[2] == "queued-resources":
        state = step(cloud["request"])
        answer = cloud["reason"] if "failedData" in option(argv, "format") else state
    else:
        state = step(cloud["node"])
        answer = f"{state}\t{cloud['type']}\t{cloud['workers'] if state != 'CREATING' else 0}"
    if state is None:
        raise Refused(f"ERROR: (gcloud.{'.'.join(argv[:4])}) NOT_FOUND: Resource '{argv[4]}' was not found.")
    return answer


def create(cloud: dict, argv: list[str]) -> str:
    cloud["request"], cloud["node"] = (list(states) for states in step(cloud["created"]))
    cloud["type"] = option(argv, "accelerator-type")
    return ""


def delete(cloud: dict, argv: list[str]) -> str:
    if argv[2] == "queued-resources" and cloud["request"][0] is None:
        raise Refused("ERROR: NOT_FOUND")
    if argv[2] == "queued-resources" and "--force" not in argv:
        raise Refused("ERROR: the queued resource has nodes")
    wipe(cloud)
    cloud["request"] = cloud["node"] = [None]
    return ""


def targets(cloud: dict, argv: list[str]) -> list[int]:
    if cloud["node"][0] != "READY":
        raise Refused(f"ERROR: the TPU is in state {cloud['node'][0]}")
    worker = option(argv, "worker")
    return list(range(cloud["workers"])) if worker == "all" else [int(worker)]


def ssh(cloud: dict, argv: list[str], fault: str) -> int:
    """Runs the command on its workers; `fault` "drop W": W is not reached; "lose W": what it answers is lost."""
    kind, _, which = fault.partition(" ")
    code = 0
    workers = targets(cloud, argv)
    if option(argv, "worker") != "all":  # its output as it comes
        os.chdir(folder(workers[0]))
        os.execve("/bin/bash", ["bash", "-c", option(argv, "command")], environ(workers[0]))
    import subprocess

    for worker in workers:
        hit = which in (str(worker), "all")
        if kind == "drop" and hit:
            code = 255
            continue
        command = ["bash", "-c", option(argv, "command")]
        home = folder(worker)
        done = subprocess.run(
            command, env=environ(worker), cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        lost = kind == "lose" and hit
        sys.stdout.write("" if lost else done.stdout)
        sys.stderr.write(done.stderr)
        code = 255 if lost else done.returncode or code
    if code == 255:
        print("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255].", file=sys.stderr)
    return code


def scp(cloud: dict, argv: list[str]) -> str:
    import shutil

    source, target = argv[4:6]
    for worker in targets(cloud, argv):
        environ(worker)
        shutil.copy(source, f"{folder(worker)}/{target.split(':')[1]}")
    return ""


def storage(cloud: dict, argv: list[str]) -> str:
    url = argv[-1]
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if bucket != cloud["bucket"]:
        raise Refused(f"ERROR: (gcloud.storage.{argv[1]}) gs://{bucket} not found: 404.")
    place = f"{CLOUD}/bucket/{name}"
    if argv[1] == "cp":
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w") as file:
            file.write(sys.stdin.read())
        return ""
    if argv[1] == "rm":
        os.unlink(place)
        return ""
    if not os.path.exists(place):
        raise Refused("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")
    return "\n".join(f"{url}{each}/" for each in sorted(os.listdir(place))) if os.path.isdir(place) else url


def buckets(cloud: dict, argv: list[str]) -> str:
    if argv[3] != f"gs://{cloud['bucket']}":
        raise Refused(f"ERROR: (gcloud.storage.buckets.describe) {argv[3]} not found: 404.")
    return policy(cloud, argv, "bucket") if argv[2] == "get-iam-policy" else cloud["location"]


def projects(cloud: dict, argv: list[str]) -> str:
    if argv[2] != cloud["project"]:
        raise Refused(f"ERROR: (gcloud.projects.describe) [{argv[2]}] not found or permission denied")
    return policy(cloud, argv, "project") if argv[1] == "get-iam-policy" else "ACTIVE\t42"


def policy(cloud: dict, argv: list[str], place: str) -> str:
    """Of [role, member, title of its condition] a line for each."""
    assert option(argv, "flatten") == "bindings[].members"
    assert option(argv, "format") == "value(bindings.members,bindings.role,bindings.condition.title)"
    return "\n".join(f"{member}\t{role}\t{condition}" for role, member, condition in cloud["policies"][place])


def quotas(cloud: dict, argv: list[str]) -> str:
    """Of [name, places, value] a line for each."""
    assert option(argv, "flatten") == "dimensionsInfos[]"
    keys = "quotaId,dimensionsInfos.applicableLocations.list(),dimensionsInfos.details.value"
    assert option(argv, "format") == f"value({keys})"
    return "\n".join("\t".join(quota) for quota in cloud["quotas"])


def verb(argv: list[str]) -> str:
    """What a call is for: auth, config, projects, services, quotas, buckets, list, describe, create, delete, scp,
    storage, install, or what worker.sh is asked."""
    if argv[0] in ("storage", "beta"):
        return argv[1] if argv[1] in ANSWERS else "storage"
    if argv[0] in ANSWERS:
        return argv[0]
    if argv[3] != "ssh":
        return argv[3]
    return option(argv, "command").rpartition("worker.sh ")[2].split()[0]


ANSWERS = {
    "describe": describe,
    "create": create,
    "delete": delete,
    "scp": scp,
    "storage": storage,
    "buckets": buckets,
    "projects": projects,
    "auth": lambda cloud, argv: cloud["account"],
    "config": lambda cloud, argv: cloud["project"],
    "services": lambda cloud, argv: "\n".join(cloud["apis"]),
    "quotas": quotas,
    "list": lambda cloud, argv: "",
}


class Standing:
    """How things stand, to be changed: by one call at a time, and never seen half written."""

    def __enter__(self) -> dict:
        self._lock = open(f"{CLOUD}/lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        with open(STATE, "rb") as file:
            self._cloud = marshal.load(file)
        return self._cloud

    def __exit__(self, *_) -> None:
        with open(f"{STATE}.new", "wb") as file:
            marshal.dump(self._cloud, file)
        os.replace(f"{STATE}.new", STATE)
        self._lock.close()


def main(argv: list[str]) -> int:
    try:
        with Standing() as cloud:
            with open(f"{CLOUD}/calls", "a") as calls:
                calls.write(f"{argv!r}\n")
            asked = verb(argv)
            number = cloud["count"][asked] = cloud["count"].get(asked, 0) + 1
            fault = cloud["faults"].pop(f"{asked} {number}", "")
            if fault == "preempt":
                wipe(cloud)
                cloud["request"], cloud["node"] = ["SUSPENDING", "SUSPENDED"], ["PREEMPTED"]
            elif fault.startswith("ERROR"):
                raise Refused(fault)
            if asked in ANSWERS:
                print(ANSWERS[asked](cloud, argv))
                return 0
        return ssh(cloud, argv, fault)  # others may call meanwhile
    except Refused as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
