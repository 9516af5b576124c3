"""A build to a given shape, from end to end: exact, kept, and by answers that are computed once."""

import json

import pytest
from tiny_builds import model_folder, recipe_file, text_file
from without_measuring import leave_out_measuring

import edgeprune

RECIPE = """
text: {max_tokens: 16, batch_tokens: 256, held_out: 0.2, held_out_samples: 16}
shape:
  layers: [1]
  heads: [3]
  channels: [13]
  rounds: 2
  samples: 16
  steps: 2
  precision: float32
  hidden_weight: 0
recover: {minutes: 0.005, checks: 2, precision: float32, hidden_weight: 0}
quantize: {calibration_samples: 8}
measure: {tokens: 12}
"""


def test_a_shape_is_built_and_kept(tmp_path, monkeypatch: pytest.MonkeyPatch):
    leave_out_measuring(monkeypatch)
    model, text = model_folder(tmp_path / "model"), text_file(tmp_path / "t.txt")
    recipe, output = recipe_file(tmp_path / "r.yaml", RECIPE), tmp_path / "out"

    def stages(**settings: object) -> dict[str, dict]:
        bundle = edgeprune.build(model, text, recipe, output=output, settings=settings)
        return {row["name"]: row for row in bundle.manifest["stages"]}

    first = stages()
    shape = first["shape"]
    assert (shape["layers"], shape["heads"], shape["channels"]) == ([1], [3], [13])
    assert shape["rounds"] == [
        {"heads": [3], "channels": [20]},  # a quarter of 1 and of 27 are left to go
        {"heads": [3], "channels": [13]},
    ]
    assert first["recover"]["checks"]
    [answers] = (output / "answers").glob("*.answers")
    assert json.loads(answers.read_bytes()[:4096])["width"] == 32
    # The place of the answers is no reason to train again; another shape is.
    again = stages(**{"recover.answers": str(tmp_path / "elsewhere")})
    assert again["recover"] == first["recover"]
    assert not (tmp_path / "elsewhere").exists()
    assert stages(**{"shape.channels": [14]})["shape"]["channels"] == [14]
