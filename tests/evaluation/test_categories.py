import numpy as np
import pytest

from t2imu_utils.activities import CATEGORIES
from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.categories import NAMED, categorise, category_similarity

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


def plane(angles):
    """A made-up embedding: each text has an angle, so that cosines are known."""

    def embed(texts):
        at = np.array([angles[text] for text in texts])
        return np.stack([np.cos(at), np.sin(at)], 1)

    return embed


@pytest.fixture
def embed():
    names = {name: 2 * np.pi * i / len(NAMED) for i, name in enumerate(NAMED)}
    return plane({**names, "at dancing": 0.0, "near": 0.2, "far": np.pi / 8, "opposite": np.pi})


def test_plain_sentences_get_their_own_category():
    table = categorise([[text] for text in PLAIN])
    assert dict(zip(PLAIN, table["category"], strict=True)) == PLAIN
    assert set(table["category"]) == set(CATEGORIES)
    assert table["high_dynamic"].tolist() == [True] * 3 + [False] * 6


def test_the_rule_of_the_paper_misses_most_sentences_about_lying():
    # "Lying" alone also means telling lies; whoever changes model or threshold should know.
    table = categorise([["a person is lying on the floor."], ["a person lies down on the bed."]])
    assert table["nearest"].tolist() == ["lying", "lying"]
    assert table["category"].tolist() == ["other", "other"]


def test_scores_are_cosines(embed):
    table = categorise([["at dancing"], ["near"]], embed=embed)
    assert table["category"].tolist() == ["dancing", "dancing"]
    np.testing.assert_allclose(table["score"], [1, np.cos(0.2)], rtol=1e-6)


def test_captions_of_a_clip_are_averaged(embed):
    both = categorise([["at dancing", "near", "near"]], embed=embed)
    assert both["score"][0] == pytest.approx((1 + 2 * np.cos(0.2)) / 3)
    # Two opposite texts cancel, however near each is to some category.
    none = categorise([["at dancing", "opposite"]], embed=embed)
    assert none["category"][0] == "other" and abs(none["score"][0]) < 1e-9


def test_the_threshold_must_be_exceeded(embed):
    at = float(categorise([["near"]], embed=embed)["score"][0])
    assert categorise([["near"]], threshold=at, embed=embed)["category"][0] == "other"
    below = categorise([["near"]], threshold=np.nextafter(at, 0), embed=embed)
    assert below["category"][0] == "dancing"
    assert categorise([["near"]], threshold=at, embed=embed)["nearest"][0] == "dancing"


def test_order_and_repetition_do_not_matter(embed):
    captions = [["near"], ["at dancing"], ["near"]]
    table = categorise(captions, embed=embed)
    assert table.loc[0].equals(table.loc[2])
    assert categorise(captions[::-1], embed=embed).equals(table[::-1].reset_index(drop=True))


@pytest.mark.parametrize("captions", [[["fine"], []], [["fine"], [" "]], ["a bare sentence"]])
def test_a_clip_without_text_is_refused(captions, embed):
    with pytest.raises(InputError, match="captions: clip"):
        categorise(captions, embed=embed)


def test_similarity_to_every_named_category(embed):
    table = category_similarity(["near", "opposite", "near"], embed)
    assert table.columns.tolist() == list(NAMED) and "other" not in table
    names = 2 * np.pi * np.arange(len(NAMED)) / len(NAMED)
    for row, angle in enumerate((0.2, np.pi, 0.2)):
        np.testing.assert_allclose(table.loc[row], np.cos(angle - names), atol=1e-9)


def test_a_category_is_most_similar_to_its_own_name():
    table = category_similarity([name.upper() + "." for name in NAMED])
    assert table.to_numpy().argmax(1).tolist() == list(range(len(NAMED)))
    assert (table.abs() <= 1 + 1e-6).all(axis=None)
