"""The files of a store: which of them holds a run as it is now, opened once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from interp.errors import StoreError
from interp.store.manifest import LIST, Line, Manifest
from interp.store.part import Chosen, Part
from interp.store.storefile import Bundle, Shard


@dataclass(frozen=True)
class Found:
    """Where some runs are.

    Attributes:
        alone: runs that are read from their own files, one each.
        bundled: by site-major file, the runs that are read from it.
    """

    alone: tuple[tuple[str, Chosen], ...]
    bundled: dict[str, Chosen]


class Files:
    """Shards and site-major files, as the manifests list them now.

    Args:
        path: folder of the store.
        manifest: of runs.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.bundle_manifest = Manifest(path / "consolidated" / LIST)
        self.bundle_manifest.load()
        self._shards: dict[str, Shard] = {}
        self._found: tuple[int, Found] | None = None

    def shard(self, run: str) -> Shard:
        """The file of one run."""
        if run not in self._shards:
            self._shards[run] = Shard(self.path, self.manifest.lines[run])
        return self._shards[run]

    def drop(self, names: set[str]) -> None:
        """Take runs and site-major files off their lists, then remove what they name.

        Raises:
            StoreError: the disk failed.
        """
        for manifest, folder in self._lists:
            if chosen := names & manifest.lines.keys():
                manifest.remove(chosen)
            for name in chosen:
                path = folder / f"{name}.h5"
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise StoreError(f"{path} is off the list and cannot be removed: {error.strerror}") from error

    def clean(self) -> None:
        """Remove what writers that are gone have left.

        Raises:
            StoreError: something cannot be removed.
        """
        for manifest, folder in self._lists:
            if folder.is_dir():
                manifest.clean(*{manifest.path.parent, folder})

    def bundle_lines(self) -> tuple[Line, ...]:
        """What the manifest of site-major files says."""
        return tuple(self.bundle_manifest.lines.values())

    @cached_property
    def in_bundles(self) -> dict[str, tuple[str, int]]:
        """By run, the site-major file that holds it as it is now, and its number in it."""
        lines, found = self.manifest.lines, {}
        for name, bundle in self._bundles.items():
            for number, (run, xxh3) in enumerate(zip(bundle.index.runs, bundle.index.sums, strict=True)):
                if run in lines and lines[run].xxh3 == xxh3:
                    found[run] = (name, number)
        return found

    def parts(self, site: str, runs: Sequence[str] | None) -> list[Part]:
        """Where runs are read from: site-major files where they are up to date, else the runs' own; None for all."""
        found = self._all() if runs is None else self._find(runs)
        parts = [self.shard(run).part(site, chosen) for run, chosen in found.alone]
        return parts + [self._bundles[name].part(site, chosen) for name, chosen in found.bundled.items()]

    def _all(self) -> Found:
        if self._found is None or self._found[0] != self.manifest.changes:  # thousands of runs: once, not for each site
            self._found = self.manifest.changes, self._find(sorted(self.manifest.lines))
        return self._found[1]

    def _find(self, runs: Sequence[str]) -> Found:
        alone, pairs = [], dict[str, list[tuple[int, int]]]()
        for place, run in enumerate(runs):
            if run in self.in_bundles:
                name, number = self.in_bundles[run]
                pairs.setdefault(name, []).append((number, place))
            else:
                alone.append((run, Chosen.of([(0, place)])))
        return Found(tuple(alone), {name: Chosen.of(found) for name, found in pairs.items()})

    @property
    def _lists(self) -> tuple[tuple[Manifest, Path], ...]:
        """Each manifest, and the folder of the files that it lists."""
        return (self.manifest, self.path / "runs"), (self.bundle_manifest, self.path / "consolidated")

    @cached_property
    def _bundles(self) -> dict[str, Bundle]:
        return {line.run: Bundle(self.path, line) for line in self.bundle_lines()}
