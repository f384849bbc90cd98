"""Files of SMPL: as Python 2 wrote them, as downloads name them, and files that are none."""

import base64
import hashlib
import os
import pickle
import pickletools
import zlib

import numpy as np
import pytest

from t2imu_utils.body import smpl_files
from t2imu_utils.body.smpl_files import KEYS, TREE, find_models, read_model
from t2imu_utils.errors import InputError
from tests.body.layouts import (
    ORIGINAL,
    chumpy,
    official,
    python2_pickle,
    smpl_arrays,
)

# What cPickle of Python 2.7.18 wrote of a tetrahedron, by protocol; zlib, base64.
GOLDEN = {
    0: """
    eNrt2Vtv2zYUwPF3formaucKUTfbQIEW2JP34IcGeysgyLLseE1sQWK65NuPlBOk1sSTdVixYvgX+BWijo6OWZGU6Q
    4XlVY3g3mTmaeqHKgqtK27emvu1xvbilRzM/ijXK9uTWObsSo2D/fV03Wxrcvr+4c7s87rOn9SWV0W201j6ofCqCpR
    w911arPYxatUDaeBMtXIFRso86ka2zPaitU0jG1k8nxvtXCfRFU6UMObwXJsy2qtbLK92qbp0OZE9i7vB2o2m02vbO
    yqjZv5NAhs4Lf2z+fHPPnAIYcccrh3aFefSkdqble2atuUi3XtljYdq5Vdt1apWr2uUTp5XaQiu04FI5drL7Gr0G6x
    +fwYBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADQZ6BMpUdq3twMfs3qclWX
    TbOtB6rSY1UU2+rJnVT2r2K7aUz9UJhtbYMTNSyaYl09XTdVXjfltW0pK7vPTb1+VFUYqCLL5g/rO7PeZJnazn8vC2
    PPazUzn6owVMNFFUbqZrDeLNZF2diSYaxWiRquUrUa2cDcfjZ7pT0z1ZaNmiq0MR2ooU2LXcZITQNlw+7Csb3I3fD9
    QM1ms+mVVq1Amfk0CGygp/+60w477ajTjjvtpNNOO+1Rpz3ea5u91qZz7bzTLvbadSdadtrL/bbu9Fx3eq47Pdednu
    tOz3Wn57rTcz3qjrJw0o6yRW5y++SioOdZR/rbZx2F9lmHyvvsni2DDwQJ/qRBN/KjqB359/ljVa83xo3+WE2TQNmT
    WXObV6U7lezG/bQd+qmL2ZWxMm4tjkZ9k2X8PFkSlzBRK7sAeudKKq4lf5394+7sjQPbB9eLL7YHdVlmJp/fuc8d65
    7PFocvE1nt5nIcvazbD27djuPXdTtO3l63l8t93/2e+5nWean1nav8j17VeV/+d+/LOG1XjeWgb36NnueXnUeRu3as
    VnYeead/+MZjfOsxR29cH31nPXHYtJ3ffVn4mpnyvrrLjVtpkr6vDIne/5dI/t6Xhh9NfC3834u7B5js3nnt222xrt
    3X+8R+vW83DsXtw73dORS36pdbezqxr67driBJ3a4gcU/XbiS+lNmi3DTto9+92pqX87tNhwtMXgKPffMkDb4dHVP7
    BjJVqv+VEVJI/8gLMTgWgqWUWcZSULxt8Y+/w4RSUPpAy1QKSp92mUtBsSulOPQ/SmueFAylYCQFYymYSMFUCo6k4N
    gfNP7QRrrlXAoW/mAt5ZVScCkEte9JjqXg7j0uZUpjQIdSpjRAdCRlSqNHx1KmNLR0ImVK406nUqY0KPVIypRGrB5L
    mWMpcyJlTqTMXMrMpcy5lCnNFF1ImYWUuZAyF1JmKWVKU1AvpUz//HzXG/n4zns3X6TwRoLgoL/IgbfIgbfIgbfIYX
    +RQ2+RQ2+RQ2+Ro/4iR94iR94iR94ix/1Fjr1Fjr1Fjr1FTvqLnHiLnHiLnHiLnPYXOfUWOfUWOfUP/kF/Fc/5dkoM
    vHW8oSAY9tcZessMvVWG3iJn/UXOvEXOvEXOvEXO+4uce4uce4uce4tc9Be58Ba58Ba58Ba57C9y6S1y6S1y6S1y1V
    /kylvkylvk6qPbcaVhu+PK7G7LPGVf83bPlUb7/w3TlMaejNVweFeliWq3TbnbKLU/OGbr9ufGdKRm7Z3Kqtwsmmy7
    cYft7cZug5ZOVPtT4LzJGvPU/go4cpupu7m7ZqRVc/0nv+fnqQ==
    """,
    2: """
    eNrtnEtv3FQYhs9cMjPxTO63aXq/T5pmKCVAgUICbTe1yKLqWSLXnnFrq3P77DMls4hkFkk0/4IN/8P/AJYsWbBgwQ
    IhhBCqgOOZd5BVKQghsUB8j/Tm8afPsj3Hx3ZWJ8oeUKYmi05oqUHPpawstoKuavsdysnip67/zFMh5Rudfrs3qDe6
    gVtv91vKt4PAHhhW4Da6nVAF/YYyaGq8l9FpjrtUMMUhFWXGOX5EpZqZMfNm9YimsVszOaFBhsw+vUNlU5gZvVulZu
    Zk5u7e3t7D3zWjP6ZQzvCxyAkhR3yxw2b/H61oxpGlXjd0m34Q0qw35RU8PGBz4wcsZ355TPNeZfj4848FwzAMwzAM
    wzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMwzAMAxQtOLL80ArcZ4Ebht2AFh
    thw+8N6mHPDkK3ritDx2rbKvD3DVra+IyWD2ilJot+p+k33JBW06vArSWrwFUPqeoZMutv0ymsq7h+0rqK8klyHRmd
    rE5OJ68zpVPQKeqUdKZ1DJ2yTkVnRmdWZ05nXmdBZ1FnSWdZZ0VnVWdt9BtPOzLftJVNZ9KXehaXes6rDGU8Ho8fdv
    6rVnTekaW2vd8L/I6iC+ZtWbBCz+65dNGsmvkjuiQL+pb1VECX08NwJRmGqUO66q0PZTJ2o4GvYECrowG85vQdOfNc
    HzhwXUvZTsul6+mD1JKDZJPVNTeSG9/fphu48Zsn3vg42UxPxr8zCSZJT4KTJsC/P7FuOjLzND0OW1gE8Yjq3uZQ3h
    I4fSZ1OTls51K9ySUqes2RxgtLue1ey1Yu3Uof/fU/j347mbNP/vrZnsyNf95X9IYjp0eTaLTe43aj4Y3XYfWMe55B
    b+qXwVsH9HZNlvUL4rlrNd1O6NKdoayM6/FLhN4Zysx++oe8O1kr0jim95K1IuPcq2ePcXVfwV/D38Dfwt/B37/yRP
    wI/wT/DP8C/wq/hH+bjMYu7hSchXNwHp6CC3ARLsHTsAGX4Qo8A8/Cc/D82BEsFlDDYhE1LJZQw2IZNSxWUMNiFTUs
    1lDDoooaFqdQw2IdNSxOo4bFGdSwOIsaFudQw+I8alhcGHsXjuAYFhfRhyM4hsUl9OEIjmFxGX04gmNYXEEfjuAYFl
    fRhyM4hsU19OEIjmFxHX04gmNY1NCHIziGxQb6cATHsLiBPhzBMSw20YcjOIbFTfThCI5hsYU+HMHx1q6iu/p/CUu/
    KdTAeqEffHq/YVlO328pv2NZRugqgz74hHb0y8A+fES7Mm/5+mv04Z6c12+Onttphla3k2yG9NEB3dPfnJITWqEa6M
    /NfZlrOSE96Nf/AOHKqz4=
    """,
}


def tetrahedron():
    """The arrays in `GOLDEN`."""
    regressor = np.zeros((24, 4))
    regressor[range(24), np.repeat(range(4), 6)] = 1
    return {
        "v_template": np.eye(4, 3, k=-1),
        "shapedirs": np.arange(120.0).reshape(4, 3, 10) / 8,
        "posedirs": np.zeros((4, 3, 207)),
        "J_regressor": regressor,
        "weights": np.full((4, 24), 1 / 24),
        "kintree_table": np.array([[2**32 - 1, *TREE[1:]], range(24)], np.uint32),
        "f": np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32),
    }


def assert_same(read, arrays):
    for key in KEYS:
        expected = arrays[key].astype(np.float32 if read[key].dtype.kind == "f" else np.int64)
        if key == "kintree_table":
            assert read[key][0, 0] == -1
            expected[0, 0] = -1
        np.testing.assert_array_equal(read[key], expected)


def written(path, model, protocol=2):
    path.write_bytes(python2_pickle(model, protocol))
    return path


@pytest.mark.parametrize("protocol", GOLDEN)
def test_what_python_2_wrote_is_read(tmp_path, protocol):
    file = tmp_path / "model.pkl"
    file.write_bytes(zlib.decompress(base64.b64decode(GOLDEN[protocol])))
    assert_same(read_model(file), tetrahedron())


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_the_tests_own_pickles_are_read_in_each_protocol_of_python_2(tmp_path, protocol):
    file = written(tmp_path / "model.pkl", official(tetrahedron()), protocol)
    assert_same(read_model(file), tetrahedron())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cleaned_pickles_of_python_3_are_read(tmp_path, protocol):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(tetrahedron(), protocol))
    assert_same(read_model(tmp_path / "model.pkl"), tetrahedron())


def test_the_stand_in_has_the_layout_of_the_licensed_file(smpl_folder):
    content = (smpl_folder / "SMPL_MALE.pkl").read_bytes()
    opcodes = list(pickletools.genops(content))
    assert opcodes[0][0].name == "PROTO" and opcodes[0][1] == 2
    assert {arg for code, arg, _ in opcodes if code.name == "GLOBAL"} == {
        "__builtin__ set",
        "chumpy.ch Ch",
        "numpy dtype",
        "numpy ndarray",
        "numpy.core.multiarray _reconstruct",
        "scipy.sparse.csc csc_matrix",
    }
    assert 38.5e6 < len(content) < 39.5e6
    arrays = smpl_arrays("male")
    assert {key: array.shape for key, array in arrays.items()} == {
        "v_template": (6890, 3),
        "shapedirs": (6890, 3, 10),
        "posedirs": (6890, 3, 207),
        "J_regressor": (24, 6890),
        "weights": (6890, 24),
        "kintree_table": (2, 24),
        "f": (13776, 3),
    }
    assert arrays["kintree_table"].dtype == arrays["f"].dtype == np.uint32
    assert arrays["kintree_table"][0, 0] == 4294967295
    edges = np.sort(arrays["f"][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, times = np.unique(edges, axis=0, return_counts=True)
    assert (times == 2).all() and 6890 - len(times) + 13776 == 2  # closed, like a sphere


def test_the_licensed_layout_is_read(smpl_folder):
    for gender in ORIGINAL:
        read = read_model(smpl_folder / f"SMPL_{gender.upper()}.pkl")
        assert_same(read, smpl_arrays(gender))
        assert set(read) == set(KEYS)
        assert tuple(read["kintree_table"][0]) == TREE


def test_of_300_components_the_first_ten_are_taken(tmp_path):
    file = written(tmp_path / ORIGINAL["female"], official(tetrahedron(), components=300))
    assert_same(read_model(file), tetrahedron())
    np.savez(tmp_path / "model.npz", **tetrahedron() | {"shapedirs": np.ones((4, 3, 300))})
    assert read_model(tmp_path / "model.npz")["shapedirs"].shape == (4, 3, 10)


def test_byte_order_and_column_order_are_kept(tmp_path):
    arrays = tetrahedron()
    swapped = arrays | {"shapedirs": arrays["shapedirs"].astype(">f8")}
    assert_same(read_model(written(tmp_path / "big.pkl", swapped)), arrays)
    columns = arrays | {"weights": np.asfortranarray(arrays["weights"] * np.arange(24))}
    (tmp_path / "columns.pkl").write_bytes(pickle.dumps(columns, 4))
    assert_same(read_model(tmp_path / "columns.pkl"), columns)


def test_chumpy_expressions_are_told_with_the_remedy(tmp_path):
    select = type("Select", (), {"__module__": "chumpy.reordering"})()
    select.a, select.idxs, select.preferred_shape = chumpy(np.ones(120)), np.arange(120), (4, 3, 10)
    empty = chumpy(np.ones(3))
    del empty.x
    for value, name in ((select, "Select"), (empty, "Ch")):
        file = written(tmp_path / "model.pkl", official(tetrahedron()) | {"shapedirs": value})
        with pytest.raises(InputError, match=rf"shapedirs: found .*chumpy\.{name}.*clean_ch\.py"):
            read_model(file)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'touch %s'\ntR.", "os.system"),
        (b"\x80\x02cposix\nsystem\nU\x02ls\x85R.", "posix.system"),
        (b"c__builtin__\neval\n(S'open(%s)'\ntR.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
        (b"cnumpy\nload\n(S'%s'\ntR.", "numpy.load"),
        (b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.", "runstring"),
    ],
)
def test_a_pickle_that_calls_something_is_refused(tmp_path, content, name):
    file, trace = tmp_path / "SMPL_MALE.pkl", tmp_path / "trace"
    file.write_bytes(content.replace(b"%s", str(trace).encode()))
    with pytest.raises(InputError, match=f"SMPL_MALE.pkl: found no model .*run .*{name}"):
        read_model(file)
    assert not trace.exists()


def test_what_pickles_may_name_does_nothing_either(tmp_path):
    """Chumpy's and NumPy's names are taken down, never imported or called."""
    calls = b"cchumpy.ch\nsystem\n(S'ls'\ntRcnumpy\nndarray\n(I9999999999\ntR0."
    (tmp_path / "model.pkl").write_bytes(calls)
    with pytest.raises(InputError, match="model.pkl: found system; expected a dict"):
        read_model(tmp_path / "model.pkl")
    patched = b"cscipy.sparse\ncsc_matrix\n(N}S'toarray'\nNstb."
    (tmp_path / "model.pkl").write_bytes(patched)
    with pytest.raises(InputError, match="model.pkl: found no model"):
        read_model(tmp_path / "model.pkl")


def test_arrays_of_objects_are_refused(tmp_path):
    file = written(tmp_path / "model.pkl", tetrahedron())
    content = file.read_bytes().replace(b"U\x02f8", b"U\x02O8")
    file.write_bytes(content)
    with pytest.raises(InputError, match="v_template: found no plain array .*O8"):
        read_model(file)


def test_a_sparse_matrix_that_points_outside_is_refused(tmp_path):
    model = official(tetrahedron())
    model["J_regressor"].indices = model["J_regressor"].indices + 10**6
    with pytest.raises(InputError, match="J_regressor: found no plain array"):
        read_model(written(tmp_path / "model.pkl", model))


def test_truncated_files_and_web_pages_are_told(smpl_folder, tmp_path):
    content = (smpl_folder / "SMPL_MALE.pkl").read_bytes()
    file = tmp_path / "SMPL_MALE.pkl"
    for length in (0, 1000, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match="SMPL_MALE.pkl: found no model.*download it again"):
            read_model(file)
    file.write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(InputError, match="found a web page; .*Sign in at smpl.is.tue.mpg.de"):
        read_model(file)
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="found list; expected a dict"):
        read_model(file)


def test_another_tree_is_told(tmp_path):
    arrays = tetrahedron()
    arrays["kintree_table"][0, 5] = 1
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(InputError, match="model.npz: kintree_table: found .*tree of SMPL"):
        read_model(tmp_path / "model.npz")


def test_words_instead_of_numbers_are_told(tmp_path):
    file = written(tmp_path / "model.pkl", tetrahedron() | {"weights": "none"})
    with pytest.raises(InputError, match="model.pkl: weights: found .*; expected numbers"):
        read_model(file)


def test_a_pickle_is_converted_once(tmp_path, monkeypatch):
    file = written(tmp_path / "SMPL_MALE.pkl", official(tetrahedron()))
    cache = tmp_path / "cache"
    first = read_model(file, cache)
    kept = cache / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.npz"
    assert os.listdir(cache) == [kept.name]
    with monkeypatch.context() as patch:
        patch.setattr(smpl_files, "_read_pickle", None)
        again = read_model(file, cache)
        moved = read_model(file.rename(tmp_path / "SMPL_FEMALE.pkl"), cache)
    for read in (first, again, moved):
        assert_same(read, tetrahedron())
        assert {k: v.dtype for k, v in read.items()} == {k: v.dtype for k, v in first.items()}

    kept.write_bytes(b"cut")
    assert_same(read_model(tmp_path / "SMPL_FEMALE.pkl", cache), tetrahedron())
    assert kept.stat().st_size > 3
    other = tetrahedron() | {"weights": np.eye(4, 24)}
    assert_same(read_model(written(file, other), cache), other)
    assert len(os.listdir(cache)) == 2


def test_nothing_is_kept_of_a_bad_file_or_without_a_cache(tmp_path):
    file = written(tmp_path / "SMPL_MALE.pkl", official(tetrahedron()))
    read_model(file)
    file.write_bytes(b"cut")
    with pytest.raises(InputError):
        read_model(file, tmp_path / "cache")
    assert os.listdir(tmp_path) == [file.name]


def test_files_are_found_by_all_their_names(tmp_path):
    names = {
        "SMPL_NEUTRAL.pkl": "neutral",
        "smpl_male.npz": "male",
        "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl": "neutral",
        "basicModel_f_lbs_10_207_0_v1.0.0.pkl": "female",
        "basicmodel_m_lbs_10_207_0_v1.0.0.pkl": "male",
        **{name: gender for gender, name in ORIGINAL.items()},
    }
    for number, (name, gender) in enumerate(names.items()):
        folder = tmp_path / str(number) / "SMPL_python_v.1.1.0" / "smpl" / "models"
        folder.mkdir(parents=True)
        (folder / name).touch()
        assert find_models(tmp_path / str(number)) == {gender: folder / name}


def test_of_several_files_the_renamed_and_the_newer_come_first(tmp_path):
    order = [
        "SMPL_MALE.pkl",
        "SMPL_MALE.npz",
        "basicmodel_m_lbs_10_207_0_v1.1.0.pkl",
        "basicmodel_m_lbs_10_207_0_v1.0.0.pkl",
    ]
    for name in reversed(order):
        (tmp_path / name).touch()
    for name in ("SMPLX_MALE.npz", "SMPL_MALE.pkl.part", "basicmodel_m_lbs_10_207_0_v1.1.0.fbx"):
        (tmp_path / name).touch()
    for name in order:
        assert find_models(tmp_path) == {"male": tmp_path / name}
        (tmp_path / name).unlink()
    assert find_models(tmp_path) == {}
