"""What is watched: the bundled model and a medium one, and nnsight's copy of either."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from benchmarks.harness import Spent
from interp.lab import Lab, load
from interp.tasks import get as get_task
from interp.tasks.sample import Sample
from tests.pipelines import random_transformer


def medium() -> tuple[Lab, Sample]:
    """d 512, 8 layers of 8 heads; 5 x 16 x 16 = 1280 tokens."""
    from diffusers import WanImageToVideoPipeline

    mini = load("wan-maze-mini").pipe
    transformer = random_transformer(
        0,
        in_channels=36,
        num_attention_heads=8,
        attention_head_dim=64,
        freq_dim=256,
        ffn_dim=2048,
        num_layers=8,
        rope_max_seq_len=64,
    )
    pipe = WanImageToVideoPipeline(**{**mini.components, "transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    sample = get_task("maze", size=8).sample(1, seed=0)[0]
    image = sample.image.resize((256, 256))
    return load(pipe), Sample("", "medium", sample.prompt, image, None, 256, 256, 17)


def small(size: int = 6) -> tuple[Lab, Sample]:
    """The bundled model on a maze; 6 x 6 cells are 5 x 6 x 6 = 180 tokens."""
    return load("wan-maze-mini"), get_task("maze", size=size).sample(1, seed=0)[0]


class Stopwatch:
    """What is spent in the forwards of modules, without the hooks on them."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0

    def time(self, modules: Iterable[nn.Module]) -> None:
        """Time these from now on."""
        for module in modules:
            module.forward = self._timed(type(module).forward.__get__(module))

    def read(self) -> Spent:
        """So far."""
        return Spent(self._wall, self._cpu)

    def _timed(self, forward: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = Spent.now()
            try:
                return forward(*args, **kwargs)
            finally:
                wall, cpu = Spent.now().since(start)
                self._wall, self._cpu = self._wall + wall, self._cpu + cpu

        return timed


class Called(nn.Module):
    """A pipeline as a module, which is how nnsight takes it; with a transformer of its own.

    Args:
        pipe: the pipeline.
        stopwatch: times the blocks.
    """

    def __init__(self, pipe: Any, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.transformer = copy.deepcopy(pipe.transformer)
        stopwatch.time(self.transformer.blocks)
        self.pipe = type(pipe)(**{**pipe.components, "transformer": self.transformer})
        self.pipe.set_progress_bar_config(disable=True)

    def forward(self, **call: Any) -> Tensor:
        """The final latents."""
        return self.pipe(**call).frames


def remember(owner: Any, name: str) -> None:
    """Make a method of one object give its first answer again: it is part of every case, and of none's interest."""
    original, found = getattr(owner, name), []

    def again(*args: Any, **kwargs: Any) -> Any:
        if not found:
            found.append(original(*args, **kwargs))
        return found[0]

    setattr(owner, name, again)
