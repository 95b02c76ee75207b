"""Weights that make room lose nothing."""

from tpgdiff_jax.checkpoints import aside


def test_what_is_set_aside_is_kept_under_a_free_name(tmp_path):
    path = tmp_path / "weights.safetensors"
    for number in (1, 2, 3):
        if number != 2:
            path.write_text(f"weights {number}")
        path.with_suffix(".json").write_text(f"json {number}")
        aside.set_aside(path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "weights_before_1.safetensors": "weights 1",
        "weights_before_1.json": "json 1",
        "weights_before_2.json": "json 2",
        "weights_before_3.safetensors": "weights 3",
        "weights_before_3.json": "json 3",
    }
