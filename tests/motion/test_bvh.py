"""BVH: hierarchy, channel orders, forward kinematics against hand-made cases, and damaged files."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.motion import bvh as reader
from t2imu_utils.motion.bvh import parse_bvh


def joint_positions(bvh) -> np.ndarray:
    return np.stack(list(reader.joint_positions(bvh).values()), axis=1)


ARM = """HIERARCHY
ROOT base
{
  OFFSET 1 2 3
  CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
  JOINT upper arm
  {
    OFFSET 0 10 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT lower {
      OFFSET 5 0 0
      CHANNELS 1 Yrotation
      End Site
      {
        OFFSET 2 0 0
      }
    }
  }
  JOINT other
  {
    OFFSET 7 0 -4
    CHANNELS 2 Yrotation Xposition
    End Site
    {
      OFFSET 0 0 -1
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.025
0 0 0 0 0 0 0 0 0 0 0 0
4 5 6 90 0 0 0 0 0 90 0 0
1 1 1 10 20 30 40 50 60 70 80 9
"""


def arm(old: str = "", new: str = "") -> str:
    assert old in ARM
    return ARM.replace(old, new, 1)


def test_hierarchy_is_read_whole():
    bvh = parse_bvh(ARM, "arm")
    assert bvh.names == ("base", "upper arm", "lower", "lower.end", "other", "other.end")
    assert bvh.parents == (-1, 0, 1, 2, 0, 4)
    assert bvh.offsets[[0, 1, 5]].tolist() == [[1, 2, 3], [0, 10, 0], [0, 0, -1]]
    assert bvh.channels[4] == ("Yrotation", "Xposition") and bvh.channels[3] == ()
    assert bvh.frame_time == 0.025 and bvh.values.shape == (3, 12)


def test_positions_take_the_place_of_offsets():
    # The root lists all three, "other" only x; the joints of the arm list none.
    got = joint_positions(parse_bvh(ARM, "arm"))[0]
    want = [[0, 0, 0], [0, 10, 0], [5, 10, 0], [7, 10, 0], [0, 0, -4], [0, 0, -5]]
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(("offset", "height"), [("0 -40 0", -40), ("0 90 0", 90)])
def test_a_place_that_is_written_twice_counts_once(offset, height):
    """As OFFSET and in the channels, of a root and of its child."""
    channels = "CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"
    joint = f"{{ OFFSET {offset} {channels}"
    text = f"HIERARCHY ROOT hip {joint} JOINT knee {joint} }} }}\nMOTION\nFrames: 1\n"
    values = f"Frame Time: 0.01\n{offset} 0 0 0 {offset} 0 0 0\n"
    found = joint_positions(parse_bvh(text + values, "a.bvh"))
    assert found[0, :, 1].tolist() == [height, 2 * height]


def test_channels_apply_in_their_own_order():
    def turn(axis, degrees):
        return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()

    got = joint_positions(parse_bvh(ARM, "arm"))[2]
    root = np.array([1.0, 1, 1])
    base = turn("z", 10) @ turn("y", 20) @ turn("x", 30)
    upper = root + base @ [0, 10, 0]
    upper_turn = base @ turn("z", 40) @ turn("x", 50) @ turn("y", 60)
    lower = upper + upper_turn @ [5, 0, 0]
    other = root + base @ [9, 0, -4]
    want = [
        root,
        upper,
        lower,
        lower + upper_turn @ turn("y", 70) @ [2, 0, 0],
        other,
        other + base @ turn("y", 80) @ [0, 0, -1],
    ]
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_layout_does_not_matter():
    text = ARM.replace("\n  JOINT other\n  {", "\n  JOINT other {").replace("MOTION", "MOTION\n\n")
    for word in ("HIERARCHY", "ROOT", "JOINT", "End Site", "OFFSET", "MOTION", "Frame Time"):
        text = text.replace(word, word.lower())
    text = text.replace("  ", "\t").replace("Frames: 3", "# made by hand\nframes:\t3")
    other, bvh = (
        parse_bvh("\ufeff" + text.replace("\n", "\r\n") + "\r\n", "arm"),
        parse_bvh(ARM, "arm"),
    )
    assert other.names == bvh.names and other.channels == bvh.channels
    np.testing.assert_array_equal(other.values, bvh.values)


@pytest.mark.parametrize(
    ("seconds", "rate"),
    [
        ("0.0333", 30), ("0.033", 30.303), ("0.0333667", 29.97), ("0.041667", 24),
        ("0.00833", 120), ("0.01667", 60), ("0.05", 20), ("0.001", 1000), ("0.0125", 80),
    ],
)  # fmt: skip
def test_rounded_frame_times_stand_for_common_rates(seconds, rate):
    bvh = parse_bvh(arm("Frame Time: 0.025", f"Frame Time: {seconds}"), "arm")
    assert bvh.rate == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (arm("MOTION\n", ""), "line 29: found Frames:"),
        (arm("HIERARCHY", "SKELETON"), "line 1: found SKELETON"),
        (arm("Frames: 3\n"), "line 31: found could not convert"),
        (arm("Frame Time: 0.025", "Frame Time: 0"), "Frame Time: found 0 s"),
        (arm("Frame Time: 0.025", "Frame Time: 0.1"), "Frame Time: found 10 frames/s"),
        (arm("Frame Time: 0.025", "Frame Time: 120"), "Frame Time: found 0.008333 frames/s"),
        (arm("Frames: 3", "Frames: 4"), "line 34: found 3 frames"),
        (ARM[:-12], "line 34: found 8 values"),
        (arm("4 5 6 90", "4 5 6 9O"), "line 33.*'9O'"),
        (arm("4 5 6 90", "4 5 6 nan"), "line 33.*not finite"),
        (arm("    OFFSET 0 10 0\n"), "upper arm without OFFSET"),
        (arm("      CHANNELS 1 Yrotation\n"), "lower without OFFSET or CHANNELS"),
        (arm("CHANNELS 1 Yrotation", "CHANNELS 1 Wrotation"), "line 12.*Wrotation"),
        (arm("JOINT other", "JOINT lower"), "line 20.*'lower'"),
        (arm("}\nMOTION", "MOTION"), "the end of HIERARCHY"),
    ],
)
def test_damage_is_named(text, word):
    with pytest.raises(InputError, match=word) as error:
        parse_bvh(text, "arm.bvh")
    assert error.value.where.startswith("arm.bvh: ")
