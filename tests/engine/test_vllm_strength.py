"""Scaled stopping in vLLM's two model runners without an engine: requests come, move, go and are taken up again."""

import importlib.util

import numpy as np
import pytest
import torch

from reason_rl.errors import RecipeError
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.rollout_specs import StopSection
from reason_rl.rollout.backend import Sample, SamplingRequest
from reason_rl.rollout.engines import stops
from reason_rl.stopping.temperature import StopOptions, TemperatureStop, scale_stop
from reason_rl.stopping.thinking import Phase, ThinkTokens, phase
from reason_rl.stopping.vllm_strength import (
    EngineStop,
    StopRequest,
    from_arguments,
    named_stop,
    rollout_stop,
    to_arguments,
)

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make vllm)")
TOKENS = ThinkTokens(end=6, start=5, eos=(1,))
OPEN = [9, 5]


def params(strength=None, **options):
    fields = StopOptions(**{"topk_gate": None, "mask_eos": False, "mask_restart": False, **options})
    extra = {} if strength is None else to_arguments(StopRequest(strength, TOKENS, fields))
    return type("Params", (), {"extra_args": {**extra, "other": 1}})()


def expected(logits, strengths, thinking, written):
    """Return what the core transform makes of rows; strength None = a request that asks for nothing."""
    rows = []
    for row, strength, inside, count in zip(logits, strengths, thinking, written, strict=True):
        where = Phase(torch.tensor([inside]), torch.tensor([count]))
        options = StopOptions(topk_gate=None, mask_eos=False, mask_restart=False)
        edited = row if strength is None else scale_stop(row[None], torch.tensor([strength]), where, TOKENS, options)[0]
        rows.append(edited)
    return torch.stack(rows)


@pytest.mark.parametrize("options", [StopOptions(), StopOptions("bias", None, 2, 9, mask_eos=False)])
@pytest.mark.parametrize("start", [5, None])
def test_arguments_come_back_as_they_went(options, start):
    request = StopRequest(1.5, ThinkTokens(6, start, (1, 2)), options)
    arguments = to_arguments(request)
    assert from_arguments({**arguments, "other": 3}) == request
    # What a completion over HTTP may carry.
    assert all(isinstance(value, str | int | float | list) for value in arguments.values())
    assert from_arguments(None) is from_arguments({"other": 3}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_strenght": 2}, "stop_strenght is not known; known: stop_end"),
        ({"stop_strength": 0}, "strength 0.0 is not above 0"),
        ({"stop_strength": "hard"}, "could not convert"),
        ({"stop_eos": 1}, "stop arguments: 'int' object is not iterable"),
        ({"stop_mode": "loud"}, "mode 'loud'"),
        ({"stop_max_think_tokens": -1}, "not negative"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_arguments({"stop_strength": 2.0, "stop_end": 6, **changes})
    with pytest.raises(ValueError, match="stop_end is missing"):
        from_arguments({"stop_strength": 2.0})


@needs_vllm
def test_runner_1_follows_requests_that_move_and_go():
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from reason_rl.stopping.vllm_strength_v1 import ScaledStop

    processor = ScaledStop(None, torch.device("cpu"), False)
    torch.manual_seed(0)
    outputs = [[], [7, 7], [], [8]]
    added = [
        (0, params(2.0), OPEN, outputs[0]),
        (1, params(4.0), OPEN, outputs[1]),  # taken up again after an interruption
        (2, params(), OPEN, outputs[2]),
        (3, params(3.0), [9], outputs[3]),  # thinking not open yet
    ]
    processor.update_state(BatchUpdate(4, [], added, []))
    logits = torch.randn(4, 12)
    want = expected(logits, [2.0, 4.0, None, 3.0], [True, True, True, False], [0, 2, 0, 0])
    assert torch.equal(processor.apply(logits.clone()), want)
    outputs[0].append(6)
    outputs[1].append(7)
    outputs[3].append(5)
    # Row 2 goes, row 3 takes its place, 0 and 1 change places.
    moved = [(3, 2, MoveDirectionality.UNIDIRECTIONAL), (0, 1, MoveDirectionality.SWAP)]
    processor.update_state(BatchUpdate(3, [2], [], moved))
    logits = torch.randn(3, 12)
    want = expected(logits, [4.0, 2.0, 3.0], [True, False, True], [3, 1, 0])
    assert torch.equal(processor.apply(logits.clone()), want)
    # A new request in a place that was used remembers nothing; a start written again opens nothing.
    outputs[0] += [5]
    processor.update_state(BatchUpdate(3, [], [(2, params(), OPEN, [])], []))
    want = expected(logits, [4.0, 2.0, None], [True, False, True], [3, 1, 0])
    assert torch.equal(processor.apply(logits.clone()), want)
    outputs[1].append(-1)
    with pytest.raises(RuntimeError, match="did not say which token"):
        processor.apply(logits)


class Slots:
    """What runner V2 keeps of its requests: histories longer than what was written, with old tokens beyond."""

    def __init__(self, histories, prompts):
        self.all_token_ids = type("Ids", (), {"gpu": torch.full((len(histories), 20), 6)})()
        for slot, history in enumerate(histories):
            self.all_token_ids.gpu[slot, : len(history)] = torch.tensor(history)
        self.prompt_len = type("Length", (), {"gpu": torch.tensor(prompts, dtype=torch.int32)})()


def context(slots, written):
    fields = {
        "idx_mapping": torch.tensor(slots, dtype=torch.int32),
        "idx_mapping_np": np.array(slots),
        "pos": torch.tensor(written) - 1,
        "seq_lens_upper_bound_np": np.array(written) + 1,
    }
    return type("Context", (), fields)()


@needs_vllm
def test_runner_2_reads_phases_off_the_slots():
    pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")
    from reason_rl.stopping.vllm_strength_v2 import ScaledStop

    histories = [[9, 5, 7, 7], [9, 5], [9, 8, 5], [9, 5, 7, 6, 5]]
    config = type("Config", (), {"speculative_config": None})()
    processor = ScaledStop(config, Slots(histories, [2, 2, 2, 2]))
    wanted = [processor.add_request(slot, params(strength)) for slot, strength in enumerate((4.0, 2.0, 3.0, 5.0))]
    assert wanted == [True] * 4
    assert processor.add_request(1, params()) is False
    torch.manual_seed(0)
    logits = torch.randn(4, 12)
    slots, written = [2, 0, 3, 1], [3, 4, 5, 2]
    want = expected(logits, [3.0, 4.0, 5.0, None], [True, True, False, True], [0, 2, 2, 0])
    assert torch.equal(processor.apply(logits.clone(), context(slots, written)), want)
    with pytest.raises(RuntimeError, match="5 rows of 4 requests"):
        processor.apply(torch.randn(5, 12), context(slots, written))
    config.speculative_config = object()
    with pytest.raises(ValueError, match="speculative"):
        ScaledStop(config, None)


@needs_vllm
@pytest.mark.parametrize("start", [5, None])
def test_the_phase_of_a_history_is_that_of_its_parts(start):
    pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")
    from reason_rl.stopping.vllm_strength_v2 import phase_of_history

    tokens = ThinkTokens(6, start, (1,))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 9, (200, 12), generator=generator)
    prompts, written = (
        torch.randint(1, 6, (200,), generator=generator),
        torch.randint(6, 13, (200,), generator=generator),
    )
    found = phase_of_history(ids, prompts, written, tokens)
    for row in range(200):
        prompt, text = ids[row, : prompts[row]].tolist(), ids[row, prompts[row] : written[row]]
        own = phase(text[None], torch.tensor([tokens.opened_by(prompt)]), tokens)
        assert (found.thinking[row], found.think_tokens[row]) == (own.thinking[0], own.think_tokens[0])


def test_what_the_cap_wrote_is_marked_as_not_sampled():
    stop = rollout_stop(StopSection(max_think_tokens=2), TOKENS)
    opened, closed = SamplingRequest((9, 5), 9, 0), SamplingRequest((9,), 9, 0)

    def marks(request, *ids):
        return stop.marked(request, Sample(ids, (0.0,) * len(ids), "stop")).sampled

    assert marks(opened, 7, 7, 6, 1) == (True, True, False, True)
    assert marks(opened, 7, 6, 7, 1) == (True,) * 4
    assert marks(closed, 5, 7, 7, 6, 1) == (True, True, True, False, True)
    assert marks(closed, 7, 6, 6, 6, 1) == (True,) * 5


def test_ways_of_stopping_by_name():
    assert named_stop("strength:2", TOKENS) == EngineStop(TemperatureStop(2.0, TOKENS))
    with pytest.raises(RecipeError, match=r"eval\.stop strength:0: strength 0\.0 is not above 0"):
        named_stop("strength:0", TOKENS)
    with pytest.raises(RecipeError, match="budget:9: is there for engine hf only; vllm takes strength:X"):
        named_stop("budget:9", TOKENS)


def test_an_engine_has_the_processor_where_the_recipe_stops():
    asked = [
        load_recipe("tiny/dler_vllm", changes).recipe
        for changes in ([], ["rollout.stop.strength=2"], ["eval.stop=strength:2"])
    ]
    assert [stops(recipe) for recipe in asked] == [False, True, True]
