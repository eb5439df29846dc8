from reason_rl.trainer.doctor import advice

GOOD = {
    "groups_kept": 20.0,
    "groups_all_right": 0.2,
    "groups_all_wrong": 0.3,
    "share_cut": 0.4,
    "importance_ratio_mean": 1.0,
}


def test_a_healthy_run_gets_no_advice():
    assert advice([GOOD] * 5) == []


def test_zero_signal_cut_and_drift_are_each_named():
    assert "no group has a learning signal" in advice([{**GOOD, "groups_all_wrong": 0.8}] * 3)[0]
    assert "nearly every completion is cut" in advice([{**GOOD, "share_cut": 0.99}] * 3)[0]
    assert "importance ratio" in advice([{**GOOD, "importance_ratio_mean": 1.6}] * 3)[0]


def test_one_good_row_among_the_last_three_silences():
    bad = {**GOOD, "share_cut": 1.0}
    assert advice([bad, bad, GOOD]) == []
    assert advice([bad, bad]) == []
