"""Any OpenAI-compatible endpoint can be evaluated: asked in parallel, retried, resumed, and counted as it counts."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reason_rl import cli
from reason_rl.errors import RecipeError, RunError
from reason_rl.evaluate.endpoint import TokenCounter, evaluate_endpoint, stop_field
from reason_rl.evaluate.records import part_of, read_rows
from reason_rl.evaluate.suites import EvalChanges, evaluate_suites, suite_recipe
from reason_rl.rollout.backend import SamplingOptions
from reason_rl.rollout.endpoint import ChatRequest, Endpoint, Reply, _Pace, connect, read_reply

USAGE = {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 9}}


class Served:
    """A server whose answer to each request is made by ``answer(body)``: a message, or a status with headers."""

    def __init__(self, answer):
        self.bodies, self.keys, self.paths, self.answer = [], [], [], answer
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Say nothing."""

            def do_GET(self):
                self._send(404, {}, {})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served.lock:
                    served.bodies.append(body)
                    served.paths.append(self.path)
                    served.keys.append(self.headers.get("Authorization"))
                    served.together += 1
                    served.most_together = max(served.most_together, served.together)
                reply = served.answer(body)
                with served.lock:
                    served.together -= 1
                if isinstance(reply, tuple):
                    self._send(*reply)
                else:
                    finish, usage = reply.pop("finish_reason", "stop"), reply.pop("usage", USAGE)
                    self._send(200, {}, {"choices": [{"message": reply, "finish_reason": finish}], "usage": usage})

            def _send(self, status, headers, value):
                text = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, header in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, header)
                self.end_headers()
                self.wfile.write(text)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve():
    servers = []

    def make(answer):
        servers.append(Served(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def boxed(body):
    return {"content": r"so \boxed{2}", "reasoning_content": "hm"}


def endpoint(url, **fields):
    return Endpoint(url, "served", first_wait_seconds=0.001, **{"concurrency": 4, **fields})


def ask(url, count=1, **fields):
    requests = [ChatRequest(({"role": "user", "content": str(i)},), 64, 5 + 2**40) for i in range(count)]
    with connect(endpoint(url, **fields)) as client:
        return client.complete(requests, SamplingOptions(0.6, 0.95, 20))


def test_a_request_says_how_to_sample_and_a_reply_what_came(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = serve(boxed)
    assert ask(server.url) == [Reply(r"so \boxed{2}", "hm", "stop", 12, 9)]
    assert server.paths == ["/v1/chat/completions"]
    assert server.keys == ["Bearer k"]
    body = server.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("served", 64, 0.6, 0.95)
    assert (body["top_k"], body["seed"]) == (20, 5)
    assert body["messages"] == [{"role": "user", "content": "0"}]


def test_replies_keep_the_order_and_requests_their_number(serve):
    """The server waits until four requests are there at once, and a fifth never is."""
    barrier = threading.Barrier(4, timeout=30)

    def answer(body):
        barrier.wait()
        return {"content": body["messages"][0]["content"]}

    server = serve(answer)
    assert [reply.text for reply in ask(server.url, 16)] == [str(i) for i in range(16)]
    assert server.most_together == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(serve, status):
    failures = iter([True, True, False])
    server = serve(lambda body: (status, {"Retry-After": "0"}, {}) if next(failures) else boxed(body))
    assert ask(server.url)[0].text == r"so \boxed{2}"
    assert len(server.bodies) == 3


def test_what_does_not_pass_is_said_in_one_line(serve):
    server = serve(lambda _: (503, {}, {"error": {"message": "busy\nvery"}}))
    with pytest.raises(RunError, match=r"gave up after 3 attempts \(status 503: busy very\)$"):
        ask(server.url, retries=2)
    refused = serve(lambda _: (404, {}, {"error": {"message": "no model served"}}))
    with pytest.raises(RunError, match=r"status 404: no model served$"):
        ask(refused.url)
    assert len(refused.bodies) == 1
    with pytest.raises(RunError, match=r"is not JSON"):
        ask(serve(lambda _: (200, {}, b"<html>")).url)
    with pytest.raises(RunError, match=r"is no chat completion"):
        read_reply({"choices": []})


def test_an_endpoint_that_is_down_or_none_is_one_line(serve, capsys, monkeypatch, tmp_path):
    server = serve(boxed)
    down = server.url
    server.close()
    words = ["reason-rl", "eval", "smoke", "--engine", "openai", "--url", down, "--model", "m"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(tmp_path / "x.jsonl")])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: --url {down}: no answer (")
    for url in ("localhost:8000/v1", "ftp://x/v1"):
        with pytest.raises(RecipeError, match="no address; for instance"), connect(Endpoint(url, "m")):
            pass
    with pytest.raises(RecipeError, match="would be written"), connect(Endpoint("http://a:b@x/v1", "m")):
        pass


def test_the_pace_holds_over_all_requests(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr("reason_rl.rollout.endpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr("reason_rl.rollout.endpoint.time.sleep", slept.append)
    pace = _Pace(30)
    for _ in range(3):
        pace.wait()
    now[0] = 200.0
    pace.wait()
    assert slept == [0.0, 2.0, 4.0, 0.0]


@pytest.mark.parametrize(
    ("reply", "cut", "expected"),
    [
        (Reply("4", "2 + 2", "stop", 9, 7), False, ("2 + 2</think>4", "4", 9, 7)),
        (Reply("", "2 + 2", "length", 9, None), True, ("2 + 2", None, 9, 9)),
        (Reply("2 + 2</think>4", None, "stop", 9, 7), False, ("2 + 2</think>4", "4", 9, 7)),
        (Reply("2 + 2", None, "length", 9, None), True, ("2 + 2", None, 9, 9)),
        (Reply("It is 4.", None, "stop", 9, None), False, ("It is 4.", "It is 4.", 9, 9)),
    ],
)
def test_thinking_and_answer_are_told_apart(reply, cut, expected):
    counted = TokenCounter().count(reply, cut)
    assert (counted.completion, counted.answer_text, counted.completion_tokens, counted.think_tokens) == expected


def test_a_tokenizer_counts_what_the_server_does_not(tiny_tokenizer):
    reply = Reply(" 4", "2 + 2 ", "stop", None, None)
    with pytest.raises(RunError, match="name a --tokenizer"):
        TokenCounter().count(reply, False)
    counted = TokenCounter(tiny_tokenizer).count(reply, False)
    assert (counted.completion_tokens, counted.think_tokens) == (5, 4)


def test_a_suite_is_evaluated_and_goes_on_after_a_failure(serve, tmp_path):
    """The server dies in the middle; what it had answered is not asked again, and the rows are those of one go."""
    seen = []

    def answer(body):
        if len(seen) == 40 and not alive:
            return 400, {}, {"error": "out of memory"}
        seen.append((body["messages"][0]["content"], body["seed"]))
        return {"content": f"\\boxed{{{body['seed'] % 3}}}"}

    server, alive = serve(answer), []
    recipe = suite_recipe("smoke", "served", tmp_path, EvalChanges(samples=2, engine="openai"))
    out, where = tmp_path / "rows.jsonl", endpoint(server.url, concurrency=2)
    with pytest.raises(RunError, match="status 400: out of memory"):
        evaluate_endpoint(recipe, where, None, out)
    kept = len(part_of(out).read_text().splitlines()) - 1
    assert kept == 40
    alive.append(True)
    rows = evaluate_endpoint(recipe, where, None, out)
    assert len(seen) == len(set(seen)) == len(rows) == 60
    assert evaluate_endpoint(recipe, where, None, tmp_path / "whole.jsonl") == rows
    header = read_rows(out).header
    assert (header["engine"], header["url"], header["model"]) == ("openai", server.url, "served")
    assert {row.finish_reason for row in rows} == {"stop"}
    assert all(row.correct == (row.extracted == row.answer) for row in rows)


def test_cut_and_filtered_answers_are_wrong(serve, tmp_path):
    finishes = iter(["stop", "length", "content_filter"])
    server = serve(lambda _: {"content": r"\boxed{7}", "finish_reason": next(finishes)})
    changes = EvalChanges(1, 32, 3, "openai", endpoint=endpoint(server.url, concurrency=1))
    out = tmp_path / "rows.jsonl"
    summary = evaluate_suites(["smoke"], "served", None, changes, out)["smoke"]
    rows = read_rows(out).rows
    assert [row.finish_reason for row in rows] == ["stop", "length", "content_filter"]
    assert not any(row.correct for row in rows[1:])
    assert summary["samples"] == 3
    assert {body["max_tokens"] for body in server.bodies} == {32}


def test_a_way_of_stopping_is_asked_of_the_server_and_stands_in_the_header(serve, tmp_path):
    server, out = serve(boxed), tmp_path / "rows.jsonl"
    changes = EvalChanges(1, 32, 2, "openai", endpoint=endpoint(server.url), stop="budget:16")
    evaluate_suites(["smoke"], "served", None, changes, out)
    assert [body["stop"] for body in server.bodies] == [{"budget": 16}] * 2
    assert read_rows(out).header["stop"] == "budget:16"
    with pytest.raises(RecipeError, match="--stop probe:here: with --url, what follows probe is a risk"):
        evaluate_suites(["smoke"], "served", None, replace(changes, stop="probe:here"), tmp_path / "other.jsonl")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smoke", "--engine", "openai", "--model", "m"], "belong together"),
        (["smoke", "--url", "http://x/v1", "--model", "m"], "belong together"),
        (["tiny/dler", "--engine", "openai", "--url", "http://x/v1"], "--url evaluates suites"),
        (["tiny/dler", "--engine", "vllm"], "--engine is for suites; for a recipe use rollout.engine=NAME"),
        (["tiny/dler", "--adapter", "here"], "--adapter is for suites; for a recipe use --model FOLDER"),
        (["tiny/dler", "--dtype", "auto"], "--dtype is for suites; for a recipe use model.dtype=TYPE"),
        (
            ["tiny/dler", "--batch-rows", "8"],
            "--batch-rows is for suites; for a recipe use rollout.max_batch_rows=ROWS",
        ),
        (["tiny/dler", "--tokenizer", "tiny-reasoner"], "--tokenizer is for --engine openai"),
        (["smoke", "--model", "tiny-reasoner", "--concurrency", "2"], "--concurrency is for --engine openai"),
        (
            ["smoke", "--engine", "openai", "--url", "http://x/v1", "--dtype", "auto"],
            "--dtype is for models that run here",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message):
    with pytest.raises(RecipeError, match=message):
        cli.app(["eval", *words], standalone_mode=False)


def test_an_answer_without_thinking_is_sampled_or_refused():
    with pytest.raises(RecipeError, match="--stop no_thinking: with --url the answer would be greedy"):
        stop_field("no_thinking")
