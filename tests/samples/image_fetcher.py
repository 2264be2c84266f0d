"""A process that fetches one image as an agent does, to be killed or starved.

Arguments: DIRECTORY URL SHA256 FORMAT COMPRESSION MOST_BYTES_A_FILE
"""

import asyncio
import resource
import sys
from pathlib import Path

from hostler import logs
from hostler.errors import HostlerError
from hostler.images import Compression, ImageFormat
from providers.images import qemu_img
from providers.images.store import ImageStore, Room
from providers.images.values import ImageSource


async def fetch(directory: Path, source: ImageSource) -> str:
    """The base's path, or the error's code."""
    store = ImageStore(directory, Room(1 << 40, 1 << 40), qemu_img.make_base)
    await store.open()
    try:
        async with store.lease(source, lambda: None) as base:
            return str(base.path)
    except HostlerError as error:
        return error.code
    finally:
        await store.close()


if __name__ == "__main__":
    logs.configure("info")
    folder, url, sha256, image_format, compression, most_bytes = sys.argv[1:]
    if int(most_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes),) * 2)
    asked = ImageSource("debian", url, sha256, ImageFormat(image_format), Compression(compression))
    sys.stdout.write(asyncio.run(fetch(Path(folder), asked)))
