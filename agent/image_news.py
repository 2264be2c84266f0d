"""What the coordinator has still to hear of images: of each the newest. Knows no stream."""

from collections.abc import Callable

from providers.images.values import ImageStatus


class ImageNews:
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._newest: dict[str, ImageStatus] = {}

    def put(self, status: ImageStatus) -> None:
        self._newest[status.sha256] = status
        self._wake()

    def take(self) -> ImageStatus | None:
        """One of them, which then counts as told."""
        for sha256 in self._newest:
            return self._newest.pop(sha256)
        return None

    def clear(self) -> None:
        """All is about to be told anew."""
        self._newest.clear()
