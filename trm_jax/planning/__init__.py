"""What a run will take, before it is started: steps, FLOPs, memory, hours, dollars."""

from trm_jax.planning.estimate import Plan, Work, plan, work
from trm_jax.planning.hardware import Device, find

__all__ = ["Device", "Plan", "Work", "find", "plan", "work"]
