"""Text of Acclaim files: words by line; faults are in test_asfamc, as they show to a reader."""

import numpy as np
import pytest

from t2imu_utils.errors import InputError
from t2imu_utils.motion.acclaim_text import (
    as_floats,
    as_number,
    field_numbers,
    split_blocks,
    split_sections,
)

TEXT = """# a comment
:version 1.10
:units
  mass 1.0

:root
:bonedata
  begin
    limits (-10.0 170.0)
           (-5 5)
  end
  begin
  end
:hierarchy
"""


def test_sections_and_blocks_keep_their_lines():
    sections = split_sections(TEXT, "a.asf")
    assert sections["units"] == [(4, ["mass", "1.0"])] and sections["root"] == []
    first, second = split_blocks(sections["bonedata"], "a.asf")
    assert first == [(9, ["limits", "-10.0", "170.0"]), (10, ["-5", "5"])] and second == []


@pytest.mark.parametrize(
    ("words", "line"),
    [("end", 7), ("begin begin", 8), ("begin end mass", 9), ("begin mass", 8)],
)
def test_blocks_take_turns(words, line):
    lines = [(7 + i, [word]) for i, word in enumerate(words.split())]
    with pytest.raises(InputError, match=f"a.asf: line {line}"):
        split_blocks(lines, "a.asf")


def test_numbers():
    assert [as_number(w) for w in ("-1e2", "inf", "nan", "1,5")] == [-100, np.inf, None, None]
    assert field_numbers({"axis": (["axis", "0", "1", "2", "XYZ"], 3)}, "axis", 3, "a") == [0, 1, 2]
    np.testing.assert_array_equal(
        as_floats([["1", "2"], ["3", "4"]], [5, 6], "a"), [[1, 2], [3, 4]]
    )
    for bad in ("inf", "x", ""):
        with pytest.raises(InputError, match=r"a, line 6.*expected 2 finite number\(s\)"):
            as_floats([["1", "2"], ["3", *bad.split()]], [5, 6], "a", 2)
