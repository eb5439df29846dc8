"""Text for language modelling without a network: problems with their solutions, under REASON_RL_DATA."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reason_rl.errors import RecipeError
from reason_rl.problem.files import DATA_FOLDER_VARIABLE, data_folder, local_parts

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "valid", "test"]

SETS = ("gsm8k_train", "math_train")
HELD_OUT = 25  # one document in so many is for validation, and one for the test
VOCABULARY = 512
END = "<end>"


def split_of(document_id: str) -> Split:
    """Return the split of a document, by a hash of its id.

    >>> split_of("gsm8k-train-0000")
    'train'
    """
    place = int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:4]) % HELD_OUT
    return "valid" if place == 0 else "test" if place == 1 else "train"


def documents(split: Split) -> list[str]:
    """Return problems with their solutions.

    Raises:
        RecipeError: when REASON_RL_DATA names no folder that holds them.
    """
    folder = data_folder()
    if folder is None:
        raise RecipeError(f"bench rpa: reads {' and '.join(SETS)} from a folder; set {DATA_FOLDER_VARIABLE} to it")
    rows = [
        json.loads(line) for name in SETS for path in local_parts(folder, name) for line in path.open(encoding="utf-8")
    ]
    return [f"{row['problem']}\n{row['solution']}" for row in rows if split_of(row["id"]) == split]


@dataclass(frozen=True, eq=False)
class Text:
    """Chunks of each split, [chunks, tokens], and characters a token in the test split."""

    train: Tensor
    valid: Tensor
    test: Tensor
    characters_a_token: float

    def batches(self, rows: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Yield batches of training chunks for ever, in an order fixed by the seed."""
        import torch

        draw = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(len(self.train), generator=draw)
            for start in range(0, len(order) - rows + 1, rows):
                chunk = self.train[order[start : start + rows]]
                yield {"input_ids": chunk, "labels": chunk}


def load_text(context: int) -> Text:
    """Return the text in chunks of ``context`` tokens of a byte-level BPE that is trained on the training split."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts: dict[Split, list[str]] = {split: documents(split) for split in ("train", "valid", "test")}
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts["train"], trainer)
    end = tokenizer.token_to_id(END)
    chunks = {}
    for split, some in texts.items():
        ids = [token for found in tokenizer.encode_batch(some) for token in (*found.ids, end)]
        usable = len(ids) // context * context
        chunks[split] = torch.tensor(ids[:usable]).view(-1, context)
    characters = sum(map(len, texts["test"])) / chunks["test"].numel()
    return Text(chunks["train"], chunks["valid"], chunks["test"], round(characters, 3))
