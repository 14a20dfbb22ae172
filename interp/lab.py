"""The lab: one pipeline, and everything that can be asked of it.

``interp.load(...)`` returns a `Lab`. It takes the pipeline as it is and gives it back as it was: hooks exist only while
a run is under way, and the sampler works on a copy of the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from interp.batch import kept_in_memory, sampled
from interp.capture import Recorder
from interp.decode import frames_of
from interp.errors import InterpError
from interp.fingerprint import fingerprint
from interp.grid import TokenGrid
from interp.model import check_pipeline, load_pipeline
from interp.observe import Seen, observe
from interp.planning import grid_of, planned, samples_of, seeds_of, space_of
from interp.result import RunResult
from interp.runspec import RunSpec, SamplerSettings
from interp.schedule import build_scheduler, schedule_of
from interp.selection import AddressSpace, Selection, select
from interp.sites import TEXT_TOKENS
from interp.tasks.sample import Sample
from interp.trajectory import Schedule, Trajectory
from interp.views import View, views_of
from interp.words import word_tokens


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
            TaskError: ``samples`` are something else.
            InterpError: an unknown preset or setting, or a value that cannot be.
            ModelError: a pipeline that can be observed only.
        """
        return planned(self.pipe, self.name, samples_of(samples), seeds_of(seeds), preset, settings)

    def grid(self, sample: Sample) -> TokenGrid:
        """The token grid of a sample's video."""
        return grid_of(self.pipe, sample)

    def schedule(self, settings: SamplerSettings) -> Schedule:
        """Sigmas, timesteps and experts that runs with these settings go through."""
        return schedule_of(self.pipe, build_scheduler(self.pipe, settings), settings)

    def space(self, runs: RunSpec | Sequence[RunSpec]) -> AddressSpace:
        """Every address of a run: what selections are resolved against.

        Args:
            runs: a spec, or those of a batch. Where their samples differ, regions of the samples cannot be selected.
        """
        specs = [runs] if isinstance(runs, RunSpec) else runs
        return space_of(self.pipe, specs, self.schedule(specs[0].settings))

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
        if capture is not None and specs:
            results = kept_in_memory(self.pipe, specs, self.space(specs), select(capture), views_of(views), dtype)
        else:
            pairs = zip(specs, self.run_batch(specs), strict=True)
            results = [RunResult(spec, trajectory, {}, None, self.pipe) for spec, trajectory in pairs]
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
        self,
        specs: Sequence[RunSpec],
        recorder: Recorder | None = None,
        *,
        share_text: bool = False,
        checked: bool = False,
    ) -> list[Trajectory]:
        """Sample a batch of specs that share settings and size, feeding a recorder.

        Args:
            specs: one a row.
            recorder: what is fed.
            share_text: see `capture`.
            checked: whether the weights were found to be those that the runs were planned with; see
                `interp.sampler.check_model`.
        """
        return sampled(self.pipe, specs, recorder, share_text=share_text, checked=checked)

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

    def words(self, of: RunSpec | Sample | str, words: str, *, nth: int | None = None) -> tuple[int, ...]:
        """Text tokens of some words of the prompt, for ``knockout(keys=...)``, ``attention_mass`` and ``region_mean``.

        Args:
            of: a run, a sample, or the prompt itself; the words are those of the cond pass.
            words: one or several neighbouring words, as the prompt has them: "goal", "the red goal".
            nth: which occurrence, from 0, where there are several.

        Returns:
            Numbers on the axis "text_token".

        Raises:
            SelectionError: the words are not in the prompt, or more than once and ``nth`` does not say which.

        Example:
            ``edits.knockout("blocks.*.cross_attn", keys=lab.words(run, "goal"), branch="cond")``
        """
        limit = of.settings.max_sequence_length if isinstance(of, RunSpec) else TEXT_TOKENS
        sample = of.sample if isinstance(of, RunSpec) else of
        prompt = sample.prompt if isinstance(sample, Sample) else sample
        return word_tokens(self.pipe, prompt, words, nth=nth, limit=limit)

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
        edits: Any = None,
        **axes: Any,
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
            edits: an edit, a graph, or a list of them, from `interp.edits`, for every run; what is kept is what they
                left. The graph is part of each run's key and provenance, so clean runs in the same store stay apart.
            axes: narrow the selection: step=, branch=, frames=, ... as in `interp.select`.

        Returns:
            The `interp.store.Store`.

        Raises:
            InterpError: no runs, a byte budget above ``limit`` or above what the disk has free, or edits that cannot be
                repeated from a description.
            SelectionError: the selection matches nothing in one of the runs, or a view does not fit a hook point.
            StoreError: the folder cannot be used, or a write failed; finished runs are kept.
        """
        from interp.collect import capture_runs

        if not runs:
            raise InterpError("no runs were given to capture; make some with lab.plan(samples, seeds=...)")
        chosen = select(selection, **axes)
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
            edits,
        )


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
