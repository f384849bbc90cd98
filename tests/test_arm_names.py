"""Names of models: what they say, and that no two settings share one."""

import itertools

import pytest

from t2imu_utils.arm_names import (
    ArmName,
    base_of,
    control_of,
    is_base,
    is_refined,
    model_name,
    model_order,
    parse,
)
from t2imu_utils.models.losses import VARIANTS


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("mdm", ArmName("mdm")),
        ("t2mgpt", ArmName("t2mgpt")),
        ("mdm-ft", ArmName("mdm", 0.0)),
        ("mdm-ft-s12", ArmName("mdm", 0.0, "", 12)),
        ("mdm-ft-vel0.5", ArmName("mdm", 0.0, "vel0.5")),
        ("mdm-acc0.1", ArmName("mdm", 0.1)),
        ("momask-acc1-s2", ArmName("momask", 1.0, "", 2)),
        ("mdm-acc1e-05", ArmName("mdm", 1e-5)),
        ("mdm-acc1e+06-s1", ArmName("mdm", 1e6, "", 1)),
        ("mdm-acc2e-05-spectrum-s4", ArmName("mdm", 2e-5, "spectrum", 4)),
        (
            "t2mgpt-acc0.1-pos1-foot2e-05-vel0.5-joints-s3",
            ArmName("t2mgpt", 0.1, "pos1-foot2e-05-vel0.5-joints", 3),
        ),
    ],
)
def test_a_name_is_taken_apart(name, parts):
    assert parse(name) == parts
    assert base_of(name) == parts.generator
    assert is_base(name) == (parts.weight is None)
    assert is_refined(name) == parts.refined == bool(parts.weight)


@pytest.mark.parametrize(
    "name",
    [
        "", "MDM", "2mgpt", "mdm-", "mdm-acc", "mdm-acc0.1-", "mdm-acc-s1", "mdm-ft0.1", "mdm-s1",
        "mdm-acc0.1-s1-vel2", "mdm-acc0.1-s1-s2", "mdm-acc0.1-s1.5", "mdm-ACC0.1", "mdm_ft",
        "mdm-acc.", "mdm-acc1.2.3", "mdm-acc.5",
        "mdm-fine", "mdm-ft\n",
    ],
)  # fmt: skip
def test_what_is_no_name_of_the_study(name):
    assert parse(name) is None
    assert not is_refined(name) and control_of(name) == name


TERMS = ("pos", "foot", "vel")
SETTINGS = {
    "lambda_acc": (0.0, 0.1, 1.0, 1e-5, 2e6),
    "lambda_pos": (0.0, 0.5),
    "lambda_foot": (0.0, 3e-6),
    "lambda_vel": (0.0, 1.0),
    "acc_variant": VARIANTS,
    "seed": (0, 1, 20),
    "generator": ("mdm", "t2mgpt"),
}


def test_every_setting_has_a_name_of_its_own_that_can_be_read_again():
    found = {}
    for values in itertools.product(*SETTINGS.values()):
        settings = dict(zip(SETTINGS, values, strict=True))
        name = model_name(**settings)
        if not settings["lambda_acc"]:
            # Without L_acc it does not matter what it would be taken of.
            settings |= {"lambda_acc": 0.0, "acc_variant": VARIANTS[0]}
        assert found.setdefault(name, settings) == settings
        parts = parse(name)
        options = "-".join(
            [
                f"{term}{settings[f'lambda_{term}']:g}"
                for term in TERMS
                if settings[f"lambda_{term}"]
            ]
            + [settings["acc_variant"]] * (settings["acc_variant"] != VARIANTS[0])
        )
        assert parts == ArmName(
            settings["generator"], settings["lambda_acc"], options, settings["seed"]
        )
        # The same other losses and seed, without L_acc.
        assert control_of(name) == model_name(**settings | {"lambda_acc": 0.0})
        assert control_of(control_of(name)) == control_of(name)
    # 5 weights, where there is L_acc its variants, 3 other losses, seeds and generators.
    assert len(found) == (1 + 4 * 3) * 8 * 6


def test_the_control_of_a_variant_has_its_other_losses():
    assert control_of("mdm-acc0.1-vel0.17-s3") == "mdm-ft-vel0.17-s3"
    assert control_of("mdm-acc0.1-foot8.3") == "mdm-ft-foot8.3"
    assert control_of("mdm-acc6e-05-pos1e-05-joints") == "mdm-ft-pos1e-05"
    assert control_of("mdm-acc6e-05-joints") == control_of("mdm") == "mdm-ft"


def test_the_default_is_mdm():
    assert model_name(0.0) == "mdm-ft" and model_name(0.1) == "mdm-acc0.1"
    assert model_name(0.1, lambda_vel=0.5, acc_variant="joints", seed=1) == (
        "mdm-acc0.1-vel0.5-joints-s1"
    )
    assert model_name(0.0, generator="momask", seed=2) == "momask-ft-s2"


def test_the_paper_puts_mdm_first_then_controls_then_weights():
    ordered = [
        "mdm", "mdm-ft", "mdm-ft-s1", "mdm-acc0.1", "mdm-acc0.1-joints", "mdm-acc0.1-s1",
        "mdm-acc1", "mdm-acc10", "kimodo", "momask", "momask-ft", "momask-acc0.3", "t2mgpt",
        "some-other", "REAL",
    ]  # fmt: skip
    ordered[-2:] = sorted(ordered[-2:])
    assert sorted(reversed(ordered), key=model_order) == ordered
    assert len({model_order(name) for name in ordered}) == len(ordered)
