"""Published weights that are there already, and how they make room for new ones."""

import itertools
import pathlib


def there(path: pathlib.Path) -> list[pathlib.Path]:
    """Return which of published weights' two files exist: the weights, the JSON."""
    return [file for file in (path, path.with_suffix(".json")) if file.exists()]


def set_aside(path: pathlib.Path) -> list[pathlib.Path]:
    """Rename what is `there` to the first free NAME_before_N; return the new names."""
    names = (path.with_stem(f"{path.stem}_before_{number}") for number in itertools.count(1))
    new = next(name for name in names if not there(name))
    return [file.rename(new.with_suffix(file.suffix)) for file in there(path)]
