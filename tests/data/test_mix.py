"""Recipes: read, drawn, stored and repeated to the bit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpgdiff_jax.data.degradations.mix import (
    PRESETS,
    Mixture,
    Recipe,
    degrade,
    expand,
    parse,
    step_params,
)
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS, STAGES

NAMES = ("noise", "blur", "haze", "rain", "low_light")
IMAGE = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8).repeat(6, 0).repeat(6, 1)

recipes = st.builds(
    Recipe,
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).flatmap(
        lambda names: st.tuples(
            *(
                st.tuples(st.just(name), st.floats(0, 5).map(lambda s: round(s, 3)))
                for name in names
            )
        )
    ),
    st.integers(0, 2**31 - 1),
)


@given(recipes)
def test_a_stored_recipe_makes_the_very_same_image(recipe):
    stored = json.loads(json.dumps(recipe.to_json()))
    again = Recipe.from_json(stored)
    assert again == recipe
    np.testing.assert_array_equal(degrade(IMAGE, recipe), degrade(IMAGE, again))


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True), st.integers(0, 99))
def test_severity_zero_does_nothing(names, seed):
    recipe = Recipe(tuple((name, 0.0) for name in names), seed)
    np.testing.assert_array_equal(degrade(IMAGE, recipe), IMAGE)
    assert not Mixture(NAMES).multi_hot(recipe).any()


def test_low_light_is_drawn_from_its_least_severity_on():
    def severities(least, most):
        mixture = Mixture(("low_light", "noise"), severity=(least, most))
        recipes = [mixture.draw(np.random.default_rng(turn), turn) for turn in range(200)]
        return ([r.steps[0][1] for r in recipes if r.name == name] for name in mixture.names)

    dark, noise = severities(0.5, 1.5)
    assert 1.0 <= min(dark) < 1.1 < 1.4 < max(dark) <= 1.5
    assert 0.5 <= min(noise) < 0.6
    dark, _ = severities(0.2, 0.8)
    assert set(dark) == {0.8}  # never above what is allowed
    assert parse("low_light:0.5").steps == (("low_light", 0.5),)


def test_a_degradation_is_the_same_alone_and_in_a_mixture():
    alone = step_params(Recipe((("haze", 2.0),), 7))[0]
    mixed = step_params(Recipe((("rain", 3.0), ("haze", 2.0), ("noise", 1.0)), 7))
    assert alone in mixed


def test_people_write_recipes_in_any_order():
    recipe = parse("Noise:2 + lowlight+ haze : 4.5 + rain", severity=1.5, seed=3)
    assert recipe.steps == (("haze", 4.5), ("rain", 1.5), ("low_light", 1.5), ("noise", 2.0))
    assert recipe.seed == 3
    assert recipe.name == "haze+rain+low_light+noise"


def test_steps_follow_the_light_from_the_scene_to_the_file():
    recipe = parse(" + ".join(reversed(list(DEGRADATIONS))))
    stages = [STAGES.index(DEGRADATIONS[name].stage) for name, _ in recipe.steps]
    assert stages == sorted(stages)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fog", "'fog' is no degradation; expected one of"),
        ("", "'' is no degradation"),
        ("haze + haze:2", "names a degradation twice"),
        ("haze:strong", "'strong' is no severity"),
        ("haze:6", r"severity 6.0 is not in \[0, 5\]"),
    ],
)
def test_recipes_nobody_can_follow_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_the_eleven_combinations_of_cdd11_are_there():
    names = expand(("cdd11", "noise"))
    assert names == (*PRESETS["cdd11"], "noise")
    parts = {frozenset(name for name, _ in parse(text).steps) for text in PRESETS["cdd11"]}
    assert len(parts) == 11
    assert frozenset({"low_light", "haze", "snow"}) in parts


def draw(mixture, count, seed=0):
    return [mixture.draw(np.random.default_rng([seed, turn]), turn) for turn in range(count)]


def test_equal_shares_come_in_turns():
    drawn = draw(Mixture(NAMES), 25)
    assert [recipe.steps[0][0] for recipe in drawn] == list(NAMES) * 5
    severities = np.array([recipe.steps[0][1] for recipe in drawn])
    assert severities.min() >= 1
    assert severities.max() <= 5
    assert severities.std() > 0.8


def test_weights_decide_how_often_each_comes():
    drawn = draw(Mixture(NAMES[:3], weights=(6, 3, 0)), 900)
    shares = [sum(r.steps[0][0] == name for r in drawn) / 900 for name in NAMES[:3]]
    np.testing.assert_allclose(shares, [2 / 3, 1 / 3, 0], atol=0.05)


def test_mixtures_have_every_size_and_labels_that_say_what_was_done():
    mixture = Mixture(tuple(DEGRADATIONS), max_mixed=3, severity=(2, 4))
    drawn = draw(mixture, 600)
    sizes = np.bincount([len(recipe.steps) for recipe in drawn], minlength=4)
    assert sizes[0] == 0
    assert sizes[1:].min() > 120
    for recipe in drawn:
        present = {mixture.names[i] for i in np.flatnonzero(mixture.multi_hot(recipe))}
        assert present == {name for name, _ in recipe.steps}
        assert all(2 <= severity <= 4 for _, severity in recipe.steps)
        stages = [DEGRADATIONS[name].stage for name, _ in recipe.steps]
        assert stages.count("sensor") <= 1
        assert stages.count("coding") <= 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_mixtures_is_what_was_asked_for(share):
    drawn = draw(Mixture(tuple(DEGRADATIONS), max_mixed=3, mix_share=share), 600)
    sizes = np.bincount([len(recipe.steps) for recipe in drawn], minlength=4)
    assert abs(sizes[2:].sum() / 600 - share) < 0.06
    if share:
        assert 0.7 < sizes[2] / sizes[3] < 1.4


def test_a_share_of_the_recipes_does_nothing():
    mixture = Mixture(NAMES, clean_share=0.25)
    drawn = draw(mixture, 800)
    clean = [recipe for recipe in drawn if not recipe.steps]
    assert abs(len(clean) / 800 - 0.25) < 0.05
    np.testing.assert_array_equal(degrade(IMAGE, clean[0]), IMAGE)
    assert not mixture.multi_hot(clean[0]).any()
    assert mixture.decode(**mixture.encode(clean[0])) == clean[0]


def test_arrays_carry_a_drawn_recipe_without_loss():
    mixture = Mixture(tuple(DEGRADATIONS), max_mixed=4)
    for recipe in draw(mixture, 200):
        assert mixture.decode(**mixture.encode(recipe)) == recipe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": ("fog",)}, "'fog' is no degradation"),
        ({"weights": (1.0,)}, "data.weights has 1 numbers for 5"),
        ({"weights": (0, 0, 0, 0, 0)}, "not all 0"),
        ({"weights": (1, 1, 1, 1, -1)}, "expected numbers of 0 or more"),
        ({"severity": (3, 2)}, "least <= most"),
        ({"severity": (1, 6)}, "most <= 5"),
        ({"mix_share": 0.5}, r"data\.mix_share=0\.5.*data\.max_mixed=1"),
        ({"mix_share": 1.5, "max_mixed": 2}, r"data\.mix_share=1\.5"),
        ({"clean_share": 1.0}, r"data\.clean_share=1\.0"),
    ],
)
def test_impossible_mixtures_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Mixture(**({"names": NAMES} | changes))
