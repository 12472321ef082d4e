"""What went wrong with a request, in our own words.

Messages of libraries and answers of servers repeat URLs, headers and whatever was sent, so they may hold credentials:
not a word of one goes on. What is said comes from here: from the status, or an S3 error code that is known here.
"""

import re
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What the caller can do about it."""

    MISSING = "there is no such object"
    EXISTS = "there is one already"
    UNSUPPORTED = "the server cannot do that"
    PAST_END = "the range begins behind the object's last byte"
    TRANSIENT = "ask again"
    PERMANENT = "asking again is of no use"


@dataclass(frozen=True)
class Failure:
    """One failed request.

    Attributes:
        fault: Its kind.
        says: What happened and what to do, for people, free of anything that came from outside.
    """

    fault: Fault
    says: str


_CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_CREDENTIALS = "check the credentials in the environment or in the AWS profile"
_REGION = "the bucket lies in another region; set AWS_REGION"
_CODES = {
    "NoSuchBucket": Failure(Fault.PERMANENT, "there is no such bucket; create it or mend the URL"),
    "AccessDenied": Failure(Fault.PERMANENT, f"access was denied; {_CREDENTIALS}, and their rights"),
    "SignatureDoesNotMatch": Failure(Fault.PERMANENT, f"the secret key is not the right one; {_CREDENTIALS}"),
    "InvalidAccessKeyId": Failure(Fault.PERMANENT, f"the access key is unknown; {_CREDENTIALS}"),
    "ExpiredToken": Failure(Fault.PERMANENT, "the session token has expired; renew it"),
    "InvalidToken": Failure(Fault.PERMANENT, f"the session token is not valid; {_CREDENTIALS}"),
    "RequestTimeTooSkewed": Failure(Fault.PERMANENT, "this machine's clock is wrong; set it"),
    "PermanentRedirect": Failure(Fault.PERMANENT, _REGION),
    "AuthorizationHeaderMalformed": Failure(Fault.PERMANENT, _REGION),
    "RequestTimeout": Failure(Fault.TRANSIENT, "the server waited too long for us"),
    "NotImplemented": Failure(Fault.UNSUPPORTED, "the server cannot do that"),
    "QuotaExceeded": Failure(Fault.PERMANENT, "no space left; free some and run the same command again"),
}
_STATUSES = {
    301: Failure(Fault.PERMANENT, _REGION),
    401: Failure(Fault.PERMANENT, f"the server wants credentials (401); {_CREDENTIALS}"),
    403: Failure(Fault.PERMANENT, f"access was denied (403); {_CREDENTIALS}, and their rights"),
    404: Failure(Fault.MISSING, "the server answered 404"),
    410: Failure(Fault.MISSING, "the server answered 410"),
    412: Failure(Fault.EXISTS, "there is one already"),
    416: Failure(Fault.PAST_END, "the object ends before that"),
    501: Failure(Fault.UNSUPPORTED, "the server cannot do that (501)"),
    507: Failure(Fault.PERMANENT, "no space left (507); free some and run the same command again"),
}

NO_CONNECTION = Failure(Fault.TRANSIENT, "no connection to the server")
TOO_SLOW = Failure(Fault.TRANSIENT, "the server took too long")
BROKEN = Failure(Fault.TRANSIENT, "the connection broke")
UNKNOWN = Failure(Fault.TRANSIENT, "the request failed")
NO_LENGTH = Failure(Fault.PERMANENT, "the server does not say how long the object is; use one that does")
OTHER_REGION = _STATUSES[301]
DENIED = _STATUSES[403]
MISSING = Failure(Fault.MISSING, "there is no such object")
EXISTS = _STATUSES[412]
PAST_END = _STATUSES[416]
BAD_SETTINGS = Failure(Fault.PERMANENT, "the request cannot be made; check the settings in the environment")
NO_CREDENTIALS = Failure(
    Fault.PERMANENT,
    "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile (Google: "
    "GOOGLE_APPLICATION_CREDENTIALS), or AWS_SKIP_SIGNATURE=true (GOOGLE_SKIP_SIGNATURE=true) for a public bucket",
)


def of_status(status: int) -> Failure:
    """What an HTTP status means."""
    if status in _STATUSES:
        return _STATUSES[status]
    return Failure(Fault.TRANSIENT if status in _AGAIN else Fault.PERMANENT, f"the server answered {status}")


def of_code(answer: str) -> Failure | None:
    """What the S3 error code in an answer means; None where there is none that is known."""
    code = _CODE.search(answer)
    return _CODES.get(code[1]) if code else None
