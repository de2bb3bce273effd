"""Body and answer of the REST routes of a brand's limits."""

from dataclasses import asdict
from datetime import time
from typing import Annotated, Self

from pydantic import ConfigDict, Field

from coupons import limits
from coupons.views import Clock
from kernel.http import Body

Count = Annotated[int, Field(ge=1, le=1000)]


class BrandLimits(Body):
    """What holds over all campaigns of the brand; null is no limit."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "cap_coupons": 3,
                    "cap_days": 7,
                    "quiet_from": "22:00",
                    "quiet_until": "08:00",
                    "quiet_claims": False,
                    "guide_drops_a_day": 10,
                }
            ]
        }
    )

    cap_coupons: Count | None = Field(None, description="A viewer gets at most so many coupons of all campaigns…")
    cap_days: Annotated[int, Field(ge=1, le=365)] | None = Field(None, description="…in so many times 24 hours")
    quiet_from: Clock | None = Field(None, description="In the brand's time zone; what push drops give is held…")
    quiet_until: Clock | None = Field(None, description="…until this time of day")
    quiet_claims: bool = Field(
        False, description="Whether what is claimed in quiet hours holds only from their end on, too"
    )
    guide_drops_a_day: Count | None = Field(None, description="Drops that each guide may release on one day")

    @classmethod
    def of(cls, found: limits.BrandLimits) -> Self:
        """From the use case's answer."""
        return cls(**asdict(found))

    def asked(self) -> limits.BrandLimits:
        """For the use case."""
        hours = {name: None if value is None else time.fromisoformat(value) for name, value in self._hours()}
        return limits.BrandLimits(**(self.model_dump() | hours))

    def _hours(self) -> list[tuple[str, str | None]]:
        return [("quiet_from", self.quiet_from), ("quiet_until", self.quiet_until)]
