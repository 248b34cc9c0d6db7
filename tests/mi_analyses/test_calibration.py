import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_analyses.calibration import dose_for
from mi_core.errors import ValueMismatch

DOSES = [-2.0, -1.0, 0.0, 1.0, 3.0]


@given(st.floats(-10, 10), st.floats(0.1, 5), st.floats(-1.9, 2.9))
def test_the_dose_that_is_found_has_the_response_that_was_wanted(offset, slope, at):
    def curve(x):
        return offset + slope * (x + x**3)

    found = dose_for(curve, DOSES, [curve(dose) for dose in DOSES], curve(at), neutral=0.0, tolerance=1e-4)
    assert found.response == curve(found.strength)
    assert abs(found.response - curve(at)) <= 1e-4


def test_of_several_doses_the_one_nearest_to_doing_nothing_is_found():
    for neutral, wanted in ((0.0, -1.0), (3.0, 2.0)):
        found = dose_for(
            lambda x: (x - 0.5) ** 2,
            [-2.0, 0.0, 1.0, 3.0],
            [6.25, 0.25, 0.25, 6.25],
            2.25,
            neutral=neutral,
            tolerance=1e-9,
        )
        assert found.strength == pytest.approx(wanted, abs=1e-6)


def test_what_was_measured_already_is_not_measured_again():
    def never(_):
        raise AssertionError

    assert dose_for(never, DOSES, DOSES, 1.0, neutral=0.0, tolerance=1e-6).strength == 1.0


def test_a_target_out_of_reach_is_refused_with_the_range():
    with pytest.raises(ValueMismatch, match="from -2 to 3"):
        dose_for(lambda x: x, DOSES, DOSES, 4.0, neutral=0.0, tolerance=1e-3)
    with pytest.raises(ValueMismatch, match="jumps from 0 to 1"):
        dose_for(lambda x: float(x > 0.3), [0.0, 1.0], [0.0, 1.0], 0.5, neutral=0.0, tolerance=1e-3)
