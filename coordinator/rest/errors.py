"""Which status each of our errors has here, with GARM's words for it."""

from typing import Final

from litestar import Response

from coordinator.accounts.accounts import LoginRefused
from coordinator.accounts.passwords import TooBusy
from coordinator.forges.contract import ForgeUnavailable
from coordinator.http.errors import AnyRequest, ApiError, ErrorBody, answer_api_error
from coordinator.pki.attempts import TooManyAttempts
from coordinator.store.admin_tokens import NoSuchToken, TokenNameTaken
from coordinator.store.edits import NotThere
from coordinator.store.users import AlreadyInitialized, LastAdmin, NoSuchUser, UserNameTaken
from coordinator.store.writing import AlreadyThere
from hostler.errors import HostlerError

_STATUS: Final[dict[type[HostlerError], int]] = {
    LoginRefused: 401,
    NoSuchToken: 404,
    NotThere: 404,
    NoSuchUser: 404,
    AlreadyInitialized: 409,
    AlreadyThere: 409,
    LastAdmin: 409,
    TokenNameTaken: 409,
    UserNameTaken: 409,
    TooManyAttempts: 429,
    ForgeUnavailable: 502,
    TooBusy: 503,
}
_WORDS: Final = {401: "Not Authorized"}
_LATER: Final = {429: {"Retry-After": "60"}, 503: {"Retry-After": "5"}}


def answer_hostler_error(request: AnyRequest, error: HostlerError) -> Response[ErrorBody]:
    """What is not in the table is the caller's mistake: 400."""
    status = _STATUS.get(type(error), 400)
    said = ApiError(status, str(error), _LATER.get(status), error=_WORDS.get(status, ""))
    return answer_api_error(request, said)
