"""Body and answer of the REST route that imports campaigns."""

from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from coupons.campaign_import import Report
from kernel.http import Body


class CampaignImport(Body):
    """Campaigns as `POST /v1/campaigns` takes them, each with its `key`; with `current_stock` where one that runs is to
    have another stock."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dry_run": True,
                    "campaigns": [
                        {
                            "key": "new-2026-06",
                            "title": "新品尝鲜 满30减8",
                            "kind": "amount",
                            "amount_fen": 800,
                            "threshold_fen": 3000,
                            "stock": 500,
                            "valid_days": 7,
                        }
                    ],
                }
            ]
        }
    )

    campaigns: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]
    dry_run: bool = Field(False, description="Say what would happen, and change nothing")


class BadCampaign(BaseModel):
    """One that was refused: its place in the list, from 1; its key and the wrong field, if there are such; and why."""

    line: int
    key: str
    field: str
    reason: str


class CampaignsImported(BaseModel):
    """What was done, or, of a dry run, would be."""

    read: int
    new: int
    updated: int
    unchanged: int
    errors: list[BadCampaign]

    @classmethod
    def of(cls, report: Report) -> Self:
        """From the use case's answer."""
        return cls.model_validate(asdict(report) | {"errors": [bad._asdict() for bad in report.errors]})
