"""Runs of a comparison: rows are kept whatever happens to others, and an error is raised in the end."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from reason_rl.bench import jobs
from reason_rl.bench.jobs import read_results, run_jobs


@dataclass(frozen=True)
class SmallJob:
    key: str

    def __call__(self):
        if self.key.startswith("bad"):
            raise ValueError(f"{self.key} failed")
        return {"length": len(self.key)}


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_are_kept_when_a_job_fails(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(jobs, "ProcessPoolExecutor", lambda count, context, **_: ThreadPoolExecutor(count))
    out, said = tmp_path / "rows.jsonl", []
    made = [SmallJob("a"), SmallJob("bad"), SmallJob("cc"), SmallJob("ddd")]
    with pytest.raises(ValueError, match="bad failed"):
        run_jobs(made, out, workers, said.append)
    kept = {row["key"] for row in read_results(out)}
    assert kept == ({"a"} if workers == 1 else {"a", "cc", "ddd"})
    assert workers == 1 or "bad: ValueError: bad failed" in said
    again = run_jobs([made[0], *made[2:]], out, workers, said.append)
    assert [row["length"] for row in again] == [1, 2, 3]
    assert len(read_results(out)) == 3
