"""A file's text, plain or gzipped, of bounded size."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from autodual.errors import InputError

BYTES = 2**28

CHUNK = 2**20


def read_text(path: Path) -> str:
    """Return a file's bytes as characters, one each, once they are known to be UTF-8.

    Raises:
        InputError: there is no such file, it is no whole gzip file, larger than 256 MiB with or
            without its compression, or no UTF-8.
    """
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no file" if path.exists() else "missing"
            raise InputError(f"{path} is {what}; a .vnnlib or .vnnlib.gz file is needed")
        if path.stat().st_size > BYTES:
            raise _too_large(path)
        return _decoded(path).decode("latin-1")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path} is no whole gzip file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} cannot be read: {error}") from None


def _decoded(path: Path) -> bytearray:
    """Read in chunks, so that a small file which unpacks to a huge one is found out early."""
    text, check = bytearray(), codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        while chunk := stream.read(CHUNK):
            check.decode(chunk)
            text += chunk
            if len(text) > BYTES:
                raise _too_large(path)
    check.decode(b"", final=True)
    return text


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} is larger than {BYTES >> 20} MiB of text, the most that is read")
