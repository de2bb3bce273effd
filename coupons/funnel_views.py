"""Answers of the routes that say how far people came."""

from typing import Self
from uuid import UUID

import msgspec
from pydantic import BaseModel, ConfigDict

from coupons import funnel

_STORE = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e10"


class Funnel(BaseModel):
    """How many people came how far; money in fen. ``coupons…`` count coupons instead."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "in_room": 812,
                    "in_range": 412,
                    "offered": 380,
                    "held_out": 20,
                    "issued": 300,
                    "seen": 270,
                    "visited": 61,
                    "redeemed": 48,
                    "amount_fen": 201600,
                    "discount_fen": 38400,
                    "coupons": 310,
                    "coupons_redeemed": 49,
                }
            ]
        }
    )

    in_room: int
    in_range: int
    offered: int
    held_out: int
    issued: int
    seen: int
    visited: int
    redeemed: int
    amount_fen: int
    discount_fen: int
    coupons: int
    coupons_redeemed: int

    @classmethod
    def of(cls, stages: funnel.Stages) -> Self:
        """From the use case's answer."""
        return cls(**msgspec.structs.asdict(stages))


class FunnelRow(Funnel):
    """The funnel of one room, store, guide or drop."""

    id: UUID
    name: str

    @classmethod
    def of_row(cls, row: funnel.Row) -> Self:
        """From the use case's answer."""
        return cls(id=row.id, name=row.name, **msgspec.structs.asdict(row.stages))


class StoreCoupons(BaseModel):
    """A store on the map (canonical frame) and its coupons."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _STORE,
                    "code": "SH001",
                    "name": "静安寺店",
                    "city": "上海",
                    "lng": 121.445,
                    "lat": 31.223,
                    "issued": 40,
                    "redeemed": 9,
                }
            ]
        }
    )

    id: UUID
    code: str
    name: str
    city: str
    lng: float
    lat: float
    issued: int
    redeemed: int
