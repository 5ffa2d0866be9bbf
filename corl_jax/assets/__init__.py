"""Files that ship with the package: ``tiny/``, the base policy of the embedded world."""
