import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ConfigError
from common.parameters.flat import bind, shapes_of, to_bytes, views
from common.parameters.plan import (
    PLANS,
    ScopeRule,
    SharingPlan,
)
from common.parameters.schema import ParameterSchema
from common.parameters.scope import Scope, held_scopes, is_private
from server.runs.digest import model_digest

SHAPES = {
    "encoder.embed": (4, 3),
    "encoder.bias": (3,),
    "heads.sst2.weight": (2, 3),
    "heads.sst2.scale": (),
    "heads.qqp.weight": (2, 6),
}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embed = nn.Parameter(torch.arange(12.0).view(4, 3))
        self.encoder.bias = nn.Parameter(torch.ones(3))
        self.encoder.again = self.encoder.bias  # tied: one parameter under two names
        self.heads = nn.ModuleDict({"sst2": nn.Linear(3, 2, bias=False), "qqp": nn.Linear(6, 2, bias=False)})


def test_a_schema_lays_parameters_out_one_after_the_other():
    schema = ParameterSchema.of(SHAPES)
    assert [(e.name, e.offset, e.count) for e in schema.entries] == [
        ("encoder.embed", 0, 12),
        ("encoder.bias", 12, 3),
        ("heads.sst2.weight", 15, 6),
        ("heads.sst2.scale", 21, 1),
        ("heads.qqp.weight", 22, 12),
    ]
    assert (schema.size, schema.nbytes) == (34, 136)


def test_schema_digests_depend_on_names_shapes_and_order_alone():
    schema = ParameterSchema.of({"a": (2, 3), "b": (4,)})
    assert schema.digest == ParameterSchema.of({"a": (2, 3), "b": (4,)}).digest
    others = [{"b": (4,), "a": (2, 3)}, {"a": (3, 2), "b": (4,)}, {"a": (6,), "b": (4,)}, {"a": (2, 3), "c": (4,)}]
    digests = {schema.digest, ParameterSchema.of({"a": (2, 3)}).digest} | {ParameterSchema.of(o).digest for o in others}
    assert len(digests) == 6


@pytest.mark.parametrize(
    ("plan", "scopes"),
    [
        ("full", {"shared": list(SHAPES)}),
        ("hard", {"shared": list(SHAPES)[:2], "task/sst2": list(SHAPES)[2:4], "task/qqp": list(SHAPES)[4:]}),
        (
            "private_heads",
            {"shared": list(SHAPES)[:2], "private/sst2": list(SHAPES)[2:4], "private/qqp": list(SHAPES)[4:]},
        ),
    ],
)
def test_a_named_plan_puts_every_parameter_into_exactly_one_scope(plan, scopes):
    schemas = SharingPlan(PLANS[plan]).schemas(SHAPES)
    assert {scope: [e.name for e in schema.entries] for scope, schema in schemas.items()} == scopes
    assert list(schemas) == sorted(schemas)


def test_the_first_rule_that_matches_decides():
    rules = (ScopeRule("encoder.bias", "private"), ScopeRule("encoder.*", "shared"), ScopeRule("*", "task/qqp"))
    plan = SharingPlan(rules)
    assert [plan.scope_of(name) for name in SHAPES] == ["shared", "private", "task/qqp", "task/qqp", "task/qqp"]
    assert SharingPlan(rules[::-1]).scope_of("encoder.bias") == "task/qqp"


def test_a_parameter_that_no_rule_matches_is_named():
    plan = SharingPlan((ScopeRule("encoder.*", "shared"), ScopeRule("heads.{task}.weight", "task/{task}")))
    with pytest.raises(ConfigError, match=r"heads\.sst2\.scale"):
        plan.schemas(SHAPES)


def test_a_pattern_speaks_of_whole_names_and_only_its_stars_are_wild():
    assert ScopeRule("encoder.b", "shared").scope_of("encoder.bias") is None
    assert ScopeRule("encoder.bias", "shared").scope_of("encoderxbias") is None
    assert ScopeRule("heads.{task}.*", "task/{task}").scope_of("heads.a.b.c") == "task/a"
    assert ScopeRule("heads.{task}", "task/{task}").scope_of("heads.a.b") is None


@pytest.mark.parametrize(
    ("match", "scope"),
    [("*", "group/x"), ("*", "private/sst2"), ("*", "task/{task}"), ("{task}.{task}", "task/{task}"), ("*", "")],
)
def test_a_rule_that_makes_no_sense_says_so(match, scope):
    assert ScopeRule(match, scope).problem()
    assert all(rule.problem() is None for rules in PLANS.values() for rule in rules)


def test_a_member_holds_its_own_scopes_and_private_ones_do_not_travel():
    scopes = ["shared", "task/sst2", "task/qqp", "private", "private/sst2", "private/qqp"]
    assert held_scopes(scopes, ["sst2"]) == ("private", "private/sst2", "shared", "task/sst2")
    assert [s for s in held_scopes(scopes, ["sst2"]) if not is_private(s)] == ["shared", "task/sst2"]
    two = held_scopes(scopes, ["sst2", "qqp"])
    assert [s for s in two if not is_private(s)] == ["shared", "task/qqp", "task/sst2"]
    assert is_private("private/a") and not is_private("task/private")


@pytest.mark.parametrize(
    ("name", "template", "task", "of_template"),
    [
        ("shared/layer_0", "shared/layer_0", "", False),
        ("task/sst2", "task/sst2", "sst2", False),
        ("private/sst2", "private/sst2", "sst2", False),
        ("group/nlu/pairs", "group/{2}", "", False),
        ("group/{2}", "group/{2}", "", True),
        ("member/a.b-1/layer_0", "member/{member}/layer_0", "", False),
        ("member/a+b/task/sst2", "member/{member}/task/sst2", "sst2", False),
        ("member/{member}", "member/{member}", "", True),
        ("anchor/member/a/task/sst2", "member/{member}/task/sst2", "sst2", False),
        ("dual/b/member/a/top", "member/{member}/top", "", False),
    ],
)
def test_the_name_of_a_scope_says_what_it_is_and_is_put_together_again(name, template, task, of_template):
    scope = Scope.parse(name)
    assert (str(scope), scope.template, scope.task, scope.is_template) == (name, template, task, of_template)
    assert Scope.parse(scope.anchor).base == name
    assert Scope.parse("member/a/top").dual("b") == "dual/b/member/a/top"
    assert Scope.parse("dual/b/member/a/top").ends == ("a", "b") and Scope.parse("member/a").ends is None


@pytest.mark.parametrize(
    "name",
    ["", "task", "task/", "shared/", "privateer", "group", "member//x", "anchor", "dual/a"],
)
def test_other_names_are_of_no_scope(name):
    with pytest.raises(ValueError, match="the name of no scope"):
        Scope.parse(name)


@pytest.fixture
def bound():
    model = TwoHeads()
    schemas = SharingPlan(PLANS["hard"]).schemas(shapes_of(model))
    return model, schemas, bind(model, schemas)


def test_binding_keeps_the_values_and_counts_tied_parameters_once(bound):
    _, schemas, vectors = bound
    assert schemas["shared"].size == 15
    assert vectors["shared"].tolist() == [*range(12), 1, 1, 1]


def test_model_and_vector_are_one_memory_both_ways(bound):
    model, schemas, vectors = bound
    vectors["shared"][13] = 7.0
    assert model.encoder.bias[1] == 7.0 and model.encoder.again[1] == 7.0
    with torch.no_grad():
        model.encoder.embed[3, 2] = -5.0
    assert vectors["shared"][11] == -5.0
    views(vectors["task/qqp"], schemas["task/qqp"])["heads.qqp.weight"].fill_(2.0)
    assert model.heads["qqp"].weight.eq(2.0).all()


def test_training_moves_the_vector(bound):
    model, _, vectors = bound
    before = vectors["task/sst2"].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.heads["sst2"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(vectors["task/sst2"], before - 0.5)


def test_bytes_are_little_endian_floats_in_the_vectors_own_memory():
    vector = torch.tensor([1.0, -2.0])
    data = to_bytes(vector)
    assert bytes(data) == np.array([1, -2], "<f4").tobytes()
    vector[0] = 3.0
    assert bytes(data[:4]) == np.float32(3).tobytes()


def test_a_model_digest_changes_with_any_bit_and_not_with_order_or_chunks():
    vectors = {"shared": np.arange(4, dtype=np.float32), "task/a": np.ones(2, np.float32)}

    def digest(schema="s", **changes):
        given = vectors | changes
        return model_digest((scope, schema, [vector.tobytes()]) for scope, vector in given.items())

    whole = digest()
    assert whole == model_digest(
        [
            ("task/a", "s", [vectors["task/a"].tobytes()]),
            ("shared", "s", [b"", *map(np.float32.tobytes, vectors["shared"])]),
        ]
    )
    digests = {whole, digest("t"), digest(shared=vectors["task/a"]), digest(other=vectors["shared"])}
    for bit in range(8 * 16):
        data = bytearray(vectors["shared"].tobytes())
        data[bit // 8] ^= 1 << bit % 8
        digests.add(digest(shared=np.frombuffer(data, np.float32)))
    assert len(digests) == 4 + 128
