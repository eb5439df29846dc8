"""The tiny world's tokenizer: one token a word, one token a number from 0 to 99."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK, USER, ASSISTANT = "<pad>", "<eos>", "<unk>", "<|user|>", "<|assistant|>"
THINK, END_THINK, BOXED, CLOSE = "<think>", "</think>", "\\boxed{", "}"
WORDS = ("chain", "pair", "walk", "to", "+", "-", "*", "=", ":", ";", "yes", "no", "wait", "again")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + " {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}" + ASSISTANT + " {{ message['content'] }} " + EOS + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + " " + THINK + "{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Return every token with its id: special tokens first, then words, then the numbers."""
    special = (PAD, EOS, UNK, USER, ASSISTANT, THINK, END_THINK, BOXED, CLOSE)
    return {token: i for i, token in enumerate((*special, *WORDS, *map(str, range(100))))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer as an ordinary ``PreTrainedTokenizerFast`` with a chat template.

    The generation prompt ends in ``<think>``, as in distilled reasoning models, so a completion starts inside thinking.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
