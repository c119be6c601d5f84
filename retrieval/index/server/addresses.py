"""Where a Qdrant server is: its URLs, their ports, and the proxy of the environment, if any.

A URL without a port means 6333, over https:// too, for every kind of request.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
from urllib.parse import SplitResult, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from retrieval.errors import InvalidInput

DEFAULT_PORT = 6333

logger = logging.getLogger("retrieval.index.server.index")


def addresses(location: str) -> tuple[str, ...]:
    """The URLs of a location such as `http://a:6333,http://b:6333`, each named once.

    Raises:
        InvalidInput: one of them is no URL of a server.
    """
    urls = tuple(dict.fromkeys(url.strip() for url in location.split(",")))
    for url in urls:
        parts_of(url)
    return urls


def parts_of(url: str) -> SplitResult:
    """The parts of one server's URL, with the port that is meant where none is given.

    Raises:
        InvalidInput: no URL of a server, or one with a password in it.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError as error:
        raise no_address(url, str(error)) from error
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(
            f"the URL of the Qdrant server at {parts.hostname!r} has a user name or password in it",
            fix="Leave it out of the URL; give a key as api_key.",
        )
    if not known:
        raise no_address(url, "no http:// or https:// URL with a host")
    if parts.port is None:
        parts = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}")
    return parts


def with_port(url: str) -> str:
    """The URL that requests go to: with its port, without a slash at the end."""
    return urlunsplit(parts_of(url)).rstrip("/")


def no_address(url: str, why: str) -> InvalidInput:
    """The error for what is no URL of a server."""
    return InvalidInput(
        f"{url!r} is not the address of a Qdrant server ({why})",
        fix="Write it as http://localhost:6333.",
    )


def proxy_for(url: str, wanted: bool | None) -> str | None:
    """The proxy of the environment that requests to a server go through, or None.

    Args:
        url: of the server.
        wanted: None: for public addresses only; True: for all that NO_PROXY does not name;
            False: none.
    """
    parts = parts_of(url)
    host = parts.hostname or ""
    if wanted is False or (wanted is None and is_near(host)):
        return None
    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or proxy_bypass(f"{host}:{parts.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def shown_proxy(proxy: str) -> str:
    """A proxy's address for messages: without a password."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def is_near(host: str) -> bool:
    """Whether a host is this machine or is in a private network, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # names without a dot are those of a machine's or a container network's own
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


@functools.lru_cache(maxsize=256)
def warn_of_plain_key(address: str) -> None:
    """Once per server: others on the way can read the key, and all that is searched."""
    logger.warning(
        "the API key goes to %s without encryption; give an https:// URL where the server has one",
        address,
    )
