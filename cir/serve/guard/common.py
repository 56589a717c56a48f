"""What guards have in common."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from cir.serve.problems import Refused, problem_response


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request's header; None without one. Raises Refused where it is there twice."""
    values = [value for key, value in scope["headers"] if key == name]
    if len(values) > 1:
        raise Refused(400, "Header", f"the header {name.decode()} is there twice; send it once")
    return values[0].decode("latin-1") if values else None


def client_of(scope: Scope) -> str:
    """The address of a client, by which it is limited; of IPv6 the network, since one client has all of it."""
    client = scope.get("client")
    address = client[0] if client else ""
    if ":" in address and not address.startswith("::ffff:"):
        return ":".join(address.partition("%")[0].split(":")[:4])
    return address.removeprefix("::ffff:")


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a problem, and close the connection where a body may still be on its way."""
    if scope["method"] not in ("GET", "HEAD"):
        refused.headers["Connection"] = "close"
    await problem_response(refused, scope.get("request_id", ""))(scope, receive, send)
