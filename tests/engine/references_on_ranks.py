"""Measures the references of a recipe in a process of a job, the first one later than collectives wait, and notes them."""

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from reason_rl.recipe.load import load_recipe
from reason_rl.run_folder import RunFolder
from reason_rl.trainer import reference

TIMEOUT = timedelta(seconds=20)
evaluate = reference.evaluate


def late(*given, **named):
    if PartialState().is_main_process:
        time.sleep(1.2 * TIMEOUT.total_seconds())
    return evaluate(*given, **named)


if __name__ == "__main__":
    recipe = load_recipe(sys.argv[2], sys.argv[3:]).recipe
    folder, rank = Path(recipe.output), os.environ["RANK"]
    folder.mkdir(exist_ok=True)
    (folder / f"ready-{rank}").touch()
    while len(list(folder.glob("ready-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.1)  # what is loaded until here may take longer than collectives wait
    PartialState(cpu=True, timeout=TIMEOUT)
    reference.evaluate = late
    found = reference.starting_references(recipe, RunFolder(folder))
    told = {name: asdict(entry) for name, entry in found.items()}
    (folder / f"found-{rank}.json").write_text(json.dumps(told))
