"""What the published description of REST says of every operation, so that no route has to."""

import re
from typing import Any

from kernel.http import refusals

_ALWAYS = ("internal", "busy", "unavailable")
_SIGNED_IN = ("token_missing", "token_invalid", "token_expired", "account_erased")
_PARAMETERS = ("invalid",)
_BODY = ("bad_request", "too_large", "invalid")


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """``document`` (OpenAPI), with the refusals that an operation may answer by its form besides those it names itself:
    for its token, its parameters, its body, and for what may happen to all."""
    for operations in document["paths"].values():
        for operation in operations.values():
            codes = [
                *_ALWAYS,
                *(_SIGNED_IN if operation.get("security") else ()),
                *(_PARAMETERS if operation.get("parameters") else ()),
                *(_BODY if "requestBody" in operation else ()),
            ]
            for answer in operation["responses"].values():
                codes += re.findall(r"`(\w+)`", answer["description"]) if _refuses(answer) else ()
            for status, refusal in refusals(*dict.fromkeys(codes)).items():
                operation["responses"][str(status)] = _published(refusal)
    for framework in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(framework, None)
    return document


def _refuses(answer: dict[str, Any]) -> bool:
    return "application/problem+json" in answer.get("content", ())


def _published(refusal: dict[str, Any]) -> dict[str, Any]:
    problem = refusal["content"]["application/problem+json"] | {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": refusal["description"], "content": {"application/problem+json": problem}}
