"""Writers of PNG and TIFF files that PIL reads and does not write, by their specifications."""

import struct
import zlib


def write_png(path, pixels):
    """(H, W, C) uint16, C = 1 grey, 2 grey and alpha, 3 colours, 4 colours and alpha."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)  # filter 0: none

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def write_tiff(
    path, pixels, *, photometric=None, planar=False, big_endian=False, deflate=False, orientation=1
):
    """(H, W, C) of any number type, one strip a plane."""
    height, width, channels = pixels.shape
    order = ">" if big_endian else "<"
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    planes = [stored[..., i] for i in range(channels)] if planar else [stored]
    strips = [plane.tobytes() for plane in planes]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
    if photometric is None:
        photometric = 2 if channels >= 3 else 1
    sample_format = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    offsets = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [8 * pixels.itemsize] * channels),
        (259, "H", [8 if deflate else 1]), (262, "H", [photometric]), (273, "I", offsets),
        (274, "H", [orientation]), (277, "H", [channels]), (278, "I", [height]),
        (279, "I", list(map(len, strips))), (284, "H", [2 if planar else 1]),
        (339, "H", [sample_format] * channels),
    ]  # fmt: skip
    at = 8 + sum(map(len, strips))
    entries, beyond = struct.pack(f"{order}H", len(tags)), b""
    for tag, kind, values in tags:
        content = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(content) > 4:
            place = at + 2 + 12 * len(tags) + 4 + len(beyond)
            beyond, content = beyond + content, struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        entries += content.ljust(4, b"\0")
    header = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(f"{order}I", at)
    path.write_bytes(header + b"".join(strips) + entries + bytes(4) + beyond)
    return path
