import pytest

from reason_rl.answer.extract import extract_boxed, split_think
from reason_rl.answer.verify import ExactVerifier, MathVerifier, make_verifier


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{ 42 }", "42"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"no box", None),
        (r"\boxed{}", ""),
        (r"\fboxed{3}", "3"),
    ],
)
def test_the_last_whole_box_counts(text, answer):
    assert extract_boxed(text) == answer


def test_split_at_the_first_end_of_think():
    assert split_think("a </think> b </think> c", "</think>") == ("a ", " b </think> c")
    assert split_think("a b", "</think>") == ("a b", None)
    assert split_think("a b", None) == ("", "a b")


def test_exact_ignores_white_space_only():
    verdicts = ExactVerifier().verify(["25  17", "17 25", None, "025"], ["25 17", "25 17", "1", "25"])
    assert verdicts == [True, False, False, False]


def test_math_equality_and_a_hostile_answer():
    with make_verifier("math", timeout_seconds=3.0) as verifier:
        pairs = [
            (r"\frac{1}{2}", "0.5"),
            ("2", "3"),
            (r"9^{9^{9^{9}}}", "1"),
            (r"\sqrt{4}", "2"),
            (None, "2"),
            ("x", "x"),
        ]
        verdicts = verifier.verify([a for a, _ in pairs], [b for _, b in pairs])
        assert verdicts == [True, False, False, True, False, True]
        hang = r"\frac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"
        assert verifier.verify([hang, "0.25"], ["1", r"\frac{1}{4}"]) == [False, True]
        assert verifier.timeouts >= 1
        process = verifier._worker[0]
    assert not process.is_alive()


def test_equal_strings_need_no_process():
    verifier = MathVerifier()
    assert verifier.verify(["7", None], ["7", "7"]) == [True, False]
    assert verifier._worker is None
