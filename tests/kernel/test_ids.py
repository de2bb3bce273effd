"""Identifiers made in bulk are like those made singly."""

from uuid import UUID

from kernel.ids import new_id, new_ids


def test_ids_in_bulk_are_distinct_in_order_and_of_the_same_kind() -> None:
    before, many, after = new_id(), new_ids(10_000), new_id()
    assert len(set(many)) == 10_000
    assert many == sorted(many)
    assert all(isinstance(one, UUID) and (one.version, one.variant) == (7, new_id().variant) for one in many[:50])
    # To the millisecond; what exceeds the counter borrows from the next ones.
    assert before.int >> 80 <= many[0].int >> 80 <= after.int >> 80
    assert many[-1].int >> 80 == (many[0].int >> 80) + 2
    assert new_ids(0) == []
