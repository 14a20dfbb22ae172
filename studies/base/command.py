"""What every study's command line does alike: one clear sentence and a non-zero exit instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from interp.errors import InterpError

FAILED = 2
INTERRUPTED = 130


def run_command(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """Run a study's main function and turn the errors a user can act on into an exit status.

    Args:
        main: takes the arguments.
        arguments: of the command line, without the program.

    Returns:
        0, 2 for anything the user has to change, 130 if interrupted.
    """
    try:
        main(arguments)
    except InterpError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 0
