"""Runs ``reason-rl`` in a process of a job and notes what each generation step of this process did, in rounds-RANK.jsonl."""

import json
import os
import sys
from pathlib import Path

from reason_rl.cli import main
from reason_rl.trainer.grpo import ReasonGRPOTrainer
from reason_rl.trainer.rounds import trained_tokens

generate = ReasonGRPOTrainer._generate_and_score_completions
play = ReasonGRPOTrainer._round
drawn = []


def noting_round(trainer, rows, index, ahead=None):
    done = play(trainer, rows, index, ahead)
    drawn.append({"problems": sorted({row["problem_id"] for row in rows}), "kept": int(done.kept.sum())})
    return done


def noting(trainer, inputs):
    drawn.clear()
    output = generate(trainer, inputs)
    line = {
        "rounds": list(drawn),
        "rows": len(output["advantages"]),
        "tokens": int(trained_tokens(output)),
        "num_items": int(output["num_items_in_batch"]),
    }
    with (Path(trainer.args.output_dir).parent / f"rounds-{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return output


if __name__ == "__main__":
    ReasonGRPOTrainer._round = noting_round
    ReasonGRPOTrainer._generate_and_score_completions = noting
    sys.exit(main())
