"""``wan-interp cache``: look after stores from the command line; each command is a few lines over a function."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from interp.errors import InterpError
from interp.store.consolidate import consolidate as consolidate_store
from interp.store.export import export as export_store
from interp.store.info import info as info_of
from interp.store.merge import merge as merge_stores
from interp.store.store import Store
from interp.store.verify import verify as verify_store

FAILED = 2
"""Exit status where the user has to change something; `verify` ends with 1 if it found damage."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

app = typer.Typer(no_args_is_help=True, help="Look after stores of captured activations.")

Folder = Annotated[Path, typer.Argument(help="Folder of the store.")]


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """An error that a user can act on is one sentence on stderr and exit status 2; so is Ctrl-C, with status 130."""

    @functools.wraps(command)
    def told(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # nobody reads on, as after "| head"
            raise
        except (InterpError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted: what was finished before is intact; give the same command again", err=True)
            raise typer.Exit(INTERRUPTED) from error

    return told


@app.command()
@_told
def info(store: Folder) -> None:
    """Say what a store holds."""
    found = info_of(Store.open(store))
    console = Console(width=None if Console().is_terminal else 160, markup=False, emoji=False, highlight=False)
    console.print(f"{found.path}: {found.runs} runs, {_size(found.nbytes)}; {found.consolidated} of them site-major")
    for name, value in found.provenance.items():
        said = value if isinstance(value, str) and value.isprintable() else json.dumps(value)
        console.print(f"  {name}: {said}")
    grids = ", ".join(f"{f} x {r} x {c} ({n} runs)" for (f, r, c), n in found.grids.items())
    console.print(f"  token grids (frame x row x col): {grids or 'none'}")
    console.print(f"  labels: {', '.join(found.labels) or 'none'}")
    table = Table("site", "axes", "shape", "dtype", "codec", "runs", "size")
    for site in found.sites:
        shapes = "; ".join(" x ".join(map(str, shape)) for shape in site.shapes)
        codecs = ", ".join(codec or "none" for codec in site.codecs)
        table.add_row(site.site, " ".join(site.axes), shapes, site.dtype, codecs, str(site.runs), _size(site.nbytes))
    console.print(table)
    for name in found.unlisted:
        console.print(f"not a finished run: {name}")


@app.command()
@_told
def verify(
    store: Folder,
    drop: Annotated[bool, typer.Option("--drop", help="Take damaged runs off the list, to be repeated.")] = False,
) -> None:
    """Check every byte of a store. Exit status 1 if anything is damaged."""
    opened = Store.open(store)
    with _bar("runs") as advance:
        total = len(opened) + len(opened.bundle_lines())
        report = verify_store(opened, progress=lambda _: advance(1, total))
    for problems in report.damaged.values():
        for problem in problems:
            typer.echo(problem, err=True)
    for name in report.unlisted:
        typer.echo(f"not a finished run: {name}")
    typer.echo(f"{report.files} files, {_size(report.nbytes)}: {len(report.damaged)} damaged")
    if drop and not report.ok:
        opened.drop(report.damaged)
        typer.echo(f"dropped {len(report.damaged)}; run the capture or `consolidate` again to make them anew")
    elif not report.ok:
        raise typer.Exit(1)


@app.command()
@_told
def consolidate(
    store: Folder,
    memory: Annotated[int, typer.Option(help="MiB of data to hold at once.", min=1)] = 512,
) -> None:
    """Make site-major files, from which one site and step over all runs is read in one go."""
    opened = Store.open(store)
    with _bar("bytes") as advance:
        made = consolidate_store(opened, memory=memory << 20, progress=_by_total(advance))
    typer.echo(f"made {len(made)} site-major files" if made else "all was up to date")


@app.command()
@_told
def merge(
    target: Annotated[Path, typer.Argument(help="Folder of the store to merge into; made if missing.")],
    sources: Annotated[list[Path], typer.Argument(help="Folders of the stores to merge.")],
) -> None:
    """Copy the runs of several stores into one; refused where their provenance differs."""
    with _bar("runs") as advance:
        merged = merge_stores(target, sources, progress=lambda _, done, total: advance(1, total))
    typer.echo(f"{target}: {len(merged)} runs")


@app.command()
@_told
def export(
    store: Folder,
    to: Annotated[Path, typer.Argument(help="Folder to be made.")],
    sites: Annotated[str, typer.Option(help="Pattern of site names.")] = "*",
    form: Annotated[str, typer.Option("--format", help="safetensors, npy or zarr")] = "safetensors",
    step: Annotated[list[int] | None, typer.Option(help="Steps of the sampler's schedule; default all.")] = None,
    branch: Annotated[list[str] | None, typer.Option(help="Branches; default all.")] = None,
) -> None:
    """Write one file per site for other tools, and the table of runs."""
    opened = Store.open(store)
    with _bar("bytes") as advance:
        files = export_store(opened, to, sites, form, step or None, branch or None, progress=_by_total(advance))
    typer.echo(f"wrote {len(files)} files to {to}")


def _by_total(advance: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """From a count so far to a count more."""
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        advance(done - before, total)
        before = done

    return progress


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; gives ``advance(count, total)``."""
    columns = (BarColumn(), TextColumn("{task.percentage:3.0f} % of " + unit), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(unit, total=None)
        yield lambda count, total: progress.update(task, advance=count, total=total)


def _size(nbytes: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
