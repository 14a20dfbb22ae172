"""The run-time type and shape check that the test suite lays over ``interp`` and ``probes``.

jaxtyping's import hook decorates every function there is, and every closure each time it is made, with what compiles
four functions at once and binds all arguments by name at every call. That is needed where axes are compared. `watched`
leaves it to the functions that speak of axes; the types of all others are checked by beartype alone, at a small part
of the cost. Either is compiled at the first call.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

with_shapes = jaxtyping.jaxtyped
check = beartype(  # an int will do where a float is asked for
    conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)
)
_hints: dict[CodeType, dict[str, Any]] = {}


def watched(of: Any = None, *, typechecker: Any) -> Any:
    """In the place of ``jaxtyping.jaxtyped``, which the import hook calls by that name."""
    if of is None:
        return functools.partial(watched, typechecker=typechecker)
    if isinstance(of, type):
        made = of.__init__
        if dataclasses.is_dataclass(of) and isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):
            of.__init__ = watched(made, typechecker=typechecker)  # others are watched already
        return of
    checked: Callable[..., Any] | None = None

    @functools.wraps(of)
    def either(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return of(*args, **kwargs)
        if checked is None:
            checked = _checked(of, typechecker)
        return checked(*args, **kwargs)

    return either


def _checked(function: FunctionType, typechecker: Any) -> Callable[..., Any]:
    hints = _hints.get(function.__code__)  # those of closures of one source are the same
    if hints is None:
        hints = {name: _meaning(said, function.__globals__) for name, said in function.__annotations__.items()}
        _hints[function.__code__] = hints
    if any(map(_speaks_of_axes, hints.values())):
        return with_shapes(function, typechecker=typechecker)
    function.__annotations__ = dict(hints)
    return check(function)


def _meaning(said: Any, names: dict[str, Any]) -> Any:
    """`Any` where that cannot be said here: a name of a closure, or one that is imported for type checkers only."""

    def bearer() -> None: ...

    bearer.__annotations__ = {"one": said}
    try:
        return get_type_hints(bearer, names, include_extras=True)["one"]
    except Exception:
        return Any


def _speaks_of_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_speaks_of_axes, get_args(hint)))
