"""The one door for pictures: what a file shows is decided here, whoever reads it.

Size, orientation, depth, planes, photometric sense, alpha, frames and metadata: restoring,
training, scoring and the scan of headers all ask `door.py`, so that a file is the same picture
everywhere, or refused everywhere with one sentence.

TIFF is read by tifffile with imagecodecs' decoders, which hand over every kind of sample as it is
stored, and PNG of 16 bit by imagecodecs; Pillow, which reads everything else here, cuts both down
to 8 bit or misreads them.  (OpenCV, used before, turns TIFFs by itself and knows no planes and no
white-is-zero; pyvips' wheel is smaller but reads neither BMP nor JPEG 2000 nor HEIC.)
"""
