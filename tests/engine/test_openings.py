"""Openings in the trainer: rows begin with given tokens, whose old log-probabilities are those of the choice."""

import math

import pytest
import torch

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.opening import Opening
from reason_rl.errors import RunError
from reason_rl.trainer.composition import AdvantageRule
from reason_rl.trainer.seam import BackendSeam, RowPlan


@pytest.fixture
def opened(tiny_tokenizer):
    """Return the ids of the end-of-think token and of a first word of thinking."""
    return [tiny_tokenizer.convert_tokens_to_ids(word) for word in ("</think>", "wait")]


def one_generation(trainer):
    kept = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: kept.append(generate(inputs)) or kept[-1]
    trainer.train()
    return kept[0]


def split(opened, **fields):
    return tuple(Opening((token,), 0.5, **fields) for token in opened)


def test_half_of_each_group_begins_with_each_token_and_it_is_trained(opened, make_trainer, make_backend):
    backend = make_backend()
    trainer = make_trainer(
        backend=backend, openings=split(opened), advantage=AdvantageRule(baseline="none", scale="none")
    )
    output = one_generation(trainer)
    first = output["completion_ids"][:, 0].view(-1, 4)
    assert first.tolist() == [[opened[0]] * 2 + [opened[1]] * 2] * 4
    assert "tool_mask" not in output
    assert output["completion_mask"][:, 0].all()
    assert all(request.prompt_ids[-1] in opened for request in backend.requests[0])
    assert {request.max_tokens for request in backend.requests[0]} == {15}


def test_old_logps_of_the_opening_are_those_of_the_choice_and_all_others_are_the_policys(opened, make_trainer):
    trainer = make_trainer(openings=split(opened))
    output = one_generation(trainer)
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    fresh = make_trainer().model
    logps = fresh(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    width = output["completion_ids"].shape[1]
    logps = logps[:, -width - 1 : -1].gather(2, output["completion_ids"][..., None]).squeeze(2)
    trained = output["completion_mask"].bool()
    ratio = (logps - output["old_per_token_logps"]).exp()
    torch.testing.assert_close(ratio[:, 1:][trained[:, 1:]], torch.ones(int(trained[:, 1:].sum())), atol=1e-4, rtol=0)
    torch.testing.assert_close(ratio[:, 0], logps[:, 0].exp() / 0.5, atol=1e-4, rtol=1e-4)
    assert (output["sampling_per_token_logps"][:, 0] == math.log(0.5)).all()
    assert (output["importance_sampling_ratio"][:, 0] == 1).all()


def test_openings_have_budgets_of_their_own(opened, make_trainer, make_backend):
    backend = make_backend()
    short, long = Opening((opened[0],), 0.5, budget_tokens=8), Opening((opened[1], opened[1]), 0.5)
    make_trainer(backend=backend, openings=(short, long), budget=FixedBudget(14)).train()
    assert [request.max_tokens for request in backend.requests[0]] == [7, 7, 12, 12] * 4


def test_an_opening_that_is_not_trained_leaves_the_loss(opened, make_trainer):
    openings = (Opening((opened[0],), 0.5, trained=False), Opening((opened[1],), 0.5))
    output = one_generation(make_trainer(openings=openings))
    assert output["tool_mask"][:, 0].view(-1, 4).tolist() == [[0, 0, 1, 1]] * 4
    assert output["tool_mask"][:, 1:].all()
    assert output["num_items_in_batch"] == (output["tool_mask"] * output["completion_mask"]).sum()


def test_a_budget_without_room_is_refused(make_backend):
    from reason_rl.rollout.backend import SamplingOptions

    seam = BackendSeam(make_backend(), SamplingOptions(), None)
    seam.plan = RowPlan((1,), (0,), (Opening((6,), 0.5),))
    with pytest.raises(RunError, match="leaves no room"):
        seam.generate([[3, 4]])


def test_rollouts_of_other_weights_are_refused(make_backend):
    from reason_rl.rollout.backend import SamplingOptions

    backend = make_backend()
    seam = BackendSeam(backend, SamplingOptions(), None)
    seam.plan = RowPlan((4,), (0,))
    seam.sync_weights()
    seam.generate([[3, 4]])
    assert (seam.sampled_version, len(backend.requests)) == (0, 1)
    backend.version = 7  # another run's weights, say
    with pytest.raises(RunError, match="at policy version 7, the trainer at 0: its rollouts would be stale"):
        seam.generate([[3, 4]])
    assert len(backend.requests) == 1
