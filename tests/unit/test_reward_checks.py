"""What is seen of a reward file before it is run: its text at validate, a few made-up rollouts before a run samples."""

import pytest

from reason_rl.errors import RecipeError
from reason_rl.models import load_tokenizer
from reason_rl.problem.sources import load_problems
from reason_rl.recipe.load import load_recipe
from reason_rl.trainer.config import composition
from reason_rl.trainer.reward_trial import try_reward

GOOD = "def reward(*, weight=0.5):\n    return lambda batch: batch.correct * weight\n"


@pytest.fixture
def write(tmp_path):
    """Write a reward file and a recipe that names it."""

    def put(text, extends="tiny/grpo", params="", more=""):
        (tmp_path / "mine.py").write_text(text)
        (tmp_path / "good.py").write_text(GOOD)
        recipe = tmp_path / "mine.yaml"
        recipe.write_text(
            f"extends: recipes/{extends}.yaml\noutput: out\nalgorithm:\n  reward: {{file: mine.py{params}}}\n{more}"
        )
        return recipe

    return put


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import torch\n\ndef reward(batch):\n    return batch.correct\n",
            r"mine.py:3: reward\(batch\) .* without batch; ",
        ),
        ("def reward(completions, **kwargs):\n    return [0.0]\n", r"mine.py:1: .* without completions; "),
        (
            "def reward(prompts, completions, weight=1, **kw): ...\n",
            r"without prompts, completions; .*rewards/README.md",
        ),
        ("def reward(batch, /): ...\n", r"mine.py:1: reward\(batch, /\) would be called without batch"),
        ("reward = lambda batch: batch.correct\n", r"mine.py:1: reward\(batch\) would be called without batch"),
        ("async def reward(): ...\n", r"mine.py:1: async def reward cannot be used"),
        ("def reward(:\n", r"mine.py:1: invalid syntax"),
        ("def rewards(): ...\n", r"mine.py: defines no function reward"),
        ("def other():\n    def reward(batch): ...\n", r"mine.py: defines no function reward"),
        (GOOD + "def reward(batch): ...\n", r"mine.py:3: "),
    ],
)
def test_a_file_that_is_no_factory_is_refused_with_its_line(write, text, message):
    with pytest.raises(RecipeError, match=message) as raised:
        load_recipe(write(text))
    assert "mine.yaml:4: algorithm.reward.file: " in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "from good import reward\n",
        "from reason_rl.algorithm.reward import correctness as reward\n",
        "reward = lambda: (lambda batch: batch.correct)\n",
        "reward: object = lambda **kw: (lambda batch: batch.correct)\n",
        "from functools import partial\nfrom good import reward as made\nreward = partial(made, weight=1.0)\n",
        "try:\n    from good import reward\nexcept ImportError:\n    def reward(batch): ...\n",
        "class reward:\n    def __call__(self, batch):\n        return batch.correct\n",
        "def reward(batch): ...\n" + GOOD,
    ],
)
def test_what_the_text_does_not_tell_is_left_to_the_run(write, text):
    load_recipe(write(text))


def test_a_positional_parameter_may_come_from_the_recipe(write):
    load_recipe(write("def reward(weight):\n    return lambda batch: batch.correct * weight\n", params=", weight: 2"))


@pytest.mark.parametrize(
    ("line", "overlong", "message"),
    [
        ("", "penalise", r"penalise leaves cut rollouts to the reward, but .*mine.py does not say .*use keep or mask"),
        ("TRUNCATION_PENALTY = False\n", "penalise", r"does not say TRUNCATION_PENALTY = True"),
        ("TRUNCATION_PENALTY = True\n", "keep", r"mine.py:1 says TRUNCATION_PENALTY = True, and keep .*use penalise"),
        (
            "TRUNCATION_PENALTY: bool = True\n",
            "mask",
            r"mine.py:1 says .* and mask takes cut rollouts out .*use penalise",
        ),
        ("TRUNCATION_PENALTY = True\n", None, r"grpo.yaml:\d+: algorithm.overlong: .*, and keep .*use penalise"),
    ],
)
def test_reward_and_recipe_agree_on_cut_rollouts(write, line, overlong, message):
    more = f"  overlong: {overlong}\n" if overlong else ""
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(line + GOOD, extends="tiny/grpo", more=more))


@pytest.mark.parametrize(
    ("line", "overlong"), [("", "keep"), ("", "mask"), ("TRUNCATION_PENALTY = True\n", "penalise")]
)
def test_each_way_with_cut_rollouts_has_its_files(write, line, overlong):
    load_recipe(write(line + GOOD, more=f"  overlong: {overlong}\n"))


def tried(path):
    recipe = load_recipe(path).recipe
    problems = load_problems(recipe.data)[:4]
    try_reward(composition(recipe, recipe.reward_file()), recipe, problems, load_tokenizer(recipe.model))


BODY = "import torch\ndef reward():\n    def score(batch):\n        return {}\n    return score\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module\n" + GOOD, r"mine.py:1: cannot be loaded \(ModuleNotFoundError"),
        ("from no_such_module import reward\n", r"mine.py:1: cannot be loaded \(ModuleNotFoundError"),
        ("def reward():\n    return 1 / 0\n", r"mine.py:2: .*ZeroDivisionError"),
        ("def reward():\n    return 3\n", r"mine.py: reward\(\) returns int"),
        (
            BODY.format("batch.correct / (1 / 0)"),
            r"mine.py:4: ZeroDivisionError: division by zero \(tried on 16 made-up",
        ),
        (BODY.format("batch.lenght"), r"mine.py:4: AttributeError"),
        (BODY.format("batch.columns['nothing']"), r"mine.py:4: KeyError"),
        (BODY.format("batch.correct.tolist()"), r"mine.py: the reward returned list"),
        (BODY.format("batch.correct.view(-1, batch.group_size).mean(dim=1)"), r"of shape \[2\] for 16 rows"),
        (BODY.format("1 / (batch.correct - 1)"), r"is inf .*a reward is finite"),
        (BODY.format("torch.full_like(batch.correct, torch.nan)"), r"all 16 rows is nan"),
        # Fine before the first visit, not after it.
        (BODY.format("batch.correct / batch.known['pass_rate'].isnan()"), r"is inf"),
    ],
)
def test_a_reward_that_fails_is_refused_before_anything_is_sampled(write, text, message):
    with pytest.raises(RecipeError, match=message) as raised:
        tried(write(text))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        "batch.correct * batch.length / batch.budget",
        "torch.where(batch.known['shortest_right'].isnan(), 0.0, batch.correct)",
        "torch.tensor([float(ids[-1] > 0) for ids in batch.completion_ids]) * torch.tensor(batch.columns['level'])",
        "torch.where(batch.truncated, torch.nan, batch.correct)",
    ],
)
def test_a_reward_may_read_all_that_training_gives_it(write, body):
    tried(write(BODY.format(body)))


def test_facts_that_the_recipe_measures_first_are_there(write):
    compares = "batch.correct - batch.known['reference_accuracy']"
    with pytest.raises(RecipeError, match="all 16 rows is nan"):
        tried(write(BODY.format(compares)))
    tried(write(BODY.format(compares), more="  reference: {samples: 4, max_tokens: 48}\n"))
    tried(write(BODY.format("batch.correct / batch.known['target_high']"), extends="tiny/laser_d"))
    tried(write(BODY.format("batch.correct - batch.known['price']"), extends="tiny/tldr", more="  overlong: keep\n"))
