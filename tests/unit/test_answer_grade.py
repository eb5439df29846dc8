"""Spellings of answers: what is the same, what is not, what cannot be told; and hostile strings by the thousand."""

import json
import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from reason_rl.answer import grade, worker
from reason_rl.answer.compare import MAX_ANSWER, Verdict, compare_texts
from reason_rl.answer.grade import grade_file, grade_rows
from reason_rl.answer.guard import unverifiable
from reason_rl.answer.normal import normal, without_text
from reason_rl.answer.number import number
from reason_rl.answer.response import find_answer
from reason_rl.answer.verify import MathVerifier, before_algebra
from reason_rl.cli import app
from reason_rl.errors import RecipeError

SAME = [
    ("1000", "1 000"),
    ("1234567", "1,234,567"),
    ("1234567", r"1{,}234{,}567"),
    ("16386.20", r"\$16,\!386.20"),
    ("0.5", "0,5"),
    ("2.74", "2,74"),
    ("5/4", "1 1/4"),
    (r"2\frac{1}{2}", "2.5"),
    ("8.7e8", r"8.7 \times 10^{8}"),
    ("1e-8", "10^{-8}"),
    ("-5", "\N{MINUS SIGN}5"),
    (r"\frac{1}{2}", "½"),
    (r"\sqrt{3}", "√3"),
    ("x^2", "x²"),
    ("5", "\N{FULLWIDTH DIGIT FIVE}"),
    (r"\frac{1}{2}", "frac{1}{2}"),
    (r"\frac{1}{2}", r"\frac12"),
    ("28\\%", "28 percent"),
    ("28\\%", "0.28"),
    ("50", "50\\%"),
    ("5", r"5 \text{ cm}"),
    (r"5\text{ m}", r"500\text{ cm}"),
    ("70000", "70,000 dollars"),
    ("18", "$18.00"),
    ("90", "90°"),
    ("52_8", "42_{10}"),
    ("248", "11111000_2"),
    ("7", "7."),
    ("7", "= 7"),
    ("7", r"\approx 7"),
    ("7", "**7**"),
    ("5", "\u200b5"),
    (r"\text{(E)}", "e"),
    ("A", "A. bank"),
    ("A", "(A) bank"),
    (r"\text{ellipse}", "an ellipse"),
    (r"\text{June 20}", "20 June"),
    (r"\text{no solution}", r"\emptyset"),
    ("DNE", r"\text{does not exist}"),
    ("one half", "0.5"),
    ("33.3", r"\frac{100}{3}"),
    ("326.5", "326.53"),
    (r"\frac{3}{56}", "0.0535714285714164"),
    ("7:32", r"\frac{7}{32}"),
    ("(1,2)", r"\left(1,2\right)"),
    ("5", "((((5))))"),
    ("4:30", "4:30 p.m."),
    (r"\sqrt{}", "√()"),
]
OTHER = [
    ("5", "6"),
    ("32349", "32, 349"),
    ("0.75", "75"),
    ("1", "100"),
    ("50", "0.5"),
    (r"5\text{ m}", r"5\text{ km}"),
    ("3:2", "2:3"),
    ("2516_8", "2516_{10}"),
    (r"\frac{1}{3}", "0.333"),
    ("3.14", "3.14159"),
    (r"\{1,2,3\}", "(1,2,3)"),
    ("7", "7!"),
    (r"\text{(B)}", r"\text{(A)}"),
    (r"\text{Yes}", r"\text{No}"),
    ("5", ""),
    (r"\text{Evelyn}", r"\text{Carla}"),
    ("7", r"7 \text{ or maybe 8}"),
    ("7", r"7 \text{ (or 8)}"),
    ("7", r"7 \text{ but perhaps 8}"),
    ("7", "8=7"),
    ("7", "x=8=7"),
    (r"\frac{1}{3}", r"\frac12=\frac13"),
]
ALGEBRA = [
    ("x+1", "1+x", True),
    (r"e^{i\pi}", "-1", True),
    (r"288\pi", "904.7786842338603", True),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", False),
    ("14 - i", "14.0 + -1.0i", True),
    (r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}", "(-2,-14)", True),
    ("[-2,7]", r"-2 \le x \le 7", True),
    (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", False),
    ("5", "y=5", True),
    ("x=5", "y=5", False),
    (r"\frac{1}{2}\left(e^{at}+e^{-at}\right)", r"\cosh(at)", True),
    (r"3 \pm 2\sqrt{2}", r"3-2\sqrt{2}, 3+2\sqrt{2}", True),
    (r"8\sqrt{10}", "\\begin{matrix}\n8 \\\\ \\times \\\\ \\sqrt{ \\\\ 10 \\\\ } \\end{matrix}", True),
    ("3.14", r"\pi", False),
    ("-2\\pi", "-2*pi", True),
    ("a^2+b^2+c^2", "c^2+b^2+a^2", True),
    ("x^2+x^2+x^2", "3x^2", True),
    ("14700", r"2^2\cdot3\cdot5^2\cdot7^2", True),
    ("x^4+4x^3+6x^2+4x+1", "(x+1)^4", True),
    ("x^5-x^4+x^3-x^2+x-1", "x^5+x^4+x^3+x^2+x+1", False),
    ("2^{32}", "2^{2^5}", True),
    ("(x^2)^3", "x^6", True),
    ("7", "3+4=7", True),
    ("10/9", r"\frac{1}{2} \$ = \frac{10}{9}", True),
    ("7", "x = 7", True),
    ("500", r"5 \text{ m}=500 \text{ cm}", True),
]
RESPONSES = [
    (r"<think>\boxed{1}</think> \boxed{2}", "2"),
    ("<think>only thinking", None),
    (r"\boxed{2} and \boxed{3}", "2, 3"),
    (r"\boxed{5} is wrong, so \boxed{7}", "7"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed 7", "7"),
    ("#### 1,234", "1,234"),
    ("#### 12 %\nThat was it.", "12 %"),
    ("####\n18", "18"),
    ("#### no solution\n", "no solution"),
    ("#### Conclusion\nThe answer is 5.", "5"),
    ("#### Step 2: finish\nSo she has 5 apples left.", "5"),
    ("<answer>7</answer>", "7"),
    ("The answer is 7 apples and 12 pears.", "7"),
    ("Final Answer: The largest $n$ is 34.", "34"),
    (r"\boxed{255} so in all it is more. Final Answer: The final answer is $10,455$. I hope it is correct.", "10,455"),
    ("so we see that it is equal to $x+1$ after all", "x+1"),
    ("so there must be 12 of them in the end", "12"),
    ("x + 1", "x + 1"),
    ("", None),
]
BOMBS = [
    r"9^{9^{9^{9}}}",
    "10^{100000000}",
    "((10!)!)!",
    "7" * 1000,
    "(" * 500 + "5",
    r"\frac{1}{" * 40,
    "x" * 5000,
    "100000!",
    "9^9^9^9",
    "9^{9^{99}}",
    "9^{1+9^{99}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "((9^{999})^{999})^{999}",
    "2^{(2^5)^{(3^4)}}",
    "9^" * 300 + "9",
    r"a^{b^{c^{d}}}",
    "2^{2^n}",
    "10^{30000}",
    "x^{10000}",
]
TRIED = [
    "c^2+b^2+a^2",
    "x_1^2x_2^2x_3^2",
    r"\frac{x^2+y^2}{z^2}",
    r"(x^2+1)(x^2-1)x^2",
    r"2^2\cdot3^2\cdot5^2\cdot7^2",
    "2^{2^5}",
    "2^{3^4}",
    "2^2^2^2",
    "10^{12345}",
    "((9^9)^9)^9",
    "e^{-x^2}",
    "e^{2x^2}",
    "2^{1000}-1",
    "f^{(3)}(x)",
    "2^",
    "^2",
]


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(timeout_seconds=5.0, workers=2) as verifier:
        yield verifier


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_another_spelling_is_right_without_algebra(gold, answer):
    verdict = before_algebra(answer, gold)
    assert getattr(verdict, "correct", verdict) is True


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_another_answer_is_wrong_without_algebra(gold, answer, verifier):
    assert verifier.judge([answer], [gold])[0].correct is False


@pytest.mark.parametrize(("gold", "answer", "right"), ALGEBRA)
def test_algebra(gold, answer, right, verifier):
    assert verifier.judge([answer], [gold])[0].correct is right


@pytest.mark.parametrize(("response", "answer"), RESPONSES)
def test_the_answer_of_a_response(response, answer):
    found = find_answer(response)
    assert (found.text if found else None) == answer


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_blows_up_is_not_tried(bomb):
    verdict = before_algebra(bomb, "1")
    assert isinstance(verdict, Verdict)
    assert not verdict.correct


@pytest.mark.parametrize("formula", TRIED)
def test_powers_beside_each_other_and_small_towers_are_tried(formula):
    assert unverifiable(formula) is None


def test_a_gold_answer_that_cannot_be_read_is_no_verdict(verifier):
    assert verifier.judge(["5"], [""])[0].correct is None
    assert verifier.judge(["5", None], [r"\foo{", "5"])[1].correct is False


LATEX = st.recursive(
    st.sampled_from(
        [
            "x",
            "y",
            "1",
            "27",
            "0.5",
            r"\pi",
            r"\infty",
            "e",
            "",
            " ",
            "-",
            "+",
            ",",
            "=",
            r"\text{cm}",
            r"\%",
            "$",
            "\\",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(
            st.sampled_from([r"\frac{%s}{%s}", "%s^{%s}", "%s_%s", "(%s,%s)", r"\{%s,%s\}", "%s+%s", "[%s,%s)"]),
            inner,
            inner,
        ).map(lambda parts: parts[0] % parts[1:]),
        st.tuples(
            st.sampled_from(
                [
                    r"\sqrt{%s}",
                    r"\boxed{%s}",
                    r"\left(%s\right)",
                    "{%s",
                    "%s}",
                    "(%s",
                    "%s!",
                    r"\begin{pmatrix}%s\end{pmatrix}",
                ]
            ),
            inner,
        ).map(lambda parts: parts[0] % parts[1]),
    ),
    max_leaves=12,
)
HOSTILE = st.one_of(LATEX, st.text(max_size=60), st.text("()[]{}\\^_$0123456789 !,.", max_size=80))


PIECES = [
    *"(){}[]x1 ^_!+<|:*`&,.$\\\n",
    r"\text{",
    r"\frac",
    "1,000,",
    "base ",
    "x<1 or ",
    r"\pm",
    "cm ",
    "one ",
    r"\{x|",
    "1:",
    r"\(",
    r"\[",
    r"\(x",
    r"\[ x =",
    "<answer>",
    "</answer>",
    r"\text{a}",
    r"\boxed{",
    r"\boxed{a}, ",
    "{" + r"\boxed{a}",
    "$x$, ",
    "the answer ",
    "# Answer ",
    "Wait, let me check: ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_repeated_is_judged_alike_however_long(piece):
    seen = []
    for length in (MAX_ANSWER + 100, 200_000):  # one that takes the square of its length would not end
        text = piece * (length // len(piece) + 1)
        wholes = (text, "(" + text + ")", r"\{x|" + text + r"\}", "1 " + text, "so it is\n" + text + "7")
        found = [find_answer(whole) for whole in wholes]
        verdicts = [before_algebra(*pair) for whole in wholes for pair in ((whole, "5"), ("5", whole))]
        seen.append(([one and one.by for one in found], verdicts))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_repeated_as_far_as_answers_are_compared_has_a_verdict(piece):
    text = piece * ((MAX_ANSWER - 20) // len(piece))
    for whole in (text, "(" + text + ")", r"\{x|" + text + r"\}", "1 " + text):
        for pair in ((whole, "5"), ("5", whole)):
            verdict = before_algebra(*pair)
            assert not isinstance(verdict, Verdict) or verdict.reason


@pytest.mark.parametrize(
    ("opened", "closed", "held"),
    [(r"\text{", "}", "7"), (r"\textbf{\mathrm {", "}}", "7"), (r"\text{{", "}}", None), ("{", "}", None)],
)
def test_nested_text_is_taken_off_however_deep(opened, closed, held):
    for depth in (1, 50_000):
        nested = opened * depth + "7" + closed * depth
        assert without_text(nested) == (nested if held is None else held)


def test_a_long_response_has_the_answer_of_its_end():
    for start in (r"Hmm \[ x =", r"Wait, \(x + 1 ", "<answer>", r"\boxed{1}, no. ", "The answer is \\boxed{", "$ "):
        for times in (1, 20_000):
            assert find_answer(start * times + "\n" + r"</think> so \boxed{7}").text == "7"
    for between in (" " * 100_000, "\n" * 100_000):
        assert find_answer("# Answer" + between + ": x").text
        assert find_answer("so the answer is" + between + "7 of them").text.startswith("7")
    assert find_answer("The answer is " + "1,111," * 30 + "111 x").text
    assert find_answer("The answer is 1,111,111, 2 and 3").text == "1,111,111, 2 and 3"


@settings(max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE)
def test_no_string_breaks_what_runs_in_this_process(text):
    find_answer(text)
    once = normal(text)
    assert isinstance(once, str)
    number(once)
    unverifiable(once)
    compare_texts(text, text)
    compare_texts("5", text)


@settings(max_examples=5000, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE)
def test_an_answer_is_itself(text):
    verdict = before_algebra(text, text)
    if not text.strip() or not normal(text):
        assert verdict.correct is not True
    else:
        assert verdict.correct is True


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(HOSTILE, min_size=100, max_size=100))
def test_ten_thousand_strings_neither_hang_the_algebra_nor_fill_the_memory(verifier, texts):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    verdicts = verifier.judge(
        [*texts, "x+x+1"], [*["5"] * len(texts), "2x+1"]
    )  # the last needs the algebra: a process runs
    assert all(verdict.correct in (True, False, None) for verdict in verdicts)
    assert verdicts[-1].correct
    assert time.monotonic() - started < 5.0 * len(texts)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    limits = {
        resource.prlimit(member.process.pid, resource.RLIMIT_AS) for member in verifier._pool.workers if member.ready
    }
    assert limits == {(worker.MEMORY_BYTES, worker.MEMORY_BYTES)}


def test_rows_come_back_in_order_with_verdict_and_reason(tmp_path):
    rows = [
        {"id": "a", "gold": "1/2", "prediction": r"so \boxed{0.5}"},
        {"id": "b", "gold": "2", "prediction": "The answer is 3."},
        {"id": "c", "gold": "1", "prediction": BOMBS[0]},
    ]
    graded = grade_rows(rows, workers=1)
    assert [row["id"] for row in graded] == ["a", "b", "c"]
    assert [row["correct"] for row in graded] == [True, False, None]
    assert graded[2]["reason"] == "unverifiable: a tower of powers"
    assert graded[0]["extracted_by"] == "box"
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert grade_file(path, workers=1) == graded


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "rows.jsonl:1: not JSON"),
        ('{"gold": "1"}', "rows.jsonl:1: prediction is missing"),
        ('{"gold": true, "prediction": "1"}', "rows.jsonl:1: gold is true; expected text or a number"),
        ('{"gold": null, "prediction": "1"}', "rows.jsonl:1: gold is null; expected text or a number"),
        ('{"gold": NaN, "prediction": "1"}', "rows.jsonl:1: gold is NaN; expected text or a number"),
        ('{"gold": "1", "prediction": ["1"]}', r'rows.jsonl:1: prediction is \["1"\]; expected text or a number'),
        ("5", "rows.jsonl:1: a JSON int; each line must be an object"),
        ("null", "rows.jsonl:1: a JSON NoneType; each line must be an object"),
        ('"gold prediction"', "rows.jsonl:1: a JSON str; each line must be an object"),
        ('{"gold": "1", "prediction": "\xe9"}', r"rows.jsonl:1: not UTF-8 \(byte 30 of the line\)"),
        ('{"x": ' + "[" * 100_000 + "}", "rows.jsonl:1: JSON that is nested too deep"),
        ('{"gold": ' + "1" * 5_000 + ', "prediction": "1"}', "rows.jsonl:1: an integer of more than 4300 digits"),
    ],
)
def test_a_bad_row_is_named(tmp_path, monkeypatch, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n")
    monkeypatch.setattr(grade, "grade_rows", None)  # nothing is graded before all is read
    with pytest.raises(RecipeError, match=message) as raised:
        grade_file(path)
    assert len(str(raised.value).splitlines()) == 1


def test_lines_are_what_json_says_they_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [
        '\ufeff{"gold": "2", "prediction": "so\u2028the answer\x85is 2"}',
        "",
        '{"gold": 2, "prediction": 2.0}',
        '{"gold": "2", "prediction": null}',
        '{"gold": "2", "prediction": "\\ud800 2"}',
        " ",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = grade_file(path, workers=1)
    assert [(row["correct"], row["reason"]) for row in rows[:3]] == [
        (True, "same text"),
        (True, "same number"),
        (False, "no answer"),
    ]
    assert (rows[1]["gold"], rows[1]["prediction"], rows[2]["prediction"]) == (2, 2.0, None)
    done = CliRunner().invoke(app, ["grade", str(path), "--json", "--workers", "1"])
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    path.write_text("")
    assert CliRunner().invoke(app, ["grade", str(path), "--json"]).stdout == ""
