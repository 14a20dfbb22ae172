"""Text tokens by the words of the prompt, as the pipeline's own tokenizer cuts it."""

from __future__ import annotations

import re
from typing import Any

from interp.errors import SelectionError, suggest

_WORD = re.compile(r"\w+(?:['-]\w+)*")


def word_tokens(pipe: Any, prompt: str, words: str, *, nth: int | None = None, limit: int = 512) -> tuple[int, ...]:
    """Positions in the text of one or several neighbouring words of a prompt.

    Args:
        pipe: the pipeline, whose tokenizer has to be a fast one.
        prompt: what the model is told; it is cleaned as the pipeline cleans it.
        words: as they stand there, whole words, small or capital: "goal", "the red goal".
        nth: which occurrence, from 0, where there are several.
        limit: text tokens that the model is given; those after them are cut off.

    Returns:
        Numbers on the axis "text_token", in order.

    Raises:
        SelectionError: the words are not there, or there more than once and ``nth`` does not say which; or the
            tokenizer does not say where its tokens come from.
    """
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    text = prompt_clean(prompt)
    asked = " ".join(words.split())
    if not asked:
        raise SelectionError("no word was asked for; give one of the prompt, such as 'goal'")
    whole = r"(?<!\w)" + r"\s+".join(map(re.escape, asked.split())) + r"(?!\w)"
    found = list(re.finditer(whole, text, re.IGNORECASE))
    start, end = _chosen(found, asked, text, nth).span()
    offsets = _offsets(pipe.tokenizer, text)
    tokens = tuple(i for i, (first, last) in enumerate(offsets) if first < last and first < end and last > start)
    if not tokens or tokens[-1] >= limit:
        raise SelectionError(f"{asked!r} is cut off: the model is given {limit} text tokens of this prompt")
    return tokens


def _chosen(found: list[re.Match[str]], asked: str, text: str, nth: int | None) -> re.Match[str]:
    if not found:
        known = dict.fromkeys(_WORD.findall(text))
        raise SelectionError(
            f"the prompt does not say {asked!r}{suggest(asked, known)}; its words are {', '.join(known) or 'none'}"
        )
    if nth is None and len(found) > 1:
        raise SelectionError(
            f"the prompt says {asked!r} {len(found)} times; say which with nth=0 to {len(found) - 1}, or give more of "
            f"the words around it: {text!r}"
        )
    if nth is not None and not 0 <= nth < len(found):
        raise SelectionError(f"nth={nth}: the prompt says {asked!r} {len(found)} times, counted from 0")
    return found[nth or 0]


def _offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Where in the text each token comes from: (first, after the last) character."""
    if not getattr(tokenizer, "is_fast", False):
        raise SelectionError(
            f"{type(tokenizer).__name__} does not say which characters a token stands for; load the pipeline with a "
            "fast tokenizer (transformers' AutoTokenizer), or give positions as numbers"
        )
    offsets: list[tuple[int, int]] = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return offsets
