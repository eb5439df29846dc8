import torch

from reason_rl.trainer.rounds import exclude_from_loss, join, take_rows, trained_tokens


def output(rows: int, prompt: int, completion: int, fill: int) -> dict[str, torch.Tensor]:
    return {
        "prompt_ids": torch.full((rows, prompt), fill),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.long),
        "completion_ids": torch.full((rows, completion), fill),
        "completion_mask": torch.ones(rows, completion, dtype=torch.long),
        "old_per_token_logps": torch.full((rows, completion), -0.5),
        "importance_sampling_ratio": torch.ones(rows, 1),
        "advantages": torch.arange(float(rows)),
        "num_items_in_batch": torch.tensor(rows * completion),
    }


def test_join_pads_prompts_left_and_completions_right():
    joined = join([output(2, 3, 2, 7), output(1, 1, 4, 8)], pad_token_id=0)
    assert joined["prompt_ids"].tolist() == [[7, 7, 7], [7, 7, 7], [0, 0, 8]]
    assert joined["prompt_mask"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 1]]
    assert joined["completion_ids"].tolist() == [[7, 7, 0, 0], [7, 7, 0, 0], [8, 8, 8, 8]]
    assert joined["completion_mask"].sum() == 8
    assert joined["old_per_token_logps"][0].tolist() == [-0.5, -0.5, 0.0, 0.0]
    assert joined["importance_sampling_ratio"].shape == (3, 1)
    assert joined["advantages"].tolist() == [0.0, 1.0, 0.0]
    assert joined["num_items_in_batch"].ndim == 0


def test_take_rows_leaves_scalars():
    taken = take_rows(output(4, 2, 2, 1), torch.tensor([2, 3]))
    assert taken["advantages"].tolist() == [2.0, 3.0]
    assert taken["num_items_in_batch"] == 8


def test_excluded_rows_leave_the_loss_but_not_attention():
    batch = exclude_from_loss(output(3, 2, 4, 1), torch.tensor([False, True, False]))
    assert trained_tokens(batch) == 8
    assert batch["completion_mask"].sum() == 12
    twice = exclude_from_loss(batch, torch.tensor([True, False, False]))
    assert trained_tokens(twice) == 4


def test_trained_tokens_without_exclusion_counts_all():
    assert trained_tokens(output(3, 2, 4, 1)) == 12
