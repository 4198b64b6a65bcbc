"""Google's price list, by the Cloud Billing Catalog API (v1) with the caller's own token.

https://cloud.google.com/billing/v1/how-tos/catalog-api. The provider has no data source for it.
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.clouds.google import rest
from components.clouds.google.rest import RestError

ADDRESS = "https://cloudbilling.googleapis.com/v1/services"
COMPUTE, NETWORKING, KUBERNETES, FILESTORE = (
    "6F81-5844-456A",
    "E505-1604-58F8",
    "CCD8-9BF1-090E",
    "D97E-AB26-5D95",
)
"""IDs of the services (`gcloud billing` has no list; `GET /v1/services` has)."""

FIELDS = (
    "nextPageToken,skus(description,category/usageType,serviceRegions,"
    "pricingInfo/pricingExpression(usageUnit,tieredRates))"
)
"""Parts of the answer that are read. The list of Compute Engine has tens of thousands of SKUs."""

PAGE_SIZE = 5000
"""SKUs a page, the API's own default."""

TOTAL_SECONDS = 120
"""Limit of all requests of a stack. They run beside the preview or the update."""

EVERYWHERE = "global"
HOUR, GIB_HOUR, GIB_MONTH = "h", "GiBy.h", "GiBy.mo"
"""Units of prices (UCUM), as the API spells them."""


@dataclass(frozen=True)
class Query:
    """Selects SKUs of one service. description: pattern of the whole description, or of its beginning."""

    service: str
    description: str
    unit: str
    usage: str = "OnDemand"

    def matches(self, sku: Mapping[str, Any], region: str) -> bool:
        """True if the SKU is of this description, unit and usage, in the region or everywhere."""
        regions = sku.get("serviceRegions", [])
        return (
            (region in regions or EVERYWHERE in regions)
            and sku.get("category", {}).get("usageType") == self.usage
            and re.match(self.description, sku.get("description", "")) is not None
        )


def prices(queries: Sequence[Query], region: str, project: str, token: str) -> dict[Query, float | None]:
    """US dollars a unit for each query. None where the list has no such SKU, or several with different prices.

    Raises RestError. project: pays for the requests, which Google refuses a user's login otherwise.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    found: dict[Query, set[float]] = {query: set() for query in queries}
    for service in dict.fromkeys(query.service for query in queries):
        wanted = [query for query in queries if query.service == service]
        for sku in skus(service, project, token, deadline):
            for query in wanted:
                if query.matches(sku, region):
                    found[query] |= set(highest_rates(sku, query.unit))
    return {query: rates.pop() if len(rates) == 1 else None for query, rates in found.items()}


def skus(service: str, project: str, token: str, deadline: float) -> Iterator[dict[str, Any]]:
    """The SKUs of a service, page by page."""
    page = ""
    while True:
        if time.monotonic() > deadline:
            raise RestError(f"no whole answer within {TOTAL_SECONDS} s")
        query = {"pageSize": str(PAGE_SIZE), "fields": FIELDS, **({"pageToken": page} if page else {})}
        answer = rest.fetch(f"{ADDRESS}/{service}/skus?{urllib.parse.urlencode(query)}", project, token)
        yield from answer.get("skus", [])
        page = answer.get("nextPageToken", "")
        if not page:
            return


def highest_rates(sku: Mapping[str, Any], unit: str) -> Iterator[float]:
    """The SKU's present price for a unit. Of several tiers the highest: nothing is counted as free or as a discount."""
    timeline = sku.get("pricingInfo", [])
    expression = timeline[-1].get("pricingExpression", {}) if timeline else {}
    rates = [dollars(tier.get("unitPrice", {})) for tier in expression.get("tieredRates", [])]
    if rates and expression.get("usageUnit") == unit:
        yield max(rates)


def dollars(money: Mapping[str, Any]) -> float:
    """An amount of Google's type Money, whose whole units are text and whose rest is in billionths."""
    return int(money.get("units") or 0) + int(money.get("nanos") or 0) / 1e9
