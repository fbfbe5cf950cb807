"""What a run's compiled programs say about the run: memory, whether it fits, what to do, time at best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trm_jax.aot.compile import Compiled, compile_program, find
from trm_jax.aot.programs import Program, abstract_mesh, batch_rows, programs_of, run_stages
from trm_jax.aot.roofline import Roofline, roofline
from trm_jax.aot.topologies import Topology
from trm_jax.configs import resolve
from trm_jax.planning import Work, memory, work
from trm_jax.train.config import RunConfig


@dataclass(frozen=True)
class ProgramFigures:
    """One program. flops: analytic, of one execution on all chips; roofline: None where nothing could be compiled."""

    program: Program
    rows: int
    flops: int
    compiled: Compiled
    roofline: Roofline | None


@dataclass(frozen=True)
class RunFigures:
    """A run on a slice. `training`: the last stage of its curriculum, of which there are others in `stages`."""

    name: str
    cfg: RunConfig
    topology: Topology
    work: Work
    stages: tuple[ProgramFigures, ...]
    evaluation: ProgramFigures

    @property
    def training(self) -> ProgramFigures:
        return self.stages[-1]

    @property
    def programs(self) -> tuple[ProgramFigures, ...]:
        return (*self.stages, self.evaluation)

    @property
    def complete(self) -> bool:
        """Whether everything could be compiled."""
        return all(one.compiled.memory for one in self.programs)

    @property
    def train_bytes(self) -> int:
        """Of one chip while it trains: the step that needs most, and the code of the evaluation."""
        return max(one.compiled.memory.total for one in self.stages) + self.evaluation.compiled.memory.code

    @property
    def eval_bytes(self) -> int:
        """Of one chip while it evaluates: the state of training and its code stay where they are."""
        training, evaluation = self.training.compiled.memory, self.evaluation.compiled.memory
        own = evaluation.outputs + evaluation.temporaries + evaluation.code
        return training.arguments + training.code + own

    @property
    def needed_bytes(self) -> int | None:
        """Of one chip at any time; of a chip that is too small what the compiler says; None where it crashed."""
        if self.complete:
            return max(self.train_bytes, self.eval_bytes)
        overflows = [one.compiled.overflow for one in self.programs if one.compiled.overflow]
        return max((needed for needed, _ in overflows), default=None)

    @property
    def fits(self) -> bool:
        return self.complete and self.needed_bytes <= self.topology.usable_bytes

    @property
    def train_hours(self) -> float:
        """All updates at their rooflines; a stage that was not compiled takes time as its FLOPs."""
        stages = run_stages(self.cfg)
        ends = [first for first, *_ in stages[1:]] + [self.work.steps]
        known = {one.program.cycles: one.roofline.seconds for one in self.stages}
        seconds = 0.0
        for (first, *cycles), end in zip(stages, ends, strict=True):
            flops = Program("train", tuple(cycles)).flops(self.cfg, self.training.rows)
            scaled = self.training.roofline.seconds * flops / self.training.flops
            seconds += (end - first) * known.get(tuple(cycles), scaled)
        return seconds / 3600

    @property
    def eval_hours(self) -> float:
        """All evaluations at their roofline, those of other averages too."""
        batches = -(-self.work.eval_puzzles // self.evaluation.rows)
        scored = 1 + len(self.cfg.optim.other_decays)
        return self.work.evaluations * scored * batches * self.evaluation.roofline.seconds / 3600

    @property
    def problem(self) -> str:
        """Why the run cannot be as it is, and what to do; empty for one that fits."""
        for one in self.programs:
            what = "training" if one.program.kind == "train" else "evaluation"
            if one.compiled.crash:
                return f"{what} was not compiled: {one.compiled.crash}"
            if one.compiled.overflow:
                needed, there = one.compiled.overflow
                return self._too_large(one.program.kind, needed, there)
        if self.fits:
            return ""
        kind, needed = max((("train", self.train_bytes), ("eval", self.eval_bytes)), key=lambda pair: pair[1])
        return self._too_large(kind, needed, self.topology.usable_bytes)

    def _too_large(self, kind: str, needed: int, there: int) -> str:
        cfg, mesh = self.cfg, abstract_mesh(self.cfg, self.topology.device.chips)
        state = memory.state_bytes(cfg, mesh)
        said = f"needs {needed / 1e9:.1f} GB a chip and {self.topology.name} has {there / 1e9:.1f} for it: "
        if kind == "eval":
            rows = self.evaluation.rows // 2 // mesh.size * mesh.size
            smaller = f"try eval.batch_size={rows}, which scores the same" if rows else "take more chips"
            return f"evaluation {said}{smaller}"
        for parts in memory.accumulations(cfg, mesh):
            if state + (needed - state) * cfg.train.accumulation / parts <= there:
                return f"training {said}try train.accumulation={parts}, which gives the same update"
        return f"training {said}no train.accumulation is enough; take more chips or model.remat=block"


def figures(
    name: str,
    config,
    topology: Topology,
    root: Path,
    *,
    all_stages: bool = False,
    on_start: Callable[[Program], None] = lambda program: None,
    on_done: Callable[[Program, Compiled], None] = lambda program, compiled: None,
) -> RunFigures:
    """Compile what a run consists of; config: its ConfigDict, root: where results are kept.

    Raises InputError for settings that do not fit the slice's chips, and where there is no compiler.
    """
    compiled = {}
    for program in programs_of(resolve.freeze(config), all_stages):
        on_start(program)
        compiled[program] = compile_program(config, topology, program, root)
        on_done(program, compiled[program])
    return _figures(name, config, topology, compiled)


def known_figures(name: str, config, topology: Topology, root: Path) -> RunFigures | None:
    """The same from what was compiled before; None when it was not, or crashed."""
    compiled = {program: find(config, topology, program, root) for program in programs_of(resolve.freeze(config))}
    return _figures(name, config, topology, compiled) if all(compiled.values()) else None


def _figures(name: str, config, topology: Topology, found: Mapping[Program, Compiled]) -> RunFigures:
    cfg = resolve.freeze(config)
    mesh, programs = abstract_mesh(cfg, topology.device.chips), []
    for program, compiled in found.items():
        rows = batch_rows(cfg, program.kind, mesh)
        flops = program.flops(cfg, rows)
        best = roofline(topology, flops, compiled) if compiled.memory else None
        programs.append(ProgramFigures(program, rows, flops, compiled, best))
    return RunFigures(name, cfg, topology, work(cfg), tuple(programs[:-1]), programs[-1])
