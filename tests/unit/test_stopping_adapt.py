"""DiffAdapt and efficiency steering: by hand, and on the tiny reasoner."""

import numpy as np
import pytest
import torch

from reason_rl.errors import RecipeError
from reason_rl.models import load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rule import GO, Elicitor, Exit, Insert, Look, StopPolicy
from reason_rl.stopping.rules.diff_adapt import (
    DiffAdapt,
    DifficultyProbe,
    Strategy,
    difficulties,
    fit_difficulty,
    shares_of,
)
from reason_rl.stopping.steering import Pair, direction, middle_layer, pairs_of, steered
from reason_rl.stopping.thinking import think_tokens

ELICITOR = Elicitor((6, 7), 8, (1,))


def by_first_feature():
    """A probe that calls a state easy, normal or hard by which of its three features is largest."""
    return DifficultyProbe(20 * torch.eye(3), torch.zeros(3))


def test_the_kind_is_told_once_and_chooses_hint_and_cap():
    strategies = {"easy": Strategy(3, hint=(9,)), "normal": Strategy(), "hard": Strategy(5)}
    rule = DiffAdapt(by_first_feature(), (4,), strategies, ELICITOR)
    easy, normal, hard = torch.eye(3)
    assert rule.decide(None, Look([], 0, 5, easy)) == ("easy", Insert((9,)))
    # Later states may say what they like.
    assert rule.decide("easy", Look([9], 1, 5, hard)) == ("easy", GO)
    assert rule.decide("easy", Look([9, 5, 5], 3, 5, hard)) == ("easy", Exit((6, 7), 8))
    assert rule.decide(None, Look([], 0, 5, normal)) == ("normal", GO)
    assert rule.decide("normal", Look([5] * 300, 300, 5, normal)) == ("normal", GO)
    assert rule.decide(None, Look([], 0, 5, hard)) == ("hard", GO)
    assert rule.decide("hard", Look([5] * 5, 5, 5, easy))[1] == Exit((6, 7), 8)
    with pytest.raises(ValueError, match="no strategy for hard"):
        DiffAdapt(by_first_feature(), (4,), {"easy": Strategy(), "normal": Strategy()}, ELICITOR)


def test_an_unsure_probe_and_a_broken_state_mean_normal():
    probe = by_first_feature()
    assert probe.kind(torch.tensor([1.0, 1.0, 1.0])) == "normal"
    assert probe.kind(torch.tensor([1.0, float("nan"), 0.0])) == "normal"
    assert probe.kind(torch.tensor([0.0, 0.0, 1.0])) == "hard"


def test_the_papers_shares_of_the_cap():
    caps = [shares_of(32768)[kind].max_think_tokens for kind in ("easy", "normal", "hard")]
    assert caps == [13107, None, 16384]


def test_kinds_come_from_accuracy_and_entropy_and_a_probe_learns_them():
    rng = np.random.default_rng(0)
    accuracy = np.repeat([0.1, 0.6, 1.0], 60)
    entropy = np.concatenate([rng.uniform(0.5, 0.6, 60), rng.uniform(0.1, 0.2, 60), rng.uniform(0.4, 0.5, 60)])
    kinds = difficulties(accuracy, entropy)
    # The median of the entropy lies inside the easy ones, as a third is hard.
    assert kinds[:60] == ["hard"] * 60
    assert set(kinds[60:120]) == {"normal"}
    assert kinds[120:].count("easy") == 30
    places = torch.tensor([("easy", "normal", "hard").index(kind) for kind in kinds])
    states = torch.nn.functional.one_hot(places, 3).float() @ torch.randn(3, 12) * 3 + 0.1 * torch.randn(180, 12)
    probe = fit_difficulty(states, kinds)
    assert np.mean([probe.kind(state) == kind for state, kind in zip(states, kinds, strict=True)]) > 0.95
    with pytest.raises(RecipeError, match="all 2 problems are hard"):
        fit_difficulty(torch.zeros(2, 3), ["hard", "hard"])


@pytest.fixture(scope="module")
def reasoner():
    tokenizer, model = load_tokenizer(ModelSection()), load_model(ModelSection())
    tokens = think_tokens(model, tokenizer)
    problems = load_problems(WorldData(use="world", split="calibration", count=24))
    prompts = render_prompts(problems, tokenizer, PromptSection())
    requests = [SamplingRequest(tuple(prompt), 64, seed) for seed, prompt in enumerate(prompts)]
    return StoppingBackend(model, tokens, int(tokenizer.pad_token_id)), prompts, requests


def tokens_of(backend, requests, policy=None):
    """Decode and return the token ids of each request."""
    backend = backend.under(policy) if policy else backend
    return [s.sample.token_ids for s in backend.decode(requests, SamplingOptions())]


def test_diff_adapt_reads_the_prompt_and_caps_easy_problems_only(reasoner):
    backend, _, requests = reasoner
    width = backend.model.config.hidden_size
    rng = torch.Generator().manual_seed(0)
    probe = DifficultyProbe(torch.randn(3, width, generator=rng), torch.zeros(3))
    elicitor = Elicitor((backend.tokens.end, 7), 4, backend.tokens.eos)
    strategies = {"easy": Strategy(6), "normal": Strategy(), "hard": Strategy(20)}
    stopped = backend.under(StopPolicy(rule=DiffAdapt(probe, (4,), strategies, elicitor))).decode(
        requests, SamplingOptions()
    )
    assert len({s.state for s in stopped}) > 1
    caps = {"easy": 6, "normal": None, "hard": 20}
    assert all(s.exit_at in (None, caps[s.state]) for s in stopped)
    assert any(s.exit_at == 6 for s in stopped)
    alone = (
        backend.model(torch.tensor([requests[0].prompt_ids]), output_hidden_states=True)
        .hidden_states[-1][0, -1]
        .detach()
    )
    assert probe.kind(alone) == stopped[0].state


def test_steering_by_nought_changes_nothing_and_the_hook_is_gone_afterwards(reasoner):
    backend, _, requests = reasoner
    layer, width = middle_layer(backend.model), backend.model.config.hidden_size
    plain = tokens_of(backend, requests)
    with steered(backend.model, layer, torch.zeros(width)):
        assert tokens_of(backend, requests) == plain
    with steered(backend.model, layer, torch.full((width,), 3.0)):
        assert tokens_of(backend, requests) != plain
    assert tokens_of(backend, requests) == plain
    with pytest.raises(RecipeError, match="layers 1 to 4"), steered(backend.model, 5, torch.zeros(width)):
        pass


def fed_to_next(model, layer, ids, push):
    """Return the state that the block after ``layer`` takes in at the last position."""
    taken = []
    handle = model.model.layers[layer].register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0][0, -1]))
    with torch.no_grad(), steered(model, layer, push):
        model(torch.tensor([ids]))
    handle.remove()
    return taken[0]


def test_the_push_is_added_to_written_positions_and_not_to_the_prompt(reasoner):
    backend, prompts, _ = reasoner
    model, layer = backend.model, middle_layer(backend.model)
    push = torch.linspace(-1, 1, model.config.hidden_size)

    untouched = [fed_to_next(model, layer, prompts[0], alpha * push) for alpha in (0.0, 1.0)]
    assert torch.equal(*untouched)
    # A prompt of one token looks like a written one. The model's own record of states leaves later hooks out, so the
    # state is read where the next block takes it in.
    shifts = [fed_to_next(model, layer, prompts[0][:1], alpha * push) for alpha in (0.0, 1.0, 2.0)]
    shifts = [shift - shifts[0] for shift in shifts[1:]]
    assert torch.allclose(shifts[0], push, atol=1e-5)
    assert torch.allclose(shifts[1], 2 * shifts[0], atol=1e-5)


def test_the_direction_is_the_difference_of_means(reasoner):
    backend, prompts, _ = reasoner
    model, layer = backend.model, 2
    pairs = [Pair(tuple(prompts[0]), (8, 9), (9, 9, 10)), Pair(tuple(prompts[1]), (10,), (8, 8))]

    def mean(prompt, ids):
        with torch.no_grad():
            states = model(torch.tensor([[*prompt, *ids]]), output_hidden_states=True).hidden_states[layer][0]
        return states[len(prompt) :].mean(dim=0)

    expected = sum(mean(p.prompt, p.shortest) - mean(p.prompt, p.longest) for p in pairs) / 2
    assert torch.allclose(direction(model, pairs, layer), expected, atol=1e-5)
    with pytest.raises(RecipeError, match="two right completions"):
        direction(model, [], layer)


def test_pairs_need_two_right_completions_of_different_length():
    rows = [[[1], [2, 2], [3, 3, 3]], [[1], [2]], [[1, 1], [2]]]
    right = [[True, True, True], [True, True], [True, False]]
    assert pairs_of([[0], [0], [0]], rows, right) == [Pair((0,), (1,), (3, 3, 3))]
