"""Passes over chunks of like length compute what one padded pass computes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RecipeError, RunError
from reason_rl.recipe.load import load_recipe
from reason_rl.trainer.chunks import in_chunks, length_chunks, needed_rows
from reason_rl.trainer.train import skips_zero_advantage


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


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 12), st.booleans())
def test_needed_rows_hold_every_advantage(moved, elsewhere, of_tokens):
    advantages = torch.tensor(moved).float()
    if of_tokens:
        advantages = advantages[:, None] * torch.tensor([0.0, -1.0])
    rows = needed_rows({"advantages": advantages}, lambda count: max(count, min(elsewhere, len(moved)))).rows
    assert set(advantages.reshape(len(moved), -1).any(dim=1).nonzero().flatten().tolist()) <= set(rows.tolist())
    assert len(rows) == max(1, sum(moved), min(elsewhere, len(moved)))
    assert rows.tolist() == sorted(set(rows.tolist()))


@pytest.mark.parametrize(("loss_type", "chunk_rows"), [("dapo", None), ("grpo", 3), ("bnpo", None), ("cispo", 2)])
def test_rows_without_an_advantage_need_no_pass(
    make_trainer, make_config, make_llama, make_backend, loss_type, chunk_rows
):
    """Three answers in four are right, so that some groups are flat; their rows must change neither loss nor weights."""
    weights, losses, entropies, computed = [], [], [], []
    for skip in (False, True):
        config = make_config(scale_rewards="none", loss_type=loss_type)
        backend = make_backend(right_share=0.8, cut_share=0.0)
        model = make_llama(seed=1)
        trainer = make_trainer(
            model=model, config=config, backend=backend, chunk_rows=chunk_rows, skip_zero_advantage=skip
        )
        seen = []
        model.register_forward_pre_hook(
            lambda module, _, kwargs, seen=seen: seen.append(len(kwargs["input_ids"]) * torch.is_grad_enabled()),
            with_kwargs=True,
        )
        trainer.train()
        computed.append(sum(seen))
        weights.append([p.detach().clone() for p in trainer.accelerator.unwrap_model(trainer.model).parameters()])
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses.append([entry["loss"] for entry in logged])
        entropies.append([entry["entropy"] for entry in logged])
    assert 0 < computed[1] < computed[0]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert entropies[0] == pytest.approx(entropies[1], abs=0.05)
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "override", ["algorithm.kl.coefficient=0.01", "trainer.entropy_coef=0.01", "trainer.top_entropy_quantile=0.2"]
)
def test_terms_over_all_rows_are_not_cut_short(override):
    recipe = load_recipe("tiny/grpo", [override]).recipe
    assert not skips_zero_advantage(recipe)
    assert skips_zero_advantage(load_recipe("tiny/grpo", []).recipe)
    with pytest.raises(RecipeError, match=r"update.skip_zero_advantage: true does not go with"):
        load_recipe("tiny/grpo", [override, "update.skip_zero_advantage=true"])
