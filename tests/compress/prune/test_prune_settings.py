import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgeprune.base.errors import UserError
from edgeprune.compress.cut.settings import CutSettings
from edgeprune.compress.prune.settings import PruneSettings, parse_block, parse_n_m
from edgeprune.pipeline.recipe import validate


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pattern": "chanels"}, "no such pattern: 'chanels'"),
        ({"pattern": "4:2"}, "n must be smaller than m"),
        ({"pattern": "2:4", "sparsity": 0.6}, "means a sparsity of 0.5, not 0.6"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"sparsity": 0.97}, "max_layer_sparsity"),
        ({"head_sparsity": 0.97}, "max_layer_sparsity"),
        ({"beta_min": 0.9, "beta_max": 0.8}, "beta_min must not be larger"),
        ({"band": 0.1}, "band is gone"),
        ({"rho": 0.9}, "memory says of how many steps"),
        ({"start": 0.8}, "start must come before end"),
        ({"regrowth": 0.1}, "do not grow back"),
        ({"sparsty": 0.5}, "Extra inputs"),
        ({"saliency": "mag"}, "mag is called magnitude now"),
        ({"saliency": "v14"}, "v14 is called adamwprune now"),
    ],
)
def test_a_wrong_value_is_told(values, says):
    with pytest.raises(ValidationError, match=says):
        PruneSettings(**values)


def test_defaults_and_pools():
    settings = PruneSettings(sparsity=0.6, head_sparsity=0.25)
    channels, heads = settings.pools()
    assert (channels.pattern, channels.share) == ("channels", 0.6)
    assert (heads.pattern, heads.share) == ("heads", 0.25)
    assert channels.pools() == (channels,)


def test_pools_keep_a_subclass_and_its_fields():
    class Longer(PruneSettings):
        minutes: float = 3.0

    assert [type(pool) for pool in Longer(minutes=5).pools()] == [Longer, Longer]
    assert Longer(minutes=5).pools()[0].minutes == 5


def test_n_m_sets_the_sparsity_and_goes_round():
    settings = PruneSettings(pattern="1:4")
    assert settings.share == 0.75
    assert PruneSettings(**settings.model_dump()) == settings


def test_patterns_are_read():
    assert parse_n_m("2:4") == (2, 4)
    assert parse_block("4x16") == (4, 16)
    assert parse_n_m("4x16") is parse_block("2:4") is parse_n_m("weights") is None


def test_a_mode_overrides_values():
    own = PruneSettings(beta_min=0.1, beta_max=0.2, kappa=0.7)
    assert own.budget_rule().beta_max == 0.2
    cubic = own.model_copy(update={"budget": "cubic"}).budget_rule()
    assert (cubic.beta_min, cubic.beta_max, cubic.kappa) == (0, 0, 0.7)


def test_every_field_is_described():
    assert all(field.description for field in PruneSettings.model_fields.values())


def test_settings_do_not_bring_torch():
    code = "import sys, edgeprune.compress.prune.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "wanda", "allocate": "owl"}, "numbers of weights: leave allocate out"),
        ({"method": "nap"}, "numbers of weights: take thanos"),
    ],
)
def test_columns_leave_every_linear_alike(values, message):
    with pytest.raises(UserError, match=message):
        validate({"prune": {"pattern": "columns", **values}}, "here")
    validate({"prune": {"pattern": "columns", "method": "thanos"}}, "here")


def test_a_value_that_got_another_name_is_refused_by_it():
    with pytest.raises(UserError, match=r"prune\.saliency: move is called movement now"):
        validate({"prune": {"saliency": "move"}, "cut": {}}, "here")
    with pytest.raises(UserError, match=r"cut\.score: pp is called probe_pruning now"):
        validate({"cut": {"channels": 0.2, "score": "pp"}}, "here")


def test_one_threshold_is_for_scores_of_one_scale():
    with pytest.raises(UserError, match="flap scores differ in scale"):
        validate({"cut": {"channels": 0.2, "score": "flap", "policy": "global"}}, "here")
    assert CutSettings(score="taylor").resolved_policy == "global"
    assert CutSettings(score="flap").resolved_policy == "uniform"
