"""The decoding loop, the generate adapter and budget forcing, on random tiny Llamas."""

from dataclasses import dataclass, replace

import pytest
import torch

from reason_rl.errors import RecipeError
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.hf import HFBackend, sampling_mode
from reason_rl.stopping.batch import Batch, Order
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.processor import TemperatureStopProcessor
from reason_rl.stopping.rule import GO, Ask, Elicitor, Insert, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.states import tapped
from reason_rl.stopping.temperature import StopOptions, TemperatureStop
from reason_rl.stopping.thinking import ThinkTokens

END, START, EOS, WAIT, BOXED = 6, 5, 1, 21, 7
TOKENS = ThinkTokens(END, START, (EOS,))
ELICITOR = Elicitor((END, BOXED), 4, (EOS,))
PROMPTS = [(3, 30, 31, 4, START), (3, 40, 4, START), (3, 50, 51, 52, 53, 4, START)]
GREEDY = SamplingOptions(temperature=0.0)


def requests(count=6, max_tokens=48):
    return [SamplingRequest(PROMPTS[i % 3], max_tokens, seed=i) for i in range(count)]


def think_tokens(sample):
    return sample.token_ids.index(END) + 1 if END in sample.token_ids else len(sample.token_ids)


@pytest.fixture
def backend(make_llama):
    # A wider output than the default initialisation, so that greedy choices do not hang on rounding.
    return StoppingBackend(make_llama(initializer_range=0.3), TOKENS, pad_token_id=0)


@dataclass(frozen=True)
class AskEverywhere:
    """Asks at every position which answer an exit there would give; exits at one position if told so."""

    exit_at: int | None = None
    layers: tuple[int, ...] = ()

    def start(self):
        return ()

    def decide(self, state, look):
        if look.trial is None:
            return state, ELICITOR.ask()
        state = (*state, look.trial.token_ids)
        return state, ELICITOR.exit() if look.think_tokens == self.exit_at else GO


def test_an_idle_policy_writes_what_the_trainers_backend_writes(backend):
    plain = HFBackend(backend.model, [EOS], 0)
    for options in (SamplingOptions(), GREEDY, SamplingOptions(0.8, 0.9, 20)):
        ours, theirs = backend.generate(requests(), options), plain.generate(requests(), options)
        assert [s.token_ids for s in ours] == [s.token_ids for s in theirs]
        assert [s.finish_reason for s in ours] == [s.finish_reason for s in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-4)


def test_rows_are_told_as_they_end(backend):
    told = []
    samples = replace(backend, max_batch_rows=4).generate(requests(10), SamplingOptions(), on_ended=told.append)
    assert sorted(row for rows in told for row in rows) == list(enumerate(samples))
    assert len(told) > 2


def test_rows_do_not_depend_on_their_neighbours(backend):
    together = backend.under(StopPolicy(rule=AskEverywhere(exit_at=5))).decode(requests(), GREEDY)
    alone = backend.under(StopPolicy(rule=AskEverywhere(exit_at=5)))
    for request, stopped in zip(requests(), together, strict=True):
        assert alone.decode([request], GREEDY)[0].sample.token_ids == stopped.sample.token_ids


def orders():
    """Return six rows that differ in prompt, budget, seed, sampling and policy."""
    sampling = [
        SamplingOptions(),
        GREEDY,
        SamplingOptions(0.7, 0.9),
        SamplingOptions(),
        GREEDY,
        SamplingOptions(top_k=5),
    ]
    policies = [
        StopPolicy(),
        StopPolicy(rule=AskEverywhere(exit_at=5)),
        StopPolicy(edit=TemperatureStop(3.0, TOKENS, StopOptions(topk_gate=None))),
        StopPolicy(rule=BudgetForcing(END, ELICITOR, 12)),
        StopPolicy(edit=TemperatureStop(8.0, TOKENS, StopOptions(topk_gate=None))),
        StopPolicy(edit=TemperatureStop(3.0, TOKENS, StopOptions(topk_gate=None))),
    ]
    budgets = (60, 40, 50, 30, 44, 70)
    return [Order(i, SamplingRequest(PROMPTS[i % 3], budgets[i], seed=i), sampling[i], policies[i]) for i in range(6)]


def test_rows_that_join_and_leave_at_any_time_write_what_they_write_alone(backend):
    wanted = [backend.under(o.policy).decode([o.request], o.options)[0] for o in orders()]
    joining = {0: orders()[:2], 7: orders()[2:3], 9: orders()[3:], 200: orders()[:1]}
    done = {}
    with sampling_mode(backend.model), tapped(backend.model, ()) as tap:
        batch = None
        for step in range(400):
            if step in joining:
                more = Batch.open(backend.model, TOKENS, 0, tap, joining[step])
                done |= {row.order.number: row.stopped() for row in more.step()}
                if batch is None:
                    batch = more
                else:
                    batch.join(more)
            if step == 12:
                batch.drop([2])
                assert 2 not in {row.order.number for row in batch.lanes}
            if batch.lanes:
                done |= {row.order.number: row.stopped() for row in batch.step()}
    assert not batch.lanes
    assert sorted(done) == [0, 1, 3, 4, 5]
    for number, stopped in done.items():
        assert stopped.sample.token_ids == wanted[number].sample.token_ids
        assert stopped.sample.logps == pytest.approx(wanted[number].sample.logps, abs=1e-4)
        assert (stopped.exit_at, stopped.forced) == (wanted[number].exit_at, wanted[number].forced)


def test_a_batch_refuses_a_rule_that_reads_layers_that_are_not_tapped(backend):
    rule = AskEverywhere(layers=(1,))
    order = Order(0, requests(1)[0], GREEDY, StopPolicy(rule=rule))
    with tapped(backend.model, (2,)) as tap, pytest.raises(ValueError, match=r"\(1,\), \(2,\) are tapped"):
        Batch.open(backend.model, TOKENS, 0, tap, [order])


def test_side_decodes_leave_the_main_text_alone_and_are_counted(backend):
    plain = backend.decode(requests(), GREEDY)
    asked = backend.under(StopPolicy(rule=AskEverywhere())).decode(requests(), GREEDY)
    assert [s.sample.token_ids for s in asked] == [s.sample.token_ids for s in plain]
    for stopped in asked:
        looks = think_tokens(stopped.sample)
        assert len(stopped.state) == looks
        assert stopped.side_tokens == 2 * looks + sum(map(len, stopped.state))
        assert stopped.net_tokens == len(stopped.sample.token_ids) + stopped.side_tokens
    assert all(s.net_tokens == len(s.sample.token_ids) for s in plain)


def test_an_exit_gives_the_answer_that_the_trial_gave(backend):
    asked = backend.under(StopPolicy(rule=AskEverywhere())).decode(requests(), SamplingOptions())
    for position in (0, 3, 9):
        exited = backend.under(StopPolicy(rule=AskEverywhere(position))).decode(requests(), SamplingOptions())
        for before, after in zip(asked, exited, strict=True):
            if think_tokens(before.sample) <= position:
                assert after.exit_at is None
                continue
            head, tail = after.sample.token_ids[:position], after.sample.token_ids[position:]
            assert head == before.sample.token_ids[:position]
            assert tail == (*ELICITOR.ids, *before.state[position])
            assert after.exit_at == position
            assert after.forced[position : position + 2] == (True, True)
            assert sum(after.forced) == 2
            assert after.sample.finish_reason == ("exit" if tail[-1] == EOS else "length")


def test_an_edited_trace_carries_the_log_probability_it_was_drawn_with(backend):
    edit = TemperatureStop(4.0, TOKENS, StopOptions(topk_gate=None, mask_eos=False, mask_restart=False))
    decoded = backend.under(StopPolicy(edit=edit)).decode(requests(3), SamplingOptions())
    for prompt, stopped in zip(PROMPTS, decoded, strict=True):
        ids = stopped.sample.token_ids
        with torch.no_grad():
            logits = backend.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        for n, (token, logp) in enumerate(zip(ids, stopped.sample.logps, strict=True)):
            row = logits[n].clone()
            if n < think_tokens(stopped.sample):
                total = row.logsumexp(dim=-1)
                row[END] = total + (row[END] - total) / 4
            assert row.log_softmax(dim=-1)[token].item() == pytest.approx(logp, abs=1e-3)


def test_think_tokens_fall_with_strength_through_generate(make_llama):
    model = make_llama(vocab_size=64)
    prompts = torch.tensor([[3, 30, 31, 4, START]] * 64)
    means = []
    for strength in (1.0, 2.0, 4.0):
        torch.manual_seed(0)
        processor = TemperatureStopProcessor(strength, TOKENS, prompts, StopOptions(topk_gate=None))
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            logits_processor=[processor],
            do_sample=True,
            top_k=0,
            max_new_tokens=80,
            pad_token_id=0,
        )
        written = out[:, 5:]
        closed = (written == END).int()
        lengths = torch.where(closed.any(dim=1), closed.argmax(dim=1) + 1, written.shape[1])
        means.append(lengths.float().mean().item())
    assert means[0] > means[1] > means[2]
    assert means[2] < 10


def test_generate_and_the_loop_agree_on_greedy_traces_with_a_strength_each(backend):
    model, ids = backend.model, torch.tensor([(0, 0, *PROMPTS[0]), (0, 0, 0, *PROMPTS[1]), PROMPTS[2]])
    strengths = (0.5, 3.0, 8.0)
    options = StopOptions(topk_gate=None, min_think_tokens=3, max_think_tokens=20)
    processor = TemperatureStopProcessor(strengths, TOKENS, ids, options)
    out = model.generate(
        ids,
        attention_mask=(ids != 0).long(),
        logits_processor=[processor],
        do_sample=False,
        max_new_tokens=40,
        pad_token_id=0,
    )
    policy = StopPolicy(edit=TemperatureStop(strengths, TOKENS, options))
    for row, sample in zip(
        out[:, ids.shape[1] :].tolist(), backend.under(policy).generate(requests(3, 40), GREEDY), strict=True
    ):
        assert tuple(row[: len(sample.token_ids)]) == sample.token_ids


def test_one_strength_a_prompt_is_wanted():
    with pytest.raises(ValueError, match="2 strengths for 3 prompts"):
        TemperatureStopProcessor((1.0, 2.0), TOKENS, torch.zeros(3, 4, dtype=torch.long))


@pytest.mark.parametrize("restart_bonus", [0.0, 20.0])
def test_no_row_passes_the_cap_or_stops_before_the_minimum(backend, restart_bonus):
    options = StopOptions(topk_gate=None, min_think_tokens=4, max_think_tokens=9, mask_restart=False)
    scale = TemperatureStop(50.0, TOKENS, options)

    def edit(step):
        step.logits[:, START] += restart_bonus
        return scale(step)

    for sample in backend.under(StopPolicy(edit=edit)).generate(requests(), SamplingOptions()):
        assert 5 <= think_tokens(sample) <= 10
        assert EOS not in sample.token_ids[: think_tokens(sample)]


@pytest.mark.parametrize(("extensions", "cap"), [(0, 7), (2, None), (2, 12), (3, 2)])
def test_budget_forcing_cuts_refuses_and_closes_once(backend, extensions, cap):
    rule = BudgetForcing(END, ELICITOR, cap, extensions, (WAIT,))
    natural = backend.generate(requests(max_tokens=200), SamplingOptions())
    forced = backend.under(StopPolicy(rule=rule)).decode(requests(max_tokens=200), SamplingOptions())
    assert extensions == 0 or cap == 2 or any(stopped.state for stopped in forced)
    for plain, stopped in zip(natural, forced, strict=True):
        ids, used = stopped.sample.token_ids, think_tokens(stopped.sample)
        thinking = zip(ids[:used], stopped.forced, strict=False)
        waits = sum(f for token, f in thinking if token == WAIT)
        assert waits <= extensions
        assert waits == stopped.state
        assert cap is None or used <= cap + 1
        if cap is not None and think_tokens(plain) > cap:
            assert stopped.exit_at == cap
            assert ids[cap : cap + 2] == ELICITOR.ids


def test_budget_forcing_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match="needs max_think_tokens or extensions"):
        BudgetForcing(END, ELICITOR)
    with pytest.raises(ValueError, match="tokens of wait"):
        BudgetForcing(END, ELICITOR, extensions=1)


def test_tapped_states_are_those_of_a_full_forward(make_llama):
    model = make_llama(num_hidden_layers=4)
    ids = torch.tensor([[3, 30, 31, 4, START, 60, 61]])
    with torch.no_grad():
        full = model(ids, output_hidden_states=True).hidden_states
        with tapped(model, (2, 4)) as tap:
            model(ids)
    width = model.config.hidden_size
    assert torch.allclose(tap.features()[0, :width], full[2][0, -1], atol=1e-6)
    assert torch.allclose(tap.features()[0, width:], full[4][0, -1], atol=1e-6)
    with tapped(model, ()) as untapped:
        model(ids)
    assert untapped.features() is None


def test_states_and_exits_work_through_an_adapter(make_llama):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    ids = torch.tensor([[3, 30, 4, START]])
    with torch.no_grad():
        full = model(ids, output_hidden_states=True).hidden_states
        with tapped(model, (1, 2)) as tap:
            model(ids)
    assert torch.allclose(tap.features()[0], torch.cat([full[1][0, -1], full[2][0, -1]]), atol=1e-6)
    adapted = StoppingBackend(model, TOKENS, 0, StopPolicy(rule=AskEverywhere(exit_at=3)))
    assert all(s.exit_at == 3 for s in adapted.decode(requests(3), GREEDY))


def test_layers_that_are_not_there_are_refused(make_llama):
    with pytest.raises(RecipeError, match=r"\[3\]: the model has layers 1 to 2"), tapped(make_llama(), (1, 3)):
        pass


@pytest.mark.parametrize(
    ("action", "message"), [(Insert(()), "Insert without tokens"), (Ask((), 1, ()), "at least one suffix token")]
)
def test_actions_without_tokens_are_refused(backend, action, message):
    @dataclass(frozen=True)
    class Empty:
        layers: tuple[int, ...] = ()

        def start(self):
            return None

        def decide(self, state, look):
            return None, action

    with pytest.raises(ValueError, match=message):
        backend.under(StopPolicy(rule=Empty())).generate(requests(1), GREEDY)
