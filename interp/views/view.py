"""What a view is: a frozen value with a name, a plan of what it makes of a site, and the function that makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from interp.errors import SelectionError
from interp.grid import TokenGrid
from interp.tasks.sample import Sample

Compute = Callable[..., Tensor]


@dataclass(frozen=True)
class Given:
    """What a view has to work on: the selected part of one site.

    Attributes:
        site: concrete hook point.
        axes: names of its axes, without the batch.
        shape: their sizes, as selected.
        tokens: numbers on the full grid along the axis "token"; None for all, or where there is no such axis.
        heads: numbers along the axis "head"; None for all, or where there is no such axis.
        grid: the token grid.
    """

    site: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    tokens: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    grid: TokenGrid

    def dim(self, axis: str, view: View) -> int:
        """Where an axis is in [batch, <axes>].

        Raises:
            SelectionError: the site has no such axis.
        """
        if axis not in self.axes:
            raise SelectionError(
                f"{view.name} does not fit {self.site}: it needs an axis {axis!r}, and there "
                f"{'are only ' + ', '.join(self.axes) if self.axes else 'is none'}; leave this hook point out, "
                "or keep it in full in another capture"
            )
        return 1 + self.axes.index(axis)

    def feature_dim(self, view: View) -> int:
        """Where the features are in [batch, <axes>]: the last axis.

        Raises:
            SelectionError: the last axis is not one of features, or there is none.
        """
        if not self.axes or self.axes[-1] in POSITIONS:
            raise SelectionError(
                f"{view.name} does not fit {self.site}: its axes {self.axes} do not end with one of features"
            )
        return len(self.axes)

    @cached_property
    def token_numbers(self) -> tuple[int, ...]:
        """Numbers on the full grid of the tokens there are, in order."""
        return tuple(range(self.grid.tokens)) if self.tokens is None else self.tokens

    def with_axis(self, axis: str, *new: tuple[str, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Axes and shape with one axis replaced by others, given as (name, size), or by none."""
        at = self.axes.index(axis)
        names, sizes = tuple(name for name, _ in new), tuple(size for _, size in new)
        return (*self.axes[:at], *names, *self.axes[at + 1 :]), (*self.shape[:at], *sizes, *self.shape[at + 1 :])


POSITIONS = ("token", "key_token", "text_token", "image_token", "context_token", "head", "latent_col", "modulation")


@dataclass(frozen=True)
class Made:
    """What a view makes of a site, known before anything has run.

    Attributes:
        axes: names of the axes, without step, branch and batch.
        shape: their sizes.
        dtype: the format it is kept in whatever the capture's is; None for the capture's.
        sources: hook points that it is computed from.
        tokens: numbers on the full grid along the axis "token", as in `Given`.
        coords: what the positions of an axis stand for, where the view made the axis: numbers of frames, names of sets.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    dtype: str | None = None
    tokens: tuple[int, ...] | None = None
    coords: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)


class View(ABC):
    """A view; subclasses are frozen dataclasses, hashable, one field a parameter."""

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        """The kind and its parameters, as `interp.views.parse` reads them: letters, digits, "_", "-" and "."."""
        return "-".join((self.kind, *self.parameters()))

    def parameters(self) -> tuple[str, ...]:
        """Parameters as they stand in the name; those left at their defaults are left out."""
        return ()

    @classmethod
    def of_parameters(cls, said: Sequence[str]) -> View:
        """The view of `parameters`.

        Raises:
            SelectionError: they cannot be read.
        """
        if said:
            raise SelectionError(f"{cls.kind} takes no parameters, and {'-'.join(said)!r} was given")
        return cls()

    def declaration(self) -> dict[str, Any]:
        """Everything about the view, JSON-ready; `interp.views.view_of` makes it again."""
        return {"view": self.name}

    @abstractmethod
    def plan(self, given: Given) -> Made:
        """What it makes of a site.

        Raises:
            SelectionError: it does not fit the site.
        """

    @abstractmethod
    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """The function from the tensors of `Made.sources`, [batch, <axes>] each, to [batch, <`Made.axes`>].

        Where there is one source it comes as selected; several come whole.

        Args:
            given: what `plan` was given.
            samples: the problem of each row of the batch, for views that depend on it; else it may be empty.
        """

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Full(View):
    """The tensor as it is."""

    kind: ClassVar[str] = "full"

    def plan(self, given: Given) -> Made:
        """See `View.plan`."""
        return Made(given.axes, given.shape, (given.site,), tokens=given.tokens)

    def computer(self, given: Given, samples: Sequence[Sample]) -> Compute:
        """See `View.computer`."""
        return lambda tensor: tensor


def full() -> View:
    """The tensor as it is: what is kept if no view is named. Stored under the bare name of the site."""
    return Full()


def frames_of(given: Given) -> tuple[tuple[int, ...], bool]:
    """Latent frames of the tokens there are, and whether all tokens of each are there."""
    grid = given.grid
    size = grid.rows * grid.cols
    frames = tuple(dict.fromkeys(token // size for token in given.token_numbers))
    return frames, len(frames) * size == len(given.token_numbers)


def number(said: str, what: str, least: int = 1) -> int:
    """A whole number in a view's name.

    Raises:
        SelectionError: it is none, or too small.
    """
    if not (said.isascii() and said.isdecimal()) or len(said) > 9 or int(said) < least:
        raise SelectionError(f"{said!r} is not {what}: give a whole number, {least} or more")
    return int(said)
