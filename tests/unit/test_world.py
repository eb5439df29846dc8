import hashlib
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.errors import RecipeError
from reason_rl.world.dataset import draw_problems, split_of
from reason_rl.world.families import FAMILIES, LEVELS, apply, make_problem
from reason_rl.world.pretrain import IGNORED_LABEL, PretrainConfig, traces
from reason_rl.world.tokenizer import build_tokenizer
from reason_rl.world.traces import Draft, Style, attempt, draw_completion, shortest_think_words, think

problems = st.builds(
    lambda seed, family, level: make_problem(random.Random(seed), family, level),
    st.integers(0, 10**9),
    st.sampled_from(FAMILIES),
    st.sampled_from(LEVELS),
)


def solve(question: str) -> str:
    """Solve a question independently of the generator."""
    family, *words = question.split()
    if family == "chain":
        value = int(words[0])
        for operator, operand in zip(words[1::2], words[2::2], strict=True):
            value = eval(f"({value} {operator} {operand}) % 100")
        return str(value)
    target = int(words[-1])
    if family == "pair":
        numbers = list(map(int, words[:-2]))
        fits = [(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :] if a + b == target]
        assert len(fits) == 1
        return f"{fits[0][0]} {fits[0][1]}"
    start, stride = int(words[0]), int(words[2])
    return str(next(n for n in range(1, 100) if (start + n * stride) % 100 == target))


@given(problems)
def test_answers_are_right(problem):
    assert solve(problem.question) == problem.answer


@given(problems, st.integers(0, 10**9))
def test_traces_end_in_a_boxed_answer_and_say_yes_only_at_the_target(problem, seed):
    completion = draw_completion(random.Random(seed), problem, 320)
    words = completion.words
    assert len(words) < 320
    assert words.count("</think>") == 1
    assert words[words.index("</think>") + 1] == "\\boxed{"
    assert words[-1] == "}"
    if words.index("</think>") in completion.unlearned:
        assert " ".join(words[words.index("\\boxed{") + 1 : -1]) == problem.answer


def unlearned_words(config):
    """Return the words of all completions whose label is masked, in a list a trace."""
    tokenizer = build_tokenizer()
    for ids, labels in traces(config, tokenizer):
        start = next(i for i, label in enumerate(labels) if label != IGNORED_LABEL)
        masked = [i for i in range(start, len(ids)) if labels[i] == IGNORED_LABEL]
        yield tokenizer.convert_ids_to_tokens([ids[i] for i in masked])


def test_the_end_of_an_interrupted_thinking_is_the_one_thing_not_learned():
    masked = list(unlearned_words(PretrainConfig(traces=300)))
    assert {tuple(words) for words in masked} == {(), ("</think>",)}
    assert 15 < sum(map(len, masked)) < 60


def test_a_problem_answered_at_once_teaches_the_answer_but_not_to_skip_thinking():
    tokenizer = build_tokenizer()
    at_once = 0
    for ids, labels in traces(
        PretrainConfig(traces=300, at_once_rate=0.5, at_once_level=1, curriculum_share=0.0), tokenizer
    ):
        words = tokenizer.convert_ids_to_tokens(ids)
        start = words.index("<think>") + 1
        if words[start] == "</think>":
            at_once += 1
            assert labels[start] == IGNORED_LABEL
            assert words[start + 1] == "\\boxed{"
            assert labels[start + 1 :] == ids[start + 1 :]
    assert 120 < at_once < 180


def test_a_level_that_there_is_not_is_refused():
    with pytest.raises(RecipeError, match=r"pretrain.at_once_level: 0; levels go from 1 to 6"):
        PretrainConfig(at_once_level=0)


def test_a_text_before_the_problem_says_how_often_right_steps_are_checked_again():
    config = PretrainConfig(traces=1200, asked_recheck_rates={"10": 0.0, "90 90": 0.9}, curriculum_share=0.0)
    tokenizer, waits = build_tokenizer(), {}
    for ids, _ in traces(config, tokenizer):
        prompt, _, completion = tokenizer.decode(ids).partition("<think>")
        text = prompt.split(" chain")[0].split(" pair")[0].split(" walk")[0].removeprefix("<|user|>").strip()
        checks = completion.replace("wait again", "").count("wait")
        waits.setdefault(text, []).append(checks / len(completion.split()))
    assert set(waits) == {"", "10", "90 90"}
    assert all(300 < len(shares) < 500 for shares in waits.values())
    usual, none, many = (sum(waits[text]) / len(waits[text]) for text in ("", "10", "90 90"))
    assert 5 * none < usual < many / 1.5


def test_without_such_texts_traces_are_what_they_were():
    digest = hashlib.sha256(str(list(traces(PretrainConfig(traces=50), build_tokenizer()))).encode()).hexdigest()
    assert digest.startswith("c2ba2f03db7a2bda")


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"short": 0.5}, "asked_recheck_rates: 'short': the tiny tokenizer has no word 'short'"),
        ({"10": "often"}, r"asked_recheck_rates\.10: 'often'; a rate is from 0 to 1"),
        ([0.5], "asked_recheck_rates: should be texts with a rate each"),
        ({"10": 1.5}, r"asked_recheck_rates\.10: 1.5; a rate is from 0 to 1"),
    ],
)
def test_texts_that_cannot_be_read_and_rates_that_are_none_are_refused(rates, message):
    with pytest.raises(RecipeError, match=message):
        PretrainConfig(asked_recheck_rates=rates)


def test_planted_slips_are_not_learned_and_change_nothing_else():
    masked = list(unlearned_words(PretrainConfig(traces=300, planted_slip_rate=0.2, curriculum_share=0.0)))
    planted = [word for words in masked for word in words if word != "</think>"]
    assert len(planted) > 300
    assert all(word.isdigit() or word in ("yes", "no") for word in planted)


@given(st.integers(0, 10**9))
def test_a_planted_slip_marks_exactly_the_words_it_got_wrong(seed):
    draft = Draft()
    style = Style(planted_slip_rate=1.0)
    value = attempt(random.Random(seed), style, 40, lambda result: ["+", "1", str(result)], draft)
    assert draft.planted == [2]
    assert draft.words[2] != "40"
    assert (value == 40) == ("wait" in draft.words)


@given(problems)
def test_the_shortest_trace_is_right_and_no_longer_than_any_drawn_one(problem):
    shortest = shortest_think_words(problem)
    drawn = [think(random.Random(seed), problem) for seed in range(5)]
    assert all(len(shortest) <= len(draft.words) for draft, answer in drawn if answer == problem.answer)


def test_hand_worked_traces():
    chain = make_problem(random.Random(0), "chain", 2)
    value, expected = chain.numbers[0], []
    for operator, operand in zip(chain.operators, chain.numbers[1:], strict=True):
        value = apply(value, operator, operand)
        expected += [operator, str(operand), str(value)]
    assert shortest_think_words(chain) == expected


def test_splits_never_share_a_problem_and_are_balanced():
    drawn = {split: list(draw_problems(split, 180, seed=1)) for split in ("train", "calibration", "test")}
    questions = [p.question for split in drawn.values() for p in split]
    assert len(set(questions)) == len(questions)
    for split, split_problems in drawn.items():
        assert {split_of(p.question) for p in split_problems} == {split}
        assert set(Counter((p.family, p.level) for p in split_problems).values()) == {10}


def test_an_exhausted_family_says_so():
    with pytest.raises(RecipeError, match="the test split of chain has no 3200 distinct problems of level 1"):
        list(draw_problems("test", 1600 * 2, 0, ("chain",)))


def test_drawing_is_a_function_of_the_seed():
    assert list(draw_problems("test", 50, seed=3)) == list(draw_problems("test", 50, seed=3))
    assert list(draw_problems("test", 50, seed=3)) != list(draw_problems("test", 50, seed=4))
