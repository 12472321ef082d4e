"""How long a remote storage is waited for, and how often it is asked again."""

import random
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# Of its own, seeded by the system: workers that failed together must not come back together, and no seeded
# generator of the program moves.
_JITTER = random.Random()


@dataclass(frozen=True)
class Limits:
    """What one operation may cost.

    Attributes:
        attempts: Requests in a row that may fail before the operation does; bytes that arrive start the count again.
        first_delay_s: Longest wait before the second attempt; it doubles with each further one.
        longest_delay_s: Where the doubling ends. The wait is uniform between 0 and that.
        connect_s: Time to a connection.
        read_s: Time without a byte.
        request_s: Time for one request with its body.
        total_s: Time after which no further attempt begins.
    """

    attempts: int = 8
    first_delay_s: float = 0.1
    longest_delay_s: float = 10.0
    connect_s: float = 10.0
    read_s: float = 60.0
    request_s: float = 300.0
    total_s: float = 300.0

    def client_options(self, *, allow_http: bool) -> "ClientConfig":
        """The limits of one request."""
        return {
            "connect_timeout": timedelta(seconds=self.connect_s),
            "read_timeout": timedelta(seconds=self.read_s),
            "timeout": timedelta(seconds=self.request_s),
            "allow_http": allow_http,
        }

    def retry_options(self) -> "RetryConfig":
        """None below us: who repeats a put has to know that its first answer may be lost."""
        return {"max_retries": 0, "retry_timeout": timedelta(seconds=self.total_s)}


DEFAULT_LIMITS = Limits()


class Patience:
    """Counts the failures of one operation, and waits between them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.renew()

    def renew(self) -> None:
        """Something arrived: start again."""
        self.failed = 0
        self._until = time.monotonic() + self._limits.total_s

    def again(self) -> bool:
        """Note a failure, and wait; False where the limits are reached."""
        self.failed += 1
        limits = self._limits
        delay = _JITTER.uniform(0, min(limits.longest_delay_s, limits.first_delay_s * 2 ** min(self.failed - 1, 60)))
        if self.failed >= limits.attempts or time.monotonic() + delay > self._until:
            return False
        time.sleep(delay)
        return True
