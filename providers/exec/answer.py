"""Reading what a provider executable printed. Tolerant where the contract's own reader is, and nowhere else."""

from typing import Any

import msgspec

from providers.exec.spec import CloudInstance


def read_instance(stdout: bytes) -> CloudInstance | None:
    """One instance; None for `{}` and `null`, which some executables print for a machine that is not there.

    Raises:
        ValueError: anything else; the text says what was wrong and quotes nothing.
    """
    document = _decode(stdout)
    return None if document in ({}, None) else _instance(document)


def read_instances(stdout: bytes) -> list[CloudInstance]:
    """A listing; an empty pool is `[]` with some executables and `null` with others. One bad element fails it whole.

    Raises:
        ValueError: as `read_instance`.
    """
    elements = msgspec.convert(_decode(stdout), list[Any] | None) or []
    return [_element(index, element) for index, element in enumerate(elements)]


def _decode(stdout: bytes) -> Any:
    if not stdout.strip():
        raise ValueError("standard output is empty, a JSON answer was expected")
    try:
        return msgspec.json.decode(stdout)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"standard output is not JSON: {error}") from None


def _element(index: int, element: Any) -> CloudInstance:
    try:
        return _instance(element)
    except ValueError as error:
        raise ValueError(f"element {index}: {error}") from None


def _instance(document: Any) -> CloudInstance:
    if isinstance(document, dict):
        # Go writes null for empty lists and bytes, and its base64 reader skips line breaks.
        document = {key: value for key, value in document.items() if value is not None}
        fault = document.get("provider_fault")
        if isinstance(fault, str):
            document["provider_fault"] = fault.replace("\r", "").replace("\n", "")
    return msgspec.convert(document, CloudInstance)
