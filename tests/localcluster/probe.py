"""Asks a component on this machine whether it is ready."""

import http.client
import ssl
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 2.0


def status_of(url: str, token: str | None = None) -> int | None:
    """Return the HTTP status of GET `url`, or None when nothing answers.

    The certificate is not checked: the address is loopback and the answer is only a number.
    """
    parts = urlsplit(url)
    host = parts.netloc
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, timeout=_TIMEOUT_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=_TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("GET", parts.path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
