"""Names in the graph: keys of assets, names of ops, and who owns them."""

import re

import dagster as dg

from parakeet.recipe_sources import SOURCE_FILES

OWNER = "team:parakeet"


def asset_key(name: str) -> dg.AssetKey:
    """`source_files/books` is the asset `books` in the folder `source_files`."""
    return dg.AssetKey(name.split("/"))


def source_key(name: str) -> dg.AssetKey:
    """The asset of a local source, beside those of the remote ones."""
    return asset_key(f"{SOURCE_FILES}/{name}")


def op_name(name: str) -> str:
    """The name of an asset's op, which is its key in a run's config.

    Dagster allows letters, digits and underscores. Its own replacement would give `a.b` and `a-b` one name.
    """
    return name if "/" not in name else re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", name)
