"""Names that frozen networks' parameters have in the files of other programs."""
