"""Files in an S3-compatible store, through s3fs."""

import errno
import glob
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from parakeet.download.source_folder import SourceFiles
from parakeet.download.transfer import (
    CHANGED,
    PermanentError,
    Read,
    Reading,
    Remote,
    TransientError,
    Version,
    naming,
    plain,
    retrying,
)
from parakeet.errors import ParakeetError
from parakeet.recipe_sources import BucketSource

PIECE_BYTES = 8 << 20
"""Bytes per request: they are held in memory, and lost if the connection breaks."""

_TRANSIENT_ERRNOS = {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET}
"""What s3fs turns SlowDown, InternalError and the like into."""


class BucketFiles(SourceFiles[BucketSource]):
    """What the source's path names: an object, all objects below a folder, or those that match a glob."""

    def files(self) -> list[Remote]:
        with naming(self.source.path):
            store = self._open()
            folder, found = retrying(lambda: self._found(store), self.policy, self.say)
            objects = [(key, info) for key, info in sorted(found.items()) if info["type"] == "file" and key[-1] != "/"]
            if not objects:
                raise PermanentError("no object matches this path")
        return [
            Remote(
                name=key.removeprefix(f"{folder}/"),
                origin=f"s3://{key}",
                read=_reader(store, key, info["size"]),
                n_bytes=info["size"],
                validator=info["ETag"],
            )
            for key, info in objects
        ]

    def _found(self, store: Any) -> tuple[str, dict[str, Any]]:
        """The folder that names are relative to, and the objects by key."""
        with _explained_store():
            path = store._strip_protocol(self.source.path)
            if glob.has_magic(path):
                first_magic = min(path.index(character) for character in "*?[" if character in path)
                return path[:first_magic].rpartition("/")[0], store.glob(path, detail=True)
            found = store.find(path, detail=True)
            return (path.rpartition("/")[0] if path in found else path), found

    def _open(self) -> Any:
        try:
            import s3fs
        except ImportError:
            message = f"Source {self.source.name} needs s3fs: pip install 'parakeet-lm[s3]'"
            raise ParakeetError(message) from None
        store = s3fs.S3FileSystem(
            anon=self.source.anonymous,
            endpoint_url=self.source.endpoint,
            config_kwargs={
                "connect_timeout": self.policy.connect_timeout,
                "read_timeout": self.policy.read_timeout,
                "retries": {"max_attempts": 0},
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        # Together with the retries of botocore and s3fs, a silent store would be asked thirty times.
        store.retries = 1
        return store


def _reader(store: Any, key: str, n_bytes: int) -> Read:
    def read(start: int, stop: int | None, validator: str | None) -> Reading:
        with ExitStack() as stack:
            with _explained_store():
                # All requests of an opened file have If-Match with the ETag that it had when it was opened.
                file = stack.enter_context(store.open(key, "rb", cache_type="none"))
            pieces = _pieces(file, start, n_bytes if stop is None else stop)
            return Reading(start, Version(n_bytes, file.details["ETag"]), pieces, close=stack.pop_all().close)

    return read


def _pieces(file: Any, start: int, stop: int) -> Iterator[bytes]:
    for position in range(start, stop, PIECE_BYTES):
        wanted = min(PIECE_BYTES, stop - position)
        with _explained_store():
            file.seek(position)
            piece = file.read(wanted)
        # s3fs returns short pieces as they are; the next one would follow at the wrong place.
        if len(piece) != wanted:
            raise TransientError(f"the store sent {len(piece):,} of {wanted:,} bytes")
        yield piece


@contextmanager
def _explained_store() -> Iterator[None]:
    """Turn the errors of s3fs, botocore and aiohttp into PermanentError and TransientError."""
    from aiohttp import ClientError
    from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError, NoCredentialsError
    from fsspec.exceptions import FSTimeoutError
    from s3fs.utils import FileExpired

    try:
        yield
    except FileExpired:
        raise PermanentError(CHANGED) from None
    except FileNotFoundError:
        raise PermanentError("there is no such bucket or object") from None
    except PermissionError as error:
        raise PermanentError(
            f"the store refuses access ({plain(error)}): check the AWS_… variables, or set anonymous: true for a "
            "public store"
        ) from None
    except NoCredentialsError:
        raise PermanentError(
            "there are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous: true for "
            "a public store"
        ) from None
    except (ConnectionError, HTTPClientError, ClientError, FSTimeoutError, TimeoutError) as error:
        raise TransientError(f"the store does not answer ({plain(error)})") from None
    except OSError as error:
        fault = TransientError if error.errno in _TRANSIENT_ERRNOS else PermanentError
        raise fault(f"the store fails ({plain(error.strerror or error)})") from None
    except (BotoCoreError, ValueError) as error:
        raise PermanentError(f"the store cannot be used ({plain(error)})") from None
