"""One run, watched in every way there is; all of them keep the same tensors, which is checked."""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor, nn

from benchmarks.captures.models import Called, Stopwatch
from interp import select
from interp.hooks import Clock, tapped
from interp.lab import Lab
from interp.runspec import RunSpec
from interp.sampler import prepare, run_steps
from interp.sites import site_named
from interp.store.disk import sync_folder
from interp.tasks.sample import Sample
from interp.views import ViewPlan, views_of

SITE = "blocks.*.hook_resid_post"
VIEW = "frame_mean"
BARE = "bare pipeline"
MEMORY, FILE, VIEWS = "to memory, fp32", "to HDF5, fp32", "frame means of every hook point"
EVERY = "nnsight, every module kept whole"


class Bench:
    """One model and one run, in every way there is to watch it.

    Args:
        lab, sample: the model, and what it is asked.
        steps: of the run.
        folder: for files.
    """

    def __init__(self, lab: Lab, sample: Sample, steps: int, folder: Path) -> None:
        # A sample of no task, so that no video is decoded and scored beside the capture.
        self.lab, self.sample, self.folder = lab, dataclasses.replace(sample, task=""), folder
        self.run: RunSpec = lab.plan(self.sample, steps=steps)[0]
        self.steps, self.blocks = steps, list(lab.pipe.transformer.blocks)
        self.stopwatch = Stopwatch()
        self.stopwatch.time(self.blocks)
        self.sites = [
            s for s in lab.space(self.run).sites if site_named(s).tier == "module" and viewable(lab, self.run, s)
        ]

    def clear(self) -> None:
        """Remove what a case has written, so that each finds an empty place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self) -> dict[str, Any]:
        """Arguments of the stock call that is this run."""
        sample = self.sample
        return {
            "image": sample.image,
            "prompt": sample.prompt,
            "height": sample.height,
            "width": sample.width,
            "num_frames": sample.num_frames,
            "num_inference_steps": self.steps,
            "guidance_scale": 1.0,
            "generator": torch.Generator().manual_seed(self.run.seed),
            "output_type": "latent",
        }

    def bare(self, **more: Any) -> Tensor:
        """The stock call."""
        return self.lab.pipe(**self.call(), **more).frames

    def idle(self) -> None:
        """Hooks on every layer, and nobody who reads."""
        clock, plan = Clock(), prepare(self.lab.pipe, [self.run])
        plan.on_call = clock.enter
        sites = [f"blocks.{i}.hook_resid_post" for i in range(len(self.blocks))]
        with tapped(self.lab.pipe, sites, clock, lambda site, call, tensor: None):
            for _ in run_steps(self.lab.pipe, plan):
                pass

    def ours_in_memory(self) -> dict[str, Tensor]:
        """Site to [step, branch, token, d_model]."""
        return self.lab.run(self.run, SITE).captured

    def traced(self) -> dict[Any, Tensor]:
        """By ``lab.trace``."""
        kept: dict[Any, Tensor] = {}
        with self.lab.trace(self.run) as t:
            for at in t.each(SITE):
                kept[at] = t[at]
        return kept

    def ours_in_file(self, dtype: str = "float32") -> Any:
        """A store of one run."""
        return self.lab.capture([self.run], SITE, to=self.folder, dtype=dtype, progress=False)

    def ours_as_views(self) -> Any:
        """Frame means of every site, in memory."""
        return self.lab.run(self.run, self.sites, views=VIEW).captured

    def hooked(self) -> list[Tensor]:
        """By torch hooks that clone: [batch, token, d_model] each, step by step."""
        kept: list[Tensor] = []
        self._with_hooks(self.blocks, lambda m, a, out: kept.append(out.clone()))
        return kept

    def hooked_in_file(self) -> None:
        """The same, written with h5py."""
        kept = self.hooked()
        self._write([torch.cat(kept[i :: len(self.blocks)]) for i in range(len(self.blocks))])

    def hooked_as_means(self) -> list[Tensor]:
        """Means of what the modules behind the same hook points give, by torch hooks: [batch, frame, ...] each."""
        kept: list[Tensor] = []
        model, frames = self.lab.pipe.transformer, self.lab.grid(self.sample).frames

        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            kept.append(args[0].unflatten(1, (frames, -1)).mean(2))

        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            x = out.flatten(2).transpose(1, 2) if out.ndim == 5 else out
            kept.append(x.unflatten(1, (frames, -1)).mean(2))

        handles = []
        for name in self.sites:
            site, module = site_named(name), model.get_submodule(site_named(name).module_at(name))
            place = module.register_forward_pre_hook if site.port == "input" else module.register_forward_hook
            handles.append(place(before if site.port == "input" else after))
        try:
            self.bare()
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def called_back(self) -> list[Tensor]:
        """Latents of every step."""
        kept: list[Tensor] = []

        def keep(pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            kept.append(tensors["latents"].clone())
            return tensors

        self.bare(callback_on_step_end=keep)
        return kept

    def _with_hooks(self, modules: Sequence[nn.Module], hook: Callable[..., None]) -> None:
        handles = [module.register_forward_hook(hook) for module in modules]
        try:
            self.bare()
        finally:
            for handle in handles:
                handle.remove()

    def _write(self, tensors: Sequence[Tensor]) -> None:
        """One dataset a layer, [step, token, d_model]; it and its name have reached the disk."""
        self.folder.mkdir(parents=True)
        path = self.folder / "plain.h5"
        with h5py.File(path, "w") as file:
            for i, tensor in enumerate(tensors):
                file.create_dataset(f"blocks.{i}", data=tensor.numpy())
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(self.folder)

    def peers(self) -> dict[str, Callable[[], Any]]:
        """nnsight over the stock modules."""
        from nnsight import NNsight

        model = NNsight(Called(self.lab.pipe, self.stopwatch))
        blocks = list(model.transformer.blocks)
        every = [
            envoy for path, envoy in model.transformer.named_modules() if not path.endswith(("rope", "transformer"))
        ]

        def cached(modules: list[Any]) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with model.trace(**self.call()) as tracer:
                    kept = tracer.cache(modules=modules)
            return kept

        def in_memory() -> list[list[Tensor]]:
            kept = cached(blocks)
            return [kept[block.path].output for block in blocks]

        return {
            f"nnsight, {MEMORY}": in_memory,
            f"nnsight, {FILE}": lambda: self._write([torch.cat(layer) for layer in in_memory()]),
            EVERY: lambda: cached(every),
        }

    def loops(self) -> dict[str, Callable[[], Any]]:
        """The call where nothing is kept, by name."""
        return {
            BARE: self.bare,
            "our loop, no hooks": lambda: self.lab.run(self.run),
            "our loop, idle hooks": self.idle,
            "bare pipeline again": self.bare,
        }

    def rivals(self) -> dict[str, Callable[[], Any]]:
        """The captures that an aim is about, by name."""
        return {
            BARE: self.bare,
            f"ours, {MEMORY}": self.ours_in_memory,
            f"ours, {FILE}": self.ours_in_file,
            "ours, to HDF5, bf16": lambda: self.ours_in_file("bfloat16"),
            f"ours, {VIEWS}": self.ours_as_views,
            **self.peers(),
        }

    def others(self) -> dict[str, Callable[[], Any]]:
        """Other ways, by name, and ours that keep the same."""
        return {
            BARE: self.bare,
            f"ours, {MEMORY}": self.ours_in_memory,
            f"torch hooks, {MEMORY}": self.hooked,
            f"lab.trace, {MEMORY}": self.traced,
            f"ours, {FILE}": self.ours_in_file,
            f"torch hooks, {FILE}": self.hooked_in_file,
            f"ours, {VIEWS}": self.ours_as_views,
            f"torch hooks, {VIEWS}": self.hooked_as_means,
            "callback_on_step_end, latents only": self.called_back,
        }

    def nbytes(self, case: str) -> int:
        """Bytes that a case keeps."""
        resolution = select(SITE).resolve(self.lab.space(self.run))
        if VIEWS in case:
            return ViewPlan.of(select(self.sites).resolve(self.lab.space(self.run)), views_of(VIEW), "float32").nbytes
        if MEMORY in case or FILE in case:
            return resolution.nbytes(4)
        return resolution.nbytes(2) if "bf16" in case else 0


def viewable(lab: Lab, run: RunSpec, site: str) -> bool:
    """Whether a site has tokens on the grid, and is a module's output or first argument."""
    found = site_named(site)
    if found.tier != "module" or found.argument[0] != 0 or found.module.startswith("rope"):
        return False
    return "token" in lab.space(run).axes_of(site)


def agree(bench: Bench) -> None:
    """All ways keep the same tensors, or the times mean nothing."""
    ours = bench.ours_in_memory()
    layers = [ours[f"blocks.{i}.hook_resid_post"][:, 0] for i in range(len(bench.blocks))]
    hooks = bench.hooked()
    traced = bench.traced()
    alone = bench.peers()[f"nnsight, {MEMORY}"]()
    store = bench.ours_in_file()
    means = bench.ours_as_views()
    for i, layer in enumerate(layers):
        site = f"blocks.{i}.hook_resid_post"
        assert torch.equal(layer, torch.cat(hooks[i :: len(layers)]))
        assert torch.equal(layer, torch.cat(alone[i]))
        assert torch.equal(layer, torch.cat([traced[site, step, "cond"] for step in range(bench.steps)]))
        assert torch.equal(layer, store.read(site, as_="torch")[0])
        frames = layer.unflatten(1, (bench.lab.grid(bench.sample).frames, -1)).mean(2)
        torch.testing.assert_close(means[f"{site}@{VIEW}"][:, 0], frames)
    assert len(means) == len(bench.sites)
