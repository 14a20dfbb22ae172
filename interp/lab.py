"""The lab: one pipeline, and everything that can be asked of it.

``interp.load(...)`` returns a `Lab`. It takes the pipeline as it is and gives it back as it was: hooks exist only while
a run is under way, and the sampler works on a copy of the scheduler.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.capture import MemorySink, Receipt, Recorder
from interp.conditioning import IMAGE_TOKENS
from interp.decode import frames_of
from interp.errors import InterpError, suggest
from interp.grid import TokenGrid
from interp.hooks import Clock
from interp.lora import adapters_of
from interp.model import check_loop, check_pipeline, fingerprint, load_pipeline
from interp.observe import Seen, observe
from interp.presets import preset_named
from interp.runspec import RunSpec, SamplerSettings
from interp.sampler import Plan, finish, prepare, run_steps, transformer_of
from interp.schedule import build_scheduler, schedule_of, settings_for
from interp.selection import AddressSpace, Selection, select
from interp.shared_text import sharing_text
from interp.tasks.sample import Sample
from interp.trajectory import Schedule, Trajectory
from interp.views import View, views_of


@dataclass(frozen=True)
class RunResult:
    """One finished run.

    Attributes:
        spec: what was run.
        trajectory: latents, velocity and x0_hat of every step.
        captured: site to tensor [step, branch, <site axes>], for what was selected.
        receipt: what fired.
    """

    spec: RunSpec
    trajectory: Trajectory
    captured: Mapping[str, Tensor]
    receipt: Receipt | None
    _pipe: Any = field(repr=False)

    @cached_property
    def frames(self) -> np.ndarray:
        """The video: uint8 [frame, row, col, rgb]."""
        return frames_of(self._pipe, self.trajectory.result[None])[0]


class Lab:
    """A pipeline under study.

    Args:
        pipe: a supported diffusers pipeline.
        name: how runs and stores call the model.
    """

    def __init__(self, pipe: Any, name: str) -> None:
        self.pipe = check_pipeline(pipe)
        self.name = name

    @property
    def model_hash(self) -> str:
        """Fingerprint of the weights as they are now."""
        return fingerprint(self.pipe)

    def plan(
        self,
        samples: Sample | Sequence[Sample],
        seeds: int | Sequence[int] = 1,
        *,
        preset: str | None = None,
        **settings: Any,
    ) -> list[RunSpec]:
        """Runs of every sample with every seed.

        Args:
            samples: problems of a task.
            seeds: a number of seeds, 0 to n - 1, or the seeds themselves.
            preset: "vbvr-diffsynth" or "wan22-official"; see `interp.presets`. ``settings`` come on top.
            settings: fields of `SamplerSettings`: ``steps``, ``guidance_scale``, ``scheduler``, ``shift`` ...

        Raises:
            InterpError: an unknown preset or setting, or a value that cannot be.
            ModelError: a pipeline that can be observed only.
        """
        check_loop(self.pipe)
        many = [samples] if isinstance(samples, Sample) else list(samples)
        numbers = range(seeds) if isinstance(seeds, int) else seeds
        known = [f.name for f in dataclasses.fields(SamplerSettings)]
        for name in settings:
            if name not in known:
                raise InterpError(
                    f"{name} is not a sampler setting{suggest(name, known)}; there are {', '.join(known)}"
                )
        chosen = settings_for(self.pipe, SamplerSettings(**((preset_named(preset) if preset else {}) | settings)))
        config = build_scheduler(self.pipe, chosen).config
        described = json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, sort_keys=True, default=str)
        now, adapters = self.model_hash, adapters_of(self.pipe)
        return [
            RunSpec(self.name, now, sample, seed, chosen, described, adapters) for sample in many for seed in numbers
        ]

    def grid(self, sample: Sample) -> TokenGrid:
        """The token grid of a sample's video."""
        pipe = self.pipe
        patch = transformer_of(pipe, "main").config.patch_size
        t, s = pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial
        return TokenGrid(
            frames=((sample.num_frames - 1) // t + 1) // patch[0],
            rows=sample.height // s // patch[1],
            cols=sample.width // s // patch[2],
            patch=tuple(patch),
            vae_spatial=s,
            vae_temporal=t,
        )

    def schedule(self, settings: SamplerSettings) -> Schedule:
        """Sigmas, timesteps and experts that runs with these settings go through."""
        return schedule_of(self.pipe, build_scheduler(self.pipe, settings), settings)

    def space(self, runs: RunSpec | Sequence[RunSpec]) -> AddressSpace:
        """Every address of a run: what selections are resolved against.

        Args:
            runs: a spec, or those of a batch. Where their samples differ, regions of the samples cannot be selected.
        """
        specs = [runs] if isinstance(runs, RunSpec) else runs
        spec = specs[0]
        schedule, sample = self.schedule(spec.settings), spec.sample
        alike = all(one.sample is sample or _problem(one.sample) == _problem(sample) for one in specs)
        return AddressSpace.of_model(
            transformer_of(self.pipe, "main").config,
            self.grid(sample),
            sigmas=schedule.sigmas[: schedule.steps],
            experts=schedule.experts,
            branches=spec.settings.branches,
            text_tokens=spec.settings.max_sequence_length,
            image_tokens=IMAGE_TOKENS * (1 if sample.last_image is None else 2),
            per_token_time=bool(self.pipe.config.get("expand_timesteps")),
            sample=sample if alike else None,
        )

    def run(
        self,
        runs: RunSpec | Sequence[RunSpec],
        capture: str | Selection | Sequence[str | Selection] | None = None,
        *,
        edits: Any = None,
        views: str | View | Sequence[str | View] | None = None,
        dtype: str = "float32",
    ) -> RunResult | list[RunResult]:
        """Run one spec, or several in one batch, and keep what is selected in memory.

        Args:
            runs: one spec gives one result, a sequence gives a list. All must share settings and size.
            capture: a hook point pattern or a `Selection`.
            edits: an edit, a graph, or a list of them, from `interp.edits`; results are then `interp.edits.EditedRun`.
            views: what to keep of each tensor, see `interp.views`; the tensor itself if None.
            dtype: of the captured tensors.
        """
        if edits is not None:
            from interp.edits import run_with

            self._check_views(capture, views)
            edited: Any = run_with(self, runs, edits, capture, dtype=dtype, views=views_of(views))
            return edited
        specs = [runs] if isinstance(runs, RunSpec) else list(runs)
        self._check_views(capture, views)
        selection = None if capture is None else select(capture)
        recorder = None
        sinks: list[MemorySink] = []
        if selection is not None and specs:
            resolution = selection.resolve(self.space(specs))
            sinks = [MemorySink(resolution, len(specs)) for _ in specs]
            recorder = Recorder(resolution, sinks, dtype, views_of(views), [spec.sample for spec in specs])
        trajectories = self.run_batch(specs, recorder)
        receipt = recorder.receipt() if recorder else None
        results = [
            RunResult(spec, trajectory, sinks[i].tensors if sinks else {}, receipt, self.pipe)
            for i, (spec, trajectory) in enumerate(zip(specs, trajectories, strict=True))
        ]
        return results[0] if isinstance(runs, RunSpec) else results

    @staticmethod
    def _check_views(capture: Any, views: Any) -> None:
        if capture is None and views is not None:
            raise InterpError("views= says how to keep tensors, and none was selected; name hook points with capture=")

    def sweep(self, run: RunSpec, template: Any, over: Any, metric: Any, **options: Any) -> Any:
        """Try an edit at every cell of a grid of addresses; see `interp.sweep.sweep`.

        Args:
            run: the clean run.
            template: the edit; every cell narrows its selection.
            over: axes to values: ``{"step": range(20), "layer": range(12)}``.
            metric: an `interp.edits.EditedRun` to a number.
            options: ``early``, ``capture``, ``placebos``, ``batch_size``, ``to``, ``progress``.
        """
        from interp.sweep import sweep

        return sweep(self, run, template, over, metric, **options)

    def run_batch(
        self, specs: Sequence[RunSpec], recorder: Recorder | None = None, *, share_text: bool = False
    ) -> list[Trajectory]:
        """Sample a batch of specs that share settings and size, feeding a recorder.

        Args:
            specs: one a row.
            recorder: what is fed.
            share_text: see `capture`.
        """
        plan = prepare(self.pipe, specs)
        steps = list(self._steps(plan, recorder, share_text))
        final = finish(plan, steps[-1].next_latents)
        return [
            Trajectory(
                plan.schedule,
                latents=torch.stack([*(s.latents[row].float().cpu() for s in steps), final[row].float().cpu()]),
                velocity=torch.stack([s.velocity[row].float().cpu() for s in steps]),
                x0_hat=torch.stack([s.x0_hat[row].cpu() for s in steps]),
            )
            for row in range(len(specs))
        ]

    def _steps(self, plan: Plan, recorder: Recorder | None, share_text: bool) -> Iterator[Any]:
        clock = Clock()
        with ExitStack() as stack:
            if share_text:
                read = () if recorder is None else recorder.plan.resolution.sites
                plan, shared = sharing_text(self.pipe, plan, read)
                stack.enter_context(shared(clock))
            plan.on_call = clock.enter
            if recorder is not None:
                stack.enter_context(recorder.tapped(self.pipe, clock))
            for step in run_steps(self.pipe, plan):
                if recorder is not None:
                    recorder.on_step(step)
                yield step

    def observe(
        self,
        selection: str | Selection | Sequence[str | Selection],
        *,
        views: str | View | Sequence[str | View] | None = None,
        samples: Sample | Sequence[Sample] = (),
        dtype: str = "float32",
        **axes: Any,
    ) -> AbstractContextManager[Seen]:
        """Watch an unmodified call: ``with lab.observe("blocks.3.hook_resid_post", step=0) as seen: lab.pipe(...)``.

        Args:
            selection: hook point patterns or a `Selection`, narrowed by ``axes`` as `interp.select` takes them.
            views: what to keep of each tensor, as in `capture`; kept under "<hook point>@<view>".
            samples: the problems of the call's rows, where views name regions of their task.
            dtype: of what is kept.
        """
        problems = [samples] if isinstance(samples, Sample) else list(samples)
        return observe(self.pipe, select(selection, **axes), dtype, views_of(views), problems)

    def trace(
        self,
        runs: RunSpec | Sequence[RunSpec],
        capture: str | Selection | Sequence[str | Selection] | None = None,
        *,
        also: str | Selection | Sequence[str | Selection] | None = None,
        dtype: str = "float32",
    ) -> Any:
        """Run with ordinary Python in step with the model, by nnsight: ``with lab.trace(run) as t: t[site, step]``.

        Args:
            runs: one spec, or several in one batch; rows of every tensor are runs.
            capture: hook points to keep besides, as the block left them; they are in ``t.result``.
            also: hook points to open that take computing (patterns, gated updates) or an instrumented layer to be
                written (residual stream within a block, rotated queries and keys).
            dtype: of captured tensors.

        Returns:
            The `interp.trace.tracer.LabTracer`, to be used in a ``with`` statement of a file or notebook cell.

        Raises:
            InterpError: nnsight is not installed, or is another version.
        """
        from interp.trace import open_trace

        return open_trace(self, runs, capture, also=also, dtype=dtype)

    def frames(self, latents: Tensor, *, use_vae: bool = False) -> np.ndarray:
        """Frames of latents [batch, channel, latent_frame, row, col]: uint8 [batch, frame, row, col, rgb]."""
        return frames_of(self.pipe, latents, use_vae=use_vae)

    def capture(
        self,
        runs: Sequence[RunSpec],
        selection: str | Selection | Sequence[str | Selection],
        *,
        to: str | Path,
        views: str | View | Sequence[str | View] | None = None,
        dtype: str = "bfloat16",
        batch_size: int = 16,
        limit: float = 100e9,
        progress: bool = True,
        background: bool | None = None,
        labels: bool = True,
        codec: str | None = None,
        share_text: bool = False,
    ) -> Any:
        """Run every spec and write what is selected to a store, one shard a run; finished runs are skipped.

        Args:
            runs: specs of any mixture of sizes and settings.
            selection: a hook point pattern or a `Selection`.
            to: folder of the store; made if missing, continued if it is a store.
            views: what to keep of each tensor, as names ("frame_mean", "grid_pool-4x4") or from `interp.views`; the
                tensor itself if None. A view is stored under "<hook point>@<view>".
            dtype: "bfloat16" or "float32".
            batch_size: runs in one forward.
            limit: refuse to write more than this many bytes.
            progress: print the byte budget and show a progress bar.
            background: let another process write, with 256 MiB of memory between the two; None: where there is much
                to write. The files are the same.
            labels: keep with each run what its task says of it.
            codec: "zstd" stores without loss in about two thirds of the space, "int8" with loss in half of it (the
                error is recorded beside); both cost time, and None is right for a fast disk.
            share_text: compute what all runs of a batch have of one prompt once; see `interp.shared_text`. Equal to
                rounding, not to the bit.

        Returns:
            The `interp.store.Store`.

        Raises:
            InterpError: no runs, or a byte budget above ``limit``.
            SelectionError: the selection matches nothing in one of the runs, or a view does not fit a hook point.
            StoreError: the folder cannot be used, or a write failed; finished runs are kept.
        """
        from interp.collect import capture_runs

        if not runs:
            raise InterpError("no runs were given to capture; make some with lab.plan(samples, seeds=...)")
        chosen = select(selection)
        return capture_runs(
            self,
            list(runs),
            chosen,
            Path(to),
            dtype,
            batch_size,
            limit,
            progress,
            views_of(views),
            background,
            labels,
            codec,
            share_text,
        )


def _problem(sample: Sample) -> tuple[Any, ...]:
    """What says which problem a sample is."""
    return sample.task, sample.key, sample.prompt, dict(sample.meta)


def load(source: Any, **from_pretrained: Any) -> Lab:
    """Load a model and open a lab on it.

    Args:
        source: a bundled name ("wan-maze-mini"), a diffusers folder, a hub id, or a pipeline object.
        from_pretrained: passed to diffusers as it is (``torch_dtype``, ``revision``, ``device_map`` ...).

    Raises:
        ModelError: there is no such model, or it is not a Wan pipeline this package supports.
    """
    if isinstance(source, str | Path):
        pipe = load_pipeline(source, **from_pretrained)
        pipe.set_progress_bar_config(disable=True)
        return Lab(pipe, str(source))
    return Lab(source, type(source).__name__)
