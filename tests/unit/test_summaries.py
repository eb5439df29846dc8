"""Where traces are cut, what summaries go on from, and which recipes make no sense with them."""

from dataclasses import replace

import pytest
import torch

from reason_rl.algorithm.anytime import segment_advantages
from reason_rl.algorithm.summaries import SummaryRule
from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout.batch import example_batch
from reason_rl.trainer.config import composition
from reason_rl.world.tokenizer import build_tokenizer

END, EOS, CUT, ANSWER = 6, 1, 50, 60
RULE = SummaryRule(budgets=(2, 4), cut_ids=(CUT, END), answer_ids=(ANSWER,), end_think_id=END, samples=2, tokens=8)
TRACES = {
    "ends within the first budget": ((10, END), "stop"),
    "is as long as the first budget, which is no cut": ((10, 11), "stop"),
    "ends within the second budget": ((10, 11, 12, END), "stop"),
    "is cut at the last budget": ((10, 11, 12, 13), "length"),
    "is empty": ((END,), "stop"),
}


def batch(traces, reasons):
    rows = len(traces)
    return replace(
        example_batch([0.0] * rows, [len(ids) for ids in traces], group_size=rows),
        prompt_ids=((3,),) * rows,
        completion_ids=tuple(traces),
        finish_reason=tuple(reasons),
    )


def all_traces():
    return batch(*zip(*TRACES.values(), strict=True))


def test_contexts_are_prompt_prefix_cut_and_answer_in_token_ids():
    contexts = RULE.contexts(all_traces())
    assert [context.row for context in contexts] == [row for row in range(5) for _ in range(4)]
    ids = [context.token_ids for context in contexts[::2]]
    assert ids == [
        (3, 10, END, ANSWER),
        (3, 10, END, ANSWER),
        (3, 10, 11, ANSWER),
        (3, 10, 11, ANSWER),
        (3, 10, 11, CUT, END, ANSWER),
        (3, 10, 11, 12, END, ANSWER),
        (3, 10, 11, CUT, END, ANSWER),
        (3, 10, 11, 12, 13, CUT, END, ANSWER),
        (3, END, ANSWER),
        (3, END, ANSWER),
    ]
    assert [context.whole for context in contexts[::2]] == [True] * 4 + [False, True, False, False, True, True]


def test_a_trace_that_never_closed_its_thinking_earns_nothing_whole():
    traces = batch([(10, END), (10, 11, EOS), (10, 11, 12, 13, 14)], ["stop", "stop", "length"])
    contexts = RULE.contexts(traces)
    credit = RULE.credit(traces, contexts, torch.ones(12))
    # The second trace is cut and closed at budget 2, and used whole at 4.
    assert credit.accuracy.tolist() == [[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    expected = segment_advantages(credit.accuracy.view(1, 3, 2), (2, 4), "uniform")[0]
    assert credit.traces[1].tolist() == pytest.approx([*[expected[1, 0].item()] * 2, expected[1, 1].item(), 0, 0])


def test_summaries_of_one_context_share_their_mean_and_unscored_ones_count_as_wrong():
    traces = batch([(10, END), (10, 11, 12, END)], ["stop", "stop"])
    right = torch.tensor([1.0, 0.0, 0.0, 0.0, torch.nan, 1.0, 1.0, 1.0])
    credit = RULE.credit(traces, RULE.contexts(traces), right)
    assert credit.summaries.tolist() == [0.75, -0.25, -0.25, -0.25, -0.5, 0.5, 0.0, 0.0]
    last = replace(RULE, train="last").credit(traces, RULE.contexts(traces), right)
    assert last.summaries.tolist() == [0.0, 0.0, -0.25, -0.25, 0.0, 0.0, 0.0, 0.0]
    assert torch.equal(last.traces, credit.traces)


def test_permuting_the_traces_of_a_group_permutes_the_credit():
    traces = all_traces()
    order = [2, 0, 4, 1, 3]
    permuted = batch(*zip(*[list(TRACES.values())[row] for row in order], strict=True))
    right = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).round()
    one = RULE.credit(traces, RULE.contexts(traces), right.flatten())
    two = RULE.credit(permuted, RULE.contexts(permuted), right[order].flatten())
    torch.testing.assert_close(two.traces, one.traces[order])
    torch.testing.assert_close(two.summaries.view(5, 4), one.summaries.view(5, 4)[order])


def test_the_tiny_recipe_closes_cut_traces_with_the_end_of_thinking():
    recipe = load_recipe("tiny/anytime_brpo").recipe
    rule = composition(recipe, recipe.reward_file()).summaries
    end = build_tokenizer().convert_tokens_to_ids("</think>")
    assert (rule.budgets, rule.cut_ids, rule.answer_ids, rule.end_think_id) == ((48, 96, 144, 192), (end,), (), end)
    plan = composition(recipe, recipe.reward_file()).row_plan([192] * 8, range(8), 8)
    assert plan.stop_ids == (end,)


TARGETS = "{smallest_tokens: 9, largest_tokens: 9, interval_tokens: 1, problems: 8, rollouts: 4, every: 2}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("algorithm.budget.tokens=80", "is 80, but summaries end at 192 think tokens"),
        ("algorithm.summaries.budgets=[48, 24, 192]", "do not grow"),
        ("algorithm.filter.keep=non_zero_std", "is not for summaries; use all"),
        ("algorithm.overlong=mask", "traces out that were cut"),
        ("algorithm.curriculum={use: cures}", "a probe ends at the end-of-think token, without an answer; use 0"),
        (f"algorithm.targets={TARGETS}", "are not for summaries"),
        ("trainer.loss_type=sapo", "one advantage a row"),
        ("trainer.importance_sampling_level=sequence", "one advantage a token"),
        ("model.end_think_token=null", "a model that thinks"),
    ],
)
def test_recipes_that_make_no_sense_with_summaries_are_refused(change, complaint):
    with pytest.raises(RecipeError, match=complaint):
        load_recipe("tiny/anytime_brpo", [change])


def test_a_curriculum_may_follow_what_summaries_reach():
    load_recipe("tiny/anytime_brpo", ["algorithm.curriculum={use: band, low: 0.1, high: 0.9}"])
    load_recipe("tiny/anytime_brpo", ["algorithm.curriculum={use: cures, probe_rollouts: 0}"])
