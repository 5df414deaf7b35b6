"""The key of a server in a file, for the server and for who asks it."""

from pathlib import Path

from parakeet.errors import ParakeetError, os_reason


def read_key(path: Path) -> str:
    """The key in a file: its one line that is not blank. Raises ParakeetError if there is no such line."""
    try:
        with path.open("rb") as file:
            lines = [line.strip() for line in file.read(1 << 16).splitlines() if line.strip()]
    except OSError as error:
        raise ParakeetError(f"The API key cannot be read: {os_reason(error)}.") from None
    if len(lines) != 1:
        what = "is empty" if not lines else f"has {len(lines):,} lines"
        raise ParakeetError(f"{path} {what}: put the API key there, on one line. openssl rand -hex 24 makes one.")
    if not all(0x21 <= byte <= 0x7E for byte in lines[0]):
        raise ParakeetError(f"{path}: an API key has only letters, digits and signs of ASCII, and no spaces.")
    return lines[0].decode("ascii")
