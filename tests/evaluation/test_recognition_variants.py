import pytest

from t2imu_utils import runs
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.recognition_variants import RecognitionVariant, parse_variant
from t2imu_utils.imu.sensor_model import read_sensor_model

CLASSES = ["jumping", "running", "stair climbing", "walking"]
NAMES = {
    "": RecognitionVariant(),
    "gravity": RecognitionVariant(axes="gravity"),
    "keep0.5": RecognitionVariant(keep=0.5),
    "keep0.25": RecognitionVariant(keep=0.25),
    "phone": RecognitionVariant(sensor_model="phone"),
    "without_stair_climbing": RecognitionVariant(without=("stair climbing",)),
    "gravity-keep0.75-phone-without_jumping-without_stair_climbing": RecognitionVariant(
        "gravity", 0.75, "phone", ("stair climbing", "jumping")
    ),
}


@pytest.mark.parametrize("slug", NAMES)
def test_a_name_and_its_variant_are_the_same(slug, runs_folder):
    variant = NAMES[slug]
    assert variant.slug == slug and parse_variant(slug) == variant
    assert variant.stage == (f"07_har-{slug}" if slug else "07_har")
    assert runs.run_dir("demo", "mdm", variant.stage) == runs_folder / "demo/mdm" / variant.stage


@pytest.mark.parametrize(
    ("slug", "said"),
    [
        ("sideways", "found 'sideways'"),
        ("gravity-tilted", "found 'tilted'"),
        ("watch", "found 'watch'"),
        ("keep", "found 'keep'"),
        ("keep0", "more than 0"),
        ("keep1.5", "at most 1"),
        ("keep0.123", "two decimals"),
        ("keep1", "another spelling"),
        ("keep0.50", "expected 'keep0.5'"),
        ("keep0.5-gravity", "expected 'gravity-keep0.5'"),
        ("gravity-gravity", "expected 'gravity'"),
        ("gravity-", "found ''"),
        ("raw", "found 'raw'"),
    ],
)
def test_unknown_words_and_other_spellings_are_refused(slug, said):
    with pytest.raises(InputError, match=said) as told:
        parse_variant(slug)
    assert "keep0.5" in told.value.remedy


@pytest.mark.parametrize(
    "wrong", [{"axes": "north"}, {"keep": 0.0}, {"keep": 1.1}, {"sensor_model": "my/own.yaml"}]
)
def test_values_without_a_name_are_refused(wrong):
    with pytest.raises(InputError, match=f"variant: {next(iter(wrong))}"):
        RecognitionVariant(**wrong)


def test_classes_are_left_out_by_name():
    variant = NAMES["without_stair_climbing"]
    assert variant.classes(CLASSES) == ["jumping", "running", "walking"]
    assert RecognitionVariant().classes(CLASSES) == CLASSES
    for without in (("stairs",), tuple(CLASSES[1:])):
        with pytest.raises(InputError, match="so that two are left"):
            RecognitionVariant(without=without).classes(CLASSES)


def test_real_recordings_are_neither_filtered_nor_measured_anew():
    every = list(NAMES.values())[-1]
    assert every.of("mdm") == every
    assert every.of(runs.REAL).slug == "gravity-without_jumping-without_stair_climbing"


def test_a_run_says_what_was_otherwise_and_the_default_says_nothing():
    assert RecognitionVariant().params() == {}
    found = NAMES["phone"].params()["variant"]
    assert found["sensor_model"]["acc_range"] == read_sensor_model("phone").acc_range
    assert (found["axes"], found["keep"], found["without"]) == ("raw", 1.0, [])
