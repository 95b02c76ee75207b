"""Recognise, by its content, a file that is not what its name says, and say the way out.

Pictures and weights share these mistakes: half a clone, a saved error page, another program's file.
"""

import re

HEAD_BYTES = 4096  # so much of a file's beginning is enough

_HTML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.I | re.S
)
_XML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE\s+svg|<(\w+:)?svg\b)", re.I | re.S
)
_CONVERT = "the authors' and other PyTorch weights are converted with --mode=convert"
_STARTS = (
    (
        b"version https://git-lfs.github.com",
        "a git-lfs pointer, not the file itself; run 'git lfs pull' in its folder",
    ),
    (
        b"version https://hawser.github.com",
        "a git-lfs pointer, not the file itself; run 'git lfs pull' in its folder",
    ),
    (b"\x80\x02}q", f"a pickle of PyTorch; {_CONVERT}"),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", f"a .pth file of old PyTorch; {_CONVERT}"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"MATLAB 5.0", "a MATLAB file"),
    (b"%PDF", "a PDF document; export its pages as PNG first"),
    (b"%!PS", "a PostScript file; export it as PNG first"),
    (b"\x1f\x8b", "an archive (gzip); unpack it first"),
    (b"BZh", "an archive (bzip2); unpack it first"),
    (b"\xfd7zXZ\0", "an archive (xz); unpack it first"),
    (b"7z\xbc\xaf'\x1c", "an archive (7z); unpack it first"),
    (b"Rar!", "an archive (rar); unpack it first"),
    (b"\x1aE\xdf\xa3", "a video (Matroska); extract its frames first"),
)


def foreign(head: bytes) -> str | None:
    """Return what a file is, where its beginning tells, and what to do; else None.

    Args:
      head: the first `HEAD_BYTES` of it.
    """
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    if head.startswith(b"PK\x03\x04"):
        if re.search(rb"data\.pkl|\.data/serialization_id|/version", head[:512]):
            return f"a PyTorch .pth file; {_CONVERT}"
        return "an archive (zip); unpack it first"
    if _HTML.match(head):
        return "a web page (HTML), such as a server sends for a login or an error; download it anew"
    if _XML.match(head):
        return "an SVG drawing; export it as PNG first"
    if head[257:262] == b"ustar":
        return "an archive (tar); unpack it first"
    if head[4:12] in (b"ftypisom", b"ftypmp42", b"ftypqt  ", b"ftypmp41", b"ftypM4V ", b"ftypavc1"):
        return "a video; extract its frames first"
    return None
