"""Which hours of a day are high tide, given one of them."""

HALF_DAY = 12


def high_tides(first):
    """The high tides of a day whose first one is at hour ``first``."""
    return [hour for hour in (first, first + HALF_DAY) if hour < 24]
