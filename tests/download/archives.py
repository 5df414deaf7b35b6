"""Files laid out as torch.save does it, made without torch."""

import zipfile
from io import BytesIO
from random import Random

NAME = "small-c64-d32_v320_h2_l3.pth"


def archive(seed: int = 1, megabytes: float = 3.0, pickled: bytes = b"\x80\x02}.") -> bytes:
    """A file laid out as torch.save does it, with noise for weights."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
        made.writestr("archive/data.pkl", pickled)
        for number in range(3):
            made.writestr(f"archive/data/{number}", Random(f"{seed} {number}").randbytes(int(megabytes * 1e6 / 3)))
        made.writestr("archive/version", b"3\n")
    return file.getvalue()


BODY = archive()


def damaged(body: bytes) -> bytes:
    """The file with one flipped bit."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
