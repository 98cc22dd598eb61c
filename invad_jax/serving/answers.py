"""What the interface answers with; `/openapi.json` describes it."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class _Described(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Region(_Described):
    """A place above the beginning of heat, in pixels of the image."""

    left: int
    top: int
    width: int
    height: int
    area: int
    peak: float


class Seen(_Described):
    """One image; what it has no score for is null."""

    id: int
    time: datetime
    name: str
    decision: str
    image_score: float | None
    threshold: float | None
    component: str | None
    normal_percentile: float | None
    milliseconds: float | None
    regions: list[Region]
    error: str | None


class Kind(BaseModel):
    """A kind of product."""

    name: str
    threshold: float
    calibrated_threshold: float
    false_positive_rate: float
    num_normals: int
    normals: list[float]
    range: tuple[float, float]


class Detector(BaseModel):
    """What decides here."""

    name: str
    version: str
    kinds: list[Kind]
    watching: list[str]
    max_bytes: int


class ShiftSoFar(BaseModel):
    """Since the shift began: counts, what has moved, what is wrong with the server, and the newest
    images, the oldest of them first."""

    started: datetime
    normal: int
    anomalous: int
    unreadable: int
    drift: list[str]
    trouble: str | None
    images: list[Seen]
