import copy
import dataclasses
import pickle

import pytest

from sb3_ext.spec import API_VERSION, Choice, Float, Int, Paper, PluginSpec


def spec(**changes) -> PluginSpec:
    given = {
        "kind": "weighting",
        "name": "my_method",
        "summary": "One sentence.",
        "target": "my_package.weighting:MyMethod",
    }
    return PluginSpec(**{**given, **changes})


def test_bounds_may_be_given_by_position_and_the_rest_by_name_only():
    assert Float(1.0, 20.0, log=True) == Float(low=1.0, high=20.0, log=True)
    assert Int(1, 4) == Int(low=1, high=4, log=False, step=1)
    with pytest.raises(TypeError):
        Float(1.0, 20.0, True)


@pytest.mark.parametrize(
    ("build", "law"),
    [
        (lambda: Float(2.0, 1.0), r"low < high must hold, got low=2\.0, high=1\.0"),
        (lambda: Float(0.0, float("inf")), r"must be finite, got low=0\.0, high=inf"),
        (lambda: Float(0.0, 1.0, log=True), r"low > 0 must hold on a log scale, got low=0\.0"),
        (lambda: Float(0.0, 1.0, step=0.0), r"step > 0 must hold, got step=0\.0"),
        (lambda: Float(0.1, 1.0, log=True, step=0.1), "log and step exclude each other"),
        (lambda: Int(4, 1), "low < high must hold, got low=4, high=1"),
        (lambda: Int(1.0, 4), r"must be int, got low=1\.0, high=4"),
        (lambda: Int(False, 4), "must be int, got low=False"),
        (lambda: Int(0, 4, log=True), "low >= 1 must hold on a log scale, got low=0"),
        (lambda: Int(1, 4, step=0), "step >= 1 must hold, got step=0"),
        (lambda: Int(1, 4, log=True, step=2), "log and step exclude each other"),
        (lambda: Choice(()), "options must not be empty"),
        (lambda: Choice("js"), "got the str 'js'"),
        (lambda: Choice((1, 1)), r"options must differ, got \(1, 1\)"),
        (lambda: Choice(((256, 256),)), r"None, bool, int, float or str, got \[\(256, 256\)\]"),
        (lambda: Paper(title="T", authors="A", year=2026, url="x.org"), "url must start with"),
        (lambda: spec(kind="buffer"), "kind must be one of algorithm, sampler, weighting"),
        (lambda: spec(name="MyMethod"), "name must be lower_snake, got 'MyMethod'"),
        (lambda: spec(name="my__method"), "name must be lower_snake"),
        (lambda: spec(target="my_package.MyMethod"), "package.module:Name, got"),
        (lambda: spec(target="my_package:Outer.Inner"), "in plugin 'my_method'"),
        (lambda: spec(action_spaces=("Box")), "action_spaces must be a tuple of names, got 'Box'"),
        (lambda: spec(needs=["imitation"]), "needs must be a tuple of names"),
        (lambda: spec(search_space={"alpha": (0, 1)}), r"got alpha=\(0, 1\) in plugin"),
    ],
)
def test_an_error_states_the_law_and_then_the_values(build, law):
    with pytest.raises(ValueError, match=law):
        build()


def test_true_and_one_are_two_options():
    assert Choice([True, 1]).options == (True, 1)


def test_the_public_name_is_what_stands_after_the_colon():
    assert spec().public_name == "MyMethod"
    assert spec().api == API_VERSION


def test_a_spec_cannot_be_changed_by_anyone():
    space = {"alpha": Float(0.0, 1.0)}
    made = spec(search_space=space)
    space["beta"] = Float(0.0, 1.0)
    assert list(made.search_space) == ["alpha"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


def test_specs_are_values():
    one, two = (spec(search_space={"alpha": Choice((1, 2))}) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one
    assert dataclasses.replace(one, api=2) != one
