"""Files in an S3-compatible store, through s3fs."""

import errno
import glob
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parakeet.download.streams import CHANGED, Read, Remote
from parakeet.download.transfer import Broken, Patience, Unfit, plain
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import BucketSource

PIECE_BYTES = 8 << 20
"""Bytes asked for at once: what is held in memory, and lost when the connection breaks."""

_PASSING = {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET}
"""What s3fs makes of SlowDown, InternalError and the like."""


def bucket_files(source: BucketSource, patience: Patience) -> list[Remote]:
    """The files that the source's path names, sorted: an object, all below a folder, or what matches a glob.

    Raises Unfit or Broken; ParakeetError where s3fs is missing.
    """
    store = _open(source, patience)
    with _explained_store():
        path = store._strip_protocol(source.path)
        if glob.has_magic(path):
            found = store.glob(path, detail=True)
            folder = path[: _first_magic(path)].rpartition("/")[0]
        else:
            found = store.find(path, detail=True)
            folder = path if path not in found else path.rpartition("/")[0]
    files = {key: info for key, info in sorted(found.items()) if info["type"] == "file" and not key.endswith("/")}
    if not files:
        raise Unfit("nothing is there that matches")
    return [
        Remote(
            name=key.removeprefix(f"{folder}/"),
            origin=f"s3://{key}",
            n_bytes=info["size"],
            validator=info["ETag"],
            read=_reader(store, key, info["ETag"]),
        )
        for key, info in files.items()
    ]


def _open(source: BucketSource, patience: Patience) -> Any:
    try:
        import s3fs
    except ImportError:
        raise ParakeetError(f"Source {source.name} needs s3fs: pip install 'parakeet-lm[s3]'") from None
    store = s3fs.S3FileSystem(
        anon=source.anonymous,
        endpoint_url=source.endpoint,
        config_kwargs={
            "connect_timeout": patience.connect,
            "read_timeout": patience.silence,
            "retries": {"max_attempts": 0},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # With botocore's and its own, a silent store would be asked thirty times before anybody hears of it.
    store.retries = 1
    return store


def _reader(store: Any, key: str, etag: str) -> Read:
    def read(start: int, stop: int) -> Iterator[bytes]:
        with _explained_store():
            # What it opens is asked for with If-Match from then on.
            file = store.open(key, "rb", cache_type="none")
        with file:
            if file.details["ETag"] != etag:
                raise Unfit(CHANGED)
            for position in range(start, stop, PIECE_BYTES):
                wanted = min(PIECE_BYTES, stop - position)
                with _explained_store():
                    file.seek(position)
                    piece = file.read(wanted)
                # s3fs passes on what came, and the next piece would stand at the wrong place.
                if len(piece) != wanted:
                    raise Broken(f"the store sent {len(piece):,} of {wanted:,} bytes")
                yield piece

    return read


@contextmanager
def _explained_store() -> Iterator[None]:
    """Turn what s3fs, botocore and aiohttp raise into Unfit and Broken."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError, NoCredentialsError
    from fsspec.exceptions import FSTimeoutError
    from s3fs.utils import FileExpired

    try:
        yield
    except FileExpired:
        raise Unfit(CHANGED) from None
    except FileNotFoundError:
        raise Unfit("there is no such bucket or object") from None
    except PermissionError as error:
        raise Unfit(
            f"the store refuses access ({plain(error)}): check the AWS_… variables, or set anonymous: true for a "
            "store that is open to everybody"
        ) from None
    except NoCredentialsError:
        raise Unfit(
            "there are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous: true for "
            "a store that is open to everybody"
        ) from None
    except (ConnectionError, HTTPClientError, ClientError, FSTimeoutError, TimeoutError) as error:
        raise Broken(f"the store does not answer ({plain(error)})") from None
    except OSError as error:
        fault = Broken if error.errno in _PASSING else Unfit
        raise fault(f"the store fails ({plain(error.strerror or error)})") from None
    except (BotoCoreError, ValueError) as error:
        raise Unfit(f"the store cannot be used ({plain(error)})") from None


def _first_magic(path: str) -> int:
    return min(path.index(character) for character in "*?[" if character in path)
