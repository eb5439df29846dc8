"""Summaries in the trainer: rows of their own after the traces, and an advantage a token."""

import pytest
import torch

from reason_rl.algorithm.budget import FixedBudget
from reason_rl.algorithm.summaries import SummaryRule
from reason_rl.rollout.backend import Sample
from reason_rl.world.tokenizer import END_THINK


class Thinker:
    """Thinks for a number of tokens that grows with each request; right summaries need 4 think tokens."""

    def __init__(self, tokenizer):
        self.ids = {word: tokenizer.convert_tokens_to_ids(word) for word in (END_THINK, "wait", "<eos>", "9")}
        self.answers = {right: tokenizer(f"\\boxed{{ {right} }} <eos>").input_ids for right in ("7", "8")}
        self.rounds, self.version = [], -1

    def sync_weights(self, version):
        self.version = version

    def generate(self, requests, options, on_progress=None):
        self.rounds.append((list(requests), options))
        if options.stop_ids:
            return [self.think(request, 2 + 2 * (row % 4)) for row, request in enumerate(requests)]
        return [self.answer(request) for request in requests]

    def think(self, request, tokens):
        ids = (*(self.ids["wait"],) * tokens, self.ids[END_THINK])
        whole = len(ids) <= request.max_tokens
        ids = ids[: request.max_tokens]
        return Sample(ids, (-1.0,) * len(ids), "stop" if whole else "length")

    def answer(self, request):
        thought = request.prompt_ids.count(self.ids["wait"])
        ids = tuple(self.answers["7" if thought >= 4 else "8"])
        return Sample(ids, (-1.0,) * len(ids), "stop")


@pytest.fixture
def rule(tiny_tokenizer):
    end = tiny_tokenizer.convert_tokens_to_ids(END_THINK)
    return SummaryRule(budgets=(2, 4, 6), cut_ids=(end,), answer_ids=(), end_think_id=end, samples=2, tokens=6)


@pytest.fixture
def run(rule, tiny_tokenizer, make_trainer, make_config):
    backend = Thinker(tiny_tokenizer)
    config = make_config(scale_rewards="none", loss_type="dr_grpo", max_completion_length=6)
    trainer = make_trainer(backend=backend, config=config, summaries=rule, budget=FixedBudget(6))
    outputs = []
    generate = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: outputs.append(generate(inputs)) or outputs[-1]
    trainer.train()
    return trainer, backend, outputs[0]


def test_traces_stop_at_the_end_of_thinking_and_summaries_go_on_from_their_ids(run, rule):
    _, backend, _ = run
    (traces, stopping), (summaries, free) = backend.rounds[:2]
    assert stopping.stop_ids == (rule.end_think_id,)
    assert free.stop_ids == ()
    assert len(summaries) == len(traces) * 3 * 2
    first = [request.prompt_ids[len(traces[0].prompt_ids) :] for request in summaries[:6]]
    wait = backend.ids["wait"]
    # The first trace thinks for two tokens and its end: cut at budget 2, whole at 4 and 6.
    assert first == [(wait, wait, rule.end_think_id)] * 6
    assert {request.max_tokens for request in summaries} == {6}
    assert len({request.seed for request in summaries}) == len(summaries)


def test_rows_and_advantages_a_token(run):
    _, _, output = run
    assert len(output["completion_ids"]) == 16 * (1 + 6)
    assert output["advantages"].shape == output["completion_ids"].shape
    assert output["num_items_in_batch"] == output["completion_mask"].sum()
    assert (output["advantages"][:16][output["completion_mask"][:16] == 0] == 0).all()


def test_traces_are_credited_by_segment(run):
    _, _, output = run
    traces = output["advantages"][:16].view(4, 4, -1)
    # Three of four traces reach four think tokens: right at budgets 4 and 6, wrong at 2; the first is always wrong.
    returns = torch.tensor([[0.0] * 3, [2 / 3, 2 / 3, 1 / 3], [2 / 3, 2 / 3, 1 / 3], [2 / 3, 2 / 3, 1 / 3]])
    earlier = torch.tensor([[0.0, 0, 0], *[[0, 0, 2 / 9]] * 3])
    mix = torch.tensor([0.0, 1 / 3, 2 / 3])
    expected = returns - mix * earlier - (1 - mix) * returns.mean(dim=0)
    for trace, values in enumerate(expected):
        tokens = values.repeat_interleave(2)[: (3, 5, 6, 6)[trace]]
        torch.testing.assert_close(traces[:, trace, : len(tokens)], tokens.expand(4, -1), atol=1e-5, rtol=0)


def test_the_policy_is_judged_by_its_last_budget_and_all_tokens_count(run):
    trainer, _, output = run
    row = next(row for row in trainer.state.log_history if "reason/accuracy" in row)
    assert row["reason/accuracy"] == pytest.approx(0.75)
    assert row["reason/accuracy_at_2"] == pytest.approx(0.0)
    assert row["reason/accuracy_at_4"] == pytest.approx(0.75)
    assert row["reason/rollout_tokens"] == output["completion_mask"].sum()


def test_the_store_keeps_the_share_of_right_summaries_also_of_traces_that_were_cut(run):
    trainer, _, _ = run
    seen = [history for history in trainer.store.histories.values() if history.visits]
    # Three of four traces, two of which were cut at the last budget and closed.
    assert {history.pass_rate for history in seen} == {0.75}
    assert {history.right / history.visits for history in seen} == {3.0}


def test_inserted_ids_are_prompt_and_have_no_loss(run, rule):
    _, _, output = run
    summaries = output["completion_ids"][16:]
    assert not (summaries == rule.end_think_id).any()
    ends = output["prompt_ids"][16:, -1]
    assert (ends == rule.end_think_id).all()
