"""AdaptThink: advantages and ratios worked out by hand, and when not thinking wins."""

import math
from dataclasses import replace

import pytest
import torch

from reason_rl.algorithm.advantage import advantages
from reason_rl.algorithm.opening import Opening, as_tensors, assign, check_openings, counts
from reason_rl.algorithm.reward import load_reward
from reason_rl.algorithm.think_choice import no_think
from reason_rl.content import find_content
from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.batch import example_batch
from reason_rl.trainer.config import check_thinking_is_open, composition, grpo_config
from reason_rl.world.tokenizer import build_tokenizer

FILE = find_content("rewards/adaptthink.py")
HALVES = (Opening((6,), 0.5), Opening((9,), 0.5))
# Two rows that did not think and two that did: right, wrong, right, right.
CORRECT, THINK, LENGTHS = [1.0, 0.0, 1.0, 1.0], [1, 1, 900, 900], [200, 200, 1000, 1000]
ADVANTAGES = [0.30, -0.70, 0.25, 0.25]
FIRST = [0.02, 0.02, 0.90, 0.90]


def rewards(correct=CORRECT, reference=0.75, delta=0.05, think=THINK):
    batch = example_batch(correct, LENGTHS, known={"reference_accuracy": [reference] * 4})
    return load_reward(FILE, delta=delta)(replace(batch, think_length=torch.tensor(think)))


def test_advantages_worked_out_by_hand_and_the_centred_ablation():
    alone = advantages(rewards(), 4, baseline="none", scale="none")
    assert alone.tolist() == pytest.approx(ADVANTAGES)
    centred = advantages(rewards(), 4, baseline="group_mean", scale="none")
    assert centred.tolist() == pytest.approx([0.275, -0.725, 0.225, 0.225])


def test_a_row_depends_on_no_other_and_only_on_the_distance_to_the_reference():
    changed = rewards(correct=[1, 1, 1, 0])
    assert changed[[0, 2]].tolist() == rewards()[[0, 2]].tolist()
    torch.testing.assert_close(rewards(correct=[0.9, 0.1, 0.5, 0.4], reference=0.2), rewards([1.0, 0.2, 0.6, 0.5], 0.3))
    assert rewards(delta=0.0).tolist() == pytest.approx([0.25, -0.75, 0.25, 0.25])


def test_a_missing_reference_is_refused():
    where = r"set algorithm\.reference, or difficulty\.table"
    with pytest.raises(RecipeError, match=f"no reference accuracy of 1 problems .*{where}"):
        load_reward(FILE)(example_batch([1, 0], [9, 9]))
    with pytest.raises(RecipeError, match="no reference accuracy"):
        rewards(reference=math.nan)
    with pytest.raises(RecipeError, match=r"algorithm\.reference: is missing; adaptthink\.py needs it"):
        load_recipe("tiny/adaptthink", ["~algorithm.reference"])


def test_not_thinking_is_closing_at_once_and_no_cut_single_token():
    batch = replace(example_batch([0, 0, 1], [1, 12, 12]), think_length=torch.tensor([1, 1, 9]))
    assert no_think(batch).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("think", "skip", "reference", "favoured"),
    [(0.9, 0.88, 0.85, True), (0.9, 0.80, 0.85, False), (0.9, 0.88, 0.95, False), (1.0, 1.0, 1.0, True)],
)
def test_not_thinking_wins_when_it_beats_both_the_reference_and_thinking(think, skip, reference, favoured):
    values = rewards(correct=[skip, skip, think, think], reference=reference)
    not_thinking, thinking = values[0].item(), values[2].item()
    assert (not_thinking > 0 and not_thinking > thinking) == favoured


def test_ratios_near_one_start_from_cold_where_exact_weights_do_not():
    values = rewards(correct=[0.88, 0.88, 0.9, 0.9], reference=0.85)
    chance = 1e-4
    push = 0.5 * ((1 - chance) * values[0] - chance * values[2])
    exact = chance * (1 - chance) * (values[0] - values[2])
    assert push.item() == pytest.approx(0.04, abs=1e-4)
    assert exact.item() == pytest.approx(3e-6, abs=1e-7)


def loss_of(make_trainer, make_config, monkeypatch, tmp_path, level):
    """Return the loss, and its gradient to the first token's log-probability of each row, from TRL's own code."""
    asked = grpo_config(load_recipe("tiny/adaptthink").recipe, tmp_path, 384)
    fields = {name: getattr(asked, name) for name in ("loss_type", "epsilon", "epsilon_high", "beta")}
    trainer = make_trainer(
        config=make_config(**fields, importance_sampling_level=level, scale_rewards="none", steps_per_generation=1)
    )
    width = max(LENGTHS)
    mask = (torch.arange(width) < torch.tensor(LENGTHS)[:, None]).long()
    old = torch.full((4, width), -0.5)
    logps = old.clone()
    logps[:, 0] = torch.tensor(FIRST).log()
    logps.requires_grad_()
    old[:, 0] = HALVES[0].logps[0]
    result = (logps, torch.zeros(4, width), None)
    monkeypatch.setattr(trainer, "_get_per_token_logps_and_entropies", lambda *_args, **_kwargs: result)
    ids = torch.ones(4, width, dtype=torch.long)
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(
        trainer.model.train(),
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": ids[:, :1],
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": torch.tensor(ADVANTAGES),
            "old_per_token_logps": old,
            "importance_sampling_ratio": torch.ones(4, width),
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    return loss.item(), logps.grad[:, 0]


def test_the_loss_is_the_one_worked_out_by_hand(make_trainer, make_config, monkeypatch, tmp_path):
    loss, gradient = loss_of(make_trainer, make_config, monkeypatch, tmp_path, "sequence")
    ratios = [(first / 0.5) ** (1 / tokens) for first, tokens in zip(FIRST, LENGTHS, strict=True)]
    assert ratios == pytest.approx([0.98403, 0.98403, 1.00059, 1.00059], abs=1e-5)
    terms = [0.2952, -0.6888, 0.2501, 0.2501]
    assert [r * a for r, a in zip(ratios, ADVANTAGES, strict=True)] == pytest.approx(terms, abs=1e-4)
    assert loss == pytest.approx(-sum(terms) / 4, abs=1e-4)
    expected = [-term / tokens / 4 for term, tokens in zip(terms, LENGTHS, strict=True)]
    assert gradient.tolist() == pytest.approx(expected, rel=1e-3)


def test_token_ratios_leave_the_first_token_of_wrong_rows_without_a_gradient(
    make_trainer, make_config, monkeypatch, tmp_path
):
    _, gradient = loss_of(make_trainer, make_config, monkeypatch, tmp_path, "token")
    # The ratios of the first token are 0.04, 0.04, 1.8, 1.8.
    assert (gradient != 0).tolist() == [True, False, False, False]


def test_openings_share_out_each_group():
    assert counts(HALVES, 8) == [4, 4]
    assert counts((Opening((6,), 0.3), Opening((), 0.7)), 8) == [2, 6]
    assert [o.token_ids for o in assign(HALVES, 8, 4)] == [(6,), (6,), (9,), (9,)] * 2
    forced, logps, trained = as_tensors([Opening((6, 7), 0.5, trained=False), Opening((), 0.5)])
    assert forced.tolist() == [2, 0]
    assert logps.tolist() == [[pytest.approx(math.log(0.5)), 0.0], [0.0, 0.0]]
    assert trained.tolist() == [False, True]


@pytest.mark.parametrize(
    ("openings", "group", "complaint"),
    [
        ((Opening((6,), 0.5), Opening((9,), 0.4)), 4, "add up to 0.9, not to 1"),
        ((Opening((6,), 1.0), Opening((9,), 0.0)), 4, "leaves nothing to compare with"),
        ((Opening((6,), 0.1), Opening((9,), 0.9)), 4, "a group of 4 rows is too small"),
        ((Opening((), 0.5), Opening((), 0.5)), 4, "none of them has tokens"),
    ],
)
def test_openings_that_do_not_share_out_are_refused(openings, group, complaint):
    with pytest.raises(RecipeError, match=complaint):
        check_openings(openings, group)


def test_a_prompt_that_does_not_end_inside_thinking_is_refused():
    check_thinking_is_open("<|User|>2 + 2?<|Assistant|><think>\n", "</think>")
    with pytest.raises(RecipeError, match="not open"):
        check_thinking_is_open("<|User|>2 + 2?<|Assistant|>", "</think>")


def test_the_tiny_recipe_opens_half_of_its_rows_with_the_end_of_thinking():
    recipe = load_recipe("tiny/adaptthink").recipe
    method = composition(recipe, recipe.reward_file())
    end = build_tokenizer().convert_tokens_to_ids("</think>")
    assert [(o.token_ids, o.share, o.budget_tokens) for o in method.openings] == [((end,), 0.5, 96), ((), 0.5, None)]
    plan = method.row_plan([384] * 8, range(8), 8)
    assert plan.budgets == (96,) * 4 + (384,) * 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("rollout.importance_correction=none", "which openings replace by their shares"),
        ("trainer.num_generations=2", None),
        ("difficulty={table: t.jsonl}", "name one of the two"),
    ],
)
def test_recipes_with_openings_are_checked(change, complaint):
    if complaint is None:
        assert load_recipe("tiny/adaptthink", [change]).recipe.trainer["num_generations"] == 2
    else:
        with pytest.raises(RecipeError, match=complaint):
            load_recipe("tiny/adaptthink", [change])
