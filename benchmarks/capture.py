"""What looking costs: a bare pipeline beside idle hooks, capture to memory and to HDF5, and the same by other means.

Cases, on the bundled model and on a medium one (d 512, 8 layers, 1280 tokens, random weights): bare ``pipe(...)``; our
step loop without hooks (idle); resid_post of every layer and step to memory and to HDF5; the same by plain torch hooks
and by nnsight's cache; ``callback_on_step_end`` keeping latents only, which is what diffusers offers.

The limit: capture cannot be cheaper than copying its bytes once; ``bytes`` and the time of one copy are in each row.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Times, arguments, interleaved, publish, row
from interp.lab import Lab, load
from interp.runspec import RunSpec
from interp.tasks import get as get_task
from interp.tasks.sample import Sample

SITE = "blocks.*.hook_resid_post"


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


def cases_of(lab: Lab, sample: Sample, steps: int, folder: Path) -> dict[str, Any]:
    """Every way to do it, as functions of nothing."""
    run = lab.plan(sample, steps=steps)[0]
    call = {
        "image": sample.image,
        "prompt": sample.prompt,
        "height": sample.height,
        "width": sample.width,
        "num_frames": sample.num_frames,
        "num_inference_steps": steps,
        "guidance_scale": 1.0,
        "output_type": "latent",
    }

    def bare(**more: Any) -> Any:
        return lab.pipe(**call, generator=torch.Generator().manual_seed(0), **more)

    def torch_hooks() -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        hooks = [
            b.register_forward_hook(lambda m, a, out: kept.append(out.clone())) for b in lab.pipe.transformer.blocks
        ]
        try:
            bare()
        finally:
            for hook in hooks:
                hook.remove()
        return kept

    def callback() -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []

        def keep(pipe: Any, step: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            kept.append(tensors["latents"].clone())
            return tensors

        bare(callback_on_step_end=keep)
        return kept

    def to_store(dtype: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lab.capture([run], SITE, to=folder, dtype=dtype, progress=False)

    return {
        "bare pipeline": bare,
        "our loop, no hooks": lambda: lab.run(run),
        "callback_on_step_end, latents only": callback,
        "torch hooks, clone": torch_hooks,
        "capture to memory, fp32": lambda: lab.run(run, SITE),
        "capture to HDF5, bf16": lambda: to_store("bfloat16"),
        "capture to HDF5, fp32": lambda: to_store("float32"),
        **_nnsight(lab, bare),
    }


def _nnsight(lab: Lab, bare: Any) -> dict[str, Any]:
    """nnsight over the stock modules, caching every block; nothing if it is not installed."""
    try:
        from nnsight import NNsight
    except ImportError:
        return {}
    wrapped = NNsight(lab.pipe.transformer)

    def trace() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with wrapped.trace(fn=bare) as tracer:
                kept = tracer.cache(modules=list(wrapped.blocks)).save()
        return kept

    return {"nnsight cache of every block": trace}


def nbytes(lab: Lab, run: RunSpec, itemsize: int) -> int:
    """Bytes one run keeps."""
    from interp import select

    return select(SITE).resolve(lab.space(run)).nbytes(itemsize)


def copy_seconds(count: int) -> float:
    """One copy of that many bytes into memory that is already mapped."""
    source, target = torch.ones(count // 4), torch.ones(count // 4)
    start = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - start


def rows_of(name: str, lab: Lab, sample: Sample, steps: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Rows of one model: each case against the bare pipeline."""
    cases = cases_of(lab, sample, steps, folder)
    times: dict[str, Times] = interleaved(cases, rounds)
    base = times["bare pipeline"]
    run = lab.plan(sample, steps=steps)[0]
    aims = {"our loop, no hooks": 1.01}
    if name == "medium":
        aims["capture to HDF5, bf16"] = aims["capture to HDF5, fp32"] = 1.10
    rows = []
    for case, one in times.items():
        ratio = one.ratio(base)
        aim = aims.get(case)
        kept = nbytes(lab, run, 2 if "bf16" in case else 4) if "capture" in case or "torch hooks" in case else 0
        rows.append(
            row(
                f"{name}: {case}",
                one.median,
                "bare pipeline",
                base.median,
                "s",
                "" if aim is None else f"<= {aim}x",
                None if aim is None else ratio <= aim,
                paired_ratio=ratio,
                quartiles=one.spread,
                bytes=kept,
                copy_s=copy_seconds(kept) if kept else 0.0,
                steps=steps,
            )
        )
    return rows


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__, rounds=5, steps=10)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of("mini", *small(), chosen.steps, chosen.rounds, Path(folder) / "mini")
        rows += rows_of("medium", *medium(), max(2, chosen.steps // 5), chosen.rounds, Path(folder) / "medium")
    publish("capture", rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
