"""Count the calls of a pipeline's transformers while something runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from studies.runs.work import Forward


@contextmanager
def counted(pipe: Any) -> Iterator[Counter[Forward]]:
    """Forwards by expert, rows and tokens, added to as they come."""
    found: Counter[Forward] = Counter()
    two = getattr(pipe, "transformer_2", None) is not None
    experts = {"high": pipe.transformer, "low": pipe.transformer_2} if two else {"main": pipe.transformer}

    def counting(expert: str) -> Any:
        def count(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows, tokens, _ = (args[0] if args else kwargs["hidden_states"]).shape
            found[Forward(expert, rows, tokens)] += 1

        return count

    handles = [
        model.blocks[0].register_forward_pre_hook(counting(expert), with_kwargs=True)
        for expert, model in experts.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
