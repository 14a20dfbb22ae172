"""A word-level tokenizer and a tiny UMT5 encoder with random, frozen weights.

The encoder only has to tell the prompts of the bundled tasks apart, and random features do: what a prompt means is
learnt by the transformer. Words outside the list below become ``<unk>``.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

TEXT_DIM = 64
MAX_TOKENS = 512
WORDS = (
    "a the agent ball circle disc square triangle green red blue yellow white black grey object target wall maze grid "
    "moves returns leaves passes bounces hits marks finds draws shows appears disappears waits from to goal start "
    "along path route trail line frame behind after before once again with without and or of in on its same place "
    "one two three four shortest solve video static camera , ."
).split()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words, commas and full stops, lower-cased; ``</s>`` is appended as UMT5's tokenizer does."""
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for word in WORDS:
        vocab.setdefault(word, len(vocab))
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def build_text_encoder(seed: int = 0) -> UMT5EncoderModel:
    """Two layers of width 64, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = UMT5Config(
            vocab_size=128,
            d_model=TEXT_DIM,
            d_kv=16,
            num_heads=4,
            num_layers=2,
            d_ff=128,
            feed_forward_proj="gated-gelu",
        )
        return UMT5EncoderModel(config).eval()
