"""Typical times of several subjects, freed of what slowed whole rounds."""

import numpy as np
import pytest

from edgeprune.measure.bench.stats import polished


def _turns(own, speeds, draw):
    """[subjects][launches][turns] of some noise, of which one turn in ten was interrupted."""
    noise = draw.normal(1, 0.01, (len(own), *speeds.shape))
    noise[draw.random(noise.shape) < 0.1] *= 3
    return [
        [(each * launch).tolist() for launch in speeds * mine]
        for each, mine in zip(own, noise, strict=True)
    ]


def test_a_machine_that_changes_speed_moves_no_subject_against_another():
    draw = np.random.default_rng(0)
    own = np.array([1.0, 2.0, 2.2, 7.0, 0.3]) * 1e-3
    speeds = np.exp(draw.normal(0, 0.3, (3, 20)))  # launches, turns
    found = polished(_turns(own, speeds, draw))
    assert np.array(found) / found[0] == pytest.approx(own / own[0], rel=0.015)
    # The level is that of the typical round.
    assert found[0] == pytest.approx(own[0] * np.median(speeds), rel=0.05)


def test_launches_may_have_had_more_or_fewer_rounds():
    assert polished([[[2.0], [2.0, 2.0]], [[6.0], [6.0, 6.0]]]) == pytest.approx([2.0, 6.0])
