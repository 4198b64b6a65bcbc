"""Hours of the week within which workers may run (``workHours``), such as ``Mon-Fri 08:00-18:00 Europe/Berlin``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = f"({'|'.join(DAYS)})"
_CLOCK = r"([01][0-9]|2[0-3]):([0-5][0-9])"
FORM = re.compile(rf"{_DAY}(?:-{_DAY})? {_CLOCK}-{_CLOCK} ([A-Za-z0-9_+/-]+)")


@dataclass(frozen=True)
class WorkHours:
    """Equal hours on some days of the week, in a time zone. Where the end is not after the start, it is next day's."""

    days: tuple[int, ...]
    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> WorkHours:
        """The hours of a text.

        Raises:
            ValueError: for another form, and for an unknown time zone.
        """
        found = FORM.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is no days, hours and time zone")
        first, last, *clock, name = found.groups()
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days = tuple((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))
        hours = [int(each) for each in clock]
        try:
            zone = ZoneInfo(name)
        except Exception as error:  # OSError, ValueError or KeyError, by the form of the name
            raise ValueError(f"there is no time zone {name}") from error
        return cls(days, time(hours[0], hours[1]), time(hours[2], hours[3]), zone)

    def closed_until(self, now: float) -> datetime | None:
        """Time at which the hours begin again, in their own time zone. None within them.

        Args:
            now: seconds of the epoch.
        """
        moment = datetime.fromtimestamp(now, UTC)
        today = moment.astimezone(self.zone).date()
        # Yesterday's may end today; after the last of a week the first comes within eight days.
        for offset in range(-1, 9):
            day = today + timedelta(days=offset)
            if day.weekday() not in self.days:
                continue
            start = datetime.combine(day, self.start, self.zone)
            last = day if self.end > self.start else day + timedelta(days=1)
            end = datetime.combine(last, self.end, self.zone)
            # Compared in UTC: within one time zone Python ignores the change to summer time.
            if moment < start.astimezone(UTC):
                return start
            if moment < end.astimezone(UTC):
                return None
        raise AssertionError("a week without a day")  # a parsed text has a day
