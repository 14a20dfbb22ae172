"""What one picture says of each candidate answer, by numbers.

Every candidate has an ending: the last frame of its video. Only the places where endings differ matter. There a colour
c that lies between the endings' colours speaks for ending k with the share ``d / (d_k + d)``, where d_k is its distance
from what k shows and d that from the nearest other colour an ending shows there. The posterior is the geometric mean of
those shares over places, normalised: a blend ``p A + (1 - p) B`` of two endings has posterior (p, 1 - p).

Three different pictures have the same even posterior, and are told apart by two more numbers:

- several answers at once (two routes drawn in full): every candidate is *drawn*, nothing is *blurred*;
- a superposition (two routes drawn pale, averaged): each is drawn by its share, and the picture is blurred;
- nothing yet: nothing drawn, nothing blurred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_SHARE = 1e-3
LIVE = 0.2
SOLID = 0.75
EMPTY = 0.25
BLURRED = 0.4
MODES = ("one", "several", "blend", "empty", "unclear")
"""One candidate left; several drawn in full; a pale mixture; none drawn yet; anything else."""


@dataclass(frozen=True)
class Reading:
    """What a picture says.

    Attributes:
        posterior: sums to 1: [candidate].
        drawn: how fully each candidate is drawn where it differs from the first frame and from some other candidate,
            0..1; NaN where there is no such place: [candidate].
        blur: 0 where every place shows exactly what some ending shows, 1 where all are half-way between two.
    """

    posterior: np.ndarray
    drawn: np.ndarray
    blur: float

    @property
    def entropy(self) -> float:
        """Of the posterior, in bits."""
        p = self.posterior[self.posterior > 0]
        return float(max(0.0, -(p * np.log2(p)).sum()))

    @property
    def favourite(self) -> int | None:
        """The likeliest candidate; None for a tie."""
        order = np.sort(self.posterior)
        if len(order) > 1 and order[-1] - order[-2] < 1e-9:
            return None
        return int(self.posterior.argmax())

    @property
    def live(self) -> np.ndarray:
        """Which candidates are at least ``LIVE`` times as likely as the likeliest: bool [candidate]."""
        return np.asarray(self.posterior >= LIVE * self.posterior.max())

    @property
    def solid(self) -> int:
        """Candidates drawn by ``SOLID`` or more."""
        return int((np.nan_to_num(self.drawn) >= SOLID).sum())

    @property
    def mode(self) -> str:
        """One of `MODES`."""
        if self.live.sum() == 1 and len(self.posterior) > 1:
            return "one"
        best = np.nanmax(self.drawn) if np.isfinite(self.drawn).any() else np.nan
        if self.solid >= 2:
            return "several"
        if len(self.posterior) > 1 and self.blur >= BLURRED:
            return "blend"
        if best < EMPTY:
            return "empty"
        return "one" if len(self.posterior) == 1 and self.solid else "unclear"


@dataclass(frozen=True)
class Endings:
    """The candidates of one problem, as pictures.

    Attributes:
        names: what each candidate is called: [candidate].
        right: which of them are right answers: bool [candidate].
        first: the first frame, in 0..255: float [row, col, rgb].
        colours: the last frame of each candidate: float [candidate, row, col, rgb].
    """

    names: tuple[str, ...]
    right: np.ndarray
    first: np.ndarray
    colours: np.ndarray

    @staticmethod
    def of(task: Any, sample: Any, shape: tuple[int, ...]) -> Endings:
        """Endings of a sample at the size of the pictures to be read, [row, col, rgb].

        Args:
            task: an `interp.tasks.Task`; its ``render(sample, k)`` gives the video of candidate k.
            sample: the problem.
            shape: of one picture; a block or a pixel each place.
        """
        names = tuple(name_of(candidate) for candidate in task.candidates(sample))
        videos = [task.render(sample, k) for k in range(len(names))]
        right = np.array([task.score(sample, video).solved for video in videos])
        shrunk = np.stack([shrink(video[-1], shape) for video in videos])
        return Endings(names, right, shrink(videos[0][0], shape), shrunk)

    def read(self, picture: np.ndarray) -> Reading:
        """Read a picture [row, col, rgb], uint8 in 0..255 or float in 0..1."""
        count = len(self.names)
        seen = picture.astype(np.float64) * (1.0 if picture.dtype == np.uint8 else 255.0)
        differ = (self.colours != self.colours[:1]).any((0, -1))
        shares, blur = _shares(seen[differ], self.colours[:, differ]) if differ.any() else (np.zeros((count, 0)), 0.0)
        logs = np.log(np.clip(shares, LEAST_SHARE, 1)).mean(1) if shares.size else np.zeros(count)
        weights = np.exp(logs - logs.max())
        return Reading(weights / weights.sum(), self._drawn(seen, differ), blur)

    def _drawn(self, seen: np.ndarray, differ: np.ndarray) -> np.ndarray:
        """How far each candidate's own places have gone from the first frame to its ending."""
        found = np.full(len(self.names), np.nan)
        for k, ending in enumerate(self.colours):
            own = (ending != self.first).any(-1)
            own &= differ if len(self.names) > 1 else True
            if len(self.names) > 1:
                own &= (self.colours != ending).any(-1).any(0)
            if own.any():
                way = ending[own] - self.first[own]
                moved = ((seen[own] - self.first[own]) * way).sum(-1) / (way * way).sum(-1)
                found[k] = np.clip(moved, 0, 1).mean()
        return found


def _shares(seen: np.ndarray, endings: np.ndarray) -> tuple[np.ndarray, float]:
    """Share of each ending at each place [ending, place], and the blur, from colours [place, rgb] and [ending, place,
    rgb]."""
    distance = np.sqrt(((seen - endings) ** 2).sum(-1))  # [ending, place]
    other = np.full_like(distance, np.inf)
    for k in range(len(endings)):
        differs = (endings != endings[k]).any(-1)  # [ending, place]
        other[k] = np.where(differs, distance, np.inf).min(0)
    with np.errstate(invalid="ignore"):
        shares = np.where(np.isfinite(other), other / (distance + other), 0.5)
    nearest = shares.max(0)
    return shares, float(np.clip(2 * (1 - nearest), 0, 1).mean())


def shrink(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Mean colours of a picture [row, col, rgb] at a coarser size that divides its own: float64."""
    rows, cols = picture.shape[0] // shape[0], picture.shape[1] // shape[1]
    cut = picture.astype(np.float64).reshape(shape[0], rows, shape[1], cols, 3)
    return np.asarray(cut.mean((1, 3)))


def name_of(candidate: Any) -> str:
    """A candidate in one short string: routes as their cells."""
    if isinstance(candidate, str | int):
        return str(candidate)
    return " ".join(",".join(map(str, cell)) for cell in candidate)
