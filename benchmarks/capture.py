"""What looking costs: a bare pipeline beside idle hooks, captures to memory and to HDF5, and the same by other means.

Two models: the bundled one, and a medium one (d 512, 8 layers, 1280 tokens, random weights). What is kept is resid_post
of every layer and step. Every case runs the call up to the final latents, but for encoding prompt and picture, which is
done once for all of them:

- the stock ``pipe(...)``, twice, so that the second shows how far apart two equal things are measured here;
- our step loop, without hooks and with hooks on every layer that nobody reads (idle);
- the capture to memory in fp32: ours, by torch hooks that clone, by nnsight's ``cache``, by ``lab.trace``;
- the capture to an HDF5 file that has reached the disk: ours, and what the two others keep written with h5py;
- a view (the mean of each frame) of every hook point that modules give: ours, and by torch hooks on the same modules'
  outputs; nnsight has no views, so its case keeps every module's output whole;
- ``callback_on_step_end`` keeping latents, which is what diffusers offers.

One torch thread on both sides. nnsight stays on the modules that it has wrapped, so it gets a copy of the model. Our
times include checks that the others do not make: every tensor came exactly once, every block of a file has a checksum.

The limit: a capture cannot be cheaper than one copy of its bytes into memory that is mapped (``copy_s`` in each row).
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Times, arguments, interleaved, publish, row
from interp import select
from interp.hooks import Clock, tapped
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.sampler import prepare, run_steps
from interp.sites import site_named
from interp.tasks import get as get_task
from interp.tasks.sample import Sample
from interp.views import ViewPlan, views_of

SITE = "blocks.*.hook_resid_post"
VIEW = "frame_mean"
BARE = "bare pipeline"
MEMORY, FILE, VIEWS = "to memory, fp32", "to HDF5, fp32", "frame means of every hook point"


def medium() -> tuple[Lab, Sample]:
    """d 512, 8 layers of 8 heads; 5 x 16 x 16 = 1280 tokens."""
    from diffusers import WanImageToVideoPipeline, WanTransformer3DModel

    mini = load("wan-maze-mini").pipe
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=8,
        attention_head_dim=64,
        in_channels=36,
        out_channels=16,
        text_dim=64,
        freq_dim=256,
        ffn_dim=2048,
        num_layers=8,
        rope_max_seq_len=64,
    ).eval()
    pipe = WanImageToVideoPipeline(**{**mini.components, "transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    sample = get_task("maze", size=8).sample(1, seed=0)[0]
    image = sample.image.resize((256, 256))
    return load(pipe), Sample("", "medium", sample.prompt, image, None, 256, 256, 17)


def small(size: int = 6) -> tuple[Lab, Sample]:
    """The bundled model on a maze; 6 x 6 cells are 5 x 6 x 6 = 180 tokens."""
    return load("wan-maze-mini"), get_task("maze", size=size).sample(1, seed=0)[0]


class Called(nn.Module):
    """A pipeline as a module, which is how nnsight takes it; with a transformer of its own.

    Args:
        pipe: the pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(pipe.transformer)
        self.pipe = type(pipe)(**{**pipe.components, "transformer": self.transformer})
        self.pipe.set_progress_bar_config(disable=True)

    def forward(self, **call: Any) -> Tensor:
        """The final latents."""
        return self.pipe(**call).frames


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
        self.sites = [
            s for s in lab.space(self.run).sites if site_named(s).tier == "module" and viewable(lab, self.run, s)
        ]

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
        shutil.rmtree(self.folder, ignore_errors=True)
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
        """One dataset a layer, [step, token, d_model], and all of it on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plain.h5"
        with h5py.File(path, "w") as file:
            for i, tensor in enumerate(tensors):
                file.create_dataset(f"blocks.{i}", data=tensor.numpy())
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def peers(self) -> dict[str, Callable[[], Any]]:
        """nnsight over the stock modules."""
        from nnsight import NNsight

        model = NNsight(Called(self.lab.pipe))
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
            "nnsight, every module kept whole": lambda: cached(every),
        }

    def cases(self) -> dict[str, Callable[[], Any]]:
        """Every way, by name."""
        return {
            BARE: self.bare,
            "bare pipeline again": self.bare,
            "our loop, no hooks": lambda: self.lab.run(self.run),
            "our loop, idle hooks": self.idle,
            f"ours, {MEMORY}": self.ours_in_memory,
            f"torch hooks, {MEMORY}": self.hooked,
            f"lab.trace, {MEMORY}": self.traced,
            f"ours, {FILE}": self.ours_in_file,
            "ours, to HDF5, bf16": lambda: self.ours_in_file("bfloat16"),
            f"torch hooks, {FILE}": self.hooked_in_file,
            f"ours, {VIEWS}": self.ours_as_views,
            f"torch hooks, {VIEWS}": self.hooked_as_means,
            "callback_on_step_end, latents only": self.called_back,
            **self.peers(),
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


def copy_seconds(count: int) -> float:
    """One copy of that many bytes into memory that is mapped."""
    source, target = np.ones(max(count, 1), np.uint8), np.ones(max(count, 1), np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


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


def remember(owner: Any, name: str) -> None:
    """Make a method of one object give its first answer again: it is part of every case, and of none's interest."""
    original, found = getattr(owner, name), []

    def again(*args: Any, **kwargs: Any) -> Any:
        if not found:
            found.append(original(*args, **kwargs))
        return found[0]

    setattr(owner, name, again)


def rows_of(name: str, bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Each case against the bare pipeline, and ours against the same by other means."""
    times = interleaved(bench.cases(), rounds, warmup=0)  # `agree` has run them
    rows = [compared(name, case, BARE, times, bench, AIMS.get((name, case))) for case in times if case != BARE]
    for what in (MEMORY, FILE):
        rows += [compared(name, f"ours, {what}", f"{peer}, {what}", times, bench, aim) for peer, aim in PEERS]
    rows.append(compared(name, f"ours, {VIEWS}", f"torch hooks, {VIEWS}", times, bench, None))
    rows.append(compared(name, f"ours, {VIEWS}", "nnsight, every module kept whole", times, bench, 1.0))
    return rows


AIMS = {
    ("mini", "our loop, idle hooks"): 1.01,
    ("medium", "our loop, idle hooks"): 1.01,
    ("medium", f"ours, {FILE}"): 1.10,
    ("medium", "ours, to HDF5, bf16"): 1.10,
}
PEERS = (("torch hooks", None), ("nnsight", 1.0))


def compared(
    name: str, case: str, peer: str, times: dict[str, Times], bench: Bench, aim: float | None
) -> dict[str, Any]:
    """One row; the ratio is the median over rounds of the two times of a round."""
    one, other = times[case], times[peer]
    ratio = one.ratio(other)
    kept = bench.nbytes(case)
    return row(
        f"{name}: {case}",
        one.median,
        peer,
        other.median,
        "s",
        "" if aim is None else f"<= {aim:.3g}x",
        None if aim is None else ratio <= aim,
        paired_ratio=ratio,
        paired_ratio_quartiles=one.ratio_spread(other),
        quartiles=one.spread,
        bytes=kept,
        copy_s=copy_seconds(kept) if kept else 0.0,
        steps=bench.steps,
        rounds=len(one.seconds),
    )


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=4, steps=10, quick=False)
    if chosen.quick:
        plans = [("mini", small(4), 2, 2)]
    else:
        plans = [("mini", small(), chosen.steps, 2 * chosen.rounds), ("medium", medium(), 2, chosen.rounds)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (lab, sample), steps, rounds in plans:
            remember(lab.pipe.vae, "encode")
            remember(lab.pipe.text_encoder, "forward")
            bench = Bench(lab, sample, steps, Path(folder) / name)
            agree(bench)
            rows += rows_of(name, bench, rounds)
    publish("capture", rows, as_json=chosen.json, keep=not chosen.quick)


if __name__ == "__main__":
    main()
