"""Contents of memory or of a disk in a file: only what is not zero, compressed, each piece with a checksum.

A header (magic word, version, bytes of the whole), then per chunk its place, its length and the length of a zstd frame
with a checksum, which follows; a chunk of length 0 ends the file. Little-endian. What is missing reads as zeros.
Compression runs in several threads (zstandard does not hold Python's lock); chunks are written in order.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import zstandard

from protocol.errors import Malformed

CHUNK = 1 << 20
_MAGIC = b"BUSVMCHK"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")
_CHUNK = struct.Struct("<QII")
_BLOCK = 1 << 16  # zeros of this size are left out
_ZEROS = bytes(_BLOCK)
_LEVEL = 1  # memory is saved while the guest waits: 350 MB/s here, zlib's fastest 88
_THREADS = max(1, min(4, len(os.sched_getaffinity(0))))

Read = Callable[[int, int], bytes | memoryview]


def data_in(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts of a file that may hold something; a file system without holes has one part."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                return
            start, end = at, size
        if start >= size:
            return
        yield start, end
        at = end


def write(file: BinaryIO, size: int, parts: Iterator[tuple[int, int]], read: Read) -> int:
    """Write what ``read(start, length)`` has in ``parts``; return how many bytes were not zero.

    Raises:
        OSError: there is no room.
    """
    file.write(_HEADER.pack(_MAGIC, _VERSION, 0, size))
    waiting: deque[tuple[int, int, Future[bytes]]] = deque()
    kept = 0

    def put() -> None:
        at, length, future = waiting.popleft()
        frame = future.result()
        file.write(_CHUNK.pack(at, length, len(frame)))
        file.write(frame)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="compress") as pool:
        try:
            for at, data in _pieces(parts, read):
                kept += len(data)
                waiting.append((at, len(data), pool.submit(_compressed, data)))
                if len(waiting) > 2 * _THREADS:
                    put()
            while waiting:
                put()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    file.write(_CHUNK.pack(0, 0, 0))
    return kept


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(data)


def _pieces(parts: Iterator[tuple[int, int]], read: Read) -> Iterator[tuple[int, bytes]]:
    """Yield runs of blocks that are not all zero, none longer than a chunk."""
    for start, end in parts:
        at = start
        run, held = start, bytearray()
        while at < end:
            length = min(_BLOCK - at % _BLOCK, end - at)
            block = bytes(read(at, length))
            if block == _ZEROS[:length]:
                if held:
                    yield run, bytes(held)
                held.clear()
            else:
                if not held:
                    run = at
                held += block
                if len(held) >= CHUNK:
                    yield run, bytes(held)
                    held.clear()
            at += length
        if held:
            yield run, bytes(held)


def read(file: BinaryIO, size: int, put: Callable[[int, bytes], None]) -> None:
    """Call ``put(start, data)`` for all there is in a file that was written for ``size`` bytes.

    Raises:
        Malformed: it is none, of another size, cut off, or damaged.
    """
    magic, version, _, whole = _HEADER.unpack(_exactly(file, _HEADER.size))
    if magic != _MAGIC or version != _VERSION:
        raise Malformed("it holds no contents of memory of a version that is known here")
    if whole != size:
        raise Malformed(f"it holds {whole} bytes, not {size}")
    waiting: deque[tuple[int, Future[bytes]]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="expand") as pool:
        try:
            while True:
                at, length, packed = _CHUNK.unpack(_exactly(file, _CHUNK.size))
                if not length:
                    break
                if length > CHUNK + _BLOCK or packed > 2 * CHUNK or at + length > size:
                    raise Malformed("a piece lies outside")
                waiting.append((at, pool.submit(_expanded, _exactly(file, packed), length)))
                if len(waiting) > 2 * _THREADS:
                    start, future = waiting.popleft()
                    put(start, future.result())
            for start, future in waiting:
                put(start, future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _expanded(frame: bytes, length: int) -> bytes:
    try:
        data: bytes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=length)
    except zstandard.ZstdError as error:
        raise Malformed(f"a piece is damaged: {error}") from error
    if len(data) != length:
        raise Malformed("a piece is damaged: it has another length")
    return data


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise Malformed("it is cut off")
    return data
