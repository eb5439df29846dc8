"""The server engine against a small server that speaks vLLM's HTTP interface and samples with what was pushed to it."""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from reason_rl.bench.jobs import read_results
from reason_rl.errors import RecipeError, RunError
from reason_rl.models import load_model
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.schema import ModelSection
from reason_rl.rollout.backend import SamplingOptions, SamplingRequest
from reason_rl.rollout.engines import open_engine
from reason_rl.rollout.hf import HFBackend
from reason_rl.rollout.server_client import ServerClient, ServerOptions, check_server_version
from reason_rl.rollout.vllm_server import VLLMServerBackend, read_completion
from reason_rl.run_folder import RunFolder
from reason_rl.stopping.temperature import TemperatureStop
from reason_rl.stopping.thinking import ThinkTokens
from reason_rl.stopping.vllm_strength import PROCESSORS, EngineStop
from reason_rl.trainer.callbacks import complete_checkpoints
from reason_rl.trainer.train import train

SAMPLED = SamplingOptions(temperature=0.8)
ASKED = [SamplingRequest((10 + i, 30, 40), 4 + 3 * i, 100 + i) for i in range(6)]


class FakeVLLM:
    """Answers as ``vllm serve`` 0.31 does.

    ``faults`` maps a path to what comes first: a status, 0 for none at all, "lost" for a reply that gets lost, None for none.
    """

    def __init__(self, model, **config):
        self.base, self.adapters, self.weights, self.faults = copy.deepcopy(model), {}, "default", {}
        self.version, self.lora_rank, self.device, self.context = "0.31.0", 8, "cuda", 64
        self.mode, self.paths, self.bodies, self.processors = "processed_logprobs", [], [], None
        self.lock = threading.Lock()
        self.__dict__ |= config
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Say nothing."""

            def do_GET(self):
                self.answer({})

            def do_POST(self):
                self.answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}"))

            def answer(self, body):
                with fake.lock:
                    status, value = fake.reply(self.path, body)
                if status == 0:
                    self.connection.close()
                    return
                text = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def reply(self, path, body):
        self.paths.append(path)
        self.bodies.append(body)
        if self.faults.get(path):
            fault = self.faults[path].pop(0)
            if isinstance(fault, int):
                return fault, {"error": {"message": "not now"}}
            if fault == "lost":
                self.act(path, body)
                return 0, None
        return self.act(path, body)

    def act(self, path, body):
        if path == "/v1/completions":
            return 200, self.complete(body)
        if path == "/v1/load_lora_adapter":
            if body["lora_name"] in self.adapters:
                return 400, {"error": {"message": "has already been loaded"}}
            self.adapters[body["lora_name"]] = PeftModel.from_pretrained(copy.deepcopy(self.base), body["lora_path"])
        elif path == "/v1/unload_lora_adapter":
            del self.adapters[body["lora_name"]]
        elif path == "/collective_rpc":
            weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
            missing, unknown = self.base.load_state_dict(weights, strict=False)
            assert not unknown
            assert set(missing) <= {"lm_head.weight"}  # tied
        elif path == "/update_weight_version":
            self.weights = body["new_version"]
        return 200, self.state(path)

    def state(self, path):
        config = {
            "model_config": {"logprobs_mode": self.mode, "logits_processors": self.processors},
            "device_config": {"device": self.device},
            "lora_config": self.lora_rank and {"max_lora_rank": self.lora_rank},
        }
        models = [{"id": name, "max_model_len": self.context} for name in ("policy", *self.adapters)]
        return {
            "/version": {"version": self.version},
            "/v1/models": {"data": models},
            "/weight_info": {"weight_version": self.weights},
            "/server_info?config_format=json": {"vllm_config": config},
        }.get(path, {})

    def complete(self, body):
        model = self.adapters.get(body["model"], self.base)
        request = SamplingRequest(tuple(body["prompt"]), body["max_tokens"], body["seed"])
        options = SamplingOptions(body["temperature"], body["top_p"], body["top_k"])
        sample = HFBackend(model, body["stop_token_ids"], 0).generate([request], options)[0]
        logprobs = {"token_logprobs": sample.logps}
        choice = {"token_ids": sample.token_ids, "logprobs": logprobs, "finish_reason": sample.finish_reason}
        return {"choices": [choice]}


@pytest.fixture
def serve():
    servers = []

    def make(model, **config):
        servers.append(FakeVLLM(model, **config))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def options(server, folder, **fields):
    fields = {"retries": 2, "first_wait_seconds": 0.001, "timeout_seconds": 20.0, "concurrency": 4} | fields
    return ServerOptions(server.url, "policy", str(folder / "shared"), **fields)


@pytest.fixture
def connect(serve, make_llama, tmp_path):
    """Return a maker of (fake server, backend) for full weights or an adapter."""

    def make(kind, stop=None, **config):
        model = make_llama()
        server = serve(model, **config)
        if kind == "adapter":
            lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
        return server, VLLMServerBackend(ServerClient(options(server, tmp_path)), model, [1], stop)

    return make


def distance(backend):
    """Return the largest gap between the server's log-probabilities and the trainer model's own."""
    worst = 0.0
    for request, sample in zip(ASKED, backend.generate(ASKED, SAMPLED), strict=True):
        assert len(sample.token_ids) == request.max_tokens or sample.finish_reason == "stop"
        ids = torch.tensor([[*request.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            logps = (backend.model(ids).logits[0].float() / SAMPLED.temperature).log_softmax(dim=-1)
        start = len(request.prompt_ids)
        ours = logps[start - 1 : -1].gather(1, ids[0, start:, None]).squeeze(1)
        worst = max(worst, float((ours - torch.tensor(sample.logps)).abs().max()))
    return worst


def disturb(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_weights_follow_the_trainer(connect, tmp_path, kind):
    server, backend = connect(kind)
    for version in range(3):
        if version:
            disturb(backend.model)
            assert distance(backend) > 1e-2
        before = [p.detach().clone() for p in backend.model.parameters()]
        backend.sync_weights(version)
        assert distance(backend) < 1e-4
        assert all(torch.equal(a, b) for a, b in zip(before, backend.model.parameters(), strict=True))
        assert len(list((tmp_path / "shared").iterdir())) == 1
    assert backend.version == 2
    assert len(server.adapters) == (kind == "adapter")


def test_what_an_earlier_backend_pushed_is_taken_away(connect, tmp_path):
    server, first = connect("adapter")
    first.sync_weights(0)
    second = VLLMServerBackend(first.client, first.model, [1])
    second.sync_weights(0)
    assert list(server.adapters) == [second.name]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == [f"reason_rl-{second.name}"]
    with pytest.raises(RunError, match="does not hold policy"):
        first.generate(ASKED, SAMPLED)


def test_rows_are_those_that_were_asked_for(connect):
    server, backend = connect("full")
    backend.sync_weights(0)
    seen = []
    samples = backend.generate(ASKED, SAMPLED, lambda done, total: seen.append((done, total)))
    reference = HFBackend(backend.model, [1], 0).generate(ASKED, SAMPLED)
    assert [(s.token_ids, s.finish_reason) for s in samples] == [(s.token_ids, s.finish_reason) for s in reference]
    assert seen[-1] == (6, 6)
    sent = [body for path, body in zip(server.paths, server.bodies, strict=True) if path == "/v1/completions"]
    assert sorted((b["seed"], b["max_tokens"]) for b in sent) == [(100 + i, 4 + 3 * i) for i in range(6)]


def test_scaled_stopping_is_asked_of_a_server_that_can(connect):
    stop = EngineStop(TemperatureStop((2.0, 1.0, 4.0, 1.0, 0.5, 3.0), ThinkTokens(6, 5, (1,))))
    for processors in (None, ["another:Processor"]):
        with pytest.raises(
            RecipeError, match=r"start it with --logits-processors reason_rl\.stopping\.vllm_strength_v1"
        ):
            connect("full", stop=stop, processors=processors)
    server, backend = connect("full", stop=stop, processors=[PROCESSORS[1]])
    backend.sync_weights(0)
    assert all(all(sample.sampled) for sample in backend.generate(ASKED, SAMPLED))
    sent = [body for path, body in zip(server.paths, server.bodies, strict=True) if path == "/v1/completions"]
    strengths = {body["seed"] - 100: body["vllm_xargs"]["stop_strength"] for body in sent}
    assert [strengths[row] for row in range(6)] == list(stop.edit.strength)


@pytest.mark.parametrize("fault", [503, 0, "lost"])
@pytest.mark.parametrize(
    ("kind", "path"),
    [("full", "/v1/completions"), ("full", "/collective_rpc"), ("adapter", "/v1/load_lora_adapter")],
)
def test_a_hiccup_changes_nothing(connect, kind, path, fault):
    server, backend = connect(kind)
    server.faults[path] = [fault]
    backend.sync_weights(0)
    assert distance(backend) < 1e-4
    assert server.faults[path] == []


def test_a_dead_server_is_given_up_after_the_last_attempt(connect):
    server, backend = connect("full")
    backend.sync_weights(0)
    server.faults["/weight_info"] = [503] * 9
    with pytest.raises(
        RunError, match=r"gave up after 3 attempts \(/weight_info: status 503: not now\); the last checkpoint"
    ):
        backend.generate(ASKED, SAMPLED)
    assert len(server.faults["/weight_info"]) == 6
    server.http.server_close()
    with pytest.raises(RunError, match=r"gave up after 3 attempts \(Connect.*; the last checkpoint is good"):
        ServerClient(backend.client.options).get("/version")


@pytest.mark.parametrize(("kind", "lost"), [("full", {"weights": "default"}), ("adapter", {"adapters": {}})])
def test_a_server_that_lost_the_weights_is_not_sampled_from(connect, kind, lost):
    server, backend = connect(kind)
    with pytest.raises(RunError, match="before it was given the trainer's weights"):
        backend.generate(ASKED, SAMPLED)
    backend.sync_weights(0)
    server.__dict__ |= lost
    with pytest.raises(RunError, match=r"does not hold policy .*-0 any more .* use --resume"):
        backend.generate(ASKED, SAMPLED)


def test_a_failed_sync_leaves_model_and_version_alone(connect):
    server, backend = connect("full")
    before = [p.detach().clone() for p in backend.model.parameters()]
    server.faults["/collective_rpc"] = [400]
    with pytest.raises(RunError, match="/collective_rpc: status 400: not now"):
        backend.sync_weights(0)
    assert (backend.version, backend.name) == (-1, None)
    assert all(torch.equal(a, b) for a, b in zip(before, backend.model.parameters(), strict=True))
    server.faults["/collective_rpc"] = [404]
    with pytest.raises(RunError, match="start it with VLLM_SERVER_DEV_MODE=1"):
        backend.sync_weights(0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"version": "0.30.1"}, r"vLLM 0.30.1 is serving, versions ==0.31.\* work"),
        ({"mode": "raw_logprobs"}, "it gives raw_logprobs; start it with --logprobs-mode processed_logprobs"),
    ],
)
def test_a_server_with_other_settings_is_refused(connect, config, message):
    with pytest.raises(RecipeError, match=message):
        connect("full", **config)


def test_weights_that_the_server_cannot_take_are_refused(connect, make_llama, serve, tmp_path):
    for rank, message in ((None, "takes no adapters; .* --max-lora-rank 4"), (2, "takes rank 2; start it")):
        _, backend = connect("adapter", lora_rank=rank)
        with pytest.raises(RecipeError, match=message):
            backend.sync_weights(0)
    tied = make_llama(tie_word_embeddings=True)
    server = serve(tied, device="cpu")
    backend = VLLMServerBackend(ServerClient(options(server, tmp_path)), tied, [1])
    with pytest.raises(RecipeError, match="keeps the old output head"):
        backend.sync_weights(0)


def test_a_folder_that_cannot_be_written_is_named(connect, tmp_path):
    _, backend = connect("full")
    (tmp_path / "shared").write_text("")
    with pytest.raises(RunError, match=r"rollout.server.folder: cannot write weights to .*/shared/reason_rl-"):
        backend.sync_weights(0)


def test_a_prompt_at_the_context_limit_is_refused_before_it_is_sent(connect):
    server, backend = connect("full")
    backend.sync_weights(0)
    with pytest.raises(RunError, match="61 tokens with a budget of 4 needs 65 tokens of context, the model has 64"):
        backend.generate([SamplingRequest((5,) * 61, 4, 0)], SAMPLED)
    assert "/v1/completions" not in server.paths
    assert len(backend.generate([SamplingRequest((5,) * 60, 4, 0)], SAMPLED)) == 1


def test_a_run_whose_server_dies_goes_on_from_its_checkpoint(serve, tmp_path):
    server = serve(load_model(ModelSection()), context=512)
    server.faults["/collective_rpc"] = [None, None, 503, 503]
    where = (
        f"{{url: '{server.url}', model: policy, folder: {tmp_path / 'shared'}, retries: 1, first_wait_seconds: 0.001}}"
    )
    rollout = ["rollout.engine=vllm_server", f"rollout.server={where}", "rollout.max_batch_rows=4"]
    method = ["algorithm.budget.tokens=6", "algorithm.filter={keep: all, refill: false}", "data.count=60"]
    shape = [
        "per_device_train_batch_size=8",
        "steps_per_generation=1",
        "num_generations=4",
        "max_steps=3",
        "save_steps=1",
    ]
    trainer = [f"trainer.{field}" for field in shape]
    loaded = load_recipe("tiny/dler", [*rollout, *method, *trainer, "eval.data.count=18", f"output={tmp_path / 'run'}"])
    run = RunFolder(tmp_path / "run")
    run.prepare(loaded.resolved(), resume=False)
    with pytest.raises(
        RunError, match=r"gave up after 2 attempts \(/collective_rpc: status 503: not now\); the last checkpoint"
    ):
        train(loaded.recipe, run)
    assert [path.name for path in complete_checkpoints(run.checkpoints)] == ["checkpoint-1", "checkpoint-2"]
    assert train(loaded.recipe, run, resume=True).steps == 3
    assert [row["step"] for row in read_results(run.metrics)] == [1, 2, 3]


CHOICE = {"token_ids": [5], "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"choices": []}, "no completion"),
        ({"choices": [CHOICE, CHOICE]}, "no completion"),
        ({"choices": [{**CHOICE, "logprobs": None}]}, "no completion"),
        ({"choices": [{**CHOICE, "finish_reason": "abort"}]}, "ended a rollout with 'abort'"),
        ({"choices": [{**CHOICE, "token_ids": [5, 6]}]}, "2 tokens with 1 log-probabilities"),
    ],
)
def test_replies_that_are_no_completion(body, message):
    with pytest.raises(RunError, match=message):
        read_completion(body)


def test_what_the_recipe_says_reaches_the_client(tmp_path):
    server = f"{{url: 'http://localhost:9', model: policy, folder: {tmp_path}, retries: 1}}"
    recipe = load_recipe("tiny/dler", ["rollout.engine=vllm_server", f"rollout.server={server}"]).recipe
    assert open_engine(recipe).options == ServerOptions("http://localhost:9", "policy", str(tmp_path), retries=1)
    with pytest.raises(RecipeError, match="belongs to engine vllm_server"):
        load_recipe("tiny/dler", ["rollout.engine=vllm_server"])
    with pytest.raises(RecipeError, match="no root of a server"):
        ServerClient(ServerOptions("http://localhost:9/v1", "policy", "x"))
    check_server_version("0.31.1+cpu")
