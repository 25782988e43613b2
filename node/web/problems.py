"""Problems: errors as RFC 9457 documents. Knows errors and HTTP statuses; no route, no control."""

from __future__ import annotations

from typing import Final

from fastapi.responses import JSONResponse

from market import errors

STATUSES: Final[dict[type[errors.MarketError], int]] = {
    errors.CodecError: 400,
    errors.FundsError: 402,
    errors.NotFoundError: 404,
    errors.NoMatchError: 409,
    errors.RefusedError: 409,
    errors.StaleError: 409,
    errors.ChainRefusedError: 409,
    errors.LimitError: 413,
    errors.SpecError: 422,
    errors.SignatureError: 422,
    errors.IntegrityError: 422,
    errors.UnreachableError: 502,
    errors.ChainError: 503,
}
"""The status of each error; an error that is not here gets its nearest parent's, or 500."""


def status_of(problem: errors.MarketError) -> int:
    """The HTTP status that says whose turn it is."""
    found = (STATUSES[kind] for kind in type(problem).__mro__ if kind in STATUSES)
    return next(found, 500)


def problem_response(status: int, code: str, message: str, hint: str = "") -> JSONResponse:
    """An `application/problem+json` answer; `code` is for programs, the rest for people."""
    return JSONResponse(
        {
            "type": f"urn:gridsouk:problem:{code}",
            "title": code.replace("-", " "),
            "status": status,
            "detail": message,
            "code": code,
            "message": message,
            "hint": hint,
        },
        status_code=status,
        media_type="application/problem+json",
    )


def problem_of(problem: errors.MarketError) -> JSONResponse:
    """The answer to a request that ended in `problem`."""
    return problem_response(status_of(problem), problem.code, str(problem), problem.hint)
