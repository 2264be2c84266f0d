"""Guests of some hundred bytes that show whether an accelerator really runs code.

Each counts down from 50 million, waits for the timer once and leaves with a known exit status; the one for x86-64
enters long mode first. A KVM that can only interpret its guest's instructions gets through a firmware, yet does not end
the countdown in 10 s, which QEMU's own translator does in 50 ms.
"""

from typing import Final

import msgspec


class ProofGuest(msgspec.Struct, frozen=True):
    """What to run and with which exit status QEMU must end."""

    image: bytes
    arguments: tuple[str, ...]  # {image} stands for the image's path
    exit_status: int


# isa-debug-exit makes QEMU exit with twice the written value plus one.
_WRITTEN: Final = 0x2A
_DISK_BYTES: Final = 1 << 20  # the firmware refuses to read a disk of one sector

_X86_64_CODE: Final = (
    # 16 bit. 0x1000: page tables, 0x4000: interrupt descriptors, below 0x7c00: stack
    "31 c0",  # 7c00 xor ax, ax
    "8e d8 8e c0 8e d0",  # 7c02 mov ds, es, ss = ax
    "bc 00 7c",  # 7c08 mov sp, 0x7c00
    "fa fc",  # 7c0b cli; cld
    "bf 00 10 b9 00 20 f3 ab",  # 7c0d clear 0x1000..0x5000
    "c7 06 00 10 03 20",  # 7c15 PML4[0] = 0x2000, present, writable
    "c7 06 00 20 03 30",  # 7c1b PDPT[0] = 0x3000, present, writable
    "c6 06 00 30 83",  # 7c21 PD[0] = 0, present, writable, 2 MiB
    "c7 06 00 42 9a 7c",  # 7c26 interrupt 0x20: offset of `handler`
    "c6 06 02 42 08",  # 7c2c            code segment 8
    "c6 06 05 42 8e",  # 7c31            present, interrupt gate
    "b0 11 e6 20",  # 7c36 interrupt controller: initialise,
    "b0 20 e6 21",  # 7c3a first interrupt is 0x20,
    "b0 04 e6 21",  # 7c3e second controller on line 2,
    "b0 01 e6 21",  # 7c42 8086 mode,
    "b0 fe e6 21",  # 7c46 timer only; the firmware has set it to 18.2 Hz
    "0f 01 16 a0 7c",  # 7c4a lgdt [gdtr]
    "0f 01 1e a6 7c",  # 7c4f lidt [idtr]
    "66 b8 20 00 00 00 0f 22 e0",  # 7c54 cr4 = PAE
    "66 b8 00 10 00 00 0f 22 d8",  # 7c5d cr3 = 0x1000
    "66 b9 80 00 00 c0 0f 32 0d 00 01 0f 30",  # 7c66 EFER |= LME
    "66 b8 01 00 00 80 0f 22 c0",  # 7c73 cr0 = PE, PG
    "ea 81 7c 08 00",  # 7c7c jmp 8:long
    # 64 bit
    "b8 10 00 00 00 8e d0",  # 7c81 long: mov ss, 16
    "bc 00 7c 00 00",  # 7c88 mov esp, 0x7c00
    "b9 80 f0 fa 02",  # 7c8d mov ecx, 50_000_000
    "ff c9 75 fc",  # 7c92 dec ecx; jnz back
    "fb f4 eb fd",  # 7c96 sti; hlt; jmp to hlt
    f"b0 {_WRITTEN:02x} e6 f4 eb fe",  # 7c9a handler: out 0xf4, al; for ever
    "17 00 b0 7c 00 00",  # 7ca0 gdtr: 24 bytes at 0x7cb0
    "0f 02 00 40 00 00",  # 7ca6 idtr: 33 entries at 0x4000
    "00 00 00 00",  # 7cac
    "00 00 00 00 00 00 00 00",  # 7cb0 null segment
    "00 00 00 00 00 9a 20 00",  # 7cb8 code, 64 bit
    "00 00 00 00 00 92 00 00",  # 7cc0 data
)


_AARCH64_CODE: Final = (
    0x529E1000,  # mov w0, #0xf080
    0x72A05F40,  # movk w0, #0x2fa, lsl 16: 50_000_000
    0x71000400,  # subs w0, w0, #1
    0x54FFFFE1,  # b.ne back
    0x529FFFE1,  # mov w1, #0xffff
    0xD51BE301,  # msr cntv_tval_el0, x1: the virtual timer fires in 65535 ticks
    0x52800021,  # mov w1, #1
    0xD51BE321,  # msr cntv_ctl_el0, x1: on
    0xD53BE321,  # mrs x1, cntv_ctl_el0
    0x3617FFE1,  # tbz w1, #2, back: until it has fired
    0x52800100,  # mov w0, #8
    0x72B08000,  # movk w0, #0x8400, lsl 16: PSCI SYSTEM_OFF
    0xD4000002,  # hvc #0
    0x14000000,  # for ever
)


def _boot_disk() -> bytes:
    sector = bytes.fromhex("".join(_X86_64_CODE)).ljust(510, b"\0") + b"\x55\xaa"
    return sector.ljust(_DISK_BYTES, b"\0")


def _raw_kernel() -> bytes:
    code = b"".join(word.to_bytes(4, "little") for word in _AARCH64_CODE)
    return code.ljust(4096, b"\0")


# By the machine's name as the kernel gives it (uname -m).
GUESTS: Final = {
    "x86_64": ProofGuest(
        image=_boot_disk(),
        arguments=(
            *("-machine", "q35", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"),
            *("-drive", "file={image},format=raw,if=none,id=disk,readonly=on", "-device", "virtio-blk-pci,drive=disk"),
        ),
        exit_status=_WRITTEN << 1 | 1,
    ),
    "aarch64": ProofGuest(
        image=_raw_kernel(),
        arguments=("-machine", "virt,gic-version=max", "-kernel", "{image}"),
        exit_status=0,
    ),
}
