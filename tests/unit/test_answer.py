import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason_rl.answer import pool, response, verify, worker
from reason_rl.answer.compare import MAX_ANSWER, Verdict
from reason_rl.answer.extract import extract_boxed, split_think
from reason_rl.answer.grade import grade_rows
from reason_rl.answer.verify import ExactVerifier, MathVerifier, make_verifier
from reason_rl.errors import RunError

HANG = r"(x+1)^{9999}(y+1)^{9999}"  # minutes of algebra that no guard sees
TOWER = r"9^{9^{9^{9}}}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def two_workers():
    with MathVerifier(timeout_seconds=2.0, workers=2) as verifier:
        yield verifier


@pytest.fixture
def one_worker():
    with MathVerifier(timeout_seconds=2.0, workers=1) as verifier:
        yield verifier


def pids(verifier):
    return [member.process.pid for member in verifier._pool.workers]


def gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


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
        (r"\fbox{3}", "3"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\left\{1, 2\right.}", r"\left\{1, 2\right."),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"} stray \boxed{4} { stray", "4"),
        ("\\boxed{\n 8 \n}", "8"),
        (r"\boxed 9", None),
        (r"\\boxed{6}", "6"),
        (r"\boxed{1 \\{2}}", r"1 \\{2}"),
    ],
)
def test_the_last_whole_box_counts(text, answer):
    assert extract_boxed(text) == answer


contents = st.recursive(
    st.text("ab1 +-\n", max_size=5), lambda inner: st.lists(inner, max_size=3).map("".join).map("{{{}}}".format)
)


@given(st.text("ab{}\\ ", max_size=20), contents, st.text("ab} ", max_size=10))
def test_any_balanced_content_comes_back(before, content, after):
    assert extract_boxed(before + " \\boxed{" + content + "}" + after) == content.strip()


def test_a_million_open_boxes_cost_one_pass():
    assert extract_boxed("\\boxed{" * 150_000) is None


def test_split_at_the_first_end_of_think():
    assert split_think("a </think> b </think> c", "</think>") == ("a ", " b </think> c")
    assert split_think("a b", "</think>") == ("a b", None)
    assert split_think("a b", None) == ("", "a b")


def test_exact_ignores_white_space_only():
    with make_verifier("exact") as verifier:
        verdicts = verifier.verify(["25  17", "17 25", None, "025"], ["25 17", "25 17", "1", "25"])
    assert verdicts == [True, False, False, False]
    with pytest.raises(ValueError, match="longer"):
        ExactVerifier().verify(["1"], ["1", "2"])


def test_math_equality(one_worker):
    pairs = [
        (r"\frac{1}{2}", "0.5", True),
        ("2", "3", False),
        (r"\sqrt{4}", "2", True),
        (None, "2", False),
        ("x", "x", True),
        (r"2x + x", "3x", True),
        ("", "2", False),
        (r"1, 2, \ldots, n", "n", False),
        (r"\frac12", r"\tfrac{1}{2}", True),
        ("\ud800", "1", False),
    ]
    answers, gold, verdicts = zip(*pairs, strict=True)
    assert one_worker.verify(answers, gold) == list(verdicts)
    assert (one_worker.timeouts, one_worker.crashes) == (0, 0)


def test_hostile_answers_are_wrong_counted_and_hold_nothing_up(two_workers):
    answers = [TOWER, "0.5", HANG, "0.25", TOWER]
    gold = ["1", r"\frac{1}{2}", "1", r"\frac{1}{4}", "1"]
    assert two_workers.verify(answers, gold) == [False, True, False, True, False]
    assert two_workers.timeouts == 1  # the tower is not even tried
    assert two_workers.verify(["0.5"], [r"\frac{1}{2}"]) == [True]


def test_an_answer_is_never_run_as_a_program(one_worker, tmp_path):
    marker = tmp_path / "marker"
    attacks = [f'__import__("os").system("touch {marker}") or 5', f'open("{marker}", "w") and 5']
    one_worker.verify(attacks, ["5", "5"])
    assert not marker.exists()


def test_equal_strings_need_no_process():
    verifier = MathVerifier()
    assert verifier.verify(["7", None, " 1  2"], ["7", "7", "1 2"]) == [True, False, True]
    assert pids(verifier) == []


@linux
def test_workers_know_no_torch_and_end_with_the_verifier():
    import torch  # here, but not in the worker

    with make_verifier("math", timeout_seconds=5.0) as verifier:
        assert verifier.verify(["x+1"], ["1+x"]) == [True]
        (pid,) = pids(verifier)
        assert "libtorch" in Path("/proc/self/maps").read_text()
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    assert gone(pid)
    assert torch


@linux
def test_a_worker_that_dies_idle_is_not_held_against_the_answer(one_worker):
    one_worker.verify(["x+1"], ["1+x"])
    (pid,) = pids(one_worker)
    os.kill(pid, signal.SIGKILL)
    while not gone(pid):
        time.sleep(0.01)
    assert one_worker.verify(["x+2"], ["2+x"]) == [True]
    assert one_worker.crashes == 0


@linux
def test_a_worker_that_dies_at_work_is_a_crash():
    with MathVerifier(timeout_seconds=60.0, workers=1) as verifier:
        verifier.verify(["x+1"], ["1+x"])
        killer = threading.Timer(0.5, os.kill, (*pids(verifier), signal.SIGKILL))
        killer.start()
        verdicts = verifier.judge([HANG, "x+2"], ["1", "2+x"])
        assert [verdict.reason for verdict in verdicts] == ["unverifiable: the process died", "equal"]
        assert (verifier.timeouts, verifier.crashes) == (0, 1)


def test_what_the_algebra_raises_is_named_and_ends_no_process(one_worker, capfd):
    verdicts = one_worker.judge([r"1 \mod 0", "x+1"], ["7", "1+x"])
    assert verdicts[0] == Verdict(None, "unverifiable: ZeroDivisionError while math-verify compared them")
    assert verdicts[1].correct
    assert (one_worker.timeouts, one_worker.crashes) == (0, 0)
    assert "Traceback" not in capfd.readouterr().err


def test_want_of_memory_is_named():
    assert verify._verdict(worker.RAISED + b"MemoryError").reason == "unverifiable: out of memory"


@pytest.mark.parametrize("step", ["before_algebra", "rewritten", "parts_of"])
def test_what_our_own_steps_raise_is_the_verdict_on_that_pair_only(one_worker, monkeypatch, step):
    honest = getattr(verify, step)

    def raising(*texts):
        if any("13" in text for text in texts):
            raise RecursionError("too deep")
        return honest(*texts)

    monkeypatch.setattr(verify, step, raising)
    verdicts = one_worker.judge(["(x, 13)", "x+1", "7"], ["(x+x, 2)", "1+x", "7"])
    assert verdicts[0] == Verdict(None, "unverifiable: RecursionError while the answers were compared")
    assert [verdict.correct for verdict in verdicts[1:]] == [True, True]


def test_a_response_that_cannot_be_searched_is_named_and_no_batch_ends(one_worker, monkeypatch):
    monkeypatch.setattr(response, "RULES", (("box", lambda text: text[10_000]),))
    reason = "unverifiable: IndexError while the answer was looked for"
    answer = response.answer_in("so 7", "response")
    assert one_worker.judge([answer, "7"], ["7", "7"]) == [Verdict(None, reason), Verdict(True, "same text")]
    assert ExactVerifier().verify([answer, "7"], ["7", "7"]) == [False, True]
    (row,) = grade_rows([{"gold": "7", "prediction": "so 7"}], workers=1)
    assert (row["correct"], row["reason"]) == (None, reason)


def test_a_list_of_hangs_has_the_time_of_one_answer(one_worker):
    hangs = ", ".join(f"{91 + i}!!!" for i in range(5))
    (verdict,) = one_worker.judge([hangs + ", q"], ["0, 1, 2, 3, 4, 5"])
    assert verdict == Verdict(None, "unverifiable: past the deadline")
    assert one_worker.timeouts == 1
    parts = [pair for known in one_worker._known[:-1] for pair in known]
    assert parts == []  # what had no time left is not remembered for other answers
    assert one_worker.judge(["(x, 2)"], ["(x, 3)"])[0].correct is False


def test_a_used_up_budget_tries_nothing_more(one_worker):
    empty, full = pool.Budget(0.0), pool.Budget(2.0)
    jobs = [(("x+1", "1+x"), budget) for budget in (empty, full)]
    assert one_worker._pool.judge(jobs) == dict(zip(jobs, [pool.LATE, worker.RIGHT], strict=True))
    assert one_worker.timeouts == 0
    assert empty.seconds == 0.0
    assert 0.0 < full.seconds < 2.0


def test_threads_and_coroutines_share_a_verifier():
    verifier = MathVerifier(timeout_seconds=60.0, workers=2)

    def judged(name):
        answers, gold = zip(*[(f"x+{name}+{j}", f"{j}+{name}+x") for j in range(3)], strict=True)
        return verifier.verify(answers, gold)

    async def gathered():
        return await asyncio.gather(*[asyncio.to_thread(judged, name) for name in range(20, 24)])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(judged, range(8))) == [[True] * 3] * 8
    assert asyncio.run(gathered()) == [[True] * 3] * 4
    assert (verifier.timeouts, verifier.crashes) == (0, 0)
    verifier.close()
    assert verifier.verify(["x+98"], ["98+x"]) == [True]
    verifier.close()


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(verify, "MAX_KNOWN", 3)
    verifier = MathVerifier()
    assert all(verifier.verify([str(n) for n in range(10)], [str(n) for n in range(10)]))
    assert list(verifier._known[-1]) == [(str(n), str(n)) for n in (7, 8, 9)]
    assert not verifier.verify(["x" * (MAX_ANSWER + 1)], ["7"])[0]
    assert len(verifier._known[-1]) == 3


@linux
def test_a_hung_worker_does_not_outlive_a_killed_parent():
    script = (
        "import threading, time\n"
        "from reason_rl.answer.verify import MathVerifier\n"
        "v = MathVerifier(timeout_seconds=2.0, workers=1)\n"
        "v.verify(['x+1'], ['1+x'])\n"
        "print(v._pool.workers[0].process.pid, flush=True)\n"
        f"v.verify([{HANG!r}], ['1'])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    while not gone(pid):  # for ever, if it did: the suite's time limit ends this
        time.sleep(0.05)


def test_a_checker_that_does_not_start_is_said_so(monkeypatch):
    monkeypatch.setattr(pool, "START_SECONDS", 0.0)
    with MathVerifier(workers=1) as verifier, pytest.raises(RunError, match="did not start within 0 s"):
        verifier.verify(["x+1"], ["1+x"])
    monkeypatch.undo()
    monkeypatch.setattr(pool.sys, "executable", "/bin/false")
    with MathVerifier(workers=1) as verifier, pytest.raises(RunError, match=r"did not start \(exit code 1"):
        verifier.verify(["x+1"], ["1+x"])
