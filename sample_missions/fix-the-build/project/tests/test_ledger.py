from ledger import balance, largest


def test_balance_counts_every_entry():
    assert balance([100, -30, 5]) == 75


def test_balance_of_nothing_is_zero():
    assert balance([]) == 0


def test_largest():
    assert largest([3, 9, 4]) == 9
    assert largest([]) is None
