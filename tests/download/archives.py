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


def damaged(kind: str) -> bytes:
    body = bytearray(BODY)
    if kind == "flipped bit":
        body[len(body) // 2] ^= 1
    elif kind == "cut":
        del body[-1:]
    elif kind == "two halves":
        body[len(body) // 2 :] = archive(seed=2)[len(body) // 2 :]
    elif kind == "two files":
        body += archive(seed=2)
    elif kind == "no pickle":
        return BODY.replace(b"archive/data.pkl", b"archive/dota.pkl")
    elif kind == "encrypted":
        place = body.rindex(b"PK\x01\x02")
        body[place + 8] |= 1
    elif kind == "a program":
        return archive(pickled=b"\x80\x02cos\nsystem\n.")
    elif kind == "something behind it":
        body += bytes(9)
    elif kind == "compressed":
        file = BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("archive/data.pkl", bytes(100_000))
        return file.getvalue()
    return bytes(body)
