"""The recipes of published methods: what defines each is set, to what the paper says, and reaches the trainer."""

import math
from pathlib import Path

import pytest
import torch

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe
from reason_rl.recipe.plan import plan
from reason_rl.rollout.batch import example_batch
from reason_rl.trainer.config import composition, grpo_config

ROOT = Path(__file__).parents[2]
TINY = ("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo", "reinforce_pp")
LENGTH = (
    "laser",
    "l1_exact",
    "l1_max",
    "kimi_length",
    "efficient_reasoning",
    "shorter_better",
    "dast",
    "grpo_lead",
    "dr_saf",
    "self_rewarded_efficiency",
    "gfpo",
    "canon",
    "alp",
    "soft_overlong",
)
REAL = [
    name
    for name in shipped_recipes()
    if name.startswith(("r1_distill_", "qwen3_"))
    and not name.endswith("base")
    and load_recipe(name).recipe.task == "train"
]
REAL_RL = [name for name in REAL if load_recipe(name).recipe.task == "train"]

# Fields of GRPOConfig as the trainer gets them.
CONFIG = {
    "grpo": {"importance_sampling_level": "token", "epsilon": 0.2, "beta": 0.0},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.0},
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0},
    "bnpo": {"loss_type": "bnpo", "epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.0},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "beta": 0.0,
    },
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0, "beta": 0.0},
    "rloo": {"loss_type": "dr_grpo", "steps_per_generation": 1, "beta": 0.0},
    "reinforce_pp": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.2, "beta": 0.0},
}
UPDATES = {name: {"dapo": 16, "gspo": 4, "rloo": 1}.get(name, 8) for name in TINY}

# Two problems x four completions, and the advantages worked out by hand for them.
REWARDS = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
LENGTHS = [1200.0, 4000.0, 900.0, 3000.0, 500.0, 800.0, 700.0, 2500.0]
GROUP_STD = [1.4997, -0.4999, -0.4999, -0.4999, 0.4999, 0.4999, 0.4999, -1.4997]
CENTRED = [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75]
BETA = [0.716606, -0.238869, -0.238869, -0.238869, 0.238869, 0.238869, 0.238869, -0.716606]
OVER_TOKENS = [1.802709, -0.55468, -0.55468, -0.55468, 1.802709, 1.802709, 1.802709, -0.55468]
LEAVE_ONE_OUT = [1.0, -1 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, 1 / 3, -1.0]
ADVANTAGES = dict.fromkeys(TINY, GROUP_STD) | {
    "dr_grpo": CENTRED,
    "rloo": CENTRED,
    "reinforce_pp": OVER_TOKENS,
    "bnpo": BETA,
}

# Two completions of 3 and 2 tokens with advantages 1 and -1, at these ratios; the losses worked out by hand.
RATIOS = [[1.5, 1.0, 0.5], [1.1, 0.7, 1.0]]
LOGPS = [[-0.2, -1.0, -2.0], [-0.5, -0.1, 0.0]]
# Only DAPO's upper bound differs: a ratio of 1.5 counts 1.28 there and 1.2 elsewhere.
LOSSES = {"dr_grpo": -0.8 / 8, "bnpo": -0.8 / 5, "dapo": -0.88 / 5, "gspo": 0.04557, "cispo": 1.68 / 5}


def tiny(name):
    return load_recipe(f"tiny/{name}").recipe


def policies(recipe):
    return composition(recipe, recipe.reward_file())


@pytest.mark.parametrize("name", TINY)
def test_the_trainer_gets_the_values_of_the_paper(name, tmp_path):
    config = grpo_config(tiny(name), tmp_path, 80)
    assert {field: getattr(config, field) for field in CONFIG[name]} == CONFIG[name]


@pytest.mark.parametrize("name", TINY)
def test_advantages_are_those_worked_out_by_hand(name):
    rewards, lengths = torch.tensor(REWARDS), torch.tensor(LENGTHS)
    got = policies(tiny(name)).advantages(rewards, lengths, rewards, torch.tensor([True, True]), 4)
    torch.testing.assert_close(got, torch.tensor(ADVANTAGES[name]), atol=1e-5, rtol=0)


def test_rloo_is_leave_one_out_but_for_a_constant():
    assert [4 / 3 * value for value in ADVANTAGES["rloo"]] == pytest.approx(LEAVE_ONE_OUT)


@pytest.fixture
def loss_of(make_trainer, make_config, monkeypatch):
    """Return a function from fields of GRPOConfig to the loss of the two completions above, or of others."""

    def loss(logps=LOGPS, ratios=RATIOS, values=(1.0, -1.0), mask=((1, 1, 1), (1, 1, 0)), **fields):
        trainer = make_trainer(config=make_config(**fields, scale_rewards="none", steps_per_generation=1))
        trainer.max_completion_length = 4
        logps, ratios, mask = torch.tensor(logps), torch.tensor(ratios), torch.tensor(mask)
        monkeypatch.setattr(
            trainer,
            "_get_per_token_logps_and_entropies",
            lambda *_args, **_kwargs: (logps, torch.zeros_like(logps), None),
        )
        ids = torch.ones_like(mask)
        trainer.current_gradient_accumulation_steps = 1
        return trainer._compute_loss(
            trainer.model.train(),
            {
                "prompt_ids": ids,
                "prompt_mask": torch.ones_like(ids),
                "completion_ids": ids,
                "completion_mask": mask,
                "advantages": torch.tensor(values),
                "old_per_token_logps": logps - torch.log(ratios),
                "importance_sampling_ratio": torch.ones_like(logps),
                "num_items_in_batch": mask.sum().float(),
            },
        ).item()

    return loss


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_worked_out_by_hand(name, tmp_path, loss_of):
    asked = grpo_config(tiny(name), tmp_path, 80)
    fields = ("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "delta", "beta")
    assert loss_of(**{field: getattr(asked, field) for field in fields}) == pytest.approx(LOSSES[name], abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1, -1.28), (1.25, 1, -1.25), (0.5, 1, -0.5), (0.5, -1, 0.8), (1.5, -1, 1.5), (20.0, -1, 10.0)],
)
def test_dler_clips_one_token_as_worked_out_by_hand(loss_of, tmp_path, ratio, advantage, expected):
    asked = grpo_config(tiny("dler"), tmp_path, 80)
    fields = {field: getattr(asked, field) for field in ("loss_type", "epsilon", "epsilon_high", "delta")}
    one = {"logps": [[-1.0]], "ratios": [[ratio]], "values": [float(advantage)], "mask": [[1]]}
    assert loss_of(**one, **fields, beta=0.0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("loss_type", "level", "epsilon", "epsilon_high", "expected"),
    [
        ("grpo", "token", 0.2, 0.28, 0.011667),
        ("bnpo", "token", 0.2, 0.28, -0.176),
        ("dapo", "token", 0.2, 0.28, -0.176),
        ("dr_grpo", "token", 0.2, 0.28, -0.11),
        ("grpo", "sequence", 0.2, 0.28, -0.015532),
        ("grpo", "sequence", 3e-4, 4e-4, 0.04557),
        ("cispo", "token", 0.2, 1.28, 0.3272),
    ],
)
def test_the_losses_differ_in_how_tokens_are_averaged(loss_of, loss_type, level, epsilon, epsilon_high, expected):
    fields = {"loss_type": loss_type, "importance_sampling_level": level, "beta": 0.0}
    assert loss_of(**fields, epsilon=epsilon, epsilon_high=epsilon_high) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_updates_a_rollout_batch_and_the_same_rollouts_for_all(name):
    figures = plan(tiny(name), None)
    assert figures["updates_per_generation"] == UPDATES[name]
    assert figures["generations"] * figures["rows_per_generation"] == 32 * 256


def test_dapo_rewards_and_filters_as_the_paper_does(tmp_path):
    for name, cap, cache in (("tiny/dapo", 80, 16), ("r1_distill_1.5b/dapo", 20480, 4096)):
        recipe = load_recipe(name).recipe
        batch = example_batch([1, 0, 1, 1], [cap - cache, 1, cap, cap], cut=[False, False, False, True], budget=cap)
        assert policies(recipe).reward(batch).tolist() == [1.0, -1.0, 0.0, 0.0]
        kept = policies(recipe).filter
        assert (kept.keep, kept.metric, kept.refill) == ("non_zero_std", "correct", True)
        assert recipe.algorithm.overlong == "penalise"
    assert math.ceil(80 * 4096 / 20480) == 16


def test_thinkprune_pays_right_answers_within_the_limit():
    lengths = [1000, 2000, 3000, 4000]
    batch = example_batch([1, 1, 1, 0], [min(n, 2500) for n in lengths], cut=[n > 2500 for n in lengths], budget=2500)
    assert policies(tiny("thinkprune")).reward(batch).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "processes", "rows", "updates", "group"),
    [
        ("r1_distill_1.5b/dler", 8, 512 * 16, 8, 16),
        ("r1_distill_1.5b/dler_lora", 1, 32 * 8, 8, 8),
        ("r1_distill_1.5b/grpo", 8, 1024, 1, 64),
        ("r1_distill_1.5b/grpo_lora", 1, 32 * 8, 1, 8),
        ("r1_distill_1.5b/dapo", 8, 512 * 16, 16, 16),
        ("r1_distill_1.5b/dapo_lora", 1, 32 * 8, 16, 8),
        ("r1_distill_1.5b/dr_grpo", 8, 128 * 8, 8, 8),
        ("r1_distill_1.5b/dr_grpo_lora", 1, 32 * 8, 8, 8),
        ("r1_distill_1.5b/laser", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/l1_exact", 8, 128 * 16, 1, 16),
        ("r1_distill_1.5b/l1_max", 8, 128 * 16, 1, 16),
        ("r1_distill_1.5b/kimi_length", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/efficient_reasoning", 8, 32 * 8, 2, 8),
        ("r1_distill_1.5b/shorter_better", 8, 128 * 8, 8, 8),
        ("r1_distill_1.5b/dast", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/grpo_lead", 8, 32 * 8, 1, 8),
        ("r1_distill_1.5b/dr_saf", 8, 16 * 12, 1, 12),
        ("r1_distill_1.5b/self_rewarded_efficiency", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/gfpo", 8, 64 * 16, 1, 16),
        ("r1_distill_1.5b/canon", 8, 128 * 8, 8, 8),
        ("r1_distill_1.5b/adaptthink", 8, 128 * 16, 1, 16),
        ("r1_distill_1.5b/adaptthink_lora", 1, 32 * 8, 1, 8),
        ("r1_distill_1.5b/anytime_brpo", 8, 64 * 8, 2, 8),
        ("r1_distill_1.5b/anytime_brpo_lora", 1, 32 * 8, 2, 8),
        ("r1_distill_1.5b/tldr", 8, 64 * 8, 2, 8),
        ("r1_distill_1.5b/tldr_lora", 1, 32 * 8, 2, 8),
        ("r1_distill_1.5b/da_dler", 8, 512 * 16, 8, 16),
        ("r1_distill_1.5b/thinkprune", 8, 128 * 16, 1, 16),
        ("r1_distill_1.5b/siri", 8, 128 * 8, 1, 8),
        ("r1_distill_1.5b/laser_d", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/laser_de", 8, 128 * 8, 2, 8),
        ("r1_distill_1.5b/hapo", 8, 128 * 8, 1, 8),
        ("r1_distill_1.5b/o1_pruner", 8, 128 * 8, 1, 8),
        ("r1_distill_1.5b/cures", 8, 1024 * 8, 4, 2),
        ("r1_distill_1.5b/alp_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/cosine_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/soft_overlong_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/bnpo_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/gspo_lora", 1, 256, 4, 8),
        ("r1_distill_1.5b/cispo_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/rloo_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/reinforce_pp_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/laser_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/laser_d_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/laser_de_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/l1_exact_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/l1_max_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/kimi_length_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/efficient_reasoning_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/shorter_better_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/dast_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/grpo_lead_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/dr_saf_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/self_rewarded_efficiency_lora", 1, 256, 2, 8),
        ("r1_distill_1.5b/gfpo_lora", 1, 256, 1, 16),
        ("r1_distill_1.5b/canon_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/da_dler_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/thinkprune_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/siri_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/hapo_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/o1_pruner_lora", 1, 256, 1, 8),
        ("r1_distill_1.5b/cures_lora", 1, 256, 4, 2),
        ("r1_distill_7b/grpo", 8, 1024, 1, 64),
        ("qwen3_1.7b/grpo", 8, 1024, 1, 64),
        ("r1_distill_7b/da_dler", 8, 8192, 8, 16),
        ("qwen3_1.7b/da_dler", 8, 8192, 8, 16),
        ("r1_distill_7b/laser_d", 8, 1024, 2, 8),
        ("qwen3_1.7b/laser_d", 8, 1024, 2, 8),
        ("r1_distill_7b/l1_max", 8, 2048, 1, 16),
        ("qwen3_1.7b/l1_max", 8, 2048, 1, 16),
        ("r1_distill_7b/thinkprune", 8, 2048, 1, 16),
        ("qwen3_1.7b/thinkprune", 8, 2048, 1, 16),
        ("r1_distill_1.5b/alp", 8, 256, 2, 8),
        ("r1_distill_1.5b/mind", 8, 1024, 2, 8),
        ("r1_distill_1.5b/cosine", 8, 256, 2, 8),
        ("r1_distill_1.5b/soft_overlong", 8, 256, 2, 8),
        ("r1_distill_1.5b/bnpo", 8, 256, 2, 8),
        ("r1_distill_1.5b/gspo", 8, 512, 4, 8),
        ("r1_distill_1.5b/cispo", 8, 256, 2, 8),
        ("r1_distill_1.5b/rloo", 8, 128, 1, 8),
        ("r1_distill_1.5b/reinforce_pp", 8, 256, 2, 8),
        ("r1_distill_1.5b/budget_by_pass_rate", 8, 8192, 8, 16),
        ("r1_distill_1.5b/budget_by_pass_rate_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/budget_by_history", 8, 8192, 8, 16),
        ("r1_distill_1.5b/budget_by_history_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/pass_rate_band", 8, 8192, 8, 16),
        ("r1_distill_1.5b/pass_rate_band_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/canon_entropy", 8, 1024, 8, 8),
        ("r1_distill_1.5b/canon_entropy_lora", 1, 256, 8, 8),
        ("r1_distill_1.5b/gfpo_efficiency", 8, 1024, 1, 16),
        ("r1_distill_1.5b/gfpo_efficiency_lora", 1, 256, 1, 16),
        ("r1_distill_1.5b/gfpo_adaptive", 8, 1024, 1, 16),
        ("r1_distill_1.5b/gfpo_adaptive_lora", 1, 256, 1, 16),
        ("r1_distill_1.5b/siri_stairs", 8, 1024, 1, 8),
        ("r1_distill_1.5b/siri_stairs_lora", 1, 256, 1, 8),
        ("r1_distill_7b/dler", 8, 512 * 16, 8, 16),
        ("qwen3_1.7b/dler", 8, 512 * 16, 8, 16),
    ],
)
def test_real_recipes_have_the_papers_batch(name, processes, rows, updates, group):
    recipe = load_recipe(name).recipe
    figures = plan(recipe, None, processes)
    assert figures["rows_per_generation"] == rows
    assert figures["updates_per_generation"] == updates
    assert recipe.trainer["num_generations"] == group
    assert (recipe.lora is None) == (not name.startswith("r1_distill_7b") and not name.endswith("_lora"))


@pytest.mark.parametrize("name", ["laser", "laser_d", "laser_de", "kimi_length"])
def test_the_setting_of_laser_runs_as_long_as_its_figures(name):
    assert plan(load_recipe(f"r1_distill_1.5b/{name}").recipe, None, 8)["generations"] == 700


def test_every_real_recipe_is_in_the_table_above():
    marks = test_real_recipes_have_the_papers_batch.pytestmark
    assert {row[0] for row in marks[0].args[1]} == set(REAL_RL)


@pytest.mark.parametrize("name", [name for name in REAL if name.split("/")[1].startswith("dler")])
def test_dler_of_real_models_has_the_papers_constants(name, tmp_path):
    recipe = load_recipe(name).recipe
    algorithm = recipe.algorithm
    config = grpo_config(recipe.model_copy(update={"trainer": recipe.trainer | {"bf16": False}}), tmp_path, 4000)
    assert algorithm.budget.tokens == 4000
    assert algorithm.reward.params() == {"truncated_reward": 0.0}
    assert (algorithm.kl.type, algorithm.kl.coefficient) == ("k2", 0.0005)
    assert (algorithm.advantage.baseline, algorithm.advantage.scale) == ("group_mean", "batch_token")
    assert (config.loss_type, config.epsilon, config.epsilon_high, config.delta) == ("dapo", 0.2, 0.28, 10.0)
    assert config.learning_rate == (1e-6 if recipe.lora is None else 1e-5)


@pytest.mark.parametrize("name", LENGTH)
def test_the_reward_of_a_length_method_is_that_of_its_real_recipe_but_for_lengths(name):
    small, real = tiny(name).algorithm, load_recipe(f"r1_distill_1.5b/{name}").recipe.algorithm
    assert small.reward.file == real.reward.file
    assert small.reward.params().keys() == real.reward.params().keys()
    chosen = ("baseline", "scale", "select", "halves_by", "between_halves", "difficulty_weight", "correct_bonus")
    assert small.advantage.model_dump(include=chosen) == real.advantage.model_dump(include=chosen)
    assert small.overlong == real.overlong


@pytest.mark.parametrize("name", REAL)
def test_real_recipes_say_that_they_were_not_run(name):
    assert load_recipe(name).recipe.about.state == "not run"


@pytest.mark.parametrize("name", [*TINY, "dler", *LENGTH])
def test_every_method_has_its_page(name):
    about = tiny(name).about
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert f"arXiv {about.arxiv}" in " ".join(page.split())
    assert f"recipes/tiny/{name}.yaml" in page
