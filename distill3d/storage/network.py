"""Whether a server can be reached, known within seconds where clients would try for a minute."""

from __future__ import annotations

import ssl
import threading
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

PROBE_SECONDS = 3.0
_BY_THE_PROXY = (502, 503, 504)  # which cannot reach the server either


def answers(url: str) -> bool:
    """Return whether a server (http or https) answers, whatever it says; through the environment's proxy, if any.

    After `PROBE_SECONDS` the answer is no: on a node without internet looking up the name alone can take longer, which
    no client's own limit covers.

    Example:
        >>> answers("http://127.0.0.1:9")
        False
    """
    answered = threading.Event()
    thread = threading.Thread(target=lambda: _ask(url) and answered.set(), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _ask(url: str) -> bool:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=PROBE_SECONDS):  # noqa: S310 - the user's own setting
            return True
    except HTTPError as err:
        return err.code not in _BY_THE_PROXY
    except URLError as err:
        return isinstance(err.reason, ssl.SSLError)  # whom the client trusts is its own business
    except (OSError, HTTPException, ValueError):
        return False
