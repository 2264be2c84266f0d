"""Guests that need no operating system: boot sectors that write CONSOLE_TEXT to the serial port, then do one thing."""

from typing import Final

CONSOLE_TEXT: Final = b"guest says hello\r\n"

_GREETING: Final = bytes.fromhex("31c0 8ed8 be147c baf803 ac 84c0 7403 ee ebf8 eb")
ENDINGS: Final = {
    "halts": bytes.fromhex("fa f4 ebfd"),  # cli; hlt; again
    "powers-off": bytes.fromhex("ba0406 b80020 ef f4 ebfd"),  # out 0x604, 0x2000: ACPI sleep state 5 of the q35 chipset
    # rdtsc, and what it says as eight characters: another text each time that a machine boots
    "tells-its-boot": bytes.fromhex("0f31 baf803 b90800 66c1c004 50 240f 3c0a 7202 0407 0430 ee 58 e2ed fa f4 ebfd"),
    "resets": bytes.fromhex("b0fe e664 f4 ebfd"),  # out 0x64, 0xfe: the keyboard controller's reset line
}


def boot_sector(ending: str) -> bytes:
    """A disk of one MiB with it."""
    text = CONSOLE_TEXT + b"\0"
    code = _GREETING + bytes([len(text)]) + text + ENDINGS[ending]
    return (code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")
