import json
import logging
from types import SimpleNamespace

import httpx
import pytest

from reason_rl.errors import RecipeError
from reason_rl.problem.prompt import check_context, messages, render_prompts, to_dataset
from reason_rl.problem.record import Problem
from reason_rl.problem.sources import load_problems, stable_id
from reason_rl.recipe.schema import GymData, HubData, JsonlData, PromptSection, WorldData


def jsonl(tmp_path, *rows, **fields):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return JsonlData(use="jsonl", path=str(path), **fields)


def test_jsonl_rows_become_problems(tmp_path):
    spec = jsonl(
        tmp_path,
        {"problem": "1+1", "answer": 2, "difficulty": 3, "subject": "sums"},
        {"problem": "2+2", "answer": "4", "difficulty": 1, "subject": "sums"},
        level="difficulty",
    )
    first, second = load_problems(spec)
    assert first == Problem(stable_id("1+1"), "1+1", "2", 3, "set", {"subject": "sums"})
    assert second.level == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1+1", "answer": 2}, {"problem": "2+2"}], r"set.jsonl:2: no field answer"),
        ([{"problem": "1+1", "anwser": 2}], r"set.jsonl:1: no field answer; did you mean anwser"),
        ([{"problem": "1+1", "answer": " "}], r"set.jsonl:1: answer is empty"),
        (
            [{"problem": "1+1", "answer": 2}, {"problem": "1+1", "answer": 2}],
            r"set.jsonl:2: problem .* at .*set.jsonl:1",
        ),
        (["{not json}\n"], r"set.jsonl:1: not JSON"),
        ([], "no problems"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, rows, message):
    with pytest.raises(RecipeError, match=message):
        load_problems(jsonl(tmp_path, *rows))


def test_a_missing_file_is_named_with_a_near_one(tmp_path):
    spec = jsonl(tmp_path, {"problem": "1", "answer": "1"})
    with pytest.raises(RecipeError, match=r"no file .*sat.jsonl; did you mean set.jsonl"):
        load_problems(spec.model_copy(update={"path": str(tmp_path / "sat.jsonl")}))


def test_hub_data_come_from_the_local_folder_when_named(tmp_path, monkeypatch):
    (tmp_path / "MATH-500.part-00.jsonl").write_text('{"problem": "a", "answer": "1"}\n')
    (tmp_path / "MATH-500.part-01.jsonl").write_text('{"problem": "b", "answer": "2"}\n')
    monkeypatch.setenv("REASON_RL_DATA", str(tmp_path))
    assert [p.answer for p in load_problems(HubData(use="hub", name="org/MATH-500"))] == ["1", "2"]
    with pytest.raises(RecipeError, match=r"has no other.jsonl"):
        load_problems(HubData(use="hub", name="org/other"))


def test_hub_data_that_cannot_be_loaded_are_one_line(monkeypatch):
    monkeypatch.delenv("REASON_RL_DATA", raising=False)
    with pytest.raises(
        RecipeError, match=r"data.name: cannot load no-such-org/no-such-set from the hub .*or set REASON_RL_DATA"
    ):
        load_problems(HubData(use="hub", name="no-such-org/no-such-set"))


def test_the_hubs_client_does_not_tell_of_each_retry(monkeypatch):
    import datasets

    monkeypatch.delenv("REASON_RL_DATA", raising=False)
    client, told = logging.getLogger("huggingface_hub.utils._http"), []
    handler = logging.Handler()
    handler.emit = told.append
    client.addHandler(handler)

    def unreached(*_args, **_options):
        client.warning("Retrying in 1s")
        raise httpx.ConnectError("no address known")

    monkeypatch.setattr(datasets, "load_dataset", unreached)
    try:
        with pytest.raises(RecipeError, match=r"from the hub \(no address known\); try again, or set REASON_RL_DATA"):
            load_problems(HubData(use="hub", name="org/set"))
        assert told == []
        client.warning("later")
        assert len(told) == 1
    finally:
        client.removeHandler(handler)


def test_world_problems_know_their_shortest_trace():
    problems = load_problems(WorldData(use="world", split="test", count=36))
    assert len({p.id for p in problems}) == 36
    assert all(p.meta["shortest_think_tokens"] > 1 and p.level in range(1, 7) for p in problems)


def test_reasoning_gym_problems():
    spec = GymData(use="reasoning_gym", task="basic_arithmetic", count=5, seed=1)
    problems = load_problems(spec)
    assert problems == load_problems(spec)
    assert all(p.answer for p in problems)
    with pytest.raises(RecipeError, match="reasoning-gym refuses no_such_task"):
        load_problems(spec.model_copy(update={"task": "no_such_task"}))


def test_prompts_use_the_chat_template(tiny_tokenizer):
    problem = Problem("p", "chain 5 + 3", "8")
    ids = render_prompts([problem], tiny_tokenizer, PromptSection())[0]
    assert tiny_tokenizer.decode(ids) == "<|user|> chain 5 + 3 <|assistant|> <think>"
    spec = PromptSection(template="{prompt} Use {braces}.", system="be brief")
    assert messages(problem, spec) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "chain 5 + 3 Use {braces}."},
    ]
    with pytest.raises(RecipeError, match="no chat template"):
        render_prompts([problem], SimpleNamespace(chat_template=None), PromptSection())


def test_context_is_checked_before_anything_runs():
    problems = [Problem("p1", "a", "1"), Problem("p2", "b", "2")]
    check_context(problems, [(1, 2), (1, 2, 3)], 7, 10)
    with pytest.raises(RecipeError, match="problem p2: a prompt of 4 tokens and a budget of 7"):
        check_context(problems, [(1, 2), (1, 2, 3, 4)], 7, 10)


def test_dataset_columns():
    rows = to_dataset([Problem("p", "chain 5 + 3", "8", 2, "world", {"family": "chain"})], PromptSection())
    assert rows[0] == {
        "prompt": [{"content": "chain 5 + 3", "role": "user"}],
        "problem_id": "p",
        "answer": "8",
        "level": 2,
        "family": "chain",
    }
