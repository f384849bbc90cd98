import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from t2imu_utils.analysis import motions
from t2imu_utils.analysis.motions import NAMED, categorise, foot_skate, kinetics, trade_off
from t2imu_utils.analysis.spectra import power_spectrum, spectral_distance
from t2imu_utils.analysis.stats import two_sample_distance
from t2imu_utils.clips import Clips
from t2imu_utils.motion.corpus import Normaliser
from t2imu_utils.motion.features import features_to_joints
from tests.gait import gait_corpus

TIME = np.arange(201) / 20
PLAIN = {
    "a person is dancing to music.": "dancing",
    "a person jumps.": "jumping",
    "a person is running fast.": "running",
    "the person is lying.": "lying",
    "a person is sitting on a chair.": "sitting",
    "a person climbs the stairs.": "stair climbing",
    "a person is standing still.": "standing",
    "a person walks forward.": "walking",
    "a man drinks a cup of coffee.": "other",
}


def test_plain_sentences_get_their_own_category():
    table = categorise([[text] for text in PLAIN])
    assert dict(zip(PLAIN, table["category"], strict=True)) == PLAIN
    # "Lying" alone also means telling lies; whoever changes model or threshold should know.
    table = categorise([["a person is lying on the floor."], ["a person lies down on the bed."]])
    assert set(table["nearest"]) == {"lying"} and set(table["category"]) == {"other"}


def test_captions_of_a_clip_are_averaged_and_must_exceed_the_threshold():
    angle = {name: 2 * np.pi * i / len(NAMED) for i, name in enumerate(NAMED)}
    angle |= {"at dancing": 0.0, "near": 0.2, "opposite": np.pi}

    def embed(texts):
        at = np.array([angle[text] for text in texts])
        return np.stack([np.cos(at), np.sin(at)], 1)

    both = categorise([["at dancing", "near", "near"]], embed=embed)
    assert both["score"][0] == pytest.approx((1 + 2 * np.cos(0.2)) / 3)
    # Two opposite texts cancel, however near each is to some category.
    assert categorise([["at dancing", "opposite"]], embed=embed)["category"][0] == "other"
    at = float(categorise([["near"]], embed=embed)["score"][0])
    assert categorise([["near"]], threshold=at, embed=embed)["category"][0] == "other"
    below = categorise([["near"]], threshold=np.nextafter(at, 0), embed=embed)
    assert below["category"][0] == "dancing"


def moving(path):
    """22 joints that follow one path (T, 3), spread out in space."""
    return path[:, None] + np.random.default_rng(0).normal(size=(22, 3))


def test_kinetics_of_a_body_that_speeds_up():
    time = np.arange(41)[:, None, None] / 20
    joints = np.zeros((41, 22, 3)) + [0, 1, 0]
    joints[:, list(motions.PARTS["legs"])] += 0.5 * time**2 * [3, 0, 4]  # 5 m/s² along one line
    joints[:, list(motions.PARTS["arms"])] += time**3 * [0, 0, 2]  # jerk of 12 m/s³
    speed, acceleration, jerk = kinetics(joints).reshape(3, 3)
    assert_allclose(speed[:2], [5, 0], atol=1e-9)
    assert_allclose(acceleration, [5, 0, 12], atol=1e-9)
    assert_allclose(jerk, [0, 0, 12], atol=1e-6)
    # Eight joints of 22 are legs, six are arms.
    assert motions.mean_abs_acceleration(joints) == pytest.approx((8 * 5 + 6 * 12) / 22)
    assert motions.mean_abs_jerk(joints) == pytest.approx(6 * 12 / 22)


def test_skate_counts_only_grounded_feet():
    joints = np.zeros((40, 22, 3))
    joints[:, [7, 8, 10, 11], 1] = 0.5
    # The left toe rests at first, then slides at 0.6 m/s; later it is lifted and flies at 2 m/s.
    joints[:, 10, 1] = np.where(np.arange(40) < 20, 0.0, 0.5)
    joints[:20, 10, 0] = np.concatenate([np.zeros(10), 0.03 * np.arange(1, 11)])
    joints[20:, 10, 0] = 0.3 + 0.1 * np.arange(20)
    # The other three rise from their lowest point and are grounded in no two frames.
    joints[:, [7, 8, 11], 1] += np.linspace(0, 5, 40)[:, None] + 0.2
    assert foot_skate(joints) == pytest.approx(10 * 0.6 / 19)
    assert foot_skate(moving(np.outer(0.01 * np.sin(20 * TIME), [0, 1, 0]))) == pytest.approx(0)
    assert np.isnan(foot_skate(moving(np.outer(TIME, [0, 2.0, 0]))))


@pytest.fixture(scope="module")
def motion():
    """A body that is shaken within its plane: feet stay on the ground and slide."""
    rng = np.random.default_rng(0)
    return (0.05 * rng.normal(size=(81, 22, 3)) * [1, 0, 1]).cumsum(0)


def measured(sets):
    parts = [
        motions.measure(model, own, [category] * len(own), ["one"] * len(own))
        for model, categories in sets.items()
        for category, own in categories.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_a_model_that_lacks_a_category_takes_it_from_no_other(motion):
    sets = {
        "real": {name: [motion] for name in ("other", "walking", "jumping", "sitting")},
        "mdm": {"jumping": [motion], "walking": [2 * motion], "lying": [motion]},
        "kimodo": {"walking": [3 * motion, motion]},
    }
    found = motions.shared(measured(sets))
    # Nobody was asked for sitting, and of lying there is nothing to compare with.
    assert set(found["category"]) == {"jumping", "walking"}
    # A mean over all is of all or there is none.
    table = motions.compare(found).set_index(["model", "category"])
    whole = motions.compare(found[found["model"] != "kimodo"]).set_index(["model", "category"])
    pd.testing.assert_frame_equal(table.loc[whole.index], whole)
    measures = [*motions.MEASURES, "spectral_distance"]
    assert table.loc[("kimodo", "all"), "n"] == 2
    assert table.loc[("kimodo", "all"), measures].isna().all()
    assert table.loc[("kimodo", "walking"), measures].notna().all()


def test_measures_and_spectra_of_scaled_motion(motion):
    real = {"walking": [motion] * 3, "running": [3 * motion]}
    twice = {name: [2 * joints for joints in own[:2]] for name, own in real.items()}
    found = measured({"real": real, "mdm": twice})
    table = motions.compare(found).set_index(["model", "category"])
    assert table["n"].tolist() == [3, 1, 2, 1, 4, 3]
    for measure in motions.MEASURES:
        values, own = table[measure], getattr(motions, measure)(motion)
        assert values["mdm", "running"] == pytest.approx(6 * own)
        # Categories weigh the same in "all", though one has three motions and the other one.
        assert values["real", "all"] == pytest.approx(2 * own)
    # Twice the acceleration is four times the power in every category.
    assert_allclose(table["spectral_distance"]["real"], 0, atol=1e-9)
    assert_allclose(table["spectral_distance"]["mdm"], 10 * np.log10(4), rtol=1e-6)
    spectra = motions.motion_spectra(found)
    power = spectra.groupby(["model", "category", "part"])["density"].sum()
    assert_allclose(power["mdm", "running"] / power["real", "running"], 4)
    assert spectra["frequency"].min() == 0.5 and spectra["frequency"].max() == 10


def test_diversity_of_two_heaps_apart():
    """Within a heap all is the same, and the heaps are 5 apart: half of even draws meet the other
    heap, however many motions it has."""
    x = np.concatenate([np.zeros((2, 2)), np.tile([3.0, 4.0], (7, 1))])
    kinds = ["running"] * 2 + ["walking"] * 7
    assert motions.diversity(x, kinds) == pytest.approx(2.5)
    assert motions.multimodality(x, kinds) == 0
    # Prompts that do not follow the heaps: of three motions two pairs in three are 5 apart.
    assert motions.multimodality(x[[0, 2, 3]], ["a"] * 3) == pytest.approx(10 / 3)
    # Alone in its category, 7 is met twice as often as walking meets walking.
    x = np.array([[0.0], [1.0], [7.0]])
    assert motions.diversity(x, ["walking", "walking", "running"]) == pytest.approx((1 + 13) / 3)
    assert np.isnan(motions.multimodality(x, ["a", "b", "c"]))


@pytest.fixture(scope="module")
def real():
    """Made-up clips of nine kinds, and their kinds; of lying nothing is learned."""
    made, _ = gait_corpus(54)
    return made, pd.Series({clip.name: clip.activity for clip in made})


def score(clips, real, change=lambda joints: joints, **columns):
    joints = [change(features_to_joints(clip.features).astype(float)) for clip in clips]
    rows = [{"activity": c.activity, "motion": i} | columns for i, c in enumerate(clips)]
    train = [c for c in real[0] if c.activity != "lying"]
    return motions.score_motions(Clips.from_list(rows, {"joints": joints}), train, real[1])


def test_shaken_sliding_and_sluggish_motions_are_farther_from_real_ones(real):
    walking = [clip for clip in real[0] if clip.activity == "walking"]
    rng, glide = np.random.default_rng(0), np.array([0.5, 0, 0.5]) / 20
    changes = {
        "real": lambda joints: joints,
        "shaken": lambda joints: joints + 0.02 * rng.standard_normal(joints.shape),
        "sliding": lambda joints: joints + np.arange(len(joints))[:, None, None] * glide,
        "slow": lambda joints: np.repeat(joints, 4, axis=0),
    }
    found = {n: score(walking, real, c)["score"].median() for n, c in changes.items()}
    assert 0.3 < found["real"] < 1.5
    assert min(found["sliding"], found["slow"], found["shaken"]) > 2 * found["real"]


def test_the_best_share_of_each_activity_is_kept():
    def scores(values, activity):
        return pd.DataFrame({"motion": range(len(values)), "activity": activity, "score": values})

    table = pd.concat([scores([5.0, 1, 4, 2], "running"), scores([90.0, 70, 80], "walking")])
    assert motions.best(table, 1.0).all()
    kept = motions.best(table, 0.5).tolist()
    assert kept == [False, True, False, True, False, True, True]
    shuffled = table.sample(frac=1, random_state=0)
    assert set(shuffled[motions.best(shuffled, 0.5)]["score"]) == {1, 2, 70, 80}
    # Equal scores by number, and shares are whole.
    equal = motions.best(scores([1.0] * 30, "walking"), 0.1).tolist()
    assert equal == [True] * 3 + [False] * 27


NORMALISER = Normaliser(np.full(263, 0.1, np.float32), np.full(263, 0.7, np.float32))
FULL, AGAIN = ("ancestral", 50, "same"), ("ancestral", 50, "other")
GOOD, SHAKY = ("sde-dpm++2m", 10, "same"), ("ddim", 6, "same")


def waving(seed, prompts, shake=0.01):
    """Features of smooth motions, of the prompt's own frequency and size, shaken by white noise."""
    rng, made = np.random.default_rng(seed), []
    for i in prompts:
        frames = int(rng.integers(30, 50))
        time = np.arange(frames)[:, None] / 20
        phases = 2 * np.pi * np.linspace(0, 1, 263)
        wave = np.sin(2 * np.pi * (0.5 + 0.05 * i) * time + phases + rng.random())
        made.append(0.3 * wave + shake * rng.normal(size=(frames, 263)))
    return made


def test_a_solver_that_shakes_is_told_from_one_that_does_not():
    real, prompts = waving(9, np.linspace(0, 9, 24)), [i // 2 for i in range(20)]
    sampled = {key: waving(seed, prompts) for key, seed in ((FULL, 1), (AGAIN, 2), (GOOD, 3))}
    sampled[SHAKY] = waving(4, prompts, shake=0.05)
    table = trade_off(sampled, prompts, real, range(24), NORMALISER, draws=100)
    table = table.set_index(["solver", "evaluations", "seeds", "measure"]).sort_index()
    assert len(table) == 4 * 3 and (table["low"] <= table["high"]).all()
    assert (table.loc[FULL, "excess"] == 0).all()
    assert table.loc[GOOD, "no_worse"].all() and table.loc[AGAIN, "no_worse"].all()
    assert not table.loc[SHAKY, "no_worse"][["kinetics", "spectrum"]].any()
    # Distances are those of their definition.
    views = [motions.statistics(x, NORMALISER) for x in (sampled[GOOD], real)]
    expected = two_sample_distance(*views, prompts, range(24), 0)[0] / np.sqrt(526)
    assert_allclose(table.loc[(*GOOD, "features"), "value"], expected, rtol=1e-6)
    means = []
    for own in (sampled[SHAKY], real):
        power = [power_spectrum(features_to_joints(x))[1] for x in own]
        means.append(np.average(power, axis=0, weights=[len(x) for x in own]))
    found = table.loc[(*SHAKY, "spectrum"), "value"]
    assert_allclose(found, spectral_distance(*means), rtol=1e-9)
