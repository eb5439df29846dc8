"""Passes over chunks of like length compute what one padded pass computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RunError
from reason_rl.trainer.chunks import in_chunks, length_chunks


def padded(prompts, completions):
    """Return the attention mask of rows with the given prompt and completion tokens."""
    width, answer = max(prompts), max(completions)
    columns = torch.arange(width + answer)
    left, right = torch.tensor(prompts)[:, None], torch.tensor(completions)[:, None]
    return ((columns >= width - left) & (columns < width + right)).long(), answer


rows_strategy = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=20)


@given(rows_strategy, st.integers(1, 8))
def test_chunks_cover_every_row_once_and_every_token(rows, chunk_rows):
    mask, width = padded(*zip(*rows, strict=True))
    chunks = length_chunks(mask, width, chunk_rows)
    assert sorted(torch.cat([chunk.rows for chunk in chunks]).tolist()) == list(range(len(rows)))
    for chunk in chunks:
        assert 1 <= len(chunk.rows) <= chunk_rows
        inside = mask[chunk.rows, chunk.start : chunk.stop]
        assert inside.sum() == mask[chunk.rows].sum()
        assert inside[:, 0].any()
        assert inside[:, -1].any()
    computed = sum(len(chunk.rows) * (chunk.stop - chunk.start) for chunk in chunks)
    assert computed <= mask.numel()


@given(rows_strategy, st.integers(1, 8))
def test_results_come_back_in_place(rows, chunk_rows):
    mask, width = padded(*zip(*rows, strict=True))
    ids = torch.arange(mask.numel()).view_as(mask) * mask
    same, nothing = in_chunks(lambda i, m, w: (i[:, -w:] * m[:, -w:], None), ids, mask, width, chunk_rows)
    assert torch.equal(same, ids[:, -width:])
    assert nothing is None


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_training_in_chunks_is_training_in_one_pass(make_trainer, make_config, make_llama, loss_type):
    weights, losses = [], []
    for chunk_rows in (None, 3):
        config = make_config(scale_rewards="none", loss_type=loss_type)
        trainer = make_trainer(model=make_llama(seed=1), config=config, chunk_rows=chunk_rows)
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_experts_with_a_balancing_loss_are_refused(make_trainer):
    trainer = make_trainer(chunk_rows=2)
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(RunError, match=r"update\.chunk_rows"):
        trainer._get_per_token_logps_and_entropies(trainer.model, ids, ids, 2, compute_aux_loss=True)
