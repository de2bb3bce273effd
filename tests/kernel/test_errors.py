import pytest

from kernel.errors import CATALOGUE, Refusal


def test_codes_are_words_with_a_status_of_refusal_and_a_sentence() -> None:
    for code, (status, sentence) in CATALOGUE.items():
        assert code.replace("_", "").isalpha()
        assert code.islower()
        assert 400 <= status < 600
        assert sentence.endswith(".")


def test_a_code_that_is_not_in_the_catalogue_cannot_be_refused_with() -> None:
    with pytest.raises(KeyError):
        Refusal("no_such_code")


def test_a_problem_has_the_members_of_the_standard_and_ours() -> None:
    assert Refusal("too_fast", retry_after=1.5, limit=3).problem() == {
        "type": "/docs/errors#too_fast",
        "title": "Slow down a little.",
        "status": 429,
        "detail": "Slow down a little.",
        "code": "too_fast",
        "retry_after": 1.5,
        "limit": 3,
    }
    assert Refusal("invalid", "Another sentence.").problem()["detail"] == "Another sentence."
    assert "retry_after" not in Refusal("invalid").problem()


def test_a_field_never_hides_a_member_of_the_standard() -> None:
    problem = Refusal("already_redeemed", status="used", title="x", type="y", detail="z").problem()
    assert (problem["status"], problem["code"], problem["detail"]) == (
        409,
        "already_redeemed",
        "This coupon was already used.",
    )
