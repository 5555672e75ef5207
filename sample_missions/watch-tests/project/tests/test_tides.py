from tides import high_tides


def test_two_tides_a_day():
    assert high_tides(3) == [3, 15]


def test_the_second_may_fall_on_the_next_day():
    assert high_tides(12) == [12]
