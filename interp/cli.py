"""``wan-interp``: the command line of the package. Studies have commands of their own (``python -m studies.NAME``)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from interp.store.cli import app as cache

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
app.add_typer(cache, name="cache")


def _say_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"wan-interp {version('wan-interp')}")
        raise typer.Exit
    return wanted


@app.callback()
def wan_interp(
    show: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find out when and where a Wan video diffusion transformer comes to its answer."""


def main() -> None:
    """Entry point of the installed command."""
    app(prog_name="wan-interp")


if __name__ == "__main__":
    main()
