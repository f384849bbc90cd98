import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from t2imu_utils.errors import InputError
from t2imu_utils.evaluation.deepconvlstm import DeepConvLSTM
from t2imu_utils.evaluation.har import (
    HarConfig,
    balanced_rows,
    evaluate,
    predict,
    train_classifier,
    train_on_real,
)

CLASSES = ("fast", "slow", "still")
SMALL = HarConfig(epochs=12, batch_size=16, learning_rate=3e-3, filters=8, units=16)


def toy(n, seed, offset=0.0):
    """Three classes of 3-channel windows: two sine rates and rest, in m/s² around 9.81."""
    rng = np.random.default_rng(seed)
    labels = np.array(CLASSES)[np.arange(n) % 3]
    rate = np.select([labels == "fast", labels == "slow"], [4.0, 1.0], 0.0)
    phase = 2 * np.pi * (rate[:, None] * np.arange(40) / 20 + rng.random((n, 1)))
    wave = np.where(rate[:, None] > 0, 3 * np.sin(phase), 0)[..., None] * [1, 0.5, 0.2]
    x = wave + 0.3 * rng.normal(size=(n, 40, 3)) + [0, 9.81, offset]
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def trained():
    x, y = toy(150, 0)
    return train_classifier(x, y, CLASSES, SMALL, groups=np.arange(150) // 6, progress=False)


def test_the_network_is_that_of_the_paper():
    network = DeepConvLSTM(channels=21, classes=8, filters=64, units=128, dropout=0.5).eval()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [tuple(m.weight.shape) for m in convolutions] == [(64, 1, 5, 1)] + 3 * [(64, 64, 5, 1)]
    assert (network.lstm.num_layers, network.lstm.hidden_size) == (2, 128)
    assert network.lstm.input_size == 64 * 21
    assert network(torch.zeros(2, 40, 21)).shape == (2, 8)
    with pytest.raises(InputError, match="longer windows"):
        network(torch.zeros(2, 16, 21))


def test_channels_share_their_filters_and_enter_the_lstm_step_by_step():
    network = DeepConvLSTM(channels=4, classes=3, filters=5, units=6, dropout=0.0).eval()
    x = torch.randn(2, 40, 4)
    series = x.transpose(1, 2).reshape(8, 1, 40)
    for layer in network.convolutions:
        if isinstance(layer, torch.nn.Conv2d):
            weight = layer.weight.squeeze(-1)
            series = torch.conv1d(series, weight, layer.bias)
        else:
            series = layer(series)
    steps = series.view(2, 4, 5, 24).permute(0, 3, 1, 2).flatten(2)
    expected = network.head(network.lstm(steps)[0][:, -1])
    assert_allclose(network(x).detach(), expected.detach(), atol=1e-5)


def test_it_learns_what_can_be_told_apart(trained):
    x, y = toy(90, 1)
    found = predict(trained, x)
    assert evaluate(y, found, np.zeros(90), CLASSES).balanced_accuracy > 0.95
    assert trained.history["train_loss"].iloc[-1] < 0.5 * trained.history["train_loss"].iloc[0]


def test_the_seed_decides_everything():
    x, y = toy(60, 0)
    config = dataclasses.replace(SMALL, epochs=2)
    state = torch.get_rng_state()
    first, again, other = (
        train_classifier(x, y, CLASSES, c, progress=False).network.state_dict()
        for c in (config, config, dataclasses.replace(config, seed=1))
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_standardisation_knows_only_the_training_windows(trained):
    assert_allclose(trained.mean, [0, 9.81, 0], atol=0.1)
    moved, _ = toy(30, 2, offset=50.0)
    scaled = trained.standardise(moved)
    assert scaled[..., 2].mean() > 20
    scores = trained.network.eval()(trained.standardise(toy(4, 3)[0]))
    both = trained.network(trained.standardise(np.concatenate([toy(4, 3)[0], moved])))
    assert_allclose(both[:4].detach(), scores.detach(), atol=1e-5)


def test_missing_channels_are_refused_or_become_the_mean(trained):
    x, y = toy(30, 1)
    x[:5, :, 2] = np.nan
    with pytest.raises(InputError, match="5 windows with missing"):
        predict(trained, x)
    filled = x.copy()
    filled[:5, :, 2] = trained.mean[2]
    assert (predict(trained, x, missing="mean") == predict(trained, filled)).all()
    with pytest.raises(InputError, match="NaN"):
        train_classifier(x, y, CLASSES, SMALL, progress=False)
    with pytest.raises(InputError, match="channels and sites"):
        predict(trained, x[..., :2])


def test_an_epoch_is_balanced_and_repeats_as_little_as_it_can():
    target = np.array([0] * 5 + [1] * 50)
    rows = balanced_rows(target, 12, np.random.default_rng(0))
    assert (np.bincount(target[rows]) == 12).all()
    assert set(np.bincount(rows, minlength=55)[:5]) <= {2, 3}
    assert np.bincount(rows, minlength=55)[5:].max() == 1


def test_validation_motions_are_not_trained_on():
    # Each motion has an offset that gives its class away; only copies of it could tell.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    offset = rng.normal(0, 5, 30)[groups]
    y = np.array(CLASSES)[rng.integers(0, 3, 30)[groups]]
    x = (rng.normal(0, 0.1, (180, 40, 1)) + offset[:, None, None]).astype(np.float32)
    config = dataclasses.replace(SMALL, epochs=15, patience=15, validation=0.3)
    leaky = train_classifier(x, y, CLASSES, config, progress=False).history
    honest = train_classifier(x, y, CLASSES, config, groups, progress=False).history
    assert leaky["validation_accuracy"].max() > honest["validation_accuracy"].max() + 0.15


def test_patience_ends_training_and_the_best_epoch_is_kept():
    x, y = toy(60, 0)
    noise = np.random.default_rng(0).permutation(y)
    config = dataclasses.replace(SMALL, epochs=30, patience=2, learning_rate=0.02)
    model = train_classifier(x, noise, CLASSES, config, progress=False)
    loss = model.history["validation_loss"]
    assert len(loss) < 30 and loss.idxmin() == len(loss) - 3


def test_labels_must_be_the_classes():
    x, y = toy(30, 0)
    with pytest.raises(InputError, match="absent \\['other'\\]"):
        train_classifier(x, y, (*CLASSES, "other"), SMALL, progress=False)
    with pytest.raises(InputError, match="unknown \\['still'\\]"):
        train_classifier(x, y, CLASSES[:2], SMALL, progress=False)
    with pytest.raises(InputError, match="two groups"):
        train_classifier(x, y, CLASSES, SMALL, groups=y, progress=False)


def test_rare_classes_stay_in_training():
    # One subject alone climbs: in whichever fold he is, training goes on with what is there.
    x, y = toy(90, 0)
    subjects = np.arange(90) // 10
    y = np.where((y == "still") & (subjects != 4), "slow", y)
    config = dataclasses.replace(SMALL, epochs=1)
    model = train_classifier(x, y, CLASSES, config, subjects, progress=False)
    assert model.history["validation_loss"].notna().all()
    found = train_on_real(x, y, subjects, CLASSES, config, folds=3, progress=False)
    assert not (found[(subjects == 4)] == "still").any()


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.choice(CLASSES[:2], 200, p=[0.9, 0.1])
    found = np.where(rng.random(200) < 0.7, truth, rng.choice(CLASSES, 200))
    subjects = rng.integers(0, 4, 200)
    scores = evaluate(truth, found, subjects, CLASSES)
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    assert_allclose(scores.confusion, confusion_matrix(truth, found, labels=CLASSES))
    recall = recall_score(truth, found, labels=CLASSES[:2], average=None)
    assert_allclose(scores.recall[list(CLASSES[:2])], recall)
    assert np.isnan(scores.recall["still"])
    table = scores.by_subject.set_index("subject")
    assert table["windows"].sum() == 200
    for subject, row in table.iterrows():
        own = subjects == subject
        expected = np.mean([(found[own][truth[own] == c] == c).mean() for c in set(truth[own])])
        assert row["balanced_accuracy"] == pytest.approx(expected)
    with pytest.raises(InputError, match="unknown"):
        evaluate(truth, found, subjects, CLASSES[:2])


def test_real_folds_never_share_a_subject():
    # Each subject has one class and a bias of its own: only who knows the subject knows the class.
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(24), 6)
    y = np.array(CLASSES)[rng.permutation(np.arange(24) % 3)[subjects]]
    bias = rng.normal(0, 1, (24, 3))[subjects]
    x = bias[:, None, :] + 0.05 * rng.normal(size=(144, 40, 3))
    config = dataclasses.replace(SMALL, epochs=20, dropout=0.1)
    known = train_classifier(x, y, CLASSES, config, progress=False)
    assert (predict(known, x) == y).mean() > 0.8
    apart = train_on_real(x, y, subjects, CLASSES, config, folds=3, progress=False)
    assert (apart == y).mean() < 0.6
    assert set(apart) <= set(CLASSES) and len(apart) == 144
    with pytest.raises(InputError, match="subjects"):
        train_on_real(x, y, subjects, CLASSES, config, folds=25, progress=False)


def test_windows_with_missing_channels_are_tested_but_not_trained_on():
    x, y = toy(180, 0)
    x[::10, :, 1] = np.nan
    found = train_on_real(x, y, np.arange(180) // 10, CLASSES, SMALL, folds=2, progress=False)
    assert (found == y).mean() > 0.8
