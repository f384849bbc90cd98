"""ASF/AMC: parsing, units and angles, kinematics against hand-made cases, and damaged files."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from t2imu_utils.errors import InputError
from t2imu_utils.motion import cmu
from t2imu_utils.motion.cmu import parse_amc, parse_asf

ASF = """# a comment
:version 1.10
:name test
:units
  mass 1.0
  length 0.5
  angle deg
:documentation
   begin with care
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 1 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name shin
     direction 0 -1 0
     length 20
     axis 0 0 30 XYZ
    dof rx
    limits (-10.0 170.0)
  end
  begin
     id 2
     name thigh
     direction 0 -1 0
     length 10
     axis 0 0 0 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 inf)
  end
  begin
     id 3
     name hip
     direction 0.6 0 0.8
     length 5
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    thigh shin
    root hip
    hip thigh
  end
"""
AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
7
root 0 0 0 0 0 0
thigh 0 0 0
shin 0
8
root 0 0 0 0 0 90
thigh 90 0 0
shin 0
9
root 1 2 3 10 20 30
thigh 40 50 60
shin 70
"""
INCH = 0.0254 / 0.5


def bone_positions(skeleton, motion) -> np.ndarray:
    return np.stack(list(cmu.bone_positions(skeleton, motion).values()), axis=1)


def asf(old: str, new: str = "") -> str:
    assert old in ASF
    return ASF.replace(old, new, 1)


def amc(old: str, new: str = "") -> str:
    assert old in AMC
    return AMC.replace(old, new, 1)


def test_skeleton_is_read_whole():
    skeleton = parse_asf(ASF, "test")
    assert skeleton.bones == ("root", "hip", "thigh", "shin")
    assert skeleton.parents == (-1, 0, 1, 2)
    np.testing.assert_allclose(skeleton.ends, [[1, 0, 0], [3, 0, 4], [0, -10, 0], [0, -20, 0]])
    assert skeleton.order[0] == ("tx", "ty", "tz", "rx", "ry", "rz")
    assert skeleton.order[1:] == ((), ("rx", "ry", "rz"), ("rx",))
    assert skeleton.metres == pytest.approx(INCH)


def test_rest_pose_and_units():
    skeleton = parse_asf(ASF, "test")
    got = bone_positions(skeleton, parse_amc(AMC, skeleton, "test"))[0]
    want = np.array([[1, 0, 0], [4, 0, 4], [4, -10, 4], [4, -30, 4]]) * INCH
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_local_turn_is_about_the_bone_axes():
    def turn(axis, degrees):
        return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()

    skeleton = parse_asf(ASF, "test")
    got = bone_positions(skeleton, parse_amc(AMC, skeleton, "test"))[2]
    root_turn = turn("z", 30) @ turn("y", 20) @ turn("x", 10)
    root = np.array([2.0, 2, 3])
    hip = root + root_turn @ [3, 0, 4]
    thigh_turn = root_turn @ turn("z", 60) @ turn("y", 50) @ turn("x", 40)
    thigh = hip + thigh_turn @ [0, -10, 0]
    axes = turn("z", 30)
    shin = thigh + thigh_turn @ axes @ turn("x", 70) @ axes.T @ [0, -20, 0]
    np.testing.assert_allclose(got, np.array([root, hip, thigh, shin]) * INCH, atol=1e-12)


def test_root_order_of_channels_and_of_turns():
    text = asf("order TX TY TZ RX RY RZ\n   axis XYZ", "order RZ TX TY TZ RX RY\n   axis ZYX")
    skeleton = parse_asf(text, "test")
    motion = parse_amc(amc("root 1 2 3 10 20 30", "root 30 1 2 3 10 20"), skeleton, "test")
    got = bone_positions(skeleton, motion)[2, 1] / INCH
    turn = Rotation.from_euler("zyx", [30, 20, 10], degrees=True)
    np.testing.assert_allclose(got, [2, 2, 3] + turn.apply([3, 0, 4]), atol=1e-12)


@pytest.mark.parametrize("unit", ["angle deg", "", "angle rad", "angle RAD"])
@pytest.mark.parametrize("line", [":DEGREES", "", ":RADIANS", ":radians"])
def test_units_of_angles_in_either_file(unit, line):
    skeleton = parse_asf(ASF, "test")
    want = bone_positions(skeleton, parse_amc(AMC, skeleton, "test"))[1]
    third = np.pi / 6 if "rad" in unit.lower() else 30
    text = asf("  angle deg", f"  {unit}").replace("axis 0 0 30", f"axis 0 0 {third}")
    read = parse_asf("\ufeff" + text, "test")
    quarter = np.pi / 2 if "rad" in line.lower() else 90
    motion = parse_amc(AMC.replace(":DEGREES", line).replace(" 90", f" {quarter}"), read, "test")
    np.testing.assert_allclose(bone_positions(read, motion)[1], want, atol=1e-12)
    np.testing.assert_allclose(read.axes, skeleton.axes, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (ASF[: ASF.index(":hierarchy")], "hierarchy.*not below the root"),
        (asf("   order TX TY TZ RX RY RZ\n"), "root: found no 'order'"),
        (asf("length 0.5", "length none"), "units.*none"),
        (asf("length 20", "length long"), "bone of line 16.*long"),
        (asf("axis 0 0 30 XYZ", "axis 0 0 30 XXZ"), "bone of line 16.*xxz"),
        (asf("name shin", "name thigh"), "bone of line 25: found two bones"),
        (asf("hip thigh", "hip thigh shin"), "line 47.*second parent of shin"),
    ],
)
def test_damaged_skeletons_are_named(text, word):
    with pytest.raises(InputError, match=f"a.asf: {word}"):
        parse_asf(text, "a.asf")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (AMC[: AMC.index("thigh 40")], "line 14: found no line for thigh, shin"),
        (amc("shin 0\n"), "line 7: found no line for shin"),
        (amc("shin 0\n", "shin 0\nshin 0\n"), "line 8.*a second line of shin"),
        (amc("thigh 90 0 0", "thigh 90 0 0 0"), "line 10.*4 values"),
        (amc("thigh 90 0 0", "thigh 90 0 nan"), "line 10.*nan"),
        (amc("thigh 90", "femur 90"), "line 10: found no 'femur'"),
        (amc("\n8\n", "\n9\n"), "line 8: found frame 9 after 7"),
        (":DEGREES\n", "line 2: found no frame"),
    ],
)
def test_damaged_motions_are_named(text, word):
    with pytest.raises(InputError, match=f"a.amc: {word}"):
        parse_amc(text, parse_asf(ASF, "a.asf"), "a.amc")
