"""Task sft: solutions cut into turns with the answers a model gives after each, and what is learned of them."""

import json

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from reason_rl.algorithm.turns import parse_turns
from reason_rl.errors import RecipeError
from reason_rl.evaluate.records import EvalRow
from reason_rl.pipeline import prepare
from reason_rl.pipeline import train as train_task
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.rollout import engines
from reason_rl.rollout.backend import Sample
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import turns
from reason_rl.trainer.sft import IGNORED_LABEL, to_dataset
from reason_rl.trainer.turns import Cut, Tags, cut_row, in_turns, make_traces, tags_of, traces_file
from reason_rl.world.tokenizer import END_THINK, THINK

TWO_PASSES = "7 12 no wait again 12 30 yes </think> \\boxed{ 12 30 } <eos>"
RECIPE = """\
task: sft
output: {output}
model: {{path: {model}}}
data: {{use: world, count: 6}}
answer: {{verify: exact}}
turns: {{samples: 2, max_tokens: 64, answer_tokens: 6, cut: "(?=wait again)", candidate: "[0-9]"}}
trainer: {{learning_rate: 3.0e-3, max_steps: 12, per_device_train_batch_size: 4, logging_steps: 1}}
eval: {{data: {{use: world, split: test, count: 6}}, samples: 1, max_tokens: 32}}
"""


def row(problem, completion=TWO_PASSES, correct=True):
    tokens = len(completion.split())
    return EvalRow(problem, 1, "pair", 0, 0, "", completion, "2", "2", correct, tokens, tokens - 4, 4, "stop")


class Answering:
    """Gives the same answer to every prompt and remembers what it was asked."""

    def __init__(self, tokenizer, text="\\boxed{ 7 12 } <eos>", reason="stop"):
        self.ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        self.reason, self.asked, self.options = reason, [], None

    def sync_weights(self, version):
        pass

    def generate(self, requests, options, on_progress=None):
        self.asked, self.options = list(requests), options
        return [Sample(self.ids, (0.0,) * len(self.ids), self.reason) for _ in requests]


@pytest.fixture
def tags(tiny_tokenizer):
    return tags_of(tiny_tokenizer, END_THINK)


def ids(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def cut_of(tokenizer, tags, completion=TWO_PASSES):
    return cut_row(row("p", completion), tokenizer, tags, "(?=wait again)", "[0-9]")


def test_a_solution_is_cut_where_a_pass_begins_again(tiny_tokenizer, tags):
    cut = cut_of(tiny_tokenizer, tags)
    units = [tiny_tokenizer.decode(list(unit)) for unit in cut.units]
    assert units == ["7 12 no", "wait again 12 30 yes"]
    assert tiny_tokenizer.decode(list(cut.answer)) == "\\boxed{ 12 30 } <eos>"
    for broken in ("7 12 no", "7 </think>", "7 </think> 3 <think> 5 </think> 4 <eos>"):
        assert cut_of(tiny_tokenizer, tags, broken) is None


def test_each_unit_is_followed_by_the_answer_given_when_thinking_ends_there(tiny_tokenizer, tags):
    backend, prompt = Answering(tiny_tokenizer), (3, 4, 5)
    ((name, turns, trace),) = in_turns([cut_of(tiny_tokenizer, tags)], {"p": prompt}, backend, tags, 6)
    assert (name, turns) == ("p", 2)
    text = tiny_tokenizer.decode(list(trace))
    assert text == ("7 12 no </think> \\boxed{ 7 12 } <think> wait again 12 30 yes </think> \\boxed{ 12 30 } <eos>")
    assert parse_turns(text)[0].answer.split() == ["\\boxed{", "7", "12", "}"]
    (request,) = backend.asked
    assert request.prompt_ids == (*prompt, *ids(tiny_tokenizer, f"7 12 no {END_THINK}"))
    assert (request.max_tokens, backend.options.temperature) == (6, 0.0)


@pytest.mark.parametrize(
    ("text", "reason"), [("\\boxed{ 7", "length"), ("<eos>", "stop"), (f"5 {THINK} 6 <eos>", "stop")]
)
def test_traces_with_an_answer_that_is_none_are_left_out(tiny_tokenizer, tags, text, reason):
    cuts = [cut_of(tiny_tokenizer, tags), Cut("q", ((20, 21),), (22,))]
    traces = in_turns(cuts, {"p": (3,), "q": (3,)}, Answering(tiny_tokenizer, text, reason), tags, 6)
    assert [name for name, _, _ in traces] == ["q"]


def test_tags_have_to_be_tokens(tiny_tokenizer, tags):
    vocabulary = tiny_tokenizer.get_vocab()
    assert tags == Tags(vocabulary[THINK], vocabulary[END_THINK], frozenset({tiny_tokenizer.eos_token_id}))
    with pytest.raises(RecipeError, match="<thought> is not a token of this model"):
        tags_of(tiny_tokenizer, "</thought>")


def test_the_prompt_alone_is_left_out_of_the_loss(make_llama, tiny_tokenizer, tmp_path):
    trace = f"7 {END_THINK} 5 {THINK} 8 {END_THINK} 6 <eos>"
    dataset = to_dataset([{"problem_id": "p", "turns": 2, "text": trace}], {"p": (3, 4)}, tiny_tokenizer)
    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None)
    trainer = SFTTrainer(make_llama(), args=args, train_dataset=dataset, processing_class=tiny_tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert batch["labels"][0].tolist() == [IGNORED_LABEL, IGNORED_LABEL, *ids(tiny_tokenizer, trace)]
    loss = trainer.compute_loss(trainer.model.eval(), batch).item()
    with torch.no_grad():
        scores = make_llama()(input_ids=batch["input_ids"]).logits[0, :-1].log_softmax(-1)
    wanted = -scores.gather(1, batch["input_ids"][0, 1:, None])[1:].mean()
    assert loss == pytest.approx(wanted.item(), abs=1e-5)


@pytest.fixture
def opened(tmp_path, make_llama, tiny_tokenizer, monkeypatch):
    """Return a run whose model has solved every other problem in two passes."""
    model = tmp_path / "model"
    make_llama(0).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(output=tmp_path / "run", model=model))
    loaded = load_recipe(file)
    problems = load_problems(loaded.recipe.data)
    rows = [row(problem.id, correct=k % 2 == 0) for k, problem in enumerate(problems)]
    monkeypatch.setattr("reason_rl.trainer.turns.evaluate", lambda *_args, **_more: rows)
    monkeypatch.setattr("reason_rl.trainer.turns.make_backend", lambda *_args: Answering(tiny_tokenizer))
    folder = RunFolder(tmp_path / "run")
    folder.prepare(loaded.resolved(), resume=False)
    return loaded.recipe, folder


def test_the_answers_of_turns_are_sampled_on_the_accelerator(opened, tiny_tokenizer, monkeypatch):
    """ "meta" stands for it here."""
    recipe, folder = opened
    monkeypatch.setattr(
        "reason_rl.trainer.turns.to_accelerator", lambda m: torch.nn.Module.to(m, "meta"), raising=False
    )
    places = []
    monkeypatch.setattr(
        "reason_rl.trainer.turns.make_backend",
        lambda _recipe, model, *_: places.append(model.device.type) or Answering(tiny_tokenizer),
    )
    make_traces(recipe, folder, print)
    assert places == ["meta"]


def test_solutions_and_answers_are_sampled_with_one_engine(opened, tiny_tokenizer, monkeypatch):
    recipe, folder = opened
    recipe = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"engine": "vllm"})})
    rows, started, used = turns.evaluate(), [], []
    monkeypatch.setattr(engines, "start_engine", lambda *_: started.append(object()) or started[-1])
    monkeypatch.setattr(turns, "evaluate", lambda *_, engine: used.append(engine) or rows)
    monkeypatch.setattr(turns, "make_backend", lambda *given: used.append(given[3]) or Answering(tiny_tokenizer))
    make_traces(recipe, folder, print)
    assert len(started) == 1
    assert used == started * 2


def test_traces_are_made_once_and_learned(opened):
    recipe, folder = opened
    said = []
    made = make_traces(recipe, folder, said.append)
    assert said == ["3 traces of 2.0 turns from 3 right solutions of 6"]
    assert make_traces(recipe, folder, said.append) == made
    assert len(said) == 1
    assert prepare(recipe, folder, said.append) == {"rows": 3, "file": str(traces_file(folder))}
    result = train_task(recipe, folder, resume=False, say=said.append)
    assert result.steps == 12
    losses = [json.loads(line)["loss"] for line in folder.metrics.read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.5
