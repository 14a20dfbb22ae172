"""Cross-attention to one prompt: keys and values once for a whole run, or for a whole batch with its padding once.

Wan pads every prompt with zeros to 512 tokens, and rows of a sweep have the same prompt. Equal text tokens have equal
keys and values, so a softmax over n of them is a softmax over one whose score is raised by log n: the same sum in
another order, equal to rounding. What is saved is the projection of 512 tokens in every row and layer, and most of the
attention over them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.address.shapes import TEXT_TOKENS
from interp.hooks import Clock
from interp.instrument import replaced, source_is_known
from interp.sampler import Plan, transformer_of
from interp.sites import site_named

_TEXT_OPS = ("hook_k_pre", "hook_k", "hook_v")


class SharedText:
    """``WanAttnProcessor`` for cross-attention where all rows have one text.

    Args:
        log_counts: by branch, the logarithm of how many text tokens each distinct one stands for: [text_token].
        clock: says which branch is under way.
    """

    def __init__(self, log_counts: dict[str, Tensor], clock: Clock) -> None:
        self.log_counts, self.clock = log_counts, clock

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """[batch, token, d_model] and [1, text_token, d_model] to [batch, token, d_model]."""
        assert self.clock.call is not None
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        key = attn.norm_k(attn.to_k(encoder_hidden_states)).unflatten(2, (attn.heads, -1))
        value = attn.to_v(encoder_hidden_states).unflatten(2, (attn.heads, -1))
        raised = self.log_counts[self.clock.call.branch].to(query).expand(1, 1, 1, -1)
        folded = query.flatten(0, 1).unsqueeze(0).transpose(1, 2)  # one row of all tokens
        z = F.scaled_dot_product_attention(folded, key.transpose(1, 2), value.transpose(1, 2), attn_mask=raised)
        return attn.to_out[1](attn.to_out[0](z.transpose(1, 2).reshape(hidden_states.shape)))


@contextlib.contextmanager
def keeping_text(pipe: Any, tokens: int) -> Iterator[None]:
    """Keys and values of the prompt are computed in the first step and kept for the others: the same bits.

    A module gives again what it gave when it is handed the very same tensor; nothing may be edited on that way. Nothing
    is kept where the video has far more tokens than the prompt, so that little would be saved.

    Args:
        pipe: the pipeline; both experts are changed inside the block.
        tokens: of the video's grid.
    """
    with contextlib.ExitStack() as stack:
        for expert in ("main", "low"):
            model = transformer_of(pipe, expert)
            if model is None or tokens > 8 * TEXT_TOKENS:
                continue
            attention = [block.attn2 for block in _blocks(model)]
            modules = [model.condition_embedder.text_embedder]
            modules += [module for attn in attention for module in (attn.to_k, attn.to_v, attn.norm_k)]
            for module in modules:
                stack.enter_context(replaced(module, "forward", _once(module.forward)))
        yield


def _once(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, computed once for each of the last two tensors that it was given: cond's and uncond's."""
    known: list[tuple[Tensor, Tensor]] = []

    def remembered(given: Tensor) -> Tensor:
        for seen, made in known:
            if seen is given:
                return made
        made = forward(given)
        known[:] = [*known[-1:], (given, made)]
        return made

    return remembered


def no_sharing(clock: Clock) -> contextlib.AbstractContextManager[None]:
    """Nothing is put in place."""
    return contextlib.nullcontext()


def distinct(text: Tensor) -> tuple[Tensor, Tensor]:
    """Text states [1, text_token, d_text] with padding once, and the logarithm of the counts [text_token]."""
    padding = (text[0] == 0).all(-1)
    count = int(padding.sum())
    if count < 2:
        return text, text.new_zeros(text.shape[1])
    first = int(padding.nonzero()[0])
    kept = ~padding
    kept[first] = True
    logs = torch.zeros(text.shape[1], device=text.device)
    logs[first] = float(torch.tensor(float(count)).log())
    return text[:, kept], logs[kept]


def sharing_text(
    pipe: Any, plan: Plan, sites: Sequence[str], *, least: int = 2
) -> tuple[Plan, Callable[[Clock], contextlib.AbstractContextManager[None]]]:
    """A plan whose text is one row without repeated padding, and what has to be in place while it runs.

    Nothing changes, and nothing is put in place, where it would not be the same computation: different texts, models
    with image keys, a processor that is not diffusers' own, edits of text or of cross-attention's keys.

    Args:
        pipe: the pipeline.
        plan: the batch.
        sites: hook points that are edited or read.
        least: rows that it is done from.
    """
    texts = {"cond": plan.conditioning.prompt}
    if plan.conditioning.negative is not None:
        texts["uncond"] = plan.conditioning.negative
    models = [m for m in (transformer_of(pipe, expert) for expert in ("main", "low")) if m is not None]
    touched = any(
        site.startswith(("text_embed.", "image_embed.", "hook_context"))
        or (".cross_attn." in site and (site.endswith(_TEXT_OPS) or site_named(site).write == "processor"))
        for site in sites
    )
    same = all(bool((text == text[:1]).all()) for text in texts.values())
    plain = all(
        block.attn2.add_k_proj is None
        and type(block.attn2.processor).__name__ == "WanAttnProcessor"
        and source_is_known("processor", type(block.attn2.processor).__call__)
        for model in models
        for block in _blocks(model)
    )
    if len(plan.specs) < least or touched or not same or not plain:
        return plan, no_sharing
    found = {branch: distinct(text[:1]) for branch, text in texts.items()}
    negative = found["uncond"][0] if "uncond" in found else None
    shared = replace(plan, conditioning=replace(plan.conditioning, prompt=found["cond"][0], negative=negative))

    @contextlib.contextmanager
    def place(clock: Clock) -> Iterator[None]:
        processor = SharedText({branch: logs for branch, (_, logs) in found.items()}, clock)
        with contextlib.ExitStack() as stack:
            for model in models:
                for block in _blocks(model):
                    stack.enter_context(replaced(block.attn2, "processor", processor))
            yield

    return shared, place


def _blocks(model: Any) -> list[Any]:
    """All blocks that attend to the text, VACE's control blocks too."""
    return [*model.blocks, *getattr(model, "vace_blocks", ())]


__all__ = ["SharedText", "distinct", "keeping_text", "no_sharing", "sharing_text"]
