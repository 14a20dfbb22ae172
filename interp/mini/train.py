"""Train a bundled model from nothing: ``python -m interp.mini.train --recipe wan-puzzle-mini --out build/puzzle``.

Resumable: the checkpoint is replaced atomically every few minutes and holds all state; batches are functions of their
number. ``--minutes`` boxes the whole training in time: the learning rate falls so that it ends then, whatever the
machine. On a GPU blocks are compiled, matrices are bf16 and problems are drawn by worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from interp.mini import twin
from interp.mini.data import Encoder, Rows, Statistics, draw_rows, latent_statistics
from interp.mini.evaluate import Look, quick_look
from interp.mini.expert import Expert, build_transformer
from interp.mini.grow import grow, statistics_of
from interp.mini.recipe import HIGH, LOW, MAIN, RECIPES, PuzzleRecipe, Recipe, recipe_named
from interp.mini.text import MAX_TOKENS, build_text_encoder, build_tokenizer

__all__ = ["Trainer", "build_transformer", "encode_prompts", "native_dtype", "train"]

_MALLOC = {  # without these, page faults of freshly mapped activations cost more than the arithmetic
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
_CHECKPOINT_SECONDS = 120
_SUSPENDED_SECONDS = 90  # no batch takes longer: what is above that, the process was suspended


def encode_prompts(recipe: Recipe | PuzzleRecipe) -> list[Tensor]:
    """The recipe's prompts as the pipeline encodes them: [512, text_dim] each."""
    from diffusers import WanImageToVideoPipeline

    pipe = WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder(),
        vae=None,  # only encode_prompt is used
        scheduler=None,
    )
    with torch.no_grad():
        return [
            pipe.encode_prompt(p, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS)[0][0]
            for p in recipe.prompts
        ]


def native_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 if the device multiplies it faster than float32, as CPUs do only with bf16 instructions."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(1024, 512, dtype=dtype)
        times = []
        for _ in range(5):  # the best, since another process may be in the way
            start = time.perf_counter()
            a @ a.T
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times)
    return min(seconds, key=lambda d: seconds[d])


def _compiled() -> Any:
    """The block, compiled once for each size of frame."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(twin.forward_block, dynamic=False)


class Trainer:
    """A training under way: one expert or two, the number of the next batch, and the seconds spent.

    Args:
        recipe: what to train on.
        out: folder of ``checkpoint.pt``, from which a training goes on if it is there.
        device: of the models.
        minutes: end of the whole training; the recipe's number of batches if None.
        compile_blocks: ``torch.compile`` the block (on CPU it needs a C++ compiler; 1.2x to 1.4x there).
        workers: processes that draw problems; 0 draws them here.
    """

    def __init__(
        self,
        recipe: Recipe | PuzzleRecipe,
        out: Path,
        *,
        device: torch.device | str = "cpu",
        minutes: float | None = None,
        compile_blocks: bool = False,
        workers: int = 0,
    ) -> None:
        self.recipe, self.path = recipe, out / "checkpoint.pt"
        self.device = torch.device(device)
        self.minutes, self.workers = minutes, workers
        self.experts = {MAIN: Expert(recipe, self.device)}
        self.batch, self.seconds = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        saved = self._saved()
        if saved is None:
            self.statistics = self._start(getattr(recipe, "grown_from", None))
        else:
            self.statistics = Statistics(*(saved["statistics"][name].numpy() for name in ("mean", "std")))
            self.experts = {name: self.experts[MAIN].twin() for name in saved["experts"]}
            for name, state in saved["experts"].items():
                self.experts[name].load_state_dict(state)
            self.batch, self.seconds = saved["batch"], saved["seconds"]
        self.dtype = native_dtype(self.device) if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
        self.encoder = Encoder(self.statistics, self.device)
        self.text = twin.pack_text(encode_prompts(recipe), self.device)
        self.block = _compiled() if compile_blocks else None

    def _start(self, grown_from: str | None) -> Statistics:
        """The first weights, and the statistics of latents that go with them."""
        if grown_from is None:
            return latent_statistics(self.recipe)
        expert = self.experts[MAIN]
        for model in (expert.model, expert.ema):
            grow(model, grown_from)
        return statistics_of(grown_from)

    def _saved(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        saved: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        if saved["recipe"] != json.dumps(self.recipe.as_dict()):
            raise SystemExit(f"{self.path} was made by another recipe; choose another --out or remove it")
        return saved

    @property
    def done(self) -> float:
        """Share of the training that is done."""
        return self.batch / self.recipe.batches if self.minutes is None else self.seconds / (60 * self.minutes)

    @property
    def autocast(self) -> dict[str, Any]:
        """Arguments of ``torch.autocast``."""
        return {"dtype": torch.bfloat16, "enabled": self.dtype == torch.bfloat16}

    def save(self) -> dict[str, Any]:
        """Write the checkpoint and return it."""
        state = {
            "recipe": json.dumps(self.recipe.as_dict()),
            "experts": {name: expert.state_dict() for name, expert in self.experts.items()},
            "statistics": {name: torch.from_numpy(getattr(self.statistics, name)) for name in ("mean", "std")},
            "batch": self.batch,
            "seconds": self.seconds,
            "minutes": self.minutes,
            "done": self.done,
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else _cpu(),
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)
        return state

    def step(self, rows: Rows) -> Tensor:
        """One batch: rectified-flow loss |v - (noise - clean)|^2 at x = (1 - sigma) clean + sigma noise."""
        recipe = self.recipe
        if len(self.experts) == 1 and recipe.splits(self.done):
            self.experts = {HIGH: self.experts[MAIN], LOW: self.experts[MAIN].twin()}
            say(f"batch {self.batch}: two experts from here on")
        turn = recipe.turn(self.batch, len(self.experts))
        expert = self.experts[turn.expert]
        batch = self.encoder.batch(rows, recipe, self.batch, turn)
        sigma = batch.sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - sigma) * batch.clean + sigma * batch.noise
        with torch.autocast(self.device.type, **self.autocast):
            x, time_ = torch.cat([noisy, batch.cond], 1), batch.sigma * 1000
            velocity = twin.forward(expert.model, x, time_, self.text.rows(batch.prompts), self.block)
        loss = (velocity - (batch.noise - batch.clean)).pow(2).mean()
        loss.backward()
        expert.update(recipe.rate(self.batch, self.done))
        self.batch += 1
        return loss.detach()

    def look(self, n: int) -> dict[str, Look]:
        """A quick look at each part of the recipe."""
        parts = self.recipe.boards if isinstance(self.recipe, PuzzleRecipe) else ("maze-4", "maze-6")
        models = {name: expert.ema for name, expert in self.experts.items()}
        arguments = (models, self.recipe, self.encoder, self.text)
        return {part: quick_look(*arguments, part, n, **self.autocast) for part in parts}

    def rows(self) -> Generator[Rows, None, None]:
        """The problems of this batch and the ones after it."""
        if not self.workers:
            number = self.batch
            while True:
                yield draw_rows(self.recipe, number)
                number += 1
        loader: Any = DataLoader(
            _Rows(self.recipe),  # type: ignore[arg-type]  # needs no more than __getitem__ here
            batch_size=None,
            sampler=range(self.batch, 1 << 30),
            num_workers=self.workers,
            prefetch_factor=8,
            worker_init_fn=_one_thread,
        )
        yield from loader


class _Rows:
    """Batches by their number, for worker processes."""

    def __init__(self, recipe: Recipe | PuzzleRecipe) -> None:
        self.recipe = recipe

    def __getitem__(self, number: int) -> Rows:
        return draw_rows(self.recipe, number)


def _cpu() -> str:
    threads = torch.get_num_threads()
    return "one thread of a CPU" if threads == 1 else f"{threads} threads of a CPU"


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def train(
    recipe: Recipe | PuzzleRecipe,
    out: Path,
    *,
    device: torch.device | str = "cpu",
    minutes: float | None = None,
    compile_blocks: bool = False,
    workers: int = 0,
    stop_after: int | None = None,
    session_minutes: float | None = None,
    looks: int = 10,
    n: int = 64,
) -> dict[str, Any]:
    """Run the recipe, resuming from ``out/checkpoint.pt`` when it is there.

    Args:
        recipe: what to train on.
        out: folder for the checkpoint.
        device, minutes, compile_blocks, workers: see `Trainer`.
        stop_after: stop after this many batches of this session (tests).
        session_minutes: stop after this long in this session, to be continued.
        looks: how often held-out problems are solved on the way; 0 for never.
        n: how many of each part.

    Returns:
        The checkpoint: ``experts`` (by name ``ema``, ``model``, ``optimizer``), ``statistics``, ``batch``, ``seconds``.
    """
    start = time.perf_counter()
    trainer = Trainer(recipe, out, device=device, minutes=minutes, compile_blocks=compile_blocks, workers=workers)
    first = trainer.batch
    say(
        f"{recipe.name}: from batch {first}, {100 * trainer.done:.0f} % done, {trainer.dtype} on {trainer.device}, "
        f"{torch.get_num_threads()} threads, {workers} workers"
    )
    saved = printed = before = start
    since, total, losses = first, 0, torch.zeros((), device=trainer.device)
    look = int(trainer.done * looks)
    source = trainer.rows()
    while True:
        now = time.perf_counter()
        trainer.seconds += min(now - before, _SUSPENDED_SECONDS)
        before = now
        here = trainer.batch - first
        if trainer.done >= 1 or here == stop_after or (session_minutes and now - start >= 60 * session_minutes):
            break
        rows = next(source)
        losses += trainer.step(rows)
        total += len(rows.prompts)
        if now - printed >= 20:
            count = trainer.batch - since
            say(
                f"{100 * trainer.done:.1f} %  batch {trainer.batch}  loss {float(losses) / count:.4f}  "
                f"{total / (time.perf_counter() - printed):.0f} videos/s  {trainer.seconds / 60:.1f} min"
            )
            printed, since, total = time.perf_counter(), trainer.batch, 0
            losses.zero_()
        if time.perf_counter() - saved >= _CHECKPOINT_SECONDS:
            trainer.save()
            saved = time.perf_counter()
        if int(trainer.done * looks) > look:
            look = int(trainer.done * looks)
            seen = ", ".join(f"{part} {found}" for part, found in trainer.look(n).items())
            say(f"{100 * trainer.done:.0f} %: solved at 8 steps (and near), n = {n}: {seen}")
            printed = time.perf_counter()
    return trainer.save()


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Command line; re-executes itself once with malloc settings that keep freed memory mapped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="wan-maze-mini", choices=[*RECIPES])
    parser.add_argument("--out", type=Path, default=Path("build/mini"))
    parser.add_argument("--minutes", type=float, help="end of the whole training; the recipe's batches by default")
    parser.add_argument("--session-minutes", type=float, help="stop after this long, to be continued")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--workers", type=int, help="processes that draw problems; by default as many as help")
    parser.add_argument("--compile", action="store_true", help="compile the block (always on a GPU)")
    parser.add_argument("--n", type=int, help="held-out problems of each kind in a quick look: 32, or 256 on a GPU")
    args = parser.parse_args(argv)
    if sys.platform == "linux" and not set(_MALLOC) <= set(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "interp.mini.train", *sys.argv[1:]], os.environ | _MALLOC)
    torch.set_num_threads(args.threads)
    gpu = torch.device(args.device).type == "cuda"
    if gpu:
        torch.set_float32_matmul_precision("high")
    recipe = recipe_named(args.recipe)
    train(
        recipe,
        args.out,
        device=args.device,
        minutes=args.minutes,
        compile_blocks=args.compile or gpu,
        workers=args.workers if args.workers is not None else max(1, (os.cpu_count() or 2) - 1) if gpu else 0,
        session_minutes=args.session_minutes,
        n=args.n or (256 if gpu else 32),
    )


if __name__ == "__main__":
    main()
