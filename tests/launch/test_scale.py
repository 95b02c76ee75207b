"""Scaling on paper: the formulas against a ring that is played through, and by hand."""

import math

import numpy as np
import pytest

from launch import scale
from launch.scale import CHIPS, CLUSTERS, Chip, Cluster


def played_ring(count, passes):
    """Sum arrays over a ring, chunk by chunk; return (the sums, numbers each chip has sent)."""
    rng = np.random.default_rng(0)
    held = rng.integers(0, 9, (count, count))  # chip, chunk
    expected, sent = held.sum(axis=0), 0
    for turn in range(count - 1):  # scatter of sums
        sending = [(chip, (chip - turn) % count) for chip in range(count)]
        values = [held[place] for place in sending]
        for (chip, chunk), value in zip(sending, values, strict=True):
            held[(chip + 1) % count, chunk] += value
        sent += 1
    if passes == 2:  # gather
        for turn in range(count - 1):
            sending = [(chip, (chip + 1 - turn) % count) for chip in range(count)]
            values = [held[place] for place in sending]
            for (chip, chunk), value in zip(sending, values, strict=True):
                held[(chip + 1) % count, chunk] = value
            sent += 1
        assert (held == expected).all()
    else:
        own = [held[chip, (chip + 1) % count] for chip in range(count)]
        assert own == [expected[(chip + 1) % count] for chip in range(count)]
    return sent


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("passes", [1, 2])
def test_bytes_are_those_that_a_ring_sends(count, passes):
    assert scale.sent_bytes(count, count, passes) == pytest.approx(played_ring(count, passes))


def test_one_group_takes_its_bytes_over_its_links():
    cluster = CLUSTERS["v5e-16"]
    size = 1e9
    sent = scale.sent_bytes(size, 16, 1)
    assert scale.gather_seconds(size, cluster) == pytest.approx(sent / CHIPS["v5e"].link)


def test_between_groups_each_chip_carries_a_part_of_its_groups_share():
    cluster = Cluster("H100", 64, 8, between=50e9)
    size = 8e9  # a chip's part of a group's share: 1 GB, of which 7 of 8 groups' parts come in
    between = 1e9 * 7 / 8 / 50e9
    within = 8e9 * 7 / 8 / 450e9
    assert scale.gather_seconds(size, cluster) == pytest.approx(between + within)
    assert scale.gather_seconds(size, CLUSTERS["8xH100"]) == pytest.approx(within)


def test_fsdp_sends_half_as_much_again_as_data_parallel():
    for cluster in CLUSTERS.values():
        reduce = scale.data_parallel_seconds(1e6, 4, cluster)
        assert scale.fsdp_seconds(1e6, 4, 4, cluster) == pytest.approx(1.5 * reduce)
        assert scale.fsdp_seconds(1e6, 2, 4, cluster) == pytest.approx(reduce)


def test_the_batch_is_the_smallest_whose_backward_pass_hides_the_messages():
    fast, slow = Chip(200, 1, ""), Chip(100, 1, "")
    # The measured chip takes 10 ms a sample, the slower one 20 ms: a backward pass of 13.3 ms.
    assert scale.step_seconds(1, 100, fast, slow) == pytest.approx(0.02)
    for seconds in (0.001, 0.0133, 0.0134, 0.1):
        batch = scale.hiding_batch(seconds, 100, fast, slow)
        assert batch * 0.02 * 2 / 3 >= seconds
        assert batch == 1 or (batch - 1) * 0.02 * 2 / 3 < seconds


def test_clusters_are_whole_groups():
    for cluster in CLUSTERS.values():
        assert cluster.count % cluster.group == 0
        assert (cluster.count == cluster.group) == math.isinf(cluster.between)


def test_the_table_names_every_cluster(capsys):
    scale.main([])
    said = capsys.readouterr().out
    assert all(f"| {name} " in said for name in CLUSTERS)
