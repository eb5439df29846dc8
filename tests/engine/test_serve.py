"""``reason-rl serve`` answered by the openai client: with and without exits, many at a time, and nothing left behind."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reason_rl import cli
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import read_rows
from reason_rl.models import load_model, load_tokenizer
from reason_rl.problem.prompt import render_prompts
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.schema import ModelSection, PromptSection, WorldData
from reason_rl.recipe.suite import load_suite
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest, sampling_seed
from reason_rl.rollout.endpoint import SEED_BITS
from reason_rl.serve import commands, run
from reason_rl.serve.run import ServeOptions, bind, make_server
from reason_rl.stopping.artefact import CARD_FILE, CERTIFICATE_FILE, fingerprint, load_certificate, load_probe
from reason_rl.stopping.batch import Batch
from reason_rl.stopping.generate import StoppingBackend
from reason_rl.stopping.rule import Elicitor, StopPolicy
from reason_rl.stopping.rules.budget_forcing import BudgetForcing
from reason_rl.stopping.rules.probe_exit import ProbeExit
from reason_rl.stopping.temperature import TemperatureStop
from reason_rl.stopping.thinking import think_tokens

CAP = 160
# The end of thinking is never the likeliest token, so that these run into the context's end, 500 tokens on.
NEVER_ENDS = {"messages": [{"role": "user", "content": "chain 5 + 3"}], "stop": {"strength": 1e-6}, "temperature": 0}


class Served:
    """A server in a thread of this process."""

    def __init__(self, **options):
        self.sock = bind("127.0.0.1", 0)
        self.server, self.service = make_server(
            ServeOptions(**{"model": "tiny-reasoner", "max_waiting": 64, **options})
        )
        self.engine = self.server.engine
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.sock]})
        self.thread.start()
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)
        wait_until(lambda: self.server.started)

    def ask(self, question, **fields):
        return self.client.chat.completions.create(
            model=self.service.name, messages=[{"role": "user", "content": question}], **fields
        )

    def post(self, path, **body):
        return httpx.post(f"{self.url}/v1/{path}", json={"model": self.service.name, **body}, timeout=60)

    @property
    def idle(self):
        engine = self.engine
        return not (engine.running or engine.waiting or engine._dropped)

    def close(self):
        self.server.stop()
        self.thread.join(timeout=60)
        self.client.close()
        assert not self.thread.is_alive()


def wait_until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def probe_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "p"
    sampled = [f"eval.max_tokens={CAP}", "eval.data.split=calibration", "eval.data.count=30"]
    fit = ["probe", "fit", "tiny/dler", "data.count=30", *sampled, "--problems", "30", "--every", "8"]
    cli.app([*fit, "--answer-tokens", "6", "--out", str(folder)], standalone_mode=False)
    calibrate = ["probe", "calibrate", "tiny/dler", str(folder), *sampled, "--risk", "0.4"]
    cli.app(calibrate, standalone_mode=False)
    return folder


@pytest.fixture(scope="module")
def served(probe_folder):
    server = Served(probe=probe_folder)
    yield server
    server.close()


class Offline:
    """The same model in the decoding loop, one request at a time."""

    def __init__(self, folder):
        self.tokenizer, model = load_tokenizer(ModelSection()), load_model(ModelSection())
        self.tokens = think_tokens(model, self.tokenizer)
        self.backend = StoppingBackend(model, self.tokens, self.tokenizer.pad_token_id)
        self.problems = load_problems(WorldData(use="world", split="test", count=32))
        self.prompts = render_prompts(self.problems, self.tokenizer, PromptSection())
        probe, card = load_probe(folder, fingerprint(model, self.tokenizer))
        self.certificate = load_certificate(folder)
        threshold = self.certificate.guarantee.threshold
        closing = Elicitor((self.tokens.end,), CAP, self.tokens.eos)
        self.policies = [
            (None, StopPolicy()),
            ({"budget": 20}, StopPolicy(rule=BudgetForcing(self.tokens.end, closing, 20))),
            ({"strength": 3.0}, StopPolicy(edit=TemperatureStop(3.0, self.tokens))),
            ({"probe": True}, StopPolicy(rule=ProbeExit(probe, card.layers, card.cues, card.elicitor, threshold))),
        ]

    def write(self, number, policy, options, seed):
        return self.write_all([number], policy, options, [seed])[0]

    def write_all(self, numbers, policy, options, seeds):
        rows = zip(numbers, seeds, strict=True)
        requests = [SamplingRequest(self.prompts[number], CAP, seed) for number, seed in rows]
        return self.backend.under(policy).decode(requests, options)

    def texts(self, stopped):
        """Return thinking and answer as a client should read them."""
        ids = [token for token in stopped.sample.token_ids if token not in self.tokens.eos]
        end = ids.index(self.tokens.end) if self.tokens.end in ids else len(ids)
        return self.tokenizer.decode(ids[:end]), self.tokenizer.decode(ids[end + 1 :])


@pytest.fixture(scope="module")
def offline(probe_folder):
    return Offline(probe_folder)


def extra(stop):
    return {} if stop is None else {"extra_body": {"stop": stop}}


def same(offline, completion, stopped):
    """Tell whether a chat completion is what the decoding loop wrote."""
    thinking, answer = offline.texts(stopped)
    choice, usage, ids = completion.choices[0], completion.usage, stopped.sample.token_ids
    assert (choice.message.reasoning_content, choice.message.content) == (thinking, answer)
    assert choice.finish_reason == ("length" if stopped.sample.finish_reason == "length" else "stop")
    assert choice.exit == (None if stopped.exit_at is None else {"after_tokens": stopped.exit_at})
    counted = ids.index(offline.tokens.end) + 1 if offline.tokens.end in ids else len(ids)
    assert usage.completion_tokens == len(ids)
    assert usage.completion_tokens_details.reasoning_tokens == counted
    assert usage.total_tokens == usage.prompt_tokens + len(ids)
    return stopped.exit_at is not None


def test_the_model_and_its_health_are_told(served, probe_folder):
    assert httpx.get(f"{served.url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    listed = served.client.models.list().data[0]
    assert (listed.id, listed.max_model_len, listed.thinks) == ("tiny-reasoner", 512, True)
    assert listed.probe == {"certified": True, "statement": load_certificate(probe_folder).guarantee.statement()}
    assert served.client.models.retrieve("tiny-reasoner").id == "tiny-reasoner"
    with pytest.raises(openai.NotFoundError, match="tiny-reasoner is"):
        served.client.models.retrieve("gpt-5")


@pytest.mark.parametrize("which", range(4), ids=["plain", "budget", "strength", "probe"])
def test_served_text_is_what_the_decoding_loop_writes(served, offline, which):
    stop, policy = offline.policies[which]
    exits = 0
    for number in range(4):
        # Exits are certified for sampling at temperature 1, which a request under the probe takes over.
        greedy = {} if stop == {"probe": True} else {"temperature": 0}
        options = SamplingOptions() if stop == {"probe": True} else SamplingOptions(temperature=0.0)
        completion = served.ask(offline.problems[number].prompt, max_tokens=CAP, seed=number, **greedy, **extra(stop))
        exits += same(offline, completion, offline.write(number, policy, options, number))
    assert exits > 0 if which in (1, 3) else exits == 0


def test_32_requests_are_decoded_together_each_with_its_own_policy(served, offline, monkeypatch):
    step, together = Batch.step, []

    def watched(batch):
        # The first row waits for the others, so that how many go together is no matter of luck.
        wait_until(lambda: together or served.engine.running + served.engine.waiting >= 32)
        together.append(len(batch.lanes))
        return step(batch)

    monkeypatch.setattr(Batch, "step", watched)

    def ask(number):
        stop, _ = offline.policies[number % 4]
        return served.ask(offline.problems[number].prompt, max_tokens=CAP, seed=number, **extra(stop))

    with ThreadPoolExecutor(32) as pool:
        completions = list(pool.map(ask, range(32)))
    assert max(together) >= 24
    exits = 0
    for which, (_, policy) in enumerate(offline.policies):
        numbers = range(which, 32, 4)
        for number, stopped in zip(
            numbers, offline.write_all(numbers, policy, SamplingOptions(), numbers), strict=True
        ):
            exits += same(offline, completions[number], stopped)
    assert exits >= 8
    for number in range(4):
        assert ask(number).choices[0].message == completions[number].choices[0].message
    wait_until(lambda: served.idle)


def test_a_seed_gives_the_same_text_again_and_none_another(served, offline):
    question = offline.problems[5].prompt
    texts = [served.ask(question, seed=seed, max_tokens=CAP).choices[0].message for seed in (3, 3, 4, -1)]
    assert texts[0] == texts[1]
    assert len({text.reasoning_content for text in texts}) == 3
    free = {served.ask(question, max_tokens=CAP).choices[0].message.reasoning_content for _ in range(3)}
    assert len(free) == 3


def test_several_choices_and_prompts(served, offline):
    question, seed = offline.problems[5].prompt, 3
    many = served.ask(question, seed=seed, max_tokens=CAP, n=3)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    one = served.ask(question, seed=seed, max_tokens=CAP)
    assert many.choices[0].message == one.choices[0].message
    assert len({choice.message.reasoning_content for choice in many.choices}) == 3
    prompts = [list(prompt) for prompt in offline.prompts[:2]]
    two = served.client.completions.create(model="tiny-reasoner", prompt=prompts, n=2, temperature=0, max_tokens=30)
    assert two.usage.prompt_tokens == sum(map(len, prompts))
    texts = [choice.text for choice in two.choices]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    greedy = [offline.write(i, StopPolicy(), SamplingOptions(temperature=0.0), 0).sample.token_ids for i in range(2)]
    assert texts[::2] == [offline.tokenizer.decode(ids[:30]) for ids in greedy]


@pytest.mark.parametrize("stop", [None, {"budget": 20}, {"probe": True}], ids=["plain", "budget", "probe"])
def test_a_stream_says_what_the_whole_reply_says(served, offline, stop):
    asked = {"seed": 9, "max_tokens": CAP, "logprobs": True, "n": 2, **extra(stop)}
    whole = served.ask(offline.problems[7].prompt, **asked)
    chunks = list(served.ask(offline.problems[7].prompt, stream=True, stream_options={"include_usage": True}, **asked))
    assert chunks[-1].usage == whole.usage
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        thinking = "".join(getattr(part.delta, "reasoning_content", "") for part in parts)
        assert thinking == choice.message.reasoning_content
        assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert (parts[-1].finish_reason, parts[-1].exit) == (choice.finish_reason, choice.exit)
        told = [entry for part in parts if part.logprobs for entry in part.logprobs.content or []]
        assert [entry.token for entry in told] == choice.message.content.split()
        streamed, at_once = ([entry.logprob for entry in said] for said in (told, choice.logprobs.content))
        assert streamed == pytest.approx(at_once, abs=1e-4)
    if stop is not None:
        assert chunks[-2].stopping == whole.stopping


def test_bare_completions_stream_and_stop_at_texts(served, offline):
    body = {"model": "tiny-reasoner", "prompt": list(offline.prompts[7]), "max_tokens": CAP, "seed": 9, "logprobs": 0}
    whole = served.client.completions.create(**body).choices[0]
    written = offline.write(7, StopPolicy(), SamplingOptions(), 9)
    end = len(written.sample.token_ids) - (written.sample.finish_reason == "stop")
    assert whole.text == offline.tokenizer.decode(written.sample.token_ids[:end])
    assert whole.logprobs.token_logprobs == pytest.approx(written.sample.logps[:end], abs=1e-4)
    streamed = "".join(chunk.choices[0].text for chunk in served.client.completions.create(**body, stream=True))
    assert streamed == whole.text
    for stop in ([" = "], {"strings": "= ", "budget": 30}):
        text = (stop if isinstance(stop, list) else ["= "])[0]
        cut = served.client.completions.create(**body, extra_body={"stop": stop}).choices[0]
        assert (cut.text, cut.finish_reason, cut.stop_reason) == (whole.text[: whole.text.index(text)], "stop", text)
        pieces = served.client.completions.create(**body, extra_body={"stop": stop}, stream=True)
        assert "".join(chunk.choices[0].text for chunk in pieces) == cut.text
    wait_until(lambda: served.idle)


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        ("completions", {"prompt": "x", "model": "gpt"}, 404, "model", "gpt is not served here, tiny-reasoner is"),
        ("completions", {"prompt": ""}, 400, "prompt", "give at least one token"),
        ("completions", {"prompt": [[5, 123]]}, 400, "prompt", "ids are 0 to 122"),
        ("completions", {"prompt": [5] * 512}, 400, "prompt", "shorten it"),
        ("completions", {"prompt": [5] * 500, "max_tokens": 13}, 400, "max_tokens", "ask for at most 12 tokens"),
        ("completions", {"prompt": "x", "n": 97}, 400, "n", "at most 96 can wait"),
        ("completions", {"prompt": "x", "stop": {"budgt": 1}}, 400, "stop.budgt", "did you mean budget?"),
        ("chat/completions", {"messages": "x"}, 400, "messages", "valid list"),
        ("chat/completions", {"messages": [{"role": "user", "content": 1}]}, 400, "messages.0.content", "valid string"),
        ("nothing", {}, 404, None, "there are /health, /v1/models, /v1/completions"),
        ("models", {}, 405, None, "POST /v1/models"),
    ],
)
def test_bad_requests_say_why(served, path, body, status, param, words):
    response = served.post(path, **body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param)
    assert words in error["message"]
    assert served.idle


def test_the_client_reads_errors_as_openais(served):
    with pytest.raises(openai.BadRequestError, match=r"stop\.strength: Input should be greater than 0") as caught:
        served.ask("chain 5 + 3", extra_body={"stop": {"strength": -1}})
    assert caught.value.param == "stop.strength"


def test_a_certified_threshold_is_given_as_its_certificate_allows(served, offline):
    """Without sampling of its own a request takes over that of the certificate."""
    certificate = offline.certificate
    question = offline.problems[0].prompt

    def probe(ask, **fields):
        return served.ask(question, seed=1, extra_body={"stop": {"probe": ask}}, **fields).stopping["probe"]

    plain = probe(True)
    assert plain == {
        "threshold": certificate.guarantee.threshold,
        "certified": True,
        "risk": 0.4,
        "confidence": 0.9,
        "statement": certificate.guarantee.statement(),
    }
    assert probe({"risk": 0.4}, max_tokens=CAP, temperature=1.0, top_p=1.0) == plain
    other = probe({"risk": 0.5})
    assert other["threshold"] == max(certificate.threshold_at(0.5), 0.5)
    assert other["certified"]
    assert "at most 0.5" in other["statement"]
    strict = probe({"threshold": 1.0})
    assert strict["certified"]
    assert strict["threshold"] == 1.0
    assert probe({"uncertified": True}, temperature=0.6) == {
        "threshold": certificate.guarantee.threshold,
        "certified": False,
        "differs": ["sampling"],
    }
    assert probe({"threshold": 0.1, "uncertified": True}) == {"threshold": 0.1, "certified": False}


@pytest.mark.parametrize(
    ("ask", "fields", "words"),
    [
        (True, {"temperature": 0.6}, "certified with another sampling"),
        (True, {"max_tokens": CAP + 1}, "certified with another sampling"),
        (True, {"top_p": 0.9}, '{"probe": {"uncertified": true}}'),
        (True, {"system": True}, "certified with another prompt"),
        ({"risk": 0.01}, {}, "0.01 needs 230 calibration problems, the certificate rests on 30"),
        ({"threshold": 0.1}, {}, "0.1 is below the certified"),
    ],
)
def test_a_threshold_that_is_not_certified_is_refused_unless_asked_for(served, ask, fields, words):
    messages = [{"role": "user", "content": "chain 5 + 3"}]
    if fields.pop("system", False):
        messages.insert(0, {"role": "system", "content": "be brief"})
    response = served.post("chat/completions", messages=messages, stop={"probe": ask}, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("stop.probe")
    assert words in response.json()["error"]["message"]
    bare = served.post("completions", prompt="chain 5 + 3", stop={"probe": True})
    assert "certified with another prompt" in bare.json()["error"]["message"]


def test_a_probe_without_a_certificate_is_used_only_as_uncertified(probe_folder, tmp_path):
    for file in probe_folder.iterdir():
        if file.name.startswith("probe."):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert not (tmp_path / CERTIFICATE_FILE).exists()
    server = Served(probe=tmp_path)
    try:
        with pytest.raises(openai.BadRequestError, match="is not calibrated"):
            server.ask("chain 5 + 3", extra_body={"stop": {"probe": True}})
        ask = {"probe": {"threshold": 0.0, "uncertified": True}}
        given = server.ask("chain 5 + 3", extra_body={"stop": ask})
        assert given.stopping == {"probe": {"threshold": 0.0, "certified": False}}
        assert given.choices[0].exit is not None
    finally:
        server.close()


def test_an_adapter_is_served_and_an_engine_that_is_gone_is_told(offline, tmp_path):
    torch.manual_seed(0)
    adapted = get_peft_model(
        load_model(ModelSection()), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    stop, policy = offline.policies[1]
    with_adapter = replace(offline.backend, model=load_model(ModelSection(), folder=tmp_path))
    request, greedy = SamplingRequest(offline.prompts[0], CAP, 0), SamplingOptions(temperature=0.0)
    written = with_adapter.under(policy).decode([request], greedy)[0]
    assert written.sample.token_ids != offline.write(0, policy, greedy, 0).sample.token_ids
    server = Served(adapter=tmp_path)
    try:
        question = offline.problems[0].prompt
        same(offline, server.ask(question, max_tokens=CAP, temperature=0, extra_body={"stop": stop}), written)
        server.engine.close()
        gone = httpx.get(f"{server.url}/health")
        assert (gone.status_code, gone.json()["status"]) == (503, "failed")
    finally:
        server.close()


@pytest.mark.parametrize("device", ["cudaa", "cuda"])
def test_a_device_that_is_not_there_is_one_line(device):
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one")
    with pytest.raises(RecipeError, match=f"^serve: --device {device}: [^\n]*$"):
        make_server(ServeOptions("tiny-reasoner", device=device))


def test_a_probe_of_another_model_is_refused(probe_folder, make_llama, tiny_tokenizer, tmp_path):
    make_llama().save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="made with another model"):
        make_server(ServeOptions(str(tmp_path), probe=probe_folder))


def test_thinking_ends_as_the_probe_was_fitted_to_it(probe_folder, tmp_path):
    for file in probe_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "end_think": None}))
    with pytest.raises(
        RecipeError, match=r"certified with model\.end_think_token </think>, the probe fitted with null"
    ):
        make_server(ServeOptions("tiny-reasoner", probe=tmp_path))
    (tmp_path / CERTIFICATE_FILE).unlink()
    _, service = make_server(ServeOptions("tiny-reasoner", probe=tmp_path))
    assert (service.thinks, service.policies.thinks, service.tokens.start) == (False, False, None)


@pytest.fixture
def slow(monkeypatch):
    """Make every step take a while, so that rows are still under way when something happens to them."""
    step = Batch.step

    def slowed(batch):
        time.sleep(0.02)
        return step(batch)

    monkeypatch.setattr(Batch, "step", slowed)


def hang_up(served, **fields):
    """Send a request over a connection of its own, which is returned to be cut."""
    body = {"model": "tiny-reasoner", **NEVER_ENDS, **fields}
    raw = json.dumps(body).encode()
    sock = socket.create_connection(served.sock.getsockname()[:2])
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    sock.sendall(head.encode() + raw)
    return sock


def test_clients_that_are_killed_leave_nothing(served, slow):
    """Streams, whole replies and those that still wait; 500 slowed steps would take ten seconds."""
    sockets = [hang_up(served, stream=i % 2 == 0, n=2) for i in range(20)]
    wait_until(lambda: served.engine.running == 32 and served.engine.waiting == 8)
    assert sockets[0].recv(100).startswith(b"HTTP/1.1 200")
    for i, sock in enumerate(sockets):
        if i % 3:  # a reset instead of a regular end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        sock.close()
    wait_until(lambda: served.idle, seconds=5)
    wait_until(lambda: not (served.server.desk.open or served.server.server_state.tasks))
    assert served.ask("chain 5 + 3", seed=1).choices[0].finish_reason == "stop"


def test_a_full_queue_refuses_and_time_runs_out(slow):
    server = Served(max_rows=1, max_waiting=1, timeout_seconds=5.0)
    try:
        with ThreadPoolExecutor(2) as pool:
            replies = [
                pool.submit(server.post, "chat/completions", stream=stream, **NEVER_ENDS) for stream in (True, False)
            ]
            wait_until(lambda: server.engine.running == 1 and server.engine.waiting == 1)
            with pytest.raises(openai.RateLimitError, match="the queue is full: 1 completions wait") as full:
                server.ask("chain 5 + 3")
            streamed, whole = (reply.result() for reply in replies)
        assert full.value.response.headers["Retry-After"] == "1"
        assert whole.status_code == 504
        assert whole.json()["error"]["message"] == "not done after 5 s; ask for fewer tokens"
        assert streamed.status_code == 200
        assert json.loads(streamed.text.split("data: ")[-1])["error"]["code"] == "timeout"
        wait_until(lambda: server.idle and not server.server.desk.open)
    finally:
        server.close()


def test_a_step_that_fails_fails_its_rows_and_no_others(served, monkeypatch):
    step, failing = Batch.step, [True]

    def broken(batch):
        if failing and len(batch.lanes[0].ids) == 3:
            raise RuntimeError(f"out of memory {failing.pop()}")
        return step(batch)

    monkeypatch.setattr(Batch, "step", broken)
    with pytest.raises(openai.InternalServerError, match="decoding failed: RuntimeError: out of memory"):
        served.ask("chain 5 + 3")
    assert served.idle
    assert served.ask("chain 5 + 3", seed=1).choices[0].finish_reason == "stop"


def test_eval_takes_the_server_as_any_endpoint(served, offline, tmp_path, monkeypatch):
    """The rows are those of the decoding loop at the seeds that the evaluation sends."""
    out = tmp_path / "rows.jsonl"
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    words = ["tiny", "--engine", "openai", "--url", f"{served.url}/v1", "--model", "tiny-reasoner", "--limit", "3"]
    cli.app(["eval", *words, "--samples", "2", "--cap", str(CAP), "--out", str(out), "--json"], standalone_mode=False)
    rows = read_rows(out).rows
    section = load_suite("tiny").suite.eval
    problems = load_problems(section.data)[:3]
    prompts = render_prompts(problems, offline.tokenizer, PromptSection())
    assert len(rows) == 6
    for row in rows:
        place = [problem.id for problem in problems].index(row.problem_id)
        seed = sampling_seed(section.seed, row.problem_id, row.sample) % 2**SEED_BITS
        request = SamplingRequest(prompts[place], CAP, seed)
        written = offline.backend.decode([request], SamplingOptions())[0]
        thinking, answer = offline.texts(written)
        cut = written.sample.finish_reason == "length"
        assert row.completion == (thinking if cut and not answer else f"{thinking}</think>{answer}")
        assert (row.completion_tokens, row.finish_reason) == (
            len(written.sample.token_ids),
            "length" if cut else "stop",
        )
    assert any(row.correct for row in rows)
    with_exits = [
        *words,
        "--stop",
        "probe:0.4",
        "--samples",
        "2",
        "--cap",
        str(CAP),
        "--out",
        str(tmp_path / "exits.jsonl"),
    ]
    cli.app(["eval", *with_exits], standalone_mode=False)
    exits = read_rows(tmp_path / "exits.jsonl").rows
    assert sum(row.completion_tokens for row in exits) < sum(row.completion_tokens for row in rows)


def test_a_model_that_does_not_think(tmp_path):
    """One token a byte, no chat template, nothing that closes thinking."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*alphabet, "<eos>"])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=256, **size)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    server = Served(model=str(tmp_path), name="bytes")
    try:
        said = server.client.completions.create(model="bytes", prompt="ab", max_tokens=12, seed=0)
        assert (said.usage.completion_tokens, said.usage.completion_tokens_details.reasoning_tokens) == (12, 0)
        for stop, field in (({"budget": 3}, "budget"), ({"strength": 2.0}, "strength")):
            response = server.post("completions", prompt="ab", stop=stop)
            assert response.status_code == 400
            assert (
                f"stop.{field}: this model has no token that ends its thinking" in response.json()["error"]["message"]
            )
        with pytest.raises(openai.BadRequestError, match="no chat template; use /v1/completions"):
            server.ask("ab")
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        object.__setattr__(server.service, "tokenizer", tokenizer)
        message = server.ask("ab", max_tokens=12, seed=0).choices[0].message
        assert message.content == said.choices[0].text
        assert not hasattr(message, "reasoning_content")
    finally:
        server.close()


class Process:
    """``reason-rl serve`` as a process of its own."""

    def __init__(self, *options):
        words = [sys.executable, "-m", "reason_rl.cli", "serve", "tiny-reasoner", "--port", "0", *options]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        while "serving tiny-reasoner at" not in line:
            assert line, "it never served"
            line = self.process.stderr.readline()
        self.url = line.split()[-1]
        wait_until(self.healthy)

    def healthy(self):
        try:
            return httpx.get(self.url.replace("/v1", "/health")).status_code == 200
        except httpx.ConnectError:
            return False

    def long_request(self):
        body = {"model": "tiny-reasoner", **NEVER_ENDS, "n": 8, "max_tokens": 200}
        return httpx.post(f"{self.url}/chat/completions", json=body, timeout=120)


def test_sigterm_lets_running_requests_end_and_says_so():
    server = Process("--drain", "120")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.long_request)
        health = server.url.replace("/v1", "/health")
        wait_until(lambda: httpx.get(health).json()["running"] == 8)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(health).json()["status"] == "draining")
        assert httpx.get(health).status_code == 503
        refused = httpx.post(f"{server.url}/completions", json={"model": "tiny-reasoner", "prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server is shutting down")
        reply = running.result()
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 8 * 200
    assert server.process.wait(timeout=30) == 0
    assert server.process.stderr.read().splitlines() == ["reason-rl: stopped"]


def test_sigint_ends_requests_that_take_longer_than_the_time_to_drain():
    server = Process("--drain", "0")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.long_request)
        wait_until(lambda: httpx.get(server.url.replace("/v1", "/health")).json()["running"] == 8)
        server.process.send_signal(signal.SIGINT)
        reply = running.result()
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the server is shutting down")
    assert server.process.wait(timeout=30) == 0
    assert server.process.stderr.read().splitlines() == ["reason-rl: stopped"]


def test_what_is_missing_or_taken_is_one_line_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(RecipeError, match=rf"--port {port}: .*in use.*port 0 takes a free one"):
            cli.app(["serve", "tiny-reasoner", "--port", port], standalone_mode=False)
    with pytest.raises(RecipeError, match=r"no adapter_config\.json there"):
        cli.app(["serve", "tiny-reasoner", "--port", "0", "--adapter", str(tmp_path)], standalone_mode=False)
    with pytest.raises(RecipeError, match="did you mean tiny-reasoner"):
        cli.app(["serve", "tiny-reasone", "--port", "0"], standalone_mode=False)
    monkeypatch.setattr(commands.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RecipeError, match=r"^serve: starlette and uvicorn not installed; pip install 'reason_rl\[serve\]'$"
    ):
        cli.app(["serve", "tiny-reasoner"], standalone_mode=False)
