"""How fast a compiled program could run at best: the longest of what the chip's parts have to do."""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.aot.compile import Compiled
from trm_jax.aot.topologies import Topology

ASSUMPTIONS = (
    "compute: analytic matmul FLOPs at the bfloat16 peak of the data sheet; what is computed again, and all that is "
    "no product, is left out",
    "memory: bytes between a chip and its main memory, counted in the compiled program without the padding of tiles, "
    "at the data sheet's bandwidth",
    "links: what a chip must send at least ((n - 1)/n of an array, twice for an all-reduce) over all links of the "
    "chip that has the fewest, at full rate; latency is left out",
    "a step takes the longest of the three, as if each overlapped the others: a lower bound, not a forecast",
    "scaling efficiency: the longer of compute and memory, as a share of it and the links' time together, as if "
    "nothing else were done while the chips talk; waiting for the slowest chip or host is left out",
    "hours are steps and evaluation batches at that time; compilation, data, checkpoints and start-up come on top",
)


@dataclass(frozen=True)
class Roofline:
    """Seconds of one execution."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """What takes longest: compute, memory or links."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))

    @property
    def efficiency(self) -> float:
        """The share of the time left for work if nothing else is done while the devices talk."""
        work = max(self.compute, self.memory)
        return work / (work + self.links)


def roofline(topology: Topology, flops: int, compiled: Compiled) -> Roofline:
    """flops: of one execution, on all chips together."""
    device = topology.device
    sent = sum(one["sent_bytes"] for one in compiled.collectives)
    return Roofline(
        compute=flops / device.chips / (device.peak_tflops * 1e12),
        memory=compiled.traffic_bytes / (device.bandwidth_tb_s * 1e12),
        links=sent / (topology.links * topology.link_bytes_s) if sent else 0.0,
    )
