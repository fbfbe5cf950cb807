"""Checkpoints used by processes of their own, which tests can kill: forked from one that has imported everything.

A fork of a process without threads and with no JAX backend is as good as a fresh one and spares the imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Call:
    """One function of this module at work in a process of its own."""

    def __init__(self, client: Client, pid: int, out: Path):
        self._client, self.pid, self._out = client, pid, out

    def lines(self) -> list[dict]:
        """What it has told so far."""
        return [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def until(self, key: str) -> dict:
        """The first line with `key`, waited for."""
        while not (found := [line for line in self.lines() if key in line]):
            if not self._client.alive(self.pid):
                raise AssertionError(f"it ended without telling {key}: {self.lines()}")
            time.sleep(0.005)
        return found[0]

    def kill(self) -> None:
        os.kill(self.pid, 9)
        self._client.ask({"wait": self.pid})

    def result(self) -> dict:
        """What it told in all, as one dict. An exception that it raised is under `error`."""
        code = self._client.ask({"wait": self.pid})["code"]
        assert code == 0, f"it ended with {code}: {self.lines()}"
        return {key: value for line in self.lines() for key, value in line.items()}


class Client:
    """Starts calls. `environment` says where the storage is."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self._folder, self._count = folder, 0
        settings = {
            **{"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OMP_NUM_THREADS": "1"},
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        with (folder / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__],  # JAX warns of forks that follow its import
                **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True},
                env={**os.environ, **settings, **environment},
            )

    def ask(self, request: dict) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline() or f'"it died, see {self._folder}/stderr"')

    def alive(self, pid: int) -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"

    def start(self, call: str, **arguments) -> Call:
        self._count += 1
        out = self._folder / f"{self._count}.jsonl"
        out.touch()
        return Call(self, self.ask({"call": call, "arguments": arguments, "out": str(out)})["pid"], out)

    def __call__(self, call: str, **arguments) -> dict:
        """Run `call` to its end."""
        return self.start(call, **arguments).result()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


# From here on: what runs in the processes. `tell` takes facts for the test, by name.


def make_state(seed: int, devices: int = 1):
    """A train state of every kind of array that a real one holds, its matrices spread over `devices` devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from trm_jax.train.state import TrainState

    draw = np.random.default_rng(seed)
    mesh = jax.make_mesh((devices,), ("fsdp",), devices=jax.devices()[:devices])

    def put(x):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec("fsdp") if np.ndim(x) == 2 else PartitionSpec()))

    def array(*shape):
        return put(draw.normal(size=shape).astype(np.float32))

    return TrainState(
        step=put(np.int32(seed)),
        params={"weights": {"w": array(32, 32), "b": array(8)}, "puzzle_emb": array(4, 8)},
        ema={"w": array(32, 32), "b": array(8)},
        ema_also={},
        opt_state=(put(np.int32(seed)), {"w": array(32, 32), "b": array(8)}),
        loss_scale=(),
        carry={"z": put(array(8, 8).astype(jnp.bfloat16)), "halted": put(np.arange(8) % 3 == 0)},
        key=put(np.array([seed, 7], np.uint32)),
    )


def _abstract(tree):
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _same(one, other) -> bool:
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def _policy(keep_last=2, keep_best=0, keep_every_steps=0):
    from trm_jax.train.config import CheckpointConfig

    return CheckpointConfig(
        every_steps=1, every_minutes=0, keep_last=keep_last, keep_best=keep_best, keep_every_steps=keep_every_steps
    )


def save(tell, folder: str, scores: dict[str, float | None], policy: dict | None = None, devices: int = 1) -> None:
    """Save the steps of `scores`, one after the other; then wait for all of them."""
    from trm_jax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder, "exact_accuracy", _policy(**policy or {}))
    for step, score in scores.items():
        began = time.monotonic()
        done = checkpoints.save(int(step), make_state(int(step), devices), {"elapsed_s": 1.5}, score)
        tell(saving=int(step), fresh=done, save_s=time.monotonic() - began)
    checkpoints.wait()
    tell(steps=checkpoints.steps(), best=checkpoints.best_step())
    checkpoints.close()


def resume(tell, folder: str, devices: int = 1) -> None:
    """Go on as a training run does: the newest checkpoint that can be read."""
    from trm_jax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder, "exact_accuracy", _policy(), say=lambda line: tell(said=line))
    found = checkpoints.restore_latest(_abstract(make_state(0, devices)))
    if found:
        step, state, meta = found
        tell(step=step, same=_same(state, make_state(step)), elapsed_s=meta["elapsed_s"])
    tell(found=bool(found), steps=checkpoints.steps())
    checkpoints.close()


def read(tell, folder: str, which: list[str]) -> None:
    """Read the weights and their average, as evaluation does."""
    from trm_jax.train.checkpoint import Checkpoints, pick_step

    checkpoints = Checkpoints(folder, "exact_accuracy")
    tell(steps=checkpoints.steps(), best=checkpoints.best_step())
    for name in which:
        step = pick_step(checkpoints, name)
        saved = make_state(step)
        saved = {"params": saved.params, "ema": saved.ema}
        restored, _ = checkpoints.restore(step, _abstract(saved))
        tell(**{name: step, f"{name} same": _same(restored, saved)})
    checkpoints.close()


def _run(request: dict) -> None:
    """In the child: make the call and end."""
    from trm_jax.errors import InputError
    from trm_jax.storage.bucket import problem

    with open(request["out"], "w", buffering=1) as out:

        def tell(**facts):
            out.write(json.dumps(facts) + "\n")

        try:
            import jax

            jax.config.update("jax_num_cpu_devices", 2)
            globals()[request["call"]](tell, **request["arguments"])
        except Exception as error:
            told = error if isinstance(error, InputError) else problem(error)
            tell(error=f"{type(error).__name__}: {error}", line=str(told or ""))
            import traceback

            traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)


def _serve() -> None:
    import gcsfs
    import google.cloud.storage
    import orbax.checkpoint
    from jax._src import xla_bridge

    import trm_jax.cli.main
    import trm_jax.train.checkpoint
    import trm_jax.train.state  # noqa: F401

    assert gcsfs and google.cloud.storage and orbax.checkpoint
    threads = next(line for line in open("/proc/self/status") if line.startswith("Threads:"))
    assert threads.split()[1] == "1" and not xla_bridge.backends_are_initialized(), threads
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            pid = os.fork()
            if pid == 0:
                _run(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
