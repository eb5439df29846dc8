"""The recipes for R1-Distill-Qwen-1.5B have the constants of the papers and of their released code, number by number."""

import inspect
import runpy
from functools import reduce

import pytest

from reason_rl.content import shipped_recipes
from reason_rl.recipe.load import load_recipe

FOLDER = "r1_distill_1.5b/"
# What one GPU and LoRA change: the size of the run and its learning rate.
OF_THE_RUN = {
    "trainer.learning_rate",
    "trainer.num_generations",
    "trainer.max_steps",
    "algorithm.curriculum.problems",
}
# Recipes of which no paper gives the numbers that we could read, or that have none.
OURS = {
    "alp",
    "budget_by_history",
    "budget_by_pass_rate",
    "mind",
    "mind_sft",
    "pass_rate_band",
    "self_rewarded_efficiency",
}

GROUP_STD = {"algorithm.advantage.baseline": "group_mean", "algorithm.advantage.scale": "group_std"}
CENTRED = {"algorithm.advantage.baseline": "group_mean", "algorithm.advantage.scale": "none"}
NO_BASELINE = {"algorithm.advantage.baseline": "none"}
KL = {"algorithm.kl.type": "k3", "algorithm.kl.coefficient": 0.001}
NO_KL = {"algorithm.kl.coefficient": 0.0}
HIGHER = {"trainer.epsilon": 0.2, "trainer.epsilon_high": 0.28}
SYMMETRIC = {"trainer.epsilon": 0.2, "trainer.epsilon_high": 0.2}


def group(size, rate=1e-6):
    """Return rollouts a problem and learning rate."""
    return {"trainer.num_generations": size, "trainer.learning_rate": rate}


def budget(tokens, temperature):
    return {"algorithm.budget.tokens": tokens, "rollout.temperature": temperature}


LASER = GROUP_STD | KL | HIGHER | group(8) | budget(16384, 0.6) | {"trainer.loss_type": "dapo"}
TIERS = {
    "algorithm.targets.smallest_tokens": 4096,
    "algorithm.targets.largest_tokens": 16384,
    "algorithm.targets.interval_tokens": 1024,
    "algorithm.targets.problems": 500,
    "algorithm.targets.rollouts": 8,
    "algorithm.targets.every": 20,
    "algorithm.targets.rounding": "floor",
}
L1 = KL | budget(4096, 0.6) | {"prompt.target_tokens.low": 100, "prompt.target_tokens.high": 4000}
DLER = {
    "algorithm.filter.keep": "non_zero_std",
    "algorithm.filter.refill": True,
    "algorithm.advantage.baseline": "group_mean",
    "algorithm.advantage.scale": "batch_token",
    "algorithm.kl.type": "k2",
    "algorithm.kl.coefficient": 0.0005,
    "trainer.loss_type": "dapo",
    "trainer.delta": 10.0,
    "trainer.weight_decay": 0.01,
    "trainer.max_grad_norm": 1.0,
    "trainer.warmup_steps": 0,
    **(HIGHER | group(16) | budget(4000, 1.0)),
}
GFPO = {
    "algorithm.advantage.scale": "group_std_population",
    "algorithm.advantage.select": "shortest",
    "algorithm.advantage.select_rows": 8,
    "algorithm.advantage.select_by_difficulty": None,
    "trainer.max_steps": 100,
    **(KL | group(16, 1e-7) | budget(32000, 1.0)),
}
CANON = {
    "algorithm.advantage.baseline": "halves",
    "algorithm.advantage.scale": "none",
    "algorithm.advantage.halves_by": "length",
    "algorithm.advantage.long_half_weight": 0.96,
    "algorithm.advantage.between_halves": 0.5,
    "trainer.loss_type": "dr_grpo",
}
SIRI = {
    "algorithm.budget.shape": "cosine",
    "algorithm.budget.low_tokens": 8192,
    "algorithm.budget.high_tokens": 16384,
    "algorithm.budget.period": 640,
    "rollout.temperature": 1.0,
    "trainer.learning_rate": 1e-6,
    "trainer.max_steps": 1920,
    **(GROUP_STD | NO_KL | HIGHER),
}

# method: (parameters of the reward, whatever of them is a default of its file; keys of the recipe)
PAPER = {
    "adaptthink": (
        {"delta": 0.05},
        {
            "algorithm.openings.0.text": "</think>",
            "algorithm.openings.0.share": 0.5,
            "algorithm.openings.0.budget_tokens": 4096,
            "algorithm.openings.1.text": "Alright",
            "algorithm.openings.1.share": 0.5,
            "algorithm.reference.samples": 16,
            "algorithm.reference.max_tokens": 16384,
            "algorithm.reference.temperature": 0.6,
            "algorithm.reference.top_p": 0.95,
            "algorithm.advantage.scale": "none",
            "rollout.top_p": 1.0,
            "trainer.loss_type": "grpo",
            "trainer.importance_sampling_level": "sequence",
            **(NO_BASELINE | NO_KL | SYMMETRIC | group(16, 2e-6) | budget(16384, 0.6)),
        },
    ),
    "anytime_brpo": (
        {},
        {
            "algorithm.summaries.budgets": (2000, 4000, 6000, 8000),
            "algorithm.summaries.prior": "uniform",
            "algorithm.summaries.decay": 0.5,
            "algorithm.summaries.samples": 4,
            "algorithm.summaries.tokens": 128,
            "trainer.loss_type": "dr_grpo",
            **(NO_KL | SYMMETRIC | group(8) | budget(8000, 1.0)),
        },
    ),
    "bnpo": ({}, {"algorithm.advantage.baseline": "group_mean", "algorithm.advantage.scale": "beta"}),
    "canon": ({}, CANON),
    "canon_entropy": (
        {},
        CANON
        | {
            "algorithm.advantage.halves_by": "surprise",
            "algorithm.advantage.long_half_weight": 1.0,
            "algorithm.advantage.between_halves": "accuracy",
        },
    ),
    "cispo": ({}, {"trainer.loss_type": "cispo", "trainer.epsilon_high": 5.0, **GROUP_STD, **NO_KL}),
    "cosine": (
        {
            "max_tokens": 14336,
            "right_short": 2.0,
            "right_long": 1.0,
            "wrong_short": -10.0,
            "wrong_long": 0.0,
            "exceeded": -10.0,
        },
        {"algorithm.budget.tokens": 14336},
    ),
    "cures": (
        {},
        {
            "algorithm.curriculum.probe_rollouts": 4,
            "algorithm.curriculum.problems": 1024,
            "algorithm.kl.coefficient": 0.001,
            "rollout.temperature": 1.0,
            "trainer.epsilon": 0.2,
            "trainer.learning_rate": 1e-6,
            **GROUP_STD,
        },
    ),
    "da_dler": ({"thresholds": [0.5], "tokens": [4000, 2000]}, DLER),
    "dapo": (
        {"max_tokens": 20480, "cache_tokens": 4096, "wrong_reward": -1.0},
        {
            "algorithm.filter.keep": "non_zero_std",
            "algorithm.filter.metric": "correct",
            "algorithm.filter.refill": True,
            "trainer.loss_type": "dapo",
            **(GROUP_STD | NO_KL | HIGHER | group(16) | budget(20480, 1.0)),
        },
    ),
    "dast": ({"max_tokens": 4096}, {"algorithm.budget.tokens": 4096}),
    "dler": ({"truncated_reward": 0.0}, DLER),
    "dr_grpo": ({}, {"trainer.loss_type": "dr_grpo", **CENTRED, **NO_KL, **group(8)}),
    "dr_saf": (
        {"bonus": 0.05, "easy": 0.95, "hard": 0.3},
        {
            "algorithm.advantage.baseline": "boundary",
            "algorithm.advantage.scale": "group_std",
            "algorithm.budget.tokens": 22000,
            "trainer.num_generations": 12,
        },
    ),
    "efficient_reasoning": ({"alpha": 0.1}, CENTRED | group(8, 5e-6) | {"algorithm.budget.tokens": 32000}),
    "gfpo": ({}, GFPO),
    "gfpo_adaptive": (
        {},
        GFPO | {"algorithm.advantage.select_rows": None, "algorithm.advantage.select_by_difficulty": (8, 8, 6, 4)},
    ),
    "gfpo_efficiency": ({}, GFPO | {"algorithm.advantage.select": "token_efficiency"}),
    "grpo": ({}, GROUP_STD | group(64) | {"algorithm.kl.coefficient": 0.04, "trainer.loss_type": "grpo"}),
    "grpo_lead": (
        {"alpha": 0.05, "gate_tokens": 4000},
        {
            "algorithm.advantage.difficulty_weight": True,
            "algorithm.filter.keep": "non_zero_std",
            "trainer.num_generations": 8,
            **(GROUP_STD | NO_KL | budget(12288, 0.8)),
        },
    ),
    "gspo": (
        {},
        {
            "trainer.importance_sampling_level": "sequence",
            "trainer.loss_type": "grpo",
            "trainer.epsilon": 3e-4,
            "trainer.epsilon_high": 4e-4,
            **GROUP_STD,
        },
    ),
    "hapo": ({"weight": 1.0, "mode": "min", "shape": "cosine"}, {"algorithm.budget.tokens": 32768, **GROUP_STD}),
    "kimi_length": ({"weight": 0.4}, LASER),
    "l1_exact": ({"token_penalty": 0.0003}, L1 | group(16) | {"trainer.max_steps": 700}),
    "l1_max": ({"token_slope": 0.0003, "at_target": 0.5}, L1 | group(16, 4e-6) | {"trainer.max_steps": 120}),
    # The target is the middle one of three: that of the figures that ``about`` quotes.
    "laser": ({"target_tokens": 4096, "bonus": 0.5, "wrong_reward": -0.5}, LASER),
    "laser_d": ({"bonus": 0.5, "wrong_reward": -0.5}, LASER | TIERS),
    "laser_de": ({"bonus": 0.5, "wrong_reward": -0.5}, LASER | TIERS),
    "o1_pruner": (
        {"accuracy_weight": 2.0},
        {
            "algorithm.reference.samples": 16,
            "trainer.importance_sampling_level": "sequence",
            "trainer.epsilon": 0.2,
            "trainer.learning_rate": 2e-7,
            **NO_BASELINE,
        },
    ),
    "reinforce_pp": ({}, {"algorithm.advantage.scale": "batch_token", **NO_BASELINE}),
    "rloo": ({}, {"trainer.loss_type": "dr_grpo", **CENTRED}),
    "shorter_better": ({"right_reward": 2.0, "token_penalty": 0.001}, KL | group(8) | budget(6000, 0.9)),
    "siri": ({"truncated_reward": 0.0}, SIRI),
    "siri_stairs": ({"truncated_reward": 0.0}, SIRI | {"algorithm.budget.shape": "stair"}),
    # The ramp is DAPO's fifth of the cap, and the cap DLER's.
    "soft_overlong": (
        {"max_tokens": 4000, "cache_tokens": 4000 * 4096 // 20480, "wrong_reward": -1.0},
        {"algorithm.budget.tokens": 4000},
    ),
    "thinkprune": (
        {"truncated_reward": 0.0},
        {"algorithm.budget.tokens": [4000, 3000, 2000], "algorithm.overlong": "penalise", **KL, **group(16)},
    ),
    # Our own, for those of the paper are not public.
    "tldr": (
        {"max_tokens": 8192, "free_tokens": 0},
        {
            "algorithm.prices.prices": {"short": 0.6, "medium": 0.3, "long": 0.0, "plain": 0.3},
            "algorithm.prices.accuracy_loss": 0.05,
            "algorithm.prices.smoothing": 0.9,
            "algorithm.prices.fall": 0.9,
            "algorithm.prices.rise": 1.02,
            "algorithm.advantage.scale": "batch_std_rewards",
            "prompt.plain_share": 0.25,
            "trainer.loss_type": "dapo",
            **(NO_KL | HIGHER | group(8) | budget(8192, 1.0)),
        },
    ),
}
# Tasks without rollouts.
OFFLINE = {
    "adar1": {
        "merge.weights": (0.8, 0.2),
        "pairs.problems": 2500,
        "pairs.samples": 12,
        "pairs.group_pairs": 4,
        "pairs.instance_pairs": 2,
        "trainer.beta": 0.05,
        "trainer.learning_rate": 5e-7,
        "trainer.lr_scheduler_type": "constant",
        "trainer.num_train_epochs": 2,
        "trainer.max_length": 4096,
    },
    "merge_selective": {"merge.method": "selective", "merge.density": 0.25, "merge.scale": 0.7},
    "merge_ties": {"merge.method": "ties", "merge.density": 0.2, "merge.scale": 1.0},
}


def at(values, key):
    return reduce(lambda part, name: part[int(name)] if name.isdigit() else part[name], key.split("."), values)


def plain(value):
    return tuple(value) if isinstance(value, list) else value


def found(recipe, keys):
    values = recipe.model_dump()
    return {key: plain(at(values, key)) for key in keys}


def wanted(keys):
    return {key: plain(value) for key, value in keys.items()}


def reward_parameters(recipe):
    """Return the parameters of a recipe's reward, those of its file where the recipe has none."""
    factory = runpy.run_path(str(recipe.reward_file()))["reward"]
    defaults = {name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()}
    return defaults | recipe.algorithm.reward.params()


@pytest.mark.parametrize("name", PAPER)
def test_a_method_has_the_constants_of_its_paper(name):
    recipe = load_recipe(FOLDER + name).recipe
    reward, keys = PAPER[name]
    assert reward_parameters(recipe) == reward
    assert found(recipe, keys) == wanted(keys)


@pytest.mark.parametrize("name", PAPER)
def test_with_lora_it_has_all_but_those_of_the_run(name):
    recipe = load_recipe(f"{FOLDER}{name}_lora").recipe
    reward, keys = PAPER[name]
    keys = {key: value for key, value in keys.items() if key not in OF_THE_RUN}
    assert reward_parameters(recipe) == reward
    assert found(recipe, keys) == wanted(keys)
    assert recipe.trainer["learning_rate"] == 1e-5


@pytest.mark.parametrize("name", OFFLINE)
def test_a_method_without_rollouts_has_them_too(name):
    assert found(load_recipe(FOLDER + name).recipe, OFFLINE[name]) == wanted(OFFLINE[name])


def test_every_recipe_is_in_a_table_or_all_our_own():
    names = {name.removeprefix(FOLDER).removesuffix("_lora") for name in shipped_recipes() if name.startswith(FOLDER)}
    assert {name for name in names if not name.endswith("base")} == {*PAPER, *OFFLINE, *OURS}
