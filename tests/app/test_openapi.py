"""Whatever the published API description allows, sent by whatever role: the answer is never a failure of ours."""

import re
from random import Random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from app.up import Stack
from kernel.errors import CATALOGUE

ROLES = {"viewer": "fuzz-viewer", "guide": "guide-01", "clerk": "clerk-01", "ops": "ops-01"}
WECHAT = {"login_failed", "login_unavailable"}
"""What signing in by WeChat may answer here, where there is no WeChat."""


def token(api: str, role: str) -> str:
    body = {"brand": "demo", "role": role, "account": ROLES[role]}
    return str(httpx.post(f"{api}/v1/auth/dev", json=body, timeout=60).raise_for_status().json()["token"])


@pytest.fixture(scope="module")
def tokens(stack: Stack) -> dict[str, str]:
    return {role: token(stack.api, role) for role in ROLES}


@pytest.fixture(scope="module")
def known(stack: Stack, tokens: dict[str, str]) -> dict[str, str]:
    """Things that exist, by the name under which paths speak of them, so that not everything ends in `not_found`."""

    def first(path: str) -> str:
        answer = httpx.get(f"{stack.api}{path}", headers={"Authorization": f"Bearer {tokens['ops']}"})
        return str(answer.raise_for_status().json()["items"][0]["id"])

    return {
        "room": first("/v1/rooms?state=live"),
        "campaign": first("/v1/campaigns"),
        "product": first("/v1/products"),
        "brand": "demo",
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "role",
    ["viewer", pytest.param("guide", marks=pytest.mark.deep), pytest.param("clerk", marks=pytest.mark.deep), "ops"],
)
def test_no_request_of_the_published_form_makes_the_api_fail(
    stack: Stack, role: str, tokens: dict[str, str], known: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {tokens[role]}"}
    described = httpx.get(f"{stack.api}/openapi.json").json()["paths"]

    def published(path: str, method: str) -> dict[str, Any]:
        responses: dict[str, Any] = described[path][method.lower()]["responses"]
        return responses

    def answered(case: schemathesis.Case) -> None:
        if (case.method.upper(), case.path) == ("DELETE", "/v1/me"):
            return  # whoever was erased gets no other answer any more
        chance = Random(repr((case.path, case.body, case.query)))
        for name in case.path_parameters or {}:
            if name in known and chance.random() < 0.7:
                case.path_parameters[name] = known[name]
        response = case.call(headers=headers)
        kind = response.headers.get("content-type", [""])[0]
        if response.status_code >= 400:
            assert kind.startswith("application/problem+json"), (response.status_code, response.text)
            told = published(case.path, case.method).get(str(response.status_code), {"description": ""})["description"]
            assert f"`{response.json()['code']}`" in told, (case.method, case.path, response.text)
        if response.status_code >= 500:
            assert response.json()["code"] in WECHAT, response.text

    asked = 0
    for operation in schemathesis.openapi.from_url(f"{stack.api}/openapi.json").get_all_operations():
        check = given(case=operation.ok().as_strategy())(answered)
        settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))(check)()
        asked += 1
    assert asked > 40


def test_every_operation_says_who_may_what_and_shows_an_example(stack: Stack) -> None:
    described = httpx.get(f"{stack.api}/openapi.json").json()
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) > 40
    for path in described["paths"].values():
        for operation in path.values():
            assert operation.get("summary"), operation["operationId"]


def test_every_operation_says_how_it_may_refuse_and_in_which_form(stack: Stack) -> None:
    described = httpx.get(f"{stack.api}/openapi.json").json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            where, responses = f"{method} {path}", operation["responses"]
            codes = {status: set(re.findall(r"`(\w+)`", one["description"])) for status, one in responses.items()}
            assert {"busy", "unavailable"} <= codes["503"] and codes["500"] == {"internal"}, where
            if operation.get("security"):
                assert {"token_missing", "token_expired", "account_erased"} <= codes["401"], where
            if "requestBody" in operation:
                assert "too_large" in codes["413"] and "bad_request" in codes["400"], where
            if "requestBody" in operation or operation.get("parameters"):
                assert "invalid" in codes["422"], where
            for status, of_status in codes.items():
                assert all(CATALOGUE[code][0] == int(status) for code in of_status), where
                if int(status) >= 400:
                    assert list(responses[status]["content"]) == ["application/problem+json"], where
    assert "HTTPValidationError" not in str(described)
